"""A small model with batch norm and two terms, its data, and all that training changes of it."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from traced_models import SHELF

import keras_adaptive_weights as kaw

BATCH = 8


@keras.saving.register_keras_serializable(package="tests")
def squared_error(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)


@keras.saving.register_keras_serializable(package="tests")
def absolute_error(y_true, y_pred):
    return tf.reduce_mean(tf.abs(y_true - y_pred), axis=-1)


def make_loss(**kwargs):
    kwargs.setdefault("max_loss_spike_threshold", None)
    terms = {
        "mel_loss": kaw.LossTerm(squared_error, weight=kaw.AdaptiveWeight(2.5)),
        "stop_loss": kaw.LossTerm(absolute_error, weight=0.5),
    }
    return kaw.CompositeLoss(terms, **kwargs)


def make_model(
    cls=kaw.StableModel, *, optimizer=None, loss=None, dampens=None, dropout=0.0, built=True, **compile_kwargs
):
    """A compiled model; its optimizer is `built`, or else Keras's train step is traced twice, which takes longer.

    Its loss is `make_loss()`, which dampens spikes above `dampens`, or the one that is given.
    """
    keras.utils.set_random_seed(3)

    def new():
        inputs = keras.Input((4,))
        hidden = keras.layers.BatchNormalization()(keras.layers.Dense(6, activation="relu")(inputs))
        if dropout:
            hidden = keras.layers.Dropout(dropout, seed=5)(hidden)
        model = cls(inputs, keras.layers.Dense(3, dtype="float32")(hidden))
        model.compile(
            optimizer=keras.optimizers.SGD(0.01, momentum=0.9) if optimizer is None else optimizer,
            loss=make_loss(max_loss_spike_threshold=dampens) if loss is None else loss,
            **compile_kwargs,
        )
        if built:
            model.optimizer.build(model.trainable_variables)
        return model

    if cls is not kaw.StableModel or optimizer is not None or loss is not None or not built:
        return new()
    return SHELF.take(new, "small training", dampens=dampens, dropout=dropout, **compile_kwargs)


def batches(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.standard_normal((BATCH, 4)).astype("float32"), rng.standard_normal((BATCH, 3)).astype("float32"))
        for _ in range(count)
    ]


def fit(model, data, **kwargs):
    """Train on batches, in their order; of arrays Keras would make as much with functions that are traced anew."""
    parts = tuple(np.concatenate(part) for part in zip(*data, strict=True))
    return model.fit(tf.data.Dataset.from_tensor_slices(parts).batch(BATCH), shuffle=False, verbose=0, **kwargs)


def values_of(model):
    """Everything that training changes but the metrics, by place and name."""
    metrics = {id(v) for v in model.metrics_variables}
    variables = [v for v in [*model.variables, *model.optimizer.variables] if id(v) not in metrics]
    return {f"{i} {v.name}": v.numpy().copy() for i, v in enumerate(variables)}


def assert_same(actual, expected):
    assert len(actual) == len(expected)
    for (name, value), other in zip(actual.items(), expected.values(), strict=True):
        np.testing.assert_array_equal(value, other, err_msg=name)
