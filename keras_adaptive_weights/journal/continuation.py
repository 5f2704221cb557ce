"""How a journal goes on where its run was resumed: no step is in it twice, and nothing that was recorded is lost.

A run that was killed goes on from its last checkpoint, and its journal reaches further: up to the steps that were lost.
Whoever opens the journal for the resumed run finds the restore point by the step in the header's state, moves the lines
after it to a file in `abandoned/` beside the journal (itself a whole journal, beginning with the state restored), and
cuts them off. A last line that was cut short by the kill goes with them. The copy is on disk before the cut is made, so
a second kill in between leaves the lines in both places rather than in none.

What was asked for by hand on the steps that were lost is lost with them, except that the weight was disabled: see
`recording.lost_disable`.

A run that was killed, or ended by an exception, before its first checkpoint cannot be resumed, and the same script
starts another run: then the whole journal is moved aside. A journal of any other run is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from keras_adaptive_weights.deciding.decision import Action, Decision
from keras_adaptive_weights.deciding.joint import JointDecision, by_term
from keras_adaptive_weights.journal.appended_file import AppendedFile, another_run
from keras_adaptive_weights.journal.appended_pieces import AppendedPieces
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.lines import (
    HEADER_LINE,
    MOST_LINE_BYTES,
    STEP_LINE,
    Values,
    read_decision,
    read_line,
)
from keras_adaptive_weights.journal.places import Place, found
from keras_adaptive_weights.journal.regular_files import lines_of, open_regular, parse_json

ABANDONED = "abandoned"
_STEP = re.compile(rb'\n\{"kind": "step", "step": (\d{1,15}),')
_CHUNK, _PREFIX = 1 << 16, 64
_logger = logging.getLogger("keras_adaptive_weights")


def open_journal(path: Place, header: Header, header_line: str) -> AppendedFile | AppendedPieces:
    """Open a journal for appending, and take it back to the step that `header` goes on from.

    Args:
        path: The file; its folder is made.
        header: What the lines to come belong to.
        header_line: The same as a line; it begins the file that holds what is taken back.

    Returns:
        The file, ended by a whole line.

    Raises:
        ValueError: The file holds another run's journal, or another process is writing to it.
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = AppendedFile(path) if isinstance(path, Path) else AppendedPieces(path)
    try:
        if file.size and (keep := _bytes_to_keep(path, header)) < file.size:
            _take_back(file, keep, header, header_line)
    except BaseException:
        file.close()
        raise
    return file


