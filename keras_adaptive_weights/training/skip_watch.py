"""What every `fit` of a stable model does about skipped steps, with or without a callback of ours.

Two things that Keras's logs cannot do. Where they hold no `skipped_steps`, as with a loss of Keras's own, somebody must
say that steps were skipped. And an epoch without a single applied step has no loss: its logs hold NaN, which Keras's
callbacks keep as their best value for ever if it comes first, as no number is smaller or larger.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras

_KEEP_A_BEST = (keras.callbacks.EarlyStopping, keras.callbacks.ModelCheckpoint, keras.callbacks.ReduceLROnPlateau)


class SkipWatch(keras.callbacks.Callback):
    """Warns of the skipped steps of an epoch, and lets other callbacks forget a best value of NaN.

    Args:
        others: The callbacks of this `fit` that come after it. One with a true `tells_skips` warns in its place.
    """

    def __init__(self, others: list[Any]) -> None:
        super().__init__()
        self._others = others
        self._steps = 0
        self._first: int | None = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Count from here on."""
        del logs
        if not self.model.telemetry.tells_skips:
            self._steps = self.model.telemetry.count
            self.model.telemetry.take_skips()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the first epoch."""
        del logs
        self._first = epoch if self._first is None else self._first

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Warn, and make the others forget, before they look at the logs of this epoch."""
        if not self.model.telemetry.tells_skips and not any(getattr(c, "tells_skips", False) for c in self._others):
            self._warn(epoch)
        if epoch == self._first and (mute := without_telemetry(self.model)):
            warnings.warn(mute, RuntimeWarning, stacklevel=2)
        for callback in self._others:
            if isinstance(callback, _KEEP_A_BEST) and _is_nan(callback.best):
                now = (logs or {}).get(callback.monitor)
                if now is not None and not _is_nan(now) and not callback.monitor.startswith("val_"):
                    callback.best = None

    def _warn(self, epoch: int) -> None:
        telemetry = self.model.telemetry
        before, self._steps = self._steps, telemetry.count
        skipped, first = telemetry.take_skips()
        if skipped:
            warnings.warn(
                f"Epoch {epoch + 1}: {skipped} of {self._steps - before} steps were skipped (of steps {before + 1} to "
                f"{self._steps}), and left the model as it was. Not finite in the first of them: {first}. To see more, "
                "give `fit` an AdaptiveWeightCallback, compile with a CompositeLoss, which adds `skipped_steps` to the "
                "logs, or look at `model.telemetry.read()` after each batch.",
                RuntimeWarning,
                stacklevel=2,
            )


@contextlib.contextmanager
def watching_skips(model: keras.Model, callbacks: Any) -> Iterator[Any]:
    """Give the callbacks of a `fit` with a `SkipWatch` in front of them.

    Args:
        model: The model that is about to be trained.
        callbacks: What `fit` was given: None, a callback, a list, or a `CallbackList`. A list is not changed, and a
            `CallbackList` only as long as this lasts.
    """
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        others = keras.tree.flatten(callbacks) if callbacks else []
        yield [SkipWatch(others), *others]
        return
    watch = SkipWatch(callbacks.callbacks)
    watch.set_model(model)
    callbacks.callbacks.insert(0, watch)
    try:
        yield callbacks
    finally:
        callbacks.callbacks.remove(watch)


def without_telemetry(model: Any) -> str:
    """Say what is wrong with a train step that ran and left no telemetry; "" where it left some."""
    if model.telemetry.writes:
        return ""
    name = type(model).__name__
    return (
        f"{name}.train_step leaves no telemetry: its bad batches are not skipped, and adaptive weights do not see its "
        f"losses. Write it with `self.remember_state`, `self.measure_losses` and `self.apply_if_finite`, as "
        "StableTrainStepMixin shows, or take it out."
    )


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
