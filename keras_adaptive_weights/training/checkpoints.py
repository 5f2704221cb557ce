"""Finding the last good checkpoint: what other callbacks of this `fit` have written, and when."""

from __future__ import annotations

import glob
import inspect
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_adaptive_weights.journal.places import is_url

_PLACES = {"ModelCheckpoint": "filepath", "BackupAndRestore": "backup_dir", "OrbaxCheckpoint": "directory"}


def callbacks_of_this_fit() -> list[Any]:
    """Return the callbacks beside the one that is being called; none where it is not Keras that calls it.

    Keras gives a callback no way to its neighbours, but the list that calls it is on the stack.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return list(owner.callbacks)
        frame = frame.f_back
    return []


def last_checkpoint(callbacks: Sequence[Any], *, before: float) -> str:
    """Say where the newest checkpoint is that was written before a time.

    Args:
        callbacks: The callbacks of a `fit`.
        before: Seconds since the epoch.
    """
    found = {}
    places = dict(_places(callbacks))
    for place, owner in places.items():
        for file in () if is_url(place) else _files(place):
            written = file.stat().st_mtime
            if written < before:
                found[written] = f"{owner} {os.fspath(file)!r}"
    if found:
        return f"last checkpoint from before the trouble: {found[max(found)]}"
    names = ", ".join(f"{owner} {place!r}" for place, owner in places.items())
    if any(map(is_url, places)):
        return f"the checkpoints in a store were not looked at ({names})"
    if places:
        return f"no checkpoint was written before the trouble began ({names})"
    return "no checkpoint callback is in use (add keras.callbacks.ModelCheckpoint or BackupAndRestore)"


def _places(callbacks: Sequence[Any]) -> Iterable[tuple[str, str]]:
    for callback in callbacks:
        for name, attribute in _PLACES.items():
            kind = getattr(keras.callbacks, name, None)
            if kind is not None and isinstance(callback, kind):
                yield os.fspath(getattr(callback, attribute)), name


def _files(place: str) -> list[Path]:
    """Return the checkpoints in a folder, or those that a name such as "{epoch:02d}.keras" stands for."""
    if Path(place).is_dir():
        return list(Path(place).iterdir())
    pattern = "*".join(glob.escape(part) for part in re.split(r"{[^}]*}", place))
    return [Path(name) for name in glob.glob(pattern)]  # noqa: PTH207 - of one path, whatever folder it is in
