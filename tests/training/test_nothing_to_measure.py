"""A batch without a sample, with all weights 0, or all masked is no evidence: the step is left out."""

from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import BATCH, assert_same, batches, make_model, values_of
from traced_models import SHELF

import keras_adaptive_weights as kaw

pytestmark = pytest.mark.usefixtures("traced_models")

MODES = {"eager": {"run_eagerly": True}, "graph": {}, "xla": {"jit_compile": True}}


def dataset(parts, weights=None):
    """Batches as they come, whatever their size; with weights of the samples where some are given."""
    parts = parts if weights is None else [(*part, w) for part, w in zip(parts, weights, strict=True)]
    spec = [tf.TensorSpec((None, 4)), tf.TensorSpec((None, 3)), tf.TensorSpec((None,))][: len(parts[0])]
    made = tf.data.Dataset.from_generator(lambda: iter(parts), output_signature=tuple(spec))
    return made.apply(tf.data.experimental.assert_cardinality(len(parts)))


def without_samples(part):
    return tuple(value[:0] for value in part)


def weights_for(parts, empty):
    return [np.full(len(x), 0.0 if i in empty else 1.0, "float32") for i, (x, _) in enumerate(parts)]


class Seen:
    def __init__(self):
        self.steps = []

    def observe(self, observations, decision):
        self.steps += observations


class Run(NamedTuple):
    """What came of a training: the model itself goes to the next one, which need not be traced."""

    values: dict
    average: np.ndarray
    steps: list
    logs: dict
    state: object


def train(parts, mode, weights=None, **kwargs):
    model = make_model(dampens=2.0, dropout=0.5, **{**MODES[mode], **kwargs})
    seen = Seen()
    callback = kaw.AdaptiveMelWeightCallback(observers=[seen])
    logs = model.fit(dataset(parts, weights), verbose=0, shuffle=False, callbacks=[callback]).history
    (weight,), average = callback._weights.values(), model.loss.total_average.numpy()
    run = Run(values_of(model), average, seen.steps, {name: values[-1] for name, values in logs.items()}, weight.state)
    SHELF.take_back()
    return run


@pytest.mark.parametrize("kind", ["no samples", "weights of 0"])
@pytest.mark.parametrize("mode", MODES)
def test_it_is_as_if_the_batch_had_not_been_there(mode, kind):
    """Parameters, optimizer, batch statistics, seeds, epoch means, the measure of a spike, the controller."""
    parts = batches(4)
    if kind == "no samples":
        odd = [*parts[:2], without_samples(parts[2]), *parts[2:]]
        plain, run = train(parts, mode), train(odd, mode)
    else:
        odd = [*parts[:2], parts[0], *parts[2:]]
        plain, run = train(parts, mode, weights_for(parts, ())), train(odd, mode, weights_for(odd, {2}))
    assert_same(run.values, plain.values)
    np.testing.assert_array_equal(run.average, plain.average)
    assert run.logs.pop("empty_steps") == 1
    assert run.logs == pytest.approx(plain.logs)
    assert run.logs["skipped_steps"] == 0
    assert [(step.empty, step.applied) for step in run.steps] == [(i == 2, i != 2) for i in range(5)]
    assert np.isnan(run.steps[2].loss)
    assert run.state == plain.state._replace(step=5, empty_steps=1)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_of_several_steps_per_execution_each_is_told_apart(mode):
    parts = batches(4)
    odd = [parts[0], without_samples(parts[1]), parts[2], without_samples(parts[3])]
    run = train(odd, mode, steps_per_execution=2)
    assert [step.empty for step in run.steps] == [False, True, False, True]
    assert run.logs["empty_steps"] == 2


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_loss_scaling_leaves_it_out_as_well(mode):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        parts = batches(3)
        plain = train([parts[0], parts[2]], mode)
        run = train([parts[0], without_samples(parts[1]), parts[2]], mode)
    finally:
        keras.config.set_dtype_policy("float32")
    assert [step.empty for step in run.steps] == [False, True, False]
    assert_same(run.values, plain.values)
    assert (run.logs.pop("empty_steps"), run.logs) == (1, pytest.approx(plain.logs, nan_ok=True))


def test_an_epoch_of_nothing_has_no_means():
    parts = [without_samples(part) for part in batches(2)]
    run = train(parts, "graph")
    logs = run.logs
    assert np.isnan([logs["mel_loss"], logs["stop_loss"], logs["gradient_norm"]]).all()
    assert (logs["loss"], logs["empty_steps"], logs["skipped_steps"]) == (0.0, 2, 0), "the loss as plain Keras has it"
    assert [int(value) for name, value in run.values.items() if name.endswith(" iteration")] == [0]


def test_what_is_as_usual_has_no_such_key():
    assert "empty_steps" not in train(batches(2), "graph").logs


def test_a_step_that_is_empty_is_never_a_skipped_one():
    """Twenty skips in a row end the training; empty batches do not, nor do they end a row of skips."""
    parts = batches(30)
    odd = [without_samples(part) if i % 2 else (part[0] * np.nan, part[1]) for i, part in enumerate(parts)]
    run = train(odd, "graph")
    assert (run.logs["skipped_steps"], run.logs["empty_steps"]) == (15, 15)
    assert {step.non_finite is None for step in run.steps if step.empty} == {True}


