"""A model whose losses are its targets: the data say what the controller sees."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from traced_models import SHELF

import keras_adaptive_weights as kaw

QUICK = kaw.AdaptiveWeightConfig(warmup_steps=15, cooling_period=10, min_stable_steps=5, loss_smoothing_factor=0.25)


def error_to_target(y_true, y_pred):
    return tf.reduce_mean(tf.abs(y_true), axis=-1) + 0.0 * tf.reduce_mean(y_pred, axis=-1)


def make_model(config=QUICK, cls=kaw.StableModel, loss=None, **kwargs):
    """A model whose loss is the mean of its targets: the data say what the controller sees."""

    def new():
        inputs = keras.Input((2,))
        model = cls(inputs, keras.layers.Dense(1)(inputs))
        terms = {
            "mel_loss": kaw.LossTerm(error_to_target, weight=kaw.AdaptiveWeight(2.5, config)),
            "stop_loss": kaw.LossTerm(error_to_target, weight=1.0),
        }
        of_terms = kaw.CompositeLoss(terms, max_loss_spike_threshold=None)
        model.compile(optimizer="sgd", loss=of_terms if loss is None else loss, **kwargs)
        return model

    if cls is not kaw.StableModel or loss is not None:
        return new()
    return SHELF.take(new, "given losses", config=config, **kwargs)


def fit(model, losses, callbacks, **kwargs):
    """Train on one batch per loss value."""
    y = np.repeat(np.asarray(losses, "float32"), 4)[:, None]
    x = np.ones((len(y), 2), "float32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)  # as Keras makes of arrays, in less time
    return model.fit(data, shuffle=False, verbose=0, callbacks=callbacks, **kwargs)


RISING = [1.0] * 40 + [1.5] * 40
