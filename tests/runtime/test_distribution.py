"""Several replicas and workers: what plain Keras cannot do, for as long as it cannot, and what we make of it."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import processes
import pytest
import tensorflow as tf
import workers

import keras_adaptive_weights as kaw
from keras_adaptive_weights.runtime import distribution
from keras_adaptive_weights.training.telemetry import StepRow, Telemetry
from keras_adaptive_weights.training.worker_requests import FROM_ANOTHER_WORKER, WorkerRequests

FOLDER = Path(__file__).parents[1] / "execution"

SECONDS = 240


@pytest.fixture(scope="module")
def over_replicas():
    """What plain Keras and we say on two replicas, by case."""
    done = processes.run([sys.executable, FOLDER / "plain_keras.py", "replicas"], timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def over_workers():
    """What plain Keras and we say in each of two processes, by case."""
    command = [str(FOLDER / "plain_keras.py"), "workers"]
    with workers.started(command, start=processes.Program) as both:
        codes, texts = workers.outputs(both, SECONDS)
    assert codes == [0, 0], texts[0][-3000:] + texts[1][-3000:]
    return [next(json.loads(line) for line in text.splitlines() if line.startswith("{")) for text in texts]


def test_plain_keras_cannot_accumulate_gradients_over_replicas(over_replicas):
    """Once it can, `_each_its_copy` may go."""
    assert "`merge_call` called while defining a new graph" in over_replicas["accumulation"]
    assert over_replicas["accumulation, ours"] == ""


def test_losses_by_name_need_no_variables_in_a_replica(over_replicas):
    assert over_replicas["losses by name, ours"] == ""


def test_a_keras_that_sums_gradients_by_other_means_is_refused(over_replicas):
    """They would be summed twice."""
    assert "SGD.apply did not sum its gradients over 2 replicas" in over_replicas["summed otherwise"]


def test_plain_keras_cannot_run_several_steps_in_one_execution_over_replicas(over_replicas):
    """Once it can, `check_replicas` need not refuse it."""
    assert "You must feed a value for placeholder tensor" in over_replicas["steps per execution"]
    assert "`steps_per_execution` must be 1 over several replicas" in over_replicas["steps per execution, ours"]
    assert "Received: steps_per_execution=2 with 2 replicas" in over_replicas["steps per execution, ours"]


def test_a_step_reduces_its_losses_and_its_gradients_once(over_replicas):
    """On each replica one tensor with losses and requests, then kernel and bias; the global norm needs no other."""
    assert over_replicas["reductions"] == [1, 1, 2, 2]


def test_metrics_of_a_skipped_step_are_as_before_on_each_replica(over_replicas):
    once, always = over_replicas["skipped"]
    assert once["mean"] == "1.0"  # and not 1.33, or NaN
    assert sorted(once) == ["loss", "mae", "mean"]
    assert set(always.values()) == {"nan"}


DUE = [True, True, False, True, False, True]
NORMALISED = pytest.mark.parametrize(
    ("case", "passes"),
    [
        ("term norms, normalised nowhere", len(DUE) + sum(DUE)),
        ("term norms", 2 * len(DUE)),  # by batch normalisation that reduces over the replicas
    ],
)


def same_norms(ours, one_device):
    assert [norms is not None for norms in one_device["norms"]] == DUE
    for norms, expected in zip(ours["norms"], one_device["norms"], strict=True):
        assert norms == (expected and pytest.approx(expected, rel=1e-4))


@NORMALISED
def test_gradients_of_a_term_are_summed_over_replicas_before_their_norm(case, passes, over_replicas):
    """Slices of an embedding among them: as on one device, and only in steps where they are due, if that can be."""
    ours, one_device = over_replicas[case]
    same_norms(ours, one_device)
    assert (ours["passes"], one_device["passes"]) == (2 * passes, len(DUE) + sum(DUE))


@NORMALISED
def test_gradients_of_a_term_are_summed_over_workers_before_their_norm(case, passes, over_workers, over_replicas):
    _, one_device = over_replicas[case]
    for said in over_workers:
        same_norms(said[case], one_device)
        assert said[case]["passes"] == passes


def test_plain_keras_cannot_build_from_a_batch_of_several_workers(over_workers):
    """keras-team/keras#20585, first place. Once it can, `BuildsFromLocalBatch` may go."""
    for said in over_workers:
        assert "PerReplica" in said["build"]
        assert "to a Tensor" in said["build"]