def test_a_loss_of_keras_leaves_out_a_batch_without_a_sample():
    parts = batches(3)
    models = [make_model(loss="mse") for _ in range(2)]
    models[0].fit(dataset([parts[0], without_samples(parts[1]), parts[2]]), verbose=0, shuffle=False)
    models[1].fit(dataset([parts[0], parts[2]]), verbose=0, shuffle=False)
    assert_same(values_of(models[0]), values_of(models[1]))


@pytest.mark.parametrize("eagerly", [False, True])
def test_of_one_term_there_may_be_nothing_to_measure(eagerly):
    """Its mean is over the other batches, its controller waits, and the other terms train on."""
    loss = kaw.CompositeLoss(
        {
            "a_loss": kaw.LossTerm(lambda t, p: tf.reduce_mean(t["a"] + 0.0 * p["a"], -1), kaw.AdaptiveWeight(2.0)),
            "b_loss": kaw.LossTerm(lambda t, p: tf.reduce_mean(t["b"] + 0.0 * p["b"], -1), kaw.AdaptiveWeight(3.0)),
        }
    )
    inputs = keras.Input((2,))
    model = kaw.StableModel(inputs, {k: keras.layers.Dense(1, name=k)(inputs) for k in "ab"})
    model.compile("sgd", loss=loss, run_eagerly=eagerly)
    x, ones = np.ones((8, 2)), np.ones((8, 1))
    weights = {"a": np.repeat([0.0, 1.0], 4), "b": np.ones(8)}
    seen = Seen()
    callback = kaw.AdaptiveWeightCallback("a_loss", observers=[seen])
    targets = {"a": ones * np.repeat([[7.0], [5.0]], 4, 0), "b": ones * np.repeat([[1.0], [3.0]], 4, 0)}
    logs = model.fit(
        x, targets, sample_weight=weights, batch_size=4, shuffle=False, verbose=0, callbacks=[callback]
    ).history
    assert (logs["a_loss"], logs["b_loss"], logs["skipped_steps"]) == ([5.0], [2.0], [0.0])
    assert [(step.empty, step.applied, step.loss) for step in seen.steps[1:]] == [(False, True, 5.0)]
    assert (seen.steps[0].empty, seen.steps[0].applied, seen.steps[0].total_loss) == (True, True, 3.0)
    assert int(model.optimizer.iterations) == 2


@pytest.mark.parametrize("nothing", ["weights of 0", "all masked"])
def test_of_one_loss_of_keras_there_may_be_nothing_to_measure(nothing):
    """Its controller waits, and the logs are Keras's: a 0 as any other."""
    x = np.ones((8, 3), "float32")
    x[:4] = 0.0 if nothing == "all masked" else 1.0  # what Masking leaves out
    weights = {"a": np.ones((8, 3)), "b": np.ones(8)}
    weights["a"][:4] = 0.0 if nothing == "weights of 0" else 1.0
    histories = []
    for cls in (keras.Model, kaw.StableModel):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((3,))
        steps = keras.layers.Masking()(keras.layers.Reshape((3, 1))(inputs))
        outputs = {"a": keras.layers.TimeDistributed(keras.layers.Dense(1))(steps), "b": keras.layers.Dense(1)(inputs)}
        model = cls(inputs, outputs)
        stable = cls is kaw.StableModel
        weight = kaw.AdaptiveWeight(2.0, kaw.AdaptiveWeightConfig(enabled=False)) if stable else 2.0
        model.compile("sgd", {"a": "mse", "b": "mae"}, {"a": weight, "b": 1.0}, run_eagerly=True)
        seen = Seen()
        callbacks = [kaw.AdaptiveWeightCallback("a_loss", observers=[seen])] if stable else []
        targets = {"a": np.ones((8, 3, 1)), "b": np.ones((8, 1))}
        fit = {"sample_weight": weights, "batch_size": 4, "shuffle": False, "verbose": 0}
        histories.append(model.fit(x, targets, callbacks=callbacks, **fit).history)
    plain, ours = histories
    assert {name: ours[name] for name in plain} == plain
    assert ours["empty_steps"] == [1.0]
    assert [(step.empty, step.applied) for step in seen.steps] == [(True, True), (False, True)]
    assert seen.steps[1].loss == pytest.approx(2.0 * plain["a_loss"][0])


def test_a_validation_batch_with_nothing_to_measure_lowers_no_mean():
    model = make_model()
    x, y = batches(1)[0]
    weights = np.concatenate([np.ones(BATCH), np.zeros(BATCH)])
    both = model.evaluate(np.tile(x, (2, 1)), np.tile(y, (2, 1)), BATCH, 0, weights, return_dict=True)
    assert both == pytest.approx(model.evaluate(x, y, batch_size=BATCH, verbose=0, return_dict=True), rel=1e-5)
