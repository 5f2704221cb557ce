"""A stable model answers as a `keras.Model` does, or says what to write; and a skipped step leaves nothing behind."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import squared_error

import keras_adaptive_weights as kaw

X, Y = np.linspace(-1.0, 1.0, 32, dtype="float32").reshape(8, 4), np.ones((8, 1), "float32")
NAN = np.full_like(X, np.nan)


def make(cls=kaw.StableModel, **compile_arguments):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    model = cls(inputs, keras.layers.Dense(1)(inputs))
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compile_arguments})
    return model


def composite(**kwargs):
    return kaw.CompositeLoss({"mel_loss": kaw.LossTerm(squared_error, kaw.AdaptiveWeight(2.5))}, **kwargs)


class WithCall(kaw.StableModel):
    """A model with a `call` of its own, not built before its first batch."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)


class Behind(keras.Model):
    """Somebody's model with a train step of its own."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        return {"loss": tf.constant(123.0)}


# --- what a caller sees --------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"metrics": ["mae"]}, {"weighted_metrics": ["mae"], "run_eagerly": True}])
def test_with_a_loss_of_keras_all_that_is_seen_is_keras_s(arguments):
    plain, stable = make(keras.Model, **arguments), make(**arguments)
    seen = []
    for model in (plain, stable):
        history = model.fit(X, Y, batch_size=4, validation_data=(X, Y), shuffle=False, verbose=0).history
        numbers = np.atleast_1d(model.train_on_batch(X, Y)), np.atleast_1d(model.test_on_batch(X, Y))
        seen.append((history, model.metrics_names, [len(n) for n in numbers], list(model.get_metrics_result())))
    assert list(seen[1][0]) == list(seen[0][0])
    assert seen[1][1:] == seen[0][1:]
    for name, values in seen[0][0].items():
        np.testing.assert_allclose(seen[1][0][name], values, rtol=1e-5, err_msg=name)


def test_names_of_an_earlier_loss_are_gone_when_it_is():
    model = make(loss=composite())
    model.fit(X, Y, verbose=0)
    assert model.metrics_names == ["loss", "stable_train_step"]
    model.compile("sgd", "mse")
    assert model.metrics_names == ["loss"]


def test_a_number_without_metrics_and_a_list_with_some():
    model = make()
    assert np.ndim(model.train_on_batch(X, Y)) == 0
    model.compile("sgd", "mse", metrics=["mae"])
    assert len(model.train_on_batch(X, Y)) == 2


def test_an_unknown_argument_is_refused_as_keras_refuses_it():
    messages = []
    for cls in (keras.Model, kaw.StableModel):
        for method in ("fit", "compile"):
            with pytest.raises(TypeError) as refused:
                getattr(make(cls), method)(foo=1)
            messages.append(str(refused.value))
    assert messages[:2] == messages[2:]
    assert "'foo'" in messages[0]


def test_one_callback_and_a_list_of_keras_are_taken_as_keras_takes_them():
    model, seen = make(), []
    model.fit(
        X, Y, verbose=0, callbacks=keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    )
    together = keras.callbacks.CallbackList([keras.callbacks.History()], model=model)
    model.fit(X, Y, verbose=0, callbacks=together)
    assert [type(callback) for callback in together.callbacks] == [keras.callbacks.History]
    assert list(seen[0]) == list(model.history.history) == ["loss"]


def test_a_compute_loss_with_the_older_signature():
    class Older(kaw.StableTrainStepMixin, keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return keras.ops.mean((y - y_pred) ** 2)

    class Base(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
            return keras.ops.mean((y - y_pred) ** 2)

    class OlderBehind(kaw.StableTrainStepMixin, Base):
        pass

    expected = make(keras.Model).fit(X, Y, verbose=0).history["loss"]
    for cls in (Older, OlderBehind):
        assert make(cls, loss=None).fit(X, Y, verbose=0).history["loss"] == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:Epoch:RuntimeWarning")
def test_what_an_own_compute_metrics_returns_is_in_the_logs():
    class Own(kaw.StableTrainStepMixin, keras.Model):
        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            logs = super().compute_metrics(x, y, y_pred, sample_weight)
            return {**logs, "mean_output": keras.ops.mean(y_pred), "twice_mae": 2.0 * logs["mae"]}

    model = make(Own, metrics=["mae"], optimizer=keras.optimizers.SGD(0.0))
    history = model.fit(
        np.concatenate([X, NAN]), np.concatenate([Y, Y]), batch_size=8, shuffle=False, verbose=0
    ).history
    assert list(history) == ["loss", "mae", "mean_output", "twice_mae"]
    output = model.predict(X, verbose=0)
    assert history["mae"][0] == pytest.approx(np.abs(Y - output).mean(), rel=1e-5)  # the skipped batch left it alone
    model.train_on_batch(X, Y)
    assert model.train_on_batch(X, Y, return_dict=True)["mean_output"] == pytest.approx(output.mean(), rel=1e-5)


def test_a_loop_over_all_metrics_as_in_the_guide_of_keras():
    class Guide(kaw.StableTrainStepMixin, keras.Model):
        def test_step(self, data):
            x, y = data
            y_pred = self(x, training=False)
            loss = self.compute_loss(y=y, y_pred=y_pred)
            for metric in self.metrics:
                metric.update_state(loss) if metric.name == "loss" else metric.update_state(y, y_pred)
            return {metric.name: metric.result() for metric in self.metrics}

    for loss in ("mse", composite()):
        model = make(Guide, loss=loss, metrics=["mae"])
        model.fit(X, Y, verbose=0)
        logs = model.evaluate(X, Y, verbose=0, return_dict=True)
        mse = np.mean((Y - model.predict(X, verbose=0)) ** 2)
        assert logs["loss"] == pytest.approx(mse * (1.0 if loss == "mse" else 2.5), rel=1e-5)
        assert loss == "mse" or logs["mel_loss"] == pytest.approx(mse, rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "composite"])
def test_steps_are_called_before_any_fit_by_themselves_and_in_a_function(loss):
    batch = tf.constant(X), tf.constant(Y)
    for wrap in (lambda step: step, tf.function):
        model = make(loss=composite() if loss == "composite" else loss, metrics=["mae"])
        expected = float(make(keras.Model).test_on_batch(X, Y)) * (1.0 if loss == "mse" else 2.5)
        assert float(wrap(model.test_step)(batch)["loss"]) == pytest.approx(expected, rel=1e-5)
        model.reset_metrics()
        assert float(wrap(model.train_step)(batch)["loss"]) == pytest.approx(expected, rel=1e-5)
        assert model.telemetry.count == 1


@pytest.mark.parametrize("reduction", ["none", None])
def test_a_loss_that_is_not_reduced_is_trained_on_as_by_keras(reduction):
    """The gradient is that of the sum, and the loss in the logs is the mean."""
    plain = make(keras.Model, loss=keras.losses.MeanSquaredError(reduction=None))
    terms = {"mel_loss": kaw.LossTerm(squared_error)}
    ours = make(loss=kaw.CompositeLoss(terms, reduction=reduction, max_loss_spike_threshold=None))
    stable = make(loss=keras.losses.MeanSquaredError(reduction=None))
    losses = [model.fit(X, Y, epochs=2, verbose=0).history["loss"] for model in (plain, stable, ours)]
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)
    assert make(loss=ours.loss).evaluate(X, Y, verbose=0, return_dict=True)["mel_loss"] > 0.0


# --- how models and their classes are made -------------------------------------------------------------------


def test_a_functional_stable_model_leaves_its_class_as_it_is():
    """Keras would turn the class, and every class made of it, functional."""
    early = WithCall()
    early.compile("sgd", "mse")
    bases = kaw.StableModel.__bases__

    class Both(kaw.StableModel):
        pass

    class WithCallOfBoth(Both):
        call = WithCall.call

        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

    class WithMore(kaw.StableTrainStepMixin, keras.Model):
        def __init__(self, inputs, outputs, alpha):
            super().__init__(inputs=inputs, outputs=outputs)
            self.alpha = alpha

    inputs = keras.Input((4,))
    functional = [make(), make(Both), WithMore(inputs, keras.layers.Dense(1)(inputs), 0.5)]
    assert kaw.StableModel.__bases__ == bases
    assert isinstance(functional[1], Both)
    assert type(functional[1]).__name__ == "Both"
    for model in (*functional, early, WithCall(), WithCallOfBoth()):
        model.compile("sgd", "mse")
        model.fit(X, Y, verbose=0)
        model.summary(print_fn=lambda *_, **__: None)
        assert isinstance(model, kaw.StableTrainStepMixin)
        assert isinstance(model, type(keras.Model(inputs, inputs))) == (model in functional)


def test_a_functional_stable_model_is_made_anew_as_one(tmp_path):
    @keras.saving.register_keras_serializable(package="habits")
    class Named(kaw.StableModel):
        pass

    for cls in (kaw.StableModel, Named):
        model = make(cls)
        model.save(tmp_path / "model.keras")
        again = [
            keras.models.clone_model(model),
            cls.from_config(model.get_config()),
            keras.models.model_from_json(model.to_json()),
            keras.models.load_model(tmp_path / "model.keras"),
        ]
        assert [isinstance(other, cls) for other in again] == [True] * 4
    assert not isinstance(keras.Model.from_config(model.get_config()), kaw.StableModel)  # as it says


def test_a_sequential_model_with_the_mixin():
    class Stable(kaw.StableTrainStepMixin, keras.Sequential):
        pass

    for model in (Stable([keras.layers.Dense(1)], True), Stable([keras.layers.Dense(1)], name="named")):
        model.compile("sgd", "mse")
        model.fit(X, Y, verbose=0)
        assert model.telemetry.count == 1


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        (
            (keras.Model, kaw.StableTrainStepMixin),
            r"must come before Model.*class Wrong\(StableTrainStepMixin, Model\)",
        ),
        ((keras.Sequential, kaw.StableTrainStepMixin), r"must come before Sequential"),
        (
            (kaw.StableTrainStepMixin,),
            r"for subclasses of keras.Model.*class Wrong\(StableTrainStepMixin, keras.Model\)",
        ),
        ((kaw.StableTrainStepMixin, keras.layers.Layer), r"for subclasses of keras.Model"),
        ((kaw.StableTrainStepMixin, kaw.StableModel), r"StableTrainStepMixin, StableModel"),  # Python says it
    ],
)
def test_what_cannot_be_a_stable_model_is_refused_when_it_is_made(bases, message):
    with pytest.raises(TypeError, match=message):
        type("Wrong", bases, {})()


def test_a_train_step_that_would_never_run_is_refused():
    class Wrong(kaw.StableTrainStepMixin, Behind):
        pass

    model = Wrong()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"Behind\.train_step would never be called"):
        model.fit(X, Y, verbose=0)


def test_a_train_step_without_telemetry_is_said_and_refused_where_decisions_hang_on_it():
    class Mute(kaw.StableTrainStepMixin, keras.Model):
        train_step = Behind.train_step

    with pytest.warns(RuntimeWarning, match=r"Mute\.train_step leaves no telemetry.*apply_if_finite"):
        make(Mute).fit(X, Y, epochs=2, verbose=0)
    with pytest.raises(ValueError, match=r"AdaptiveMelWeightCallback.*Mute\.train_step leaves no telemetry"):
        make(Mute, loss=composite()).fit(X, Y, verbose=0, callbacks=[kaw.AdaptiveMelWeightCallback()])


# --- skipped steps -------------------------------------------------------------------------------------------


def test_skips_that_no_log_shows_are_said_once_an_epoch():
    model = make()
    x, y = np.concatenate([X, NAN, X, NAN]), np.concatenate([Y] * 4)
    with pytest.warns(RuntimeWarning, match="steps were skipped") as said:
        model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0, validation_data=(X, Y))
    begins = [f"Epoch {epoch}: 2 of 4 steps were skipped" for epoch in (1, 2, 3)]
    assert [str(warning.message)[: len(begins[0])] for warning in said] == begins
    assert "Not finite in the first of them: total_loss" in str(said[0].message)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")  # which says the same thing once: so it is never the same
        for _ in range(3):
            model.fit(NAN, Y, verbose=0)
    assert ["of steps 13 to 13" in str(said[0].message), len(said)] == [True, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(X, Y, verbose=0)  # nothing to say
        make(loss=composite()).fit(x, y, batch_size=8, verbose=0)  # the logs say it


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize("loss", ["mse", "composite"])
@pytest.mark.filterwarnings("ignore:Epoch:RuntimeWarning")
def test_an_epoch_without_an_applied_step_is_no_number(loss, eager):
    model = make(loss=composite() if loss == "composite" else loss, metrics=["mae"], run_eagerly=eager)
    history = model.fit(NAN, Y, batch_size=4, verbose=0, validation_data=(X, Y)).history
    ours = set() if loss == "mse" else {"mel_loss", "gradient_norm"}
    assert {name for name, (value,) in history.items() if np.isnan(value)} == {"loss", "mae", *ours}
    assert np.isnan(model.train_on_batch(NAN, Y, return_dict=True)["loss"])
    assert np.isfinite(list(model.train_on_batch(X, Y, return_dict=True).values())).all()


def turning_good():
    """Four NaN batches, good ones from then on."""
    yield from [(NAN, Y)] * 4
    while True:
        yield X, Y


@pytest.mark.filterwarnings("ignore:Epoch:RuntimeWarning")
def test_callbacks_do_not_keep_an_epoch_without_a_step_as_their_best(tmp_path):
    stops = keras.callbacks.EarlyStopping("loss", patience=4, restore_best_weights=True)
    saves = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras", "loss", save_best_only=True)
    model = make()
    history = model.fit(
        turning_good(), steps_per_epoch=2, shuffle=False, epochs=5, verbose=0, callbacks=[stops, saves]
    ).history["loss"]
    assert np.isnan(history).tolist() == [True, True, False, False, False]
    assert stops.best == saves.best == min(history[2:])
    endless = keras.callbacks.EarlyStopping("loss", patience=2)
    make().fit(NAN, Y, epochs=9, verbose=0, callbacks=[endless])
    assert endless.stopped_epoch == 2  # as with plain Keras


@pytest.mark.filterwarnings("ignore:Epoch:RuntimeWarning")
def test_terminate_on_nan_ends_an_epoch_that_begins_with_a_skipped_step_and_no_other():
    for first, steps in ((NAN, 1), (X, 3)):
        model = make()
        x = np.concatenate([first, NAN, X])
        model.fit(
            x,
            np.concatenate([Y] * 3),
            batch_size=8,
            shuffle=False,
            verbose=0,
            callbacks=[keras.callbacks.TerminateOnNaN()],
        )
        assert model.telemetry.count == steps


def test_losses_of_a_step_that_only_loss_scaling_skipped_count():
    """Keras reports them, too; else TerminateOnNaN would end a run that only finds its scale."""
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**127)
    model = make(optimizer=scaled, metrics=["mae"], loss=composite())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logs = model.train_on_batch(X * 1e3, Y, return_dict=True)
    assert model.telemetry.read()[-1].loss_scaling
    assert logs["skipped_steps"] == 1.0
    assert np.isfinite([logs["loss"], logs["mel_loss"], logs["mae"]]).all()


def test_metrics_of_a_step_that_only_loss_scaling_skipped_are_those_of_keras():
    seen = []
    for cls in (keras.Model, kaw.StableModel):
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**127)
        model = make(cls, optimizer=scaled, metrics=["mae"], run_eagerly=True)
        seen.append([model.train_on_batch(X * scale, Y) for scale in (1e3, 2e3, 3e3)])
    assert model.telemetry.read()[-1].loss_scaling
    assert seen[1] == seen[0]


class WritesMuch(kaw.StableTrainStepMixin, keras.Model):
    """Writes all kinds of variables as it goes forward, also such as it does not tell of; its first batch builds it."""

    def __init__(self):
        super().__init__()
        self.inside = keras.Sequential([keras.layers.Dense(3), keras.layers.BatchNormalization()])
        self.normed = keras.layers.SpectralNormalization(keras.layers.Dense(1))
        self.mean = keras.metrics.Mean(name="mean")
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.foreign = {"counter": tf.Variable(0.0), "metric": keras.metrics.Mean()}

    def call(self, x, training=False):
        hidden = self.inside(x + 1e-3 * keras.random.normal((4,)), training=training)
        size = tf.reduce_mean(tf.square(hidden))
        self.count.assign_add(1.0)
        self.mean.update_state(size)
        self.foreign["counter"].assign_add(size)
        return self.normed(hidden, training=training)

    def state(self):
        seeds = keras.src.random.seed_generator.global_seed_generator().state
        known = [*self.variables, *self.optimizer.variables, *self.mean.variables, seeds]
        return [v.numpy() for v in [*known, *([] if self.run_eagerly else [self.foreign["counter"]])]]


@pytest.mark.parametrize(
    "arguments", [{}, {"jit_compile": True}, {"steps_per_execution": 2}, {"run_eagerly": True}], ids=str
)
@pytest.mark.filterwarnings("ignore:Epoch:RuntimeWarning")
def test_whatever_a_forward_pass_writes_is_as_before_a_skipped_step(arguments):
    keras.utils.set_random_seed(1)
    model = WritesMuch()
    model.compile(keras.optimizers.Adam(0.01), loss="mse", **arguments)
    model.train_on_batch(NAN, Y)  # nothing was there before it, so it is compared with what the next one finds
    assert all(np.isfinite(value).all() for value in model.state())
    assert float(model.count.numpy()) == 0.0
    model.train_on_batch(X, Y)
    before = model.state()
    model.reset_metrics = lambda: None
    model.train_on_batch(NAN, Y)
    for value, old in zip(model.state(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    model.train_on_batch(X, Y)
    changed = [not np.array_equal(value, old) for value, old in zip(model.state(), before, strict=True)]
    assert sum(changed) >= len(changed) - 2, "all but the learning rate and a bias before batch norm"


@pytest.mark.parametrize("eager", [True, False])
def test_a_step_of_two_passes_is_undone_as_one(eager):
    """Sharpness-aware minimization, as the mixin's documentation has it."""

    class TwoPasses(kaw.StableTrainStepMixin, keras.Model):
        def train_step(self, data):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            before, variables = self.remember_state(), self.trainable_variables
            here = [tf.convert_to_tensor(variable) for variable in variables]
            with tf.GradientTape() as tape:
                measured = self.measure_losses(x, y, self(x, training=True), sample_weight)
            uphill = tape.gradient(measured.objective, variables)
            length = 0.05 / tf.linalg.global_norm(uphill)
            for variable, value, direction in zip(variables, here, uphill, strict=True):
                variable.assign(value + length * direction)
            with tf.GradientTape() as tape:
                there = self.measure_losses(x, y, self(x, training=True), sample_weight)
            gradients = tape.gradient(there.objective, variables)
            for variable, value in zip(variables, here, strict=True):
                variable.assign(value)
            return self.apply_if_finite(measured, gradients, before)

    model = make(TwoPasses, optimizer=keras.optimizers.SGD(0.1), loss=composite(), run_eagerly=eager)
    kernel, bias = model.get_weights()

    def gradients(kernel, bias):
        error = 2.5 * 2.0 * (X @ kernel + bias - Y) / len(X)
        return X.T @ error, error.sum(axis=0)

    uphill = gradients(kernel, bias)
    length = 0.05 / np.sqrt(sum(np.sum(np.square(g)) for g in uphill))
    there = gradients(kernel + length * uphill[0], bias + length * uphill[1])
    logs = model.train_on_batch(X, Y, return_dict=True)
    assert logs["mel_loss"] == pytest.approx(np.mean((X @ kernel + bias - Y) ** 2), rel=1e-5)
    before = model.get_weights()
    for value, old, gradient in zip(before, (kernel, bias), there, strict=True):
        np.testing.assert_allclose(value, old - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    model.train_on_batch(NAN, Y)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
