"""The train step: the same training as Keras's, minus the bad batches, plus telemetry."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import (
    BATCH,
    absolute_error,
    assert_same,
    batches,
    fit,
    make_loss,
    make_model,
    squared_error,
    values_of,
)

import keras_adaptive_weights as kaw
from keras_adaptive_weights.training.finiteness import first_non_finite

pytestmark = pytest.mark.usefixtures("traced_models")


@pytest.mark.parametrize("optimizer", ["adam", "momentum", "clipped", "accumulating"])
@pytest.mark.parametrize("eager", [True, False])
def test_clean_steps_train_as_plain_keras_does(optimizer, eager):
    """Bit-identical in eager mode; in a graph, where constants are folded in another order, to the last digits."""

    def build():
        return {
            "adam": lambda: keras.optimizers.Adam(0.01),
            "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
            "clipped": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.5),
            "accumulating": lambda: keras.optimizers.SGD(0.05, gradient_accumulation_steps=4),
        }[optimizer]()

    data = batches(5)  # more than are accumulated
    plain = make_model(keras.Model, optimizer=build(), run_eagerly=eager)
    stable = make_model(optimizer=build(), run_eagerly=eager)
    plain_history, history = fit(plain, data, epochs=2), fit(stable, data, epochs=2)
    for one, other in zip(plain.weights, stable.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.0 if eager else 1e-5, atol=0.0 if eager else 1e-6)
    np.testing.assert_allclose(history.history["loss"], plain_history.history["loss"], rtol=1e-6)


def test_a_bad_batch_leaves_no_trace():
    """Parameters, optimizer, batch norm, and dropout's seed stay as they were, bit for bit."""
    data = batches(6)
    model = make_model(dropout=0.3, optimizer=keras.optimizers.Adam(0.01))
    for x, y in data[:3]:
        model.train_on_batch(x, y)
    before = values_of(model)
    x, y = data[3]
    model.train_on_batch(np.where(np.arange(BATCH)[:, None] == 2, np.nan, x).astype("float32"), y)
    assert_same(values_of(model), before)
    assert model.telemetry.read()[-1].non_finite is not None  # which one depends on what a ReLU makes of a NaN


def test_after_a_bad_batch_training_goes_on_as_if_it_had_not_been_there():
    data = batches(12)
    poisoned = [*data[:5], (data[0][0], np.full_like(data[0][1], np.inf)), *data[5:]]
    clean, tried = make_model(dropout=0.3), make_model(dropout=0.3)
    clean_history, history = fit(clean, data), fit(tried, poisoned)
    assert_same(values_of(tried), values_of(clean))
    assert history.history["skipped_steps"] == [1.0]
    for name in ("loss", "mel_loss", "stop_loss", "gradient_norm"):
        assert history.history[name] == clean_history.history[name], name


def test_without_the_skip_the_same_batch_ruins_plain_keras():
    data = batches(4)
    model = make_model(keras.Model)
    fit(model, [*data[:2], (data[2][0], np.full_like(data[2][1], np.nan)), data[3]])
    assert not np.isfinite(model.get_weights()[0]).all()


def test_telemetry_is_what_a_hand_computes():
    """Raw terms, total and unscaled gradient norm of each batch, not running means."""
    model, twin = make_model(), make_model(keras.Model)
    for x, y in batches(3):
        with tf.GradientTape() as tape:
            out = twin(x, training=True)
            mel, stop = np.mean((y - out) ** 2), np.mean(np.abs(y - out))
            total = tf.reduce_mean(2.5 * squared_error(y, out) + 0.5 * absolute_error(y, out))
        gradients = tape.gradient(total, twin.trainable_variables)
        twin.optimizer.apply(gradients, twin.trainable_variables)
        model.train_on_batch(x, y)
        (row,) = model.telemetry.read()
        assert row.terms == pytest.approx({"mel_loss": mel, "stop_loss": stop}, rel=1e-5)
        assert row.total == pytest.approx(float(total), rel=1e-5)
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in gradients))
        assert row.gradient_norm == pytest.approx(norm, rel=1e-5)
        assert row.non_finite is None


