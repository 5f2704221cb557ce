"""The operator's last word: a disable by hand that a kill swallowed, since it came after the last checkpoint.

A resumed run disables the weight again when it comes to that step, as the run would have had it if it had not been
killed.
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from typing import NamedTuple

from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.journal.continuation import ABANDONED, decision_of
from keras_adaptive_weights.journal.lines import MOST_LINE_BYTES, STEP_LINE, read_line
from keras_adaptive_weights.journal.places import Place, found
from keras_adaptive_weights.journal.regular_files import lines_of, open_regular

AGAIN = " (again: the run was resumed from before it)"
_logger = logging.getLogger("keras_adaptive_weights")


class LostDisable(NamedTuple):
    """A disable by hand that a resumed run has yet to repeat: after which step, and the note for the record."""

    step: int
    note: str


def lost_disables(path: Place, step: int) -> dict[str, LostDisable]:
    """Return the operator's last word on each term, where that was to disable and came after the restore point.

    Each is logged, too.

    Args:
        path: The journal, whose lost lines were moved aside already.
        step: Step that the run goes on from.
    """
    try:
        abandoned = found(path.parent / ABANDONED, f"*{path.suffix}")
    except OSError as error:
        _leave_out(path.parent / ABANDONED, error)
        return {}
    lost = {word.term: word for word in sorted((word for file in abandoned for word in _words(file)), key=_time)}
    if not lost:
        return {}
    said = {word.term: word.time for word in sorted(_words(path), key=_time)}
    disables = {}
    for term, word in lost.items():
        if word.action is not Action.DISABLE or word.step < step or said.get(term, -math.inf) >= word.time:
            continue
        _logger.warning(
            "The weight of %r was disabled by hand at step %d (%s), after step %d, from which the run goes on: it will "
            "be disabled again at that step. Call `emergency_disable` to have it disabled now.",
            term,
            word.step,
            printable(word.note) or "no note",
            step,
        )
        disables[term] = LostDisable(word.step, f"{word.note.removesuffix(AGAIN)}{AGAIN}")
    return disables


class _Word(NamedTuple):
    """A disable or enable by hand: of which term, when it was, and the decision."""

    term: str
    time: float
    step: int
    action: Action
    note: str


def _time(word: _Word) -> float:
    return word.time


def _words(path: Place) -> tuple[_Word, ...]:
    """Return what was disabled and enabled by hand in a journal; what cannot be read is logged."""
    try:
        status = path.stat()
        return _words_of(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        _leave_out(path, error)
        return ()


def _leave_out(path: Place, error: OSError) -> None:
    _logger.warning("%s is left out: %s", printable(path), printable(error))


@lru_cache(maxsize=64)
def _words_of(path: Place, size: int, changed: int) -> tuple[_Word, ...]:
    """The same, of a file as it was at a time: the next `fit` need not read it again."""
    del size, changed
    words, unreadable, header = [], 0, None
    with open_regular(path) as file:
        for line in lines_of(file, MOST_LINE_BYTES):
            if line.startswith(STEP_LINE):
                continue
            try:
                values = read_line(line, header)
            except ValueError:
                unreadable += line.endswith(b"\n")
                continue
            header = values.get("header", header)
            decision = decision_of(values)
            if decision is not None and decision.by_hand and decision.action in (Action.DISABLE, Action.ENABLE):
                words.append(_Word(decision.term, values["wall_time"], decision.step, decision.action, decision.note))
    if unreadable:
        _logger.warning("%d lines of %s cannot be read and are left out.", unreadable, printable(path))
    return tuple(words)
