"""What a model was compiled with."""

from __future__ import annotations

from typing import Any

import keras


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Return the arguments that compile another model as this one is compiled, with the very same optimizer.

    Keras keeps the objects that it was given, but hands out only a description of them, which a function that is not
    registered with `keras.saving` does not survive.
    """
    try:
        given = dict(model._compile_config.config)  # noqa: SLF001
    except AttributeError:
        given = keras.saving.deserialize_keras_object(model.get_compile_config())
    optimizer = model.optimizer
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return {**given, "optimizer": optimizer, "auto_scale_loss": scaled}
