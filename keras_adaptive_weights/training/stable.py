"""A stable model from one that exists: the same layers, parameters and optimizer behind the mixin's train step."""

from __future__ import annotations

import keras

from keras_adaptive_weights.runtime.compiled import compile_arguments
from keras_adaptive_weights.training.model_classes import FUNCTIONAL
from keras_adaptive_weights.training.train_step import StableModel, StableTrainStepMixin


@keras.saving.register_keras_serializable(package="keras_adaptive_weights")
class StableSequential(StableTrainStepMixin, keras.Sequential):
    """A `keras.Sequential` with the stable train step.

    Example:

    >>> model = StableSequential([keras.Input((4,)), keras.layers.Dense(1)])
    """


def stable(model: keras.Model) -> keras.Model:
    """Return a model of the same layers that skips bad batches and takes adaptive weights; see `StableTrainStepMixin`.

    Layers, parameters and names are shared with the one given, which is then best forgotten. One that is compiled stays
    so: with the same optimizer and what it remembers, losses, metrics and the other arguments of `compile`.

    Args:
        model: A functional or `Sequential` model: new, built, or loaded. A stable one is returned as it is.

    Raises:
        TypeError: No Keras model.
        ValueError: A model of a class of one's own: the message has the line of the class to change.

    Example:

    >>> inputs = keras.Input((4,))
    >>> model = stable(keras.Model(inputs, keras.layers.Dense(1)(inputs)))
    >>> model.compile("adam", "mse")
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"stable: argument `model` must be a keras.Model. Received: model={model!r}.")
    if isinstance(model, StableTrainStepMixin):
        return model
    kind = type(model)
    if kind is keras.Sequential:
        inputs = getattr(model, "inputs", ())  # else they would be of the first layer's dtype
        made = StableSequential([*inputs, *model.layers], name=model.name)
        if model.built and not made.built:
            made.build(model.input_shape)
    elif kind is FUNCTIONAL:
        made = StableModel(model.input, model.output, name=model.name)
    else:
        raise ValueError(
            "stable: argument `model` must be a functional or Sequential model, which its layers can make anew. "
            f"Received: a {kind.__name__}. Change the line of its class to "
            f"`class {kind.__name__}(kaw.StableTrainStepMixin, {kind.__mro__[1].__name__}):`, with the mixin first."
        )
    if not model.trainable:
        made.trainable = False  # `True` would thaw layers that are frozen
    if model.compiled:
        made.compile(**compile_arguments(model))
    return made
