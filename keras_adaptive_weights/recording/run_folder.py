"""Where a run keeps its journal, and what the journal's file says about the process that writes it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from keras_adaptive_weights.journal.places import Place, found, place

FOLDER = "adaptive_weights"
JOURNAL = "journal.jsonl"
_HEARTBEAT_SECONDS = 15.0
_STORED_SECONDS = 60.0


def find_journal(path: str | os.PathLike[str]) -> Place:
    """Return the journal of a run.

    Args:
        path: The run's log dir, the folder of the journal, or the journal itself; or the URL of one of these.

    Raises:
        FileNotFoundError: There is none; the message names runs below the folder, if there are any.
        OSError: It is a pipe, a device or a folder, or may not be looked at.
        ValueError: There are several, one for each of several terms; or no file system for the scheme of a URL.
    """
    given = place(path, "find_journal")
    for candidate in (given, given / FOLDER / JOURNAL, given / JOURNAL):
        if candidate.is_file():
            return candidate
        if isinstance(candidate, Path) and os.path.lexists(candidate) and candidate != given:
            raise OSError(f"{os.fspath(candidate)!r} is no regular file.")
    inside = found(given / FOLDER, f"*/{JOURNAL}")
    if len(inside) == 1:
        return inside[0]
    if inside:
        names = ", ".join(repr(os.fspath(journal.parent)) for journal in inside)
        raise ValueError(f"{os.fspath(given)!r} has a journal for each of several terms: give one of {names}.")
    below = [journal.parent.parent for journal in found(given, f"*/{FOLDER}/{JOURNAL}")]
    hint = f" Runs below it: {', '.join(repr(os.fspath(run)) for run in below[:8])}." if below else ""
    raise FileNotFoundError(f"no {FOLDER}/{JOURNAL} in {os.fspath(given)!r}.{hint}")


def liveliness(
    path: str | os.PathLike[str], *, ended: bool, clock: Callable[[], float] = time.time
) -> tuple[str, float | None]:
    """Say whether a journal's writer is "alive", has "ended", or is "silent", and how old its last sign of life is.

    Where a store does not say when it was written to, the age is None, and a run that has not ended is "".

    Args:
        path: The journal; a living writer touches it once a second, and shows in a store every half minute that it
            lives.
        ended: Whether its last line says that the writer was closed.
        clock: Seconds since the epoch; for tests.
    """
    journal = place(path, "liveliness")
    written = journal.stat().st_mtime
    if not written:
        return ("ended" if ended else ""), None
    age = max(0.0, clock() - written)
    if ended:
        return "ended", age
    return ("alive" if age < (_HEARTBEAT_SECONDS if isinstance(journal, Path) else _STORED_SECONDS) else "silent"), age
