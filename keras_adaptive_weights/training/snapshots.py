"""Snapshots of a model in training: parameters, non-trainable state and optimizer, in host memory or as weights files.

A snapshot leaves four things alone when it is restored: the learning rate, which belongs to whoever schedules it; the
seeds of random layers, as the same numbers might lead into the same trouble; the epoch's metrics; and the adaptive
weights with their step counters, which never rewind.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from keras_adaptive_weights.journal.places import local_folder
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.runtime.distribution import is_chief, several_workers


class SnapshotStore(Protocol):
    """Where snapshots are kept, by the number of their step."""

    def save(self, model: Any, step: int) -> None:
        """Keep the model as it is."""

    def restore(self, model: Any, step: int) -> None:
        """Put the model back to how it was at that step."""

    def drop(self, step: int) -> None:
        """Forget that step."""

    def where(self, step: int) -> str:
        """Say where that step is, for a person."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A step that can be restored, and the average of the total loss there."""

    step: int
    level: float


class MemoryStore:
    """Keeps copies in the memory of this process."""

    def __init__(self) -> None:
        self._kept: dict[int, list[Any]] = {}

    def save(self, model: Any, step: int) -> None:
        """Copy all variables."""
        self._kept[step] = [np.array(keras.ops.convert_to_numpy(variable)) for variable in training_variables(model)]

    def restore(self, model: Any, step: int) -> None:
        """Assign the copies, but not to the learning rate."""
        with _learning_rate_kept(model):
            for variable, value in zip(training_variables(model), self._kept[step], strict=True):
                variable.assign(value)

    def drop(self, step: int) -> None:
        """Free the copies."""
        del self._kept[step]

    def where(self, step: int) -> str:
        """Say that it is not a file."""
        return f"step {step}, in the memory of this process only (ModelRecovery(directory=...) writes files)"


class FileStore:
    """Keeps weights files, as `model.save_weights` writes them and `model.load_weights` reads them.

    Args:
        directory: Their folder; it is made. Files of an earlier process are left alone.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        folder = local_folder(directory, "FileStore", "directory", "Weights files are written there.")
        self._directory = folder.absolute()  # `fit` may change the working directory

    def save(self, model: Any, step: int) -> None:
        """Write the file, whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._path(step)
        unfinished = path.with_name(f"unfinished-{path.name}")
        try:
            model.save_weights(unfinished)
            unfinished.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise

    def restore(self, model: Any, step: int) -> None:
        """Load the file; adaptive weights and learning rate stay as they are."""
        weights = model.loss.adaptive_weights.values() if isinstance(model.loss, CompositeLoss) else ()
        with contextlib.ExitStack() as kept:
            for weight in weights:
                kept.enter_context(weight.unchanged())
            kept.enter_context(_learning_rate_kept(model))
            model.load_weights(self._path(step))

    def drop(self, step: int) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path(step).unlink()

    def where(self, step: int) -> str:
        """Return the file's name and how to read it."""
        return f"{os.fspath(self._path(step))!r} (model.load_weights)"

    def _path(self, step: int) -> Path:
        return self._directory / f"step-{step:09d}.weights.h5"


class WorkersStore(MemoryStore):
    """For several workers: each restores from its own memory, and the chief also writes weights files.

    What one worker failed to write or read would set it apart: it would go back to another step than the others. And
    where batch statistics are not synchronized, those in the file are the chief's.

    Args:
        files: Where this worker writes; `None` if it is not the chief.
    """

    def __init__(self, files: FileStore | None) -> None:
        super().__init__()
        self._files = files
        self._written: set[int] = set()
        self._warned = False

    def save(self, model: Any, step: int) -> None:
        """Copy all variables; a file that cannot be written is one warning."""
        super().save(model, step)
        if self._files is None:
            return
        try:
            self._files.save(model, step)
            self._written.add(step)
        except (OSError, RuntimeError) as error:  # h5py reports some failures as RuntimeError
            if not self._warned:
                self._warned = True
                message = f"ModelRecovery: no file of the snapshot at step {step}, which is kept in memory. {error}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)

    def drop(self, step: int) -> None:
        """Free the copies, and remove the file."""
        super().drop(step)
        if self._files is not None and step in self._written:
            self._written.remove(step)
            self._files.drop(step)

    def where(self, step: int) -> str:
        """Return the file's name, if there is one."""
        if self._files is None:
            return f"step {step}, in a file of the chief's"
        return self._files.where(step) if step in self._written else super().where(step)


def make_store(directory: str | os.PathLike[str] | None, strategy: Any) -> SnapshotStore:
    """Return where snapshots are kept: in memory, in files, or with several workers in both."""
    if directory is None:
        return MemoryStore()
    if several_workers(strategy):
        return WorkersStore(FileStore(directory) if is_chief(strategy) else None)
    return FileStore(directory)


def training_variables(model: Any) -> list[Any]:
    """Return parameters, non-trainable state, optimizer and recent mean of the loss; neither metrics nor seeds."""
    metrics = {id(variable) for variable in model.metrics_variables}
    variables = [v for v in model.variables if id(v) not in metrics and v.name != "seed_generator_state"]
    average = [model.loss.total_average] if isinstance(model.loss, CompositeLoss) else []
    return [*variables, *model.optimizer.variables, *average]


def all_finite(model: Any) -> bool:
    """Whether every number that training changes is finite."""
    values = (np.asarray(keras.ops.convert_to_numpy(variable)) for variable in training_variables(model))
    return all(value.dtype.kind in "biu" or bool(np.isfinite(value).all()) for value in values)


def has_schedule(optimizer: Any) -> bool:
    """Whether the learning rate is a function of the iterations, which nobody can set."""
    return not any(variable is optimizer.learning_rate for variable in optimizer.variables)


@contextlib.contextmanager
def _learning_rate_kept(model: Any) -> Iterator[None]:
    """Let the learning rate be, whatever is assigned or loaded within."""
    if has_schedule(model.optimizer):
        yield
        return
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    yield
    model.optimizer.learning_rate = rate
