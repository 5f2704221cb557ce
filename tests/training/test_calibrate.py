"""`calibrate` says what a balance would set, and leaves everything as it was."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import absolute_error, assert_same, batches, make_loss, make_model, squared_error, values_of

import keras_adaptive_weights as kaw

pytestmark = pytest.mark.usefixtures("graphs_as_traced")

ROOM = kaw.AdaptiveWeightConfig(min_weight=0.01, max_weight=100.0)


def loss_with(balance, factor=30.0):
    terms = {
        "a_loss": kaw.LossTerm(squared_error, kaw.AdaptiveWeight(1.0, ROOM)),
        "b_loss": kaw.LossTerm(lambda t, p: factor * absolute_error(t, p), 1.0),
    }
    return kaw.CompositeLoss(terms, balance=balance, max_loss_spike_threshold=None)


class Counted(keras.layers.Layer):
    """Counts its calls in a variable that the model does not know of."""

    def __init__(self):
        super().__init__()
        self.calls = tf.Variable(0, trainable=False)

    def call(self, x):
        self.calls.assign_add(1)
        return x


@pytest.mark.parametrize("mode", [{"run_eagerly": True}, {}], ids=["eager", "graph"])
def test_nothing_is_updated_and_the_share_would_come_true(mode):
    model = make_model(dropout=0.3, loss=loss_with(kaw.GradientShare({"a_loss": 0.6})), **mode)
    model.train_on_batch(*batches(1)[0])  # so that there is something in optimizer, metrics and seeds
    model.loss.norm_schedule.begin_again()
    before, metrics = values_of(model), [v.numpy().copy() for v in model.metrics_variables]
    rows, average = model.telemetry.count, model.loss.total_average.numpy().tolist()
    found = kaw.calibrate(model, batches(20))
    assert_same(values_of(model), before)
    for variable, value in zip(model.metrics_variables, metrics, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert (model.telemetry.count, model.loss.total_average.numpy().tolist()) == (rows, average)
    assert model.loss.adaptive_weights["a_loss"].weight == 1.0
    assert model.loss.norm_schedule.variable.numpy().tolist() == [20, 0]
    part = found.weights["a_loss"] * found.norms["a_loss"]
    assert part / (part + found.norms["b_loss"]) == pytest.approx(0.6, abs=1e-4)
    assert (found.steps, found.decision.action) == (20, kaw.Action.CALIBRATE)
    assert found.decision.evidence["share.a_loss"] < 0.2


def test_the_norms_are_those_that_the_step_measures():
    """The geometric means of them, on a model that does not move."""
    data, rows = batches(8), []
    model = make_model(optimizer=keras.optimizers.SGD(0.0), loss=loss_with(kaw.GradientShare()))
    found = kaw.calibrate(model, data)
    for x, y in data:
        model.train_on_batch(x, y)
        rows += model.telemetry.read()
    for name, norm in found.norms.items():
        assert norm == pytest.approx(np.exp(np.mean([np.log(row.term_norms[name]) for row in rows])), rel=1e-4)
        assert found.losses[name] == pytest.approx(np.mean([row.terms[name] for row in rows]), rel=1e-4)


def test_a_counter_that_nobody_knows_of_is_not_moved_in_a_graph():
    keras.utils.set_random_seed(3)
    inputs, counted = keras.Input((4,)), Counted()
    model = kaw.StableModel(inputs, keras.layers.Dense(3)(counted(inputs)))
    model.compile("sgd", loss=loss_with(kaw.GradientShare()))
    before = int(counted.calls)
    kaw.calibrate(model, batches(6))
    assert int(counted.calls) == before


def test_losses_alone_are_enough_for_a_strategy_that_looks_at_nothing_else():
    found = kaw.calibrate(make_model(loss=loss_with(kaw.SqrtLoss(), factor=1e4)), batches(8), steps=8)
    assert found.norms == {}
    assert found.weights["a_loss"] > 10.0


def test_weights_that_fit_already_stay():
    model = make_model(loss=loss_with(kaw.GradientShare({"a_loss": 0.05})))
    share = kaw.calibrate(model, batches(20)).decision.evidence["share.a_loss"]
    model = make_model(loss=loss_with(kaw.GradientShare({"a_loss": share})))
    found = kaw.calibrate(model, batches(20))
    assert (found.weights, found.decision.action) == ({"a_loss": 1.0}, kaw.Action.HOLD)


def test_half_precision_lowers_its_scale_until_gradients_are_finite():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    model = kaw.StableModel(inputs, keras.layers.Dense(3, dtype="mixed_float16")(inputs))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.0), initial_scale=2.0**30)
    model.compile(optimizer, loss=loss_with(kaw.GradientShare()))
    found = kaw.calibrate(model, batches(6))
    assert found.steps == 6
    assert float(optimizer.dynamic_scale) == 2.0**30


def test_batches_may_hold_none_for_weights_and_ragged_targets():
    model = make_model(loss=loss_with(kaw.SqrtLoss()), run_eagerly=True)
    plain = kaw.calibrate(model, batches(6)).losses
    assert kaw.calibrate(model, [(*batch, None) for batch in batches(6)]).losses == plain
    terms = {
        "a_loss": kaw.LossTerm(lambda t, p: tf.reduce_sum(t, 1) ** 2 + 0.0 * p[:, 0], kaw.AdaptiveWeight(1.0, ROOM)),
        "b_loss": kaw.LossTerm(lambda t, p: tf.ones_like(p[:, 0])),
    }
    model.compile("sgd", loss=kaw.CompositeLoss(terms, balance=kaw.SqrtLoss()), run_eagerly=True)
    ragged = tf.ragged.constant([[1.0], [2.0, 3.0]])
    assert kaw.calibrate(model, [(np.ones((2, 4)), ragged)] * 6).losses == {"a_loss": 13.0, "b_loss": 1.0}


def test_batches_that_tell_nothing_do_not_count():
    model = make_model(loss=loss_with(kaw.GradientShare()))
    bad = [(x, np.full_like(y, np.nan)) for x, y in batches(3)]
    assert kaw.calibrate(model, [*bad, *batches(9)]).steps == 9
    with pytest.raises(ValueError, match=r"at least 5 batches with finite losses.*Received: 4 of 7"):
        kaw.calibrate(model, [*bad, *batches(4)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.ones((8, 4)), np.ones((8, 3))), "a tuple"),
        (np.ones((8, 4)), "a ndarray"),
        (None, "a NoneType"),
        ("x", "a str"),
    ],
)
def test_what_is_no_batches_is_refused(data, message):
    model = make_model(loss=loss_with(kaw.GradientShare()))
    with pytest.raises(TypeError, match=rf"calibrate: argument `data` must be batches.*Received: {message}.*\.batch"):
        kaw.calibrate(model, data)


def test_a_model_that_has_nothing_to_calibrate_is_refused():
    with pytest.raises(
        TypeError, match=r"calibrate: argument `model`.*Received: a Functional\. Write `model = kaw\.stable"
    ):
        kaw.calibrate(make_model(keras.Model), batches(6))
    for loss in (make_loss(), loss_with(kaw.Constraint("a_loss", at_most=1.0)), "mse"):
        with pytest.raises(ValueError, match=r"a loss whose balance measures at the start.*balance=GradientShare\(\)"):
            kaw.calibrate(make_model(loss=loss), batches(6))
    with pytest.raises(ValueError, match=r"calibrate: argument `steps`"):
        kaw.calibrate(make_model(loss=loss_with(kaw.GradientShare())), batches(6), steps=4)