def test_telemetry_sees_every_step_of_an_execution():
    single, several = make_model(), make_model(steps_per_execution=4)
    rows = {}

    class Collect(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen = rows.setdefault(self.model.steps_per_execution, [])
            seen.extend(self.model.telemetry.read(len(seen)))

    data = batches(10)  # the last execution has two steps
    fit(single, data, callbacks=[Collect()])
    fit(several, data, callbacks=[Collect()])
    assert len(rows[1]) == 10
    assert [r.total for r in rows[4]] == pytest.approx([r.total for r in rows[1]], rel=1e-5)


def nan_gradient(x):
    """The identity, with a gradient that is not a number."""

    @tf.custom_gradient
    def identity(x):
        return x, lambda upstream: upstream * np.nan

    return identity(x)


def test_a_gradient_that_is_not_finite_is_named_by_its_variable():
    inputs = keras.Input((4,))
    first = keras.layers.Dense(3, name="poisoned")(inputs)
    model = kaw.StableModel(inputs, keras.layers.Dense(3, name="sound")(keras.layers.Lambda(nan_gradient)(first)))
    model.compile(optimizer="sgd", loss=make_loss())
    before = model.get_weights()
    x, y = batches(1)[0]
    model.train_on_batch(x, y)
    (row,) = model.telemetry.read()
    assert row.non_finite == "gradient of poisoned/kernel"
    assert np.isfinite(row.total)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_spike_dampening_reaches_the_gradients():
    """A spike moves the parameters as far as a total at the threshold would, not further."""
    factors, moves = [], []
    for threshold in (2.0, None):
        loss = make_loss(max_loss_spike_threshold=threshold)
        model = make_model(optimizer=keras.optimizers.SGD(1e-3), loss=loss)
        data = batches(15)
        fit(model, data)
        average = float(loss.total_average[0]) if threshold else None
        before = model.get_weights()
        x, y = data[0]
        model.train_on_batch(x, y * 100)
        row = model.telemetry.read()[-1]
        moves.append([a - b for a, b in zip(model.get_weights(), before, strict=True)])
        factors.append(row.dampening)
        if threshold:
            assert row.dampening == pytest.approx(2.0 * average / row.total, rel=1e-5)
    assert factors[0] < 0.01
    assert factors[1] == 1.0
    kernel, undampened = moves[0][0], moves[1][0]
    np.testing.assert_allclose(kernel, undampened * factors[0], rtol=1e-2, atol=1e-6)


def test_a_spike_raises_its_own_threshold_no_further_than_the_threshold():
    loss = make_loss(max_loss_spike_threshold=2.0)
    model = make_model(loss=loss, optimizer=keras.optimizers.SGD(0.0))
    x, y = batches(1)[0]
    for _ in range(20):
        model.train_on_batch(x, y)
    average = float(loss.total_average[0])
    model.train_on_batch(x, y * 1000)
    assert float(loss.total_average[0]) == pytest.approx(average * 1.1, rel=0.02)  # 0.9 * 1 + 0.1 * 2


def test_evaluation_changes_neither_weights_nor_state():
    loss = (model := make_model(dampens=2.0)).loss
    fit(model, batches(5))
    weights, state, average = values_of(model), loss.adaptive_weights["mel_loss"].to_dict(), loss.total_average.numpy()
    results = model.evaluate(*batches(1, seed=9)[0], verbose=0, return_dict=True)
    assert_same(values_of(model), weights)
    assert loss.adaptive_weights["mel_loss"].to_dict() == state
    np.testing.assert_array_equal(loss.total_average.numpy(), average)
    assert set(results) == {"loss", "mel_loss", "stop_loss"}


def test_history_holds_epoch_means_of_the_raw_terms():
    model = make_model(optimizer=keras.optimizers.SGD(0.0))
    data = batches(6)
    uneven = (data[0][0][:3], data[0][1][:3])  # the last batch is smaller
    x, y = (np.concatenate(part) for part in zip(*data, uneven, strict=True))
    validation = batches(2, seed=4)
    val_x, val_y = (np.concatenate(part) for part in zip(*validation, strict=True))
    history = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, validation_data=(val_x, val_y)).history
    assert set(history) == {
        "loss", "mel_loss", "stop_loss", "mel_weight", "gradient_norm", "skipped_steps",
        "val_loss", "val_mel_loss", "val_stop_loss",
    }  # fmt: skip
    out = model.predict(val_x, verbose=0)
    assert history["val_mel_loss"][0] == pytest.approx(np.mean((val_y - out) ** 2), rel=1e-4)
    assert history["mel_weight"] == [2.5]
    assert history["loss"][0] == pytest.approx(2.5 * history["mel_loss"][0] + 0.5 * history["stop_loss"][0], rel=1e-5)


def test_additional_losses_of_the_model_count():
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.5))(inputs)
    model = kaw.StableModel(inputs, outputs)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=make_loss())
    x, y = batches(1)[0]
    model.train_on_batch(x, y)
    (row,) = model.telemetry.read()
    penalty = 0.5 * np.sum(np.square(model.get_weights()[0]))
    assert row.total == pytest.approx(2.5 * row.terms["mel_loss"] + 0.5 * row.terms["stop_loss"] + penalty, rel=1e-5)