def test_plain_keras_cannot_reduce_the_logs_of_several_workers(over_workers):
    """keras-team/keras#20585, second place. Once it can, `logs_for_reduction` may go."""
    for said in over_workers:
        assert "Invalid reduction dimension 0 for input with 0 dimensions" in said["logs"]


def test_with_both_workarounds_several_workers_train(over_workers):
    assert [said["ours"] for said in over_workers] == ["", ""]


def trained(strategy):
    """Parameters and skips of a model, one batch of which holds a NaN."""
    x = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")
    x[9, 0], y = np.nan, x[:, 1:2]
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = kaw.stable(keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="price")]))
        model.compile("adam", loss="mse", loss_weights=kaw.AdaptiveWeight(2.5))
    callback = kaw.AdaptiveWeightCallback()
    history = model.fit(x, y, batch_size=8, verbose=0, shuffle=False, callbacks=[callback]).history
    return model.get_weights(), history["skipped_steps"]


@pytest.mark.usefixtures("fresh_session")
def test_mirrored_over_one_device_is_as_without_a_strategy():
    """The optimizer meets the others there, too, though there are none."""
    (plain, skipped), (mirrored, also) = (
        trained(strategy) for strategy in (tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0"]))
    )
    assert skipped == also == [1.0]
    for one, other in zip(plain, mirrored, strict=True):
        np.testing.assert_array_equal(one, other)


def test_on_one_replica_nothing_is_done_about_replicas():
    value, strategy = tf.constant([1.0, 2.0]), tf.distribute.get_strategy()
    gradients = [value, None]
    assert distribution.replicas() == 1
    assert not distribution.within_replica()
    assert distribution.divide_by_replicas(value) is value
    assert distribution.mean_over_replicas([value]) == ([value], None)
    assert distribution.mean_over_replicas([value], value) == ([value], value)
    assert distribution.sum_gradients(gradients) == gradients
    assert not distribution.several_workers(strategy)
    assert distribution.is_chief(strategy)
    logs = {"loss": value}
    assert distribution.logs_for_reduction(strategy, logs) is logs


def test_what_is_computed_under_a_condition_is_one_operation_of_the_graph():
    """All operations of a condition run in every step, if only to say that they have nothing to say."""

    def dear(value):
        for _ in range(50):
            value = tf.sin(value)
        return value

    @tf.function(autograph=False)
    def step(condition, value):
        return distribution.value_where(condition, lambda: dear(value), value)

    traced = step.get_concrete_function(tf.TensorSpec([], tf.bool), tf.TensorSpec([]))
    functions = {function.signature.name: function for function in traced.graph.as_graph_def().library.function}
    (condition,) = [op for op in traced.graph.get_operations() if op.type in ("If", "StatelessIf")]
    branch = functions[condition.get_attr("then_branch").name]
    (call,) = [node for node in branch.node_def if "Call" in node.op]
    assert len(branch.node_def) < 10
    assert functions[call.attr["f"].func.name].attr["_noinline"].b
    assert float(traced(tf.constant(True), tf.constant(1.0))) == pytest.approx(float(dear(tf.constant(1.0))))
    assert float(traced(tf.constant(False), tf.constant(1.0))) == 1.0


@pytest.mark.parametrize(("finite", "expected"), [(True, [2.0, 2.0]), (False, [7.0, 7.0]), (None, [2.0, 2.0])])
def test_a_step_is_done_or_undone(finite, expected):
    variable = tf.Variable([1.0, 1.0])
    condition = None if finite is None else tf.constant(finite)
    distribution.on_every_replica(
        lambda: variable.assign_add([1.0, 1.0]), None, finite=condition, otherwise=[(variable, tf.constant([7.0, 7.0]))]
    )
    np.testing.assert_array_equal(variable, expected)


STEPS = "`steps_per_execution` must be 1.*Received: steps_per_execution=8 with 2 replicas"
ACCUMULATION = "`gradient_accumulation_steps` must be None.*Received: gradient_accumulation_steps=4 with 2 replicas"


@pytest.mark.parametrize(
    ("replicas", "steps", "eager", "accumulation", "refused"),
    [
        (2, 8, False, None, STEPS),
        (2, 8, True, None, None),
        (2, 1, False, None, None),
        (1, 8, False, None, None),
        (2, 1, False, 4, ACCUMULATION),
        (1, 8, False, 4, None),
    ],
)
def test_what_keras_cannot_do_over_replicas_is_refused(replicas, steps, eager, accumulation, refused):
    """A strategy and an optimizer without private names stand for later versions."""
    model = SimpleNamespace(
        distribute_strategy=SimpleNamespace(num_replicas_in_sync=replicas, extended=None),
        steps_per_execution=steps,
        run_eagerly=eager,
        optimizer=SimpleNamespace(gradient_accumulation_steps=accumulation),
    )
    with pytest.raises(ValueError, match=refused) if refused else contextlib.nullcontext():
        distribution.check_replicas(model)


def make_telemetry():
    term = kaw.LossTerm(lambda y_true, y_pred: y_pred - y_true, weight=kaw.AdaptiveWeight(2.5))
    return Telemetry(kaw.CompositeLoss({"mel_loss": term, "stop_loss": term}), 1)


def row(*requests):
    return StepRow(1, {}, 0.0, 0.0, 1.0, None, loss_scaling=False, requests=requests)


def leave_row(telemetry, requests):
    zero, no = tf.constant(0.0), tf.constant(False)
    outcome = telemetry.outcome((), (), tf.constant(-1), True)  # nothing bad
    telemetry.write({}, zero, zero, tf.constant(1.0), outcome, (no, no), requests)


def test_requests_travel_through_the_telemetry_by_term():
    telemetry = make_telemetry()
    telemetry.ask("stop_loss", "disable")
    telemetry.ask("mel_loss", "reset")
    leave_row(telemetry, telemetry.requests / 2.0)  # the mean over two workers, of which one asks
    assert set(telemetry.read()[0].requests) == {("mel_loss", "reset"), ("stop_loss", "disable")}
    telemetry.ask("mel_loss", None)
    leave_row(telemetry, telemetry.requests / 2.0)
    assert telemetry.read()[0].requests == (("stop_loss", "disable"),)


def asking(*asked):
    """What one worker is asked for, of the mel loss."""
    requests = WorkerRequests("mel_loss")
    requests.asked.extend(asked)
    return requests


def test_a_worker_passes_its_requests_on_one_at_a_time_and_in_order():
    telemetry, requests = make_telemetry(), asking(("disable", "first"), ("enable", "second"))
    carried_out = []
    for _ in range(3):
        requests.pass_on(telemetry)
        leave_row(telemetry, telemetry.requests / 2.0)
        carried_out.append(requests.arrived(telemetry.read()))
    assert carried_out == [[("disable", "first")], [("enable", "second")], []]


def test_what_another_worker_asks_for_is_carried_out_once_an_execution():
    requests = asking()
    rows = [row(("mel_loss", "rollback")), row(("mel_loss", "rollback")), row(("stop_loss", "disable"))]
    assert requests.arrived(rows) == [("rollback", FROM_ANOTHER_WORKER)]


def test_the_same_request_on_two_workers_is_one():
    requests = asking(("rollback", "mine"))
    assert requests.arrived([row(("mel_loss", "rollback"))]) == [("rollback", "mine")]
    assert not requests.asked


def test_a_request_of_ones_own_waits_where_another_one_arrives():
    requests = asking(("enable", "mine"))
    assert requests.arrived([row(("mel_loss", "disable"))]) == [("disable", FROM_ANOTHER_WORKER)]
    assert list(requests.asked) == [("enable", "mine")]
