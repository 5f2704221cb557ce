"""Where plain Keras fails, one for each workaround in `distribution.py`: prints what it says, as JSON by case.

python tests/execution/plain_keras.py replicas
python tests/execution/plain_keras.py workers        # under TF_CONFIG, in each worker
"""

from __future__ import annotations

import contextlib
import json
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive_weights as kaw
from keras_adaptive_weights.runtime.distribution import BuildsFromLocalBatch


class NormsOfTerms(keras.callbacks.Callback):
    """Keeps the gradient norms of the terms, step by step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen += [row.term_norms for row in self.model.telemetry.read(len(self.seen))]


class BuiltFromTheLocalBatch(BuildsFromLocalBatch, keras.Model):
    """Plain Keras with the first of the two workarounds for several workers, and without the second."""


def fails(strategy, cls=keras.Model, accumulation=None, **compile_kwargs):
    """Train on two batches and return the error, or "" where there is none."""
    with strategy.scope():
        inputs = keras.Input((4,))
        model = cls(inputs, keras.layers.Dense(3)(inputs))
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulation)
        model.compile(optimizer=optimizer, loss="mse", **compile_kwargs)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = tf.data.Dataset.from_tensor_slices((np.ones((16, 4), "float32"), np.ones((16, 3), "float32")))
    try:
        model.fit(data.batch(8).with_options(options), verbose=0)
    except Exception as error:  # noqa: BLE001 - the error is what is asked for
        return f"{type(error).__name__}: {error}"
    return ""


def reductions(strategy):
    """How many tensors each reduction has, on either replica, while a step of ours is traced; the smallest first."""
    counted, original = [], tf.distribute.ReplicaContext.all_reduce

    def counting(context, reduce_op, value, *args, **kwargs):
        counted.append(len(tf.nest.flatten(value)))
        return original(context, reduce_op, value, *args, **kwargs)

    tf.distribute.ReplicaContext.all_reduce = counting
    try:
        error = fails(strategy, kaw.StableModel)
    finally:
        tf.distribute.ReplicaContext.all_reduce = original
    return error or sorted(counted)


def summed_otherwise(strategy):
    """What ours says of a Keras that does not ask the context of a replica for the sum of the gradients."""
    original = keras.Optimizer._all_reduce_sum_gradients
    keras.Optimizer._all_reduce_sum_gradients = lambda self, pairs: pairs
    try:
        return fails(strategy, kaw.StableModel)
    finally:
        keras.Optimizer._all_reduce_sum_gradients = original


def term_norms(strategy=None, *, normalised=True):
    """Gradient norms of the terms of a model, due on steps 1, 2, 4 and 6, and how often the second was differentiated.

    The model looks rows up, so that it has gradients of slices.

    Args:
        strategy: None: one device.
        normalised: By batch normalisation, synchronised over the replicas.
    """
    passes = []

    @tf.custom_gradient
    def counted(value):
        def gradient(upstream):
            seen = tf.numpy_function(lambda values: passes.append(1) or values, [upstream], upstream.dtype)
            return tf.ensure_shape(seen, upstream.shape)

        return tf.identity(value), gradient

    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(3)
        inputs = keras.Input((5,), dtype="int32")
        hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(7, 4)(inputs))
        hidden = keras.layers.Dense(4)(hidden)
        if normalised:
            hidden = keras.layers.BatchNormalization(synchronized=strategy is not None)(hidden)
        model = kaw.StableModel(inputs, keras.layers.Dense(3)(hidden))
        terms = {
            "a_loss": kaw.LossTerm(lambda t, p: tf.reduce_mean(tf.square(t - p), axis=-1), kaw.AdaptiveWeight(2.5)),
            "b_loss": kaw.LossTerm(lambda t, p: counted(tf.reduce_mean(tf.abs(t - p), axis=-1)), 0.5),
        }
        balance = kaw.GradientShare(measure_every=2, calibrate_steps=5)
        loss = kaw.CompositeLoss(terms, balance=balance)
        loss.norm_schedule.variable.assign([2, 0])
        model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9), loss=loss, jit_compile=False)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    draw = np.random.default_rng(1)
    x, y = draw.integers(0, 5, (48, 5)).astype("int32"), draw.standard_normal((48, 3)).astype("float32")
    norms = NormsOfTerms()
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).with_options(options)
    model.fit(data, verbose=0, callbacks=[norms])
    return {"norms": norms.seen, "passes": len(passes)}


class CountsInCall(kaw.StableTrainStepMixin, keras.Model):
    """Keeps a metric of its own in `call`, of which each replica has a part."""

    def __init__(self):
        super().__init__()
        self.dense, self.mean = keras.layers.Dense(3), keras.metrics.Mean(name="mean")

    def call(self, x):
        self.mean.update_state(tf.reduce_mean(x))
        return self.dense(x)


def skipped_over_replicas(strategy):
    """The logs of an epoch with a batch that is NaN on one replica, and of one with no other."""
    with strategy.scope():
        model = CountsInCall()
        model.compile("sgd", "mse", metrics=["mae"])
    x, y = np.ones((24, 4), "float32"), np.ones((24, 3), "float32")
    x[8:16], x[8] = 2.0, np.nan
    histories = [model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history for x in (x, np.full_like(x, np.nan))]
    return [{name: repr(values[0]) for name, values in history.items()} for history in histories]


def over_replicas():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    return {
        "accumulation": fails(strategy, accumulation=2),
        "accumulation, ours": fails(strategy, kaw.StableModel, accumulation=2),
        "losses by name, ours": fails(strategy, kaw.StableModel, loss_weights=kaw.AdaptiveWeight(2.5)),
        "summed otherwise": summed_otherwise(strategy),
        "reductions": reductions(strategy),
        "skipped": skipped_over_replicas(strategy),
        "term norms": [term_norms(strategy), term_norms()],
        "term norms, normalised nowhere": [term_norms(strategy, normalised=False), term_norms(normalised=False)],
        "steps per execution": fails(strategy, steps_per_execution=2),
        "steps per execution, ours": fails(strategy, kaw.StableModel, steps_per_execution=2),
    }


def over_workers():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return {
        "build": fails(strategy),
        "logs": fails(strategy, BuiltFromTheLocalBatch),
        "ours": fails(strategy, kaw.StableModel),
        "term norms": term_norms(strategy),
        "term norms, normalised nowhere": term_norms(strategy, normalised=False),
    }


if __name__ == "__main__":
    print(json.dumps({"replicas": over_replicas, "workers": over_workers}[sys.argv[1]]()))
