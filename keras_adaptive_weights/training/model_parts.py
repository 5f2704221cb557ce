"""What a train step asks of the model and the optimizer that a user made."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


def gradient_scale(optimizer: Any) -> Any:
    """Return the factor on the gradients that mixed precision put there."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer.scale_loss(tf.constant(1.0))
    return getattr(optimizer, "loss_scale_factor", None) or 1.0


def shared_by_all_variables(optimizer: Any) -> list[Any]:
    """Return what an optimizer reads anew for every variable that it updates: its step counter and learning rate."""
    read = (optimizer.iterations, optimizer.learning_rate)  # of a schedule no variable, but a number
    return [variable.value for variable in read if isinstance(variable, keras.Variable)]


def keras_metrics(model: keras.Model) -> list[Any]:
    """Return what Keras has in `metrics`, whatever a subclass makes of it: first the mean of the loss."""
    return keras.Model.metrics.fget(model)


def with_models_inside(model: keras.Model) -> Iterator[keras.Model]:
    """Give a model and those among its layers: Keras leaves the metrics of these out of the model's."""
    yield model
    for layer in getattr(model, "layers", ()):
        if isinstance(layer, keras.Model):
            yield from with_models_inside(layer)


def with_training_if_taken(compute_loss: Any, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> Any:
    """Call a `compute_loss`; Keras takes it without the argument `training`, too, which came with Keras 3.3."""
    if "training" in inspect.signature(compute_loss).parameters:
        return compute_loss(x, y, y_pred, sample_weight, training=training)
    return compute_loss(x, y, y_pred, sample_weight)


def is_overridden(model: keras.Model, name: str) -> bool:
    """Return whether the class of a model has a method of its own in the place of Keras's."""
    return getattr(type(model), name) is not getattr(keras.Model, name)


def batch_size(x: Any) -> Any:
    """Return the number of samples in the batch, as a float."""
    return tf.cast(tf.shape(first_leaf(x))[0], tf.float32)


def first_leaf(x: Any) -> Any:
    """Return the first part of a structure that there is."""
    return next(leaf for leaf in keras.tree.flatten(x) if leaf is not None)
