"""The operator's last word: a disable by hand that a kill swallowed, since it came after the last checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from keras_adaptive_weights.deciding.decision import Action, Decision
from keras_adaptive_weights.journal.continuation import ABANDONED
from keras_adaptive_weights.journal.lines import parse_line

AGAIN = " (again: the run was resumed from before it)"
_logger = logging.getLogger("keras_adaptive_weights")


class LostDisable(NamedTuple):
    """A disable by hand that a resumed run has yet to repeat: after which step, and the note for the record."""

    step: int
    note: str


def lost_disable(path: Path, step: int) -> LostDisable | None:
    """Return the operator's last word, where that was to disable and came after the restore point; and log it.

    Args:
        path: The journal, whose lost lines were moved aside already.
        step: Step that the run goes on from.
    """
    abandoned = sorted((path.parent / ABANDONED).glob(f"*{path.suffix}"))
    lost = max((word for file in abandoned for word in _words(file)), key=lambda word: word.time, default=None)
    if lost is None or lost.action is not Action.DISABLE or lost.step < step:
        return None
    if any(word.time >= lost.time for word in _words(path)):
        return None
    _logger.warning(
        "The weight was disabled by hand at step %d (%s), after step %d, from which the run goes on: it will be "
        "disabled again at that step. Call `emergency_disable` to have it disabled now.",
        lost.step,
        lost.note or "no note",
        step,
    )
    return LostDisable(lost.step, f"{lost.note.removesuffix(AGAIN)}{AGAIN}")


class _Word(NamedTuple):
    """A disable or enable by hand: when it was, and the decision."""

    time: float
    step: int
    action: Action
    note: str


def _words(path: Path) -> list[_Word]:
    """Return what was disabled and enabled by hand in a journal; none where it cannot be read."""
    words = []
    try:
        with path.open("rb") as file:
            lines = [line for line in file if line.startswith(b'{"kind": "event"') and line.endswith(b"\n")]
    except OSError:
        return []
    for line in lines:
        try:
            values = parse_line(line) or {}
            decision, time = Decision.from_dict(values), float(values["wall_time"])
        except (KeyError, ValueError, TypeError):
            continue
        if decision.by_hand and decision.action in (Action.DISABLE, Action.ENABLE):
            words.append(_Word(time, decision.step, decision.action, decision.note))
    return words
