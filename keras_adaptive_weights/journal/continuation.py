"""How a journal goes on where its run was resumed: no step is in it twice, and nothing that was recorded is lost.

A run that was killed goes on from its last checkpoint, and its journal reaches further: up to the steps that were lost.
Whoever opens the journal for the resumed run finds the restore point by the step in the header's state, moves the lines
after it to a file in `abandoned/` beside the journal (itself a whole journal, beginning with the state restored), and
cuts them off. A last line that was cut short by the kill goes with them. The copy is on disk before the cut is made, so
a second kill in between leaves the lines in both places rather than in none.

What was asked for by hand on the steps that were lost is lost with them, except that the weight was disabled: a resumed
run disables it again when it comes to that step, as the run would have had it if it had not been killed (see
`lost_disable`).

A run that was killed, or ended by an exception, before its first checkpoint cannot be resumed, and the same script
starts another run: then the whole journal is moved aside. A journal of any other run is refused.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from keras_adaptive_weights.deciding.decision import Action, Decision
from keras_adaptive_weights.journal.lines import Header, parse_line

try:
    import fcntl
except ImportError:  # Windows has no record locks of this kind
    fcntl = None  # type: ignore[assignment]

ABANDONED = "abandoned"
_STEP = re.compile(rb'\{"kind": "step", "step": (\d+),')
_HEADER = b'{"kind": "header"'
_logger = logging.getLogger("keras_adaptive_weights")


class Recorder(Protocol):
    """Whoever keeps a file of a run open."""

    run: str

    def close(self) -> None:
        """Close the file. Harmless if called twice."""


_recorders: weakref.WeakValueDictionary[Path, Recorder] = weakref.WeakValueDictionary()


def take_over(path: Path, recorder: Recorder) -> None:
    """Make `recorder` the only one in this process that writes to `path`.

    One of the same run that is still open is closed: a `fit` that ended by an exception, or by Ctrl-C, left it so.

    Raises:
        ValueError: One of another run is still open.
    """
    path = path.resolve()
    older = _recorders.get(path)
    if older is not None:
        if older.run != recorder.run:
            raise _another_run(path, older.run, recorder.run)
        older.close()
    _recorders[path] = recorder


def let_go(path: Path, recorder: Recorder) -> None:
    """Undo `take_over`."""
    if _recorders.get(path.resolve()) is recorder:
        del _recorders[path.resolve()]


def open_journal(path: Path, header: Header, header_line: str) -> io.TextIOWrapper:
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
    file = path.open("a+b")
    try:
        _lock(file, path)
        size = file.seek(0, os.SEEK_END)
        keep = _bytes_to_keep(file, path, header) if size else 0
        if keep < size:
            _take_back(file, path, keep, header, header_line)
    except BaseException:
        file.close()
        raise
    return io.TextIOWrapper(file, encoding="utf-8", newline="\n")


def abandoned_file(folder: Path, stem: str, suffix: str) -> Path:
    """Return a path in the `abandoned` folder of `folder` that is not taken."""
    target = folder / ABANDONED
    target.mkdir(exist_ok=True)
    numbers = iter(range(2, 1 << 30))
    path = target / f"{stem}{suffix}"
    while path.exists():
        path = target / f"{stem}-{next(numbers)}{suffix}"
    return path


def move_aside(file: BinaryIO, keep: int, to: Path, first: bytes) -> None:
    """Write `first` and what `file` holds from byte `keep` on to the new file `to`, and cut it off `file`."""
    with to.open("xb") as copy:
        copy.write(first)
        file.seek(keep)
        shutil.copyfileobj(file, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())
    file.truncate(keep)
    file.seek(0, os.SEEK_END)


def _lock(file: BinaryIO, path: Path) -> None:
    """Hold the file against other processes until it is closed; where locks are not to be had, go without."""
    if fcntl is None:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise ValueError(
            f"The journal {os.fspath(path)!r} is being written by another process. End that process first, or give "
            "the callback another `log_dir`."
        ) from None
    except OSError:
        _logger.debug("%s cannot be locked.", path, exc_info=True)


def _bytes_to_keep(file: BinaryIO, path: Path, header: Header) -> int:
    """Return how many bytes at the start of the file belong to what is restored.

    Raises:
        ValueError: The file holds another run's journal, or something else.
    """
    file.seek(0)
    first = file.readline()
    owner = (parse_line(first) or {}).get("run")
    if owner == header.run:
        return _find_restore_point(file, header.state)
    cut_short = not first.endswith(b"\n") and first[: len(_HEADER)] == _HEADER[: len(first)]
    starts_afresh = int(header.state["step"]) == 0
    if cut_short or (starts_afresh and owner is not None and not _may_be_resumed(file)):
        return 0
    raise _another_run(path, owner, header.run)


def _another_run(path: Path, owner: object, run: str) -> ValueError:
    return ValueError(
        f"The journal {os.fspath(path)!r} belongs to another run ({owner!r}; this one is {run!r}). Runs are never "
        "mixed: give the callback another `log_dir`, or load this run's checkpoint before `fit`."
    )


def _may_be_resumed(file: BinaryIO) -> bool:
    """Whether the run was ever saved or resumed, or came to its end, so that a checkpoint may exist."""
    file.seek(0)
    for line in file:
        if line.startswith(b'{"kind": "saved"'):
            return True
        if line.startswith(b'{"kind": "end"') and not (parse_line(line) or {}).get("interrupted"):
            return True
        if line.startswith(_HEADER) and int((parse_line(line) or {"state": {"step": 0}})["state"]["step"]):
            return True
    return False


class _Line(NamedTuple):
    """A line after the last step that is kept: where it begins, and what it holds."""

    begin: int
    values: dict[str, Any]


def _find_restore_point(file: BinaryIO, state: Mapping[str, Any]) -> int:
    """Return where the first line begins that tells of something after `state`."""
    step, end = int(state["step"]), 0
    tail: list[_Line] = []
    file.seek(0)
    for line in file:
        if not line.endswith(b"\n"):
            break
        match = _STEP.match(line)
        if match:
            if int(match[1]) > step:
                break
            tail.clear()
        elif not line.startswith(b'{"kind": "block"'):
            values = parse_line(line) or {}
            if _reaches(values) > step:
                break
            tail.append(_Line(end, values))
        end += len(line)
    return _first_undone(tail, state, end)


def _reaches(values: Mapping[str, Any]) -> int:
    """Return the step up to which a line that is no step tells something; 0 where it names none."""
    if values.get("kind") == "header":
        return int(values["state"]["step"])
    return int(values.get("step", 0))


def _first_undone(tail: Sequence[_Line], state: Mapping[str, Any], end: int) -> int:
    """Return where the first request begins that came after the checkpoint, though at the same step; else `end`.

    The latest of the lines is looked for after which weight and disable are as they were restored.
    """
    if any(line.values.get("kind") == "end" for line in tail):
        return end  # closed in an orderly way: what was asked for since is in no journal
    decided = [(line.begin, Decision.from_dict(line.values)) for line in tail if line.values.get("kind") == "event"]
    for after in range(len(decided), 0, -1):
        switches = [d.action for _, d in decided[:after] if d.action in (Action.DISABLE, Action.ENABLE)]
        agrees = not switches or (switches[-1] is Action.DISABLE) == bool(state["disabled"])
        if (agrees and decided[after - 1][1].new_weight == state["weight"]) or not decided[after - 1][1].by_hand:
            return decided[after][0] if after < len(decided) else end
    undone = decided and decided[0][1].old_weight == state["weight"]
    return decided[0][0] if undone else end


def _take_back(file: BinaryIO, path: Path, keep: int, header: Header, header_line: str) -> None:
    """Move what follows byte `keep` aside, and say so."""
    step = int(header.state["step"])
    file.seek(0)
    owner = str((parse_line(file.readline()) or {}).get("run", "unknown"))
    first = f"{header_line}\n".encode() if keep else b""
    to = abandoned_file(path.parent, f"{path.stem}-{owner[:8]}-after-step-{step}", path.suffix)
    move_aside(file, keep, to, first)
    if keep:
        _logger.info("The run goes on from step %d; what it had recorded after that is now in %s.", step, to)
    else:
        _logger.info("A run that ended before its first checkpoint is now in %s; a new run begins.", to)
