"""What a checkpoint holds of a `CompositeLoss`, read back whole or refused."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.controlled import Controlled, Saved

BALANCE = "%balance"  # no term's key, see `key_of`
SCHEDULE = "norm_schedule"
OURS = frozenset({"total_average", BALANCE, SCHEDULE})
"""Keys of what is no weight's."""
"""Key of when gradient norms are measured."""
_MOST_STATE_BYTES = 1 << 24
_logger = logging.getLogger("keras_adaptive_weights")


def key_of(term: str) -> str:
    """Return the key that a term's state has in a checkpoint, where a slash would lead to a folder."""
    return term.replace("%", "%25").replace("/", "%2F")


def stored_keys(terms: Iterable[str], stored: AbstractSet[str]) -> dict[str, str]:
    """Return the keys of those terms whose state is among the stored ones; older versions wrote names as they are."""
    either = {term: [key for key in (key_of(term), term) if key in stored] for term in terms}
    return {term: keys[0] for term, keys in either.items() if keys}


def saved_weight(term: str, weight: Controlled[Any, Any], key: str, store: Any) -> Saved:
    """Read the state of a term's weight from a checkpoint, without going on from it.

    Raises:
        ValueError: It cannot be read, with the names of term, field and file.
    """
    return _saved(f"The state of the adaptive weight of {term!r}", weight, key, store)


def saved_balance(balanced: Controlled[Any, Any], store: Any) -> Saved:
    """Read the state of balanced weights from a checkpoint, without going on from it.

    Raises:
        ValueError: It cannot be read, with the names of field and file.
    """
    return _saved("The state of the balanced weights", balanced, BALANCE, store)


def _saved(what: str, controlled: Controlled[Any, Any], key: str, store: Any) -> Saved:
    try:
        data = np.asarray(store[key])
        if data.dtype != np.uint8 or data.ndim != 1 or data.size > _MOST_STATE_BYTES:
            raise ValueError(f"expected bytes, found {data.dtype} of shape {data.shape}.")  # noqa: TRY301
        return controlled.read(json.loads(data.tobytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{what} in the checkpoint{_file_of(store)} cannot be used: {error} "
            "Nothing of it is taken over: load another checkpoint, or one that this version wrote."
        ) from error


def saved_average(variable: Any, store: Any) -> Any:
    """Read the recent mean of the total from a checkpoint.

    Raises:
        ValueError: It cannot be read.
    """
    average = np.asarray(store["total_average"])
    if average.dtype.kind != "f" or average.shape != variable.shape or not np.isfinite(average).all():
        raise ValueError(
            f"The field `total_average` of the loss in the checkpoint{_file_of(store)} cannot be used: expected finite "
            f"numbers of shape {tuple(variable.shape)}. Received: {average!r:.200}. Nothing of it is taken over."
        )
    return average


def saved_schedule(store: Any) -> Any:
    """Read when the terms' gradient norms are measured from a checkpoint.

    Raises:
        ValueError: It cannot be read.
    """
    schedule = np.asarray(store[SCHEDULE])
    if schedule.dtype.kind != "i" or schedule.shape != (2,) or not (schedule >= 0).all():
        raise ValueError(
            f"The field `{SCHEDULE}` of the loss in the checkpoint{_file_of(store)} cannot be used: expected two "
            f"integers of at least 0. Received: {schedule!r:.200}. Nothing of it is taken over."
        )
    return schedule


def _file_of(store: Any) -> str:
    """Return where a checkpoint is, for a message, if it says so."""
    file = getattr(getattr(store, "archive", None), "filename", None) or getattr(store, "path_or_io", None)
    return f" {os.fspath(file)!r}" if isinstance(file, (str, os.PathLike)) else ""


def say_not_restored(term: str, weight: AdaptiveWeight, others: Sequence[str]) -> None:
    """Log that a weight's state did not come back: at warning level where it may be there under another name."""
    level, instead = logging.INFO, ""
    if others:
        level, instead = logging.WARNING, f" It holds those of {', '.join(others)}, which this loss does not have."
    held = "The checkpoint holds no state of the weight of %r: it goes on from %g.%s"
    _logger.log(level, held, term, weight.weight, instead)
