"""Going on after a crash: the whole training state, saved after every epoch, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from .clips import DataError
from .options import Plan

CHECKPOINT = "checkpoint.weights.h5"


class Checkpoint(keras.callbacks.Callback):
    """Saves parameters, optimizer and adaptive weight after every epoch.

    Args:
        path: The file. It is replaced as a whole: after a crash it is that of the last epoch, never half of one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save. The mel weight's controller is in `model.loss`, which is saved with the rest."""
        del epoch, logs
        unfinished = self._path.with_name(f"unfinished-{self._path.name}")
        self.model.save_weights(unfinished)
        unfinished.replace(self._path)


def resume(model: Any, path: Path, plan: Plan) -> int:
    """Restore what `Checkpoint` saved, if it did.

    Args:
        model: The model, built and compiled.
        path: The file.
        plan: How long the run is.

    Returns:
        The steps that are done.

    Raises:
        DataError: The checkpoint is of a run of another length, or the run is over.
    """
    if not path.exists():
        return 0
    model.optimizer.build(model.trainable_variables)  # else Keras leaves the optimizer's state out
    model.load_weights(path)
    done = int(model.loss.mel_weight.step_count)
    if done % plan.steps_per_epoch:
        raise DataError(
            f"{path} is of step {done}, where no epoch of {plan.steps_per_epoch} steps ends: resume with the same "
            "options as the run began with."
        )
    if done >= plan.steps:
        raise DataError(f"the run in {path.parent} is over: all of its {done} steps are done.")
    return done