def test_compiled_metrics_leave_out_the_skipped_batch():
    model = make_model(metrics=["mae"], optimizer=keras.optimizers.SGD(0.0))
    good, bad = batches(2)
    poisoned = (bad[0], np.full_like(bad[1], np.nan))
    history = fit(model, [good, poisoned]).history
    alone = fit(make_model(metrics=["mae"], optimizer=keras.optimizers.SGD(0.0)), [good]).history
    assert history["mae"] == alone["mae"]


def test_a_train_step_of_ones_own_uses_the_same_pieces():
    class Own(kaw.StableTrainStepMixin, keras.Model):
        def train_step(self, data):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            before = self.remember_state()
            with tf.GradientTape() as tape:
                y_pred = self(2.0 * x, training=True)
                measured = self.measure_losses(x, y, y_pred, sample_weight)
            gradients = tape.gradient(measured.objective, self.trainable_variables)
            return self.apply_if_finite(measured, gradients, before)

    data = batches(8)
    own, reference = make_model(Own), make_model()
    fit(own, data)
    fit(reference, [(2.0 * x, y) for x, y in data])
    assert_same(values_of(own), values_of(reference))
    before = values_of(own)
    own.train_on_batch(data[0][0], np.full_like(data[0][1], np.nan))
    assert_same(values_of(own), before)


def test_loss_scaling_goes_on_halving_and_a_step_it_skips_is_routine():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**127)
    model = make_model(optimizer=optimizer, built=False)  # its scale is made while the step is traced
    x, y = batches(1)[0]
    weights = model.get_weights()
    model.train_on_batch(x, y * 10)  # the scaled gradients overflow
    (row,) = model.telemetry.read()
    assert row.loss_scaling
    assert float(model.optimizer.dynamic_scale) == 2.0**126
    assert int(model.optimizer.iterations) == 0
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)
    model.optimizer.dynamic_scale.assign(2.0**10)
    model.train_on_batch(x, y)
    (row,) = model.telemetry.read()
    assert not row.loss_scaling
    assert row.gradient_norm < 100.0  # unscaled
    model.train_on_batch(x, np.full_like(y, np.nan))
    (row,) = model.telemetry.read()
    assert row.non_finite == "mel_loss"
    assert not row.loss_scaling  # a bad batch is not routine


def test_a_plain_loss_gets_the_skip_and_the_gradient_norm():
    model = make_model(loss="mse")
    x, y = batches(1)[0]
    model.train_on_batch(x, y)
    before = values_of(model)
    model.train_on_batch(x, np.full_like(y, np.nan))
    assert_same(values_of(model), before)
    assert [row.non_finite for row in model.telemetry.read()] == ["total_loss"]


def test_an_adaptive_term_that_takes_no_part_is_refused_on_the_first_batch():
    inputs = keras.Input((4,))
    model = kaw.StableModel(inputs, {"stop_tokens": keras.layers.Dense(3)(inputs)})
    model.compile(optimizer="sgd", loss=kaw.XTTSLoss())
    with pytest.raises(ValueError, match=r"'mel_loss' is adaptive.*'mel_target', 'mel_output'"):
        model.fit(np.zeros((8, 4), "float32"), {"stop_target": np.zeros((8, 3), "float32")}, verbose=0)


def test_a_model_without_trainable_weights_is_measured_and_not_changed():
    inputs = keras.Input((3,))
    model = kaw.StableModel(inputs, keras.layers.Rescaling(2.0)(inputs))
    model.compile(optimizer="sgd", loss=make_loss())
    y = batches(1)[0][1]
    with pytest.warns(UserWarning, match="does not have any trainable weights"):  # as in plain Keras
        logs = model.train_on_batch(y, y, return_dict=True)
    assert logs["gradient_norm"] == 0.0
    assert logs["mel_loss"] == pytest.approx(np.mean(np.square(y)), rel=1e-5)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (64, 64), (3, 3, 513), (2048, 2048)])
def test_the_norm_of_few_and_of_many_numbers(jit, shape):
    """Rounding errors of one sum over millions of numbers would add up."""
    measure = tf.function(
        lambda gradient: first_non_finite({}, tf.constant(1.0), [gradient, None], 2.0), autograph=False, jit_compile=jit
    )
    gradient = np.random.default_rng(7).normal(3.0, 1.0, shape).astype("float32")
    norm, finite, bad = measure(tf.constant(gradient))
    assert float(norm) == pytest.approx(np.linalg.norm(gradient.astype("float64")) / 2.0, rel=1e-5)
    assert (bool(finite), int(bad)) == (True, -1)
    if gradient.size:
        gradient[(-1,) * len(shape)] = np.inf
        _, finite, bad = measure(tf.constant(gradient))
        assert (bool(finite), int(bad)) == (False, 1), "the first thing after the total"


