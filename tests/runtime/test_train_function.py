"""The train function of one replica, against Keras's own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import BATCH, assert_same, batches, fit, make_model, values_of

import keras_adaptive_weights as kaw
from keras_adaptive_weights.training import train_step

pytestmark = pytest.mark.usefixtures("all_tricks", "traced_models")
DATA = batches(7)


def dataset(count=7, size=BATCH):
    x, y = (np.concatenate(part) for part in zip(*DATA[:count], strict=True))
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


# of 8: 7 steps, the last execution has one only; of 10: 6 steps, the last is smaller. Each with each of the others once
@pytest.mark.parametrize(("steps", "jit", "size"), [(1, False, 10), (1, True, BATCH), (3, False, BATCH), (3, True, 10)])
def test_it_trains_as_keras_s_does(monkeypatch, steps, jit, size):
    def train():
        model = make_model(steps_per_execution=steps, jit_compile=jit, dropout=0.2)
        counted = []
        count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: counted.append(batch))
        history = model.fit(dataset(size=size), epochs=2, shuffle=False, verbose=0, callbacks=[count])
        return history.history, counted, values_of(model)

    ours = train()
    monkeypatch.setenv("KAW_PLAIN", "train_function")
    theirs = train()
    assert ours[1] == theirs[1]
    for name, values in theirs[0].items():
        np.testing.assert_allclose(ours[0][name], values, rtol=1e-6, err_msg=name)
    for (name, value), other in zip(ours[2].items(), theirs[2].values(), strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("steps", [1, 3])
def test_where_nothing_is_left_no_step_is_taken(steps):
    model = make_model(steps_per_execution=steps)
    fit(model, DATA)
    before = values_of(model)
    with pytest.raises((StopIteration, tf.errors.OutOfRangeError)):
        model.train_function(iter(dataset().take(0)))
    assert model.telemetry.count == 7
    assert_same(values_of(model), before)


@pytest.mark.parametrize("steps", [1, 3])
def test_batches_from_elsewhere(steps):
    """As `train_on_batch` passes them on."""
    model = make_model(steps_per_execution=steps)
    logs = model.train_on_batch(*DATA[0], return_dict=True)
    assert np.isfinite(logs["loss"])
    model.train_function(iter(DATA))
    assert model.telemetry.count == 1 + steps
    with pytest.raises(StopIteration):
        model.train_function(iter([]))


@pytest.mark.parametrize("steps", [1, 3])
def test_what_a_batch_leaves_out(steps):
    """Keras says so by an optional."""
    left_out = tf.experimental.Optional.empty(tf.TensorSpec([BATCH]))
    model = make_model(steps_per_execution=steps)
    model.fit(dataset(6).map(lambda x, y: (x, y, left_out)), shuffle=False, verbose=0)
    plain = make_model(steps_per_execution=steps)
    plain.fit(dataset(6), shuffle=False, verbose=0)
    assert_same(values_of(model), values_of(plain))


@pytest.mark.parametrize("steps", [1, 3])
def test_logs_that_are_more_than_scalars(steps):
    class OwnLogs(kaw.StableModel):
        def train_step(self, data):
            ragged = tf.RaggedTensor.from_row_lengths(data[0][0, :3], [1, 2])
            return {**super().train_step(data), "vector": data[0][0, :2], "ragged": ragged}

    model = make_model(OwnLogs, steps_per_execution=steps)
    fit(model, DATA[:1])
    logs = model.train_function(iter(dataset(3).skip(3 - steps)))
    last = DATA[2][0][0]
    np.testing.assert_array_equal(logs["vector"], last[:2])
    assert [row.tolist() for row in logs["ragged"].numpy()] == [last[:1].tolist(), last[1:3].tolist()]


def test_on_one_device():
    within = []

    class Watched(kaw.StableModel):
        def train_step(self, data):
            within.append(tf.distribute.get_replica_context().strategy)
            return super().train_step(data)

    with (strategy := tf.distribute.OneDeviceStrategy("/cpu:0")).scope():
        model = make_model(Watched, steps_per_execution=3)
    model.fit(dataset(), shuffle=False, verbose=0)
    assert {*within} == {strategy}
    plain = make_model(steps_per_execution=3)
    plain.fit(dataset(), shuffle=False, verbose=0)
    assert_same(values_of(model), values_of(plain))


@pytest.mark.parametrize("eager", [True, False])
def test_where_keras_s_is_used(monkeypatch, eager):
    """In eager mode, and where a model asks for a loop with several steps in each round."""
    monkeypatch.setattr(train_step, "make_train_function", lambda *_: pytest.fail("ours"))
    model = make_model(run_eagerly=eager, steps_per_execution=2)
    model.unrolled_steps_per_execution = 1 if eager else 2
    model.fit(dataset(4), shuffle=False, verbose=0)
    assert model.telemetry.count == 4


class Counted(kaw.StableModel):
    """Counts how often its step is traced; may have one more layer, which waits for the first batch."""

    late = None
    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


class WithOneMoreLayer(Counted):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.square(y - self.late(y_pred)))


def test_a_step_is_traced_once_though_nobody_built_the_optimizer_or_the_metrics():
    model = make_model(Counted, loss="mse", metrics=["mae"], built=False)
    history = fit(model, DATA).history
    assert model.traces == 1
    plain = make_model(keras.Model, loss="mse", metrics=["mae"], built=False)
    assert history["mae"] == pytest.approx(fit(plain, DATA).history["mae"])


def test_and_so_is_one_of_several_losses():
    inputs = keras.Input((3,))
    model = Counted(inputs, {name: keras.layers.Dense(3, name=name)(inputs) for name in ("a", "b")})
    model.compile("sgd", {"a": "mse", "b": "mae"}, {"a": kaw.AdaptiveWeight(2.0)}, metrics={"b": ["mse"]})
    x = np.ones((2 * BATCH, 3), "float32")
    model.fit(x, {"a": x, "b": x}, batch_size=BATCH, verbose=0)
    assert model.traces == 1


def test_and_one_with_a_layer_that_waits_for_its_first_batch():
    model = make_model(WithOneMoreLayer, loss="mse", built=False)
    model.late = keras.layers.Dense(3)
    fit(model, DATA)
    assert model.traces == 1
    before = model.late.get_weights()
    fit(model, DATA)
    assert all((one != other).any() for one, other in zip(model.late.get_weights(), before, strict=True))


def test_a_variable_may_begin_with_what_comes_out_of_the_graph():
    class Scaled(kaw.StableModel):
        scale = None

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            if self.scale is None:
                self.scale = tf.Variable(lambda: 2.0 * tf.reduce_mean(tf.ones_like(y)), trainable=False)
            return self.scale * keras.ops.mean(keras.ops.square(y - y_pred))

    model = make_model(Scaled, loss="mse", built=False)
    fit(model, DATA)
    assert float(model.scale) == 2.0


@pytest.mark.parametrize("base", [keras.Model, kaw.StableModel])
def test_a_variable_that_is_made_in_each_step_is_refused_as_ever(base):
    class Forgetful(base):
        def train_step(self, data):
            tf.Variable(1.0, trainable=False).assign_add(1.0)
            return super().train_step(data)

    with pytest.raises(ValueError, match=r"singleton tf\.Variables"):
        fit(make_model(Forgetful, loss="mse"), DATA)
