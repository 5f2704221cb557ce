"""What a model was compiled with, and the order in which it lists its metrics."""

from __future__ import annotations

from typing import Any

import keras


class ListsSomeLast:
    """Put before `keras.Model`: the lists of `train_on_batch` and `evaluate` end with names that Keras does not know.

    Keras sorts all logs whose names are not those of a metric, and so would put them between its own.
    """

    def names_shown_last(self) -> tuple[str, ...]:
        """Return these names; none, where it is not said anew."""
        return ()

    def _flatten_metrics_in_order(self, logs: Any) -> Any:
        last = [name for name in self.names_shown_last() if name in logs]
        others = {name: value for name, value in logs.items() if name not in last}
        listed = super()._flatten_metrics_in_order(others)  # type: ignore[misc]
        if not last:
            return listed
        return [*(listed if isinstance(listed, list) else [listed]), *(logs[name] for name in last)]


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