def test_the_loss_travels_with_the_model_file(tmp_path):
    loss = (model := make_model(dampens=2.0)).loss
    fit(model, batches(5), callbacks=[kaw.AdaptiveMelWeightCallback()])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"StableModel": kaw.StableModel})
    assert loaded.loss.adaptive_weights["mel_loss"].to_dict() == loss.adaptive_weights["mel_loss"].to_dict()
    np.testing.assert_array_equal(loaded.loss.total_average, loss.total_average)
    more = batches(5, seed=8)
    fit(model, more)
    fit(loaded, more)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("eagerly", [False, True])
def test_the_culprit_and_the_terms_are_those_of_the_batch_that_ran(eagerly):
    """Each structure of targets is a trace of its own; what another one left behind does not count."""

    def error(key):
        return lambda t, p: tf.reduce_mean(tf.square(t[key] - p), axis=1)

    model = kaw.StableModel(inputs := keras.Input((3,)), keras.layers.Dense(2)(inputs))
    terms = {"mel_loss": kaw.LossTerm(error("mel"), kaw.AdaptiveWeight(2.5))}
    terms |= {f"{key}_loss": kaw.LossTerm(error(key), 1.0, (f"has_{key}",)) for key in ("pitch", "energy")}
    model.compile("sgd", loss=kaw.CompositeLoss(terms), run_eagerly=eagerly)
    x, y = np.ones((8, 3), "float32"), np.ones((8, 2), "float32")
    full = {"mel": y, "pitch": y, "energy": y, "has_pitch": y, "has_energy": y}
    rows = []
    for targets in (full, {"mel": y}, {**full, "energy": y * np.nan}, {"mel": y * np.nan}, full):
        model.fit(x, targets, batch_size=8, verbose=0)
        rows += model.telemetry.read(len(rows))
    assert [row.non_finite for row in rows] == [None, None, "energy_loss", "mel_loss", None]
    assert [list(row.terms) for row in rows] == [list(terms), ["mel_loss"], list(terms), ["mel_loss"], list(terms)]


def test_the_mean_of_a_term_is_over_the_batches_that_have_it():
    def given(t, p):
        return tf.reduce_mean(t["b"], axis=-1) + 0.0 * tf.reduce_mean(p, axis=-1)

    model = kaw.StableModel(inputs := keras.Input((2,)), keras.layers.Dense(1)(inputs))
    terms = {
        "a_loss": kaw.LossTerm(lambda t, p: tf.reduce_mean(tf.abs(p), -1)),
        "b_loss": kaw.LossTerm(given, 1.0, ("b",)),
    }
    model.compile("sgd", loss=kaw.CompositeLoss(terms), run_eagerly=True)
    logs = {}
    for targets in ({"b": np.full((4, 1), 6.0)}, {"c": np.ones((4, 1))}):
        logs = model.train_step((tf.ones((4, 2)), targets))
    assert float(logs["b_loss"]) == pytest.approx(6.0)


def test_dampened_steps_are_counted_where_dampening_was_asked_for():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(320, 4)).astype("float32"), rng.standard_t(1.5, size=(320, 3)).astype("float32")
    model, seen = make_model(dampens=2.0), []

    class See:
        def observe(self, observations, decision):
            seen.extend(observations)

    callback = kaw.AdaptiveMelWeightCallback(observers=[See()])
    logs = model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback], validation_data=(x, y)).history
    dampened = sum(step.dampening < 1.0 for step in seen)
    assert dampened > 1
    assert (logs["dampened_steps"], callback._weights["mel_loss"].state.dampened_steps) == ([dampened], dampened)
    assert "val_dampened_steps" not in logs
    assert "dampened_steps" not in make_model().train_on_batch(x[:8], y[:8], return_dict=True)


def test_totals_around_zero_are_not_dampened():
    """A log-likelihood whose best value is about 0 has no scale, and for a while after it was negative none either."""
    losses = [0.3 if i % 2 else -0.2 for i in range(40)] + [1.0] * 40 + [50.0]
    loss = kaw.CompositeLoss(
        {"nll_loss": kaw.LossTerm(lambda t, p: t[:, 0] + 0.0 * p[:, 0])}, max_loss_spike_threshold=2.0
    )
    model = kaw.StableModel(inputs := keras.Input((2,)), keras.layers.Dense(1)(inputs))
    model.compile("sgd", loss=loss)
    y = np.repeat(np.array(losses, "float32"), 4)[:, None]
    logs = model.fit(np.ones((len(y), 2), "float32"), y, batch_size=4, shuffle=False, verbose=0).history
    assert logs["dampened_steps"] == [0.0]
    loss.total_average.assign([1.0, 9.0])  # as after a thousand positive ones
    logs = model.fit(np.ones((8, 2)), np.repeat([[1.0], [50.0]], 4, 0), batch_size=4, shuffle=False, verbose=0).history
    assert logs["dampened_steps"] == [1.0]