def owner_of(path: Place) -> str | None:
    """Return the run that a journal belongs to, if there is one that says so."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        return _owner(file.readline(MOST_LINE_BYTES))
    return None


class _Appended(Protocol):
    """What is needed here of a file that a run appends to, on this machine or in a store."""

    @property
    def path(self) -> Place: ...
    @property
    def size(self) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def cut(self, size: int) -> None: ...


def move_aside(file: _Appended, keep: int, name: str, suffix: str, first: bytes) -> Place:
    """Write `first` and what `file` holds from byte `keep` on to a new file in `abandoned/`, and cut it off `file`.

    Args:
        file: The file.
        keep: Bytes of it to keep.
        name: Name of the new file without its suffix; a number is added where it is taken.
        suffix: The suffix.
        first: What the new file begins with.
    """
    folder = file.path.parent / ABANDONED
    folder.mkdir(exist_ok=True)
    taken = {path.name for path in found(folder, "*")}
    name = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)
    names = itertools.chain([f"{name}{suffix}"], (f"{name}-{number}{suffix}" for number in itertools.count(2)))
    copy = folder / next(one for one in names if one not in taken)
    parts = itertools.chain([first], (file.read(at, 1 << 20) for at in range(keep, file.size, 1 << 20)))
    if isinstance(copy, Path):
        with copy.open("xb") as new:
            new.writelines(parts)
            new.flush()
            os.fsync(new.fileno())
    else:
        copy.write_bytes(b"".join(parts))
    file.cut(keep)
    return copy


def _bytes_to_keep(path: Place, header: Header) -> int:
    """Return how many bytes at the start of the file belong to what is restored.

    Raises:
        ValueError: The file holds another run's journal, or something else.
    """
    with open_regular(path) as file:
        first = file.readline(MOST_LINE_BYTES)
    owner = _owner(first)
    if owner == header.run:
        return _restore_point(path, header)
    cut_short = not first.endswith(b"\n") and first[: len(HEADER_LINE)] == HEADER_LINE[: len(first)]
    starts_afresh = header.step == 0
    if cut_short or (starts_afresh and owner is not None and not _may_be_resumed(path)):
        return 0
    raise another_run(path, owner, header.run)


def _owner(line: bytes) -> str | None:
    """Return the run that a first line names, whatever else of it can be read."""
    with contextlib.suppress(ValueError):
        values = parse_json(line)
        if isinstance(values, dict) and isinstance(values.get("run"), str):
            return str(values["run"])
    return None


def _may_be_resumed(path: Place) -> bool:
    """Whether the run was ever saved or resumed, or came to its end, so that a checkpoint may exist."""
    with open_regular(path) as file:
        for line in lines_of(file, MOST_LINE_BYTES):
            match _values(line):
                case {"kind": "saved"}:
                    return True
                case {"kind": "end", **more} if not more.get("interrupted"):
                    return True
                case {"kind": "header", "step": step} if step:
                    return True
    return False


def _values(line: bytes) -> Values:
    """Return what a line holds; nothing where it is a step, or cannot be read."""
    with contextlib.suppress(ValueError):
        return {} if line.startswith(STEP_LINE) else read_line(line)
    return {}


def _restore_point(path: Place, header: Header) -> int:
    """Return where the first line begins that tells of something after what `header` goes on from."""
    end = _last_step(path, header.step)
    decided: list[tuple[int, Decision | JointDecision]] = []
    closed = False
    with open_regular(path) as file:
        file.seek(end)
        for line in lines_of(file, MOST_LINE_BYTES):
            values, match = _values(line), _STEP.match(b"\n" + line[:_PREFIX])
            step = int(match[1]) if match else int(values.get("step", 0))
            if step > header.step or not line.endswith(b"\n"):
                break
            if (event := decision_of(values)) is not None:
                decided.append((end, event))
            closed = closed or values.get("kind") == "end"
            end += len(line)
    return end if closed else _first_undone(decided, header, end)  # what was asked for since a close is in no journal


def _last_step(path: Place, step: int) -> int:
    """Return where the last line of a step up to `step` begins; 0 where there is none. Looked for from the end."""
    with open_regular(path) as file:
        end, length = file.seek(0, os.SEEK_END), _CHUNK
        while end > _PREFIX:
            begin = max(0, end - length)
            file.seek(begin)
            found = [match.start() for match in _STEP.finditer(file.read(end - begin)) if int(match[1]) <= step]
            if found:
                return begin + found[-1] + 1
            end, length = (begin + _PREFIX if begin else 0), min(4 * length, MOST_LINE_BYTES)
    return 0


def _first_undone(decided: Sequence[tuple[int, Decision | JointDecision]], header: Header, end: int) -> int:
    """Return where the first request begins that came after the checkpoint, though at the same step; else `end`.

    The latest of the decisions is looked for after which all weights and disables are as they were restored.
    """
    for after in range(len(decided), 0, -1):
        known = [one for _, event in decided[:after] for one in by_term(event)]
        if _agrees(known, header) or not decided[after - 1][1].by_hand:
            return decided[after][0] if after < len(decided) else end
    undone = decided and all(one.old_weight == _state(header, one).get("weight") for one in by_term(decided[0][1]))
    return decided[0][0] if undone else end


def _agrees(events: Sequence[Decision], header: Header) -> bool:
    """Whether weights and disables are as they were restored, as far as these events tell."""
    last = {event.term: event for event in events}
    switched = {event.term: event for event in events if event.action in (Action.DISABLE, Action.ENABLE)}
    weights = all(event.new_weight == _state(header, event).get("weight") for event in last.values())
    return weights and all(
        (event.action is Action.DISABLE) == bool(_state(header, event).get("disabled")) for event in switched.values()
    )


def _state(header: Header, event: Decision) -> Mapping[str, Any]:
    """Return the restored state of the weight that an event is about; format 1 does not name it."""
    start = header.terms.get(event.term or header.term)
    return {} if start is None or start.state is None else start.state


def decision_of(values: Mapping[str, Any]) -> Decision | JointDecision | None:
    """Return the decision that a line holds, if it holds one that this version knows."""
    with contextlib.suppress(ValueError):
        if values.get("kind") == "event":
            return read_decision(values)
    return None


def _take_back(file: _Appended, keep: int, header: Header, header_line: str) -> None:
    """Move what follows byte `keep` aside, and say so."""
    step = header.step
    owner = _owner(file.read(0, MOST_LINE_BYTES).partition(b"\n")[0]) or "unknown"
    first = f"{header_line}\n".encode() if keep else b""
    path = file.path
    to = move_aside(file, keep, f"{path.stem}-{owner[:8]}-after-step-{step}", path.suffix, first)
    if keep:
        _logger.info("The run goes on from step %d; what it had recorded after that is now in %s.", step, to)
    else:
        _logger.info("A run that ended before its first checkpoint is now in %s; a new run begins.", to)
