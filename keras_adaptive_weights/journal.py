"""The record of truth: every step's observation and every decision, one JSON object a line.

Six kinds of lines, told apart by `kind`, which comes first:

- `header`: one at the start of each `fit`: `format`, `version` of the package, `run` (an id that a resumed run keeps),
  `term`, `base_weight`, `config`, whether it is a `shadow` run, the controller's `state` to go on from (so that a
  replay is exact after a resume), and the `process` (its id and host) that writes.
- `step`: one per training step: the fields of `Observation` and the `weight` in force on that step; in a shadow run the
  `proposed_weight`, too. The last step of an execution also carries the `action` and `reason` of the decision taken
  after it, and the figures that led there.
- `event`: the whole `Decision` where it was anything but a HOLD, its `advice` and `wall_time`. In a shadow run its
  weights are proposals, and `held_weight` is the one in force.
- `block`: a summary of the last 256 steps (see `journal_blocks`), for whoever wants an overview only.
- `saved`: the model was saved at this `step`, to a checkpoint from which the run may be resumed.
- `end`: the writer was closed in an orderly way; with `interrupted`, because an exception ended `fit`.

The steps of a journal are consecutive also where the run was killed and resumed: see `continuation`.

Numbers that JSON has no word for are the strings "nan", "inf" and "-inf". What is to be written waits in a buffer, and
is put into words and written together at every event, after 256 executions, and at least once a second: many lines at
once cost a fraction of what they cost one by one between two training steps. So at most the last second is missing
after the process was killed; a last line that was cut off is left out by the reader and reported. While the writer
lives, it also touches the file once a second, so that the file's time tells a training that is slow from one that is
gone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO

from keras_adaptive_weights.continuation import let_go, open_journal, take_over
from keras_adaptive_weights.decision import Decision, Observation
from keras_adaptive_weights.journal_encoder import LineEncoder
from keras_adaptive_weights.journal_lines import FORMAT, Header, encode, header_values, read_header, read_step

__all__ = ["DecisionLogger", "DecisionObserver", "Entry", "Header", "Journal", "JournalWriter", "read_journal"]

_MOST_PENDING = 256
_logger = logging.getLogger("keras_adaptive_weights")


class DecisionObserver(Protocol):
    """Whoever wants to know what was decided. Called under a lock, in the order of the steps."""

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Take note of the steps of one execution and the decision after them; no steps: asked for by hand."""


class DecisionLogger:
    """Writes one log line per event to the `keras_adaptive_weights` logger."""

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Log the decision unless it is a HOLD."""
        del observations
        if decision.is_event:
            _logger.info("%s", decision)


@dataclass(frozen=True, slots=True)
class Entry:
    """One execution (its observations and the reason of its decision) or, without observations, one manual event."""

    observations: tuple[Observation, ...]
    event: Decision | None = None


@dataclass(slots=True)
class Journal:
    """A journal that was read.

    Attributes:
        headers: One for each `fit` that wrote to it.
        segments: For each header, the entries after it.
        weights: The weight in force at each observation, also in a shadow run.
        problems: What could not be read, one sentence each.
    """

    headers: list[Header] = field(default_factory=list)
    segments: list[list[Entry]] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def entries(self) -> Iterator[Entry]:
        """All entries, oldest first."""
        return (entry for segment in self.segments for entry in segment)

    @property
    def observations(self) -> list[Observation]:
        """All observations, oldest first."""
        return [observation for entry in self.entries for observation in entry.observations]

    @property
    def events(self) -> list[Decision]:
        """All decisions other than HOLD, oldest first."""
        return [entry.event for entry in self.entries if entry.event is not None]


class DecisionPrinter:
    """Prints one line per event, on a line of its own beside a progress bar."""

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Print the decision unless it is a HOLD."""
        del observations
        if decision.is_event:
            print(f"\n{decision}", flush=True)  # noqa: T201 - asked for by `verbose=1`


class JournalWriter:
    """Appends to a journal. An observer: give it to whoever takes decisions, and `close` it at the end.

    Args:
        path: The file; its folder is made. A journal of the same run is continued from the step that the header's
            state has; what it says about later steps is moved to `abandoned/` beside it.
        header: What the steps to come belong to.
        flush_seconds: Longest time a line stays in the buffer.
        clock: Seconds since the epoch; for tests.

    Raises:
        ValueError: The file holds another run's journal, or another process writes to it.
        OSError: The file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Header,
        *,
        flush_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.run = header.run
        self._path = Path(path)
        self._clock = clock
        self._pending: deque[tuple[Sequence[Observation], Decision, float | None]] = deque()
        self._encoder = LineEncoder()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._failure: OSError | None = None
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        about = {"format": FORMAT, "wall_time": clock(), "process": process}
        header_line = encode({"kind": "header", **about, **header_values(header)})
        take_over(self._path, self)
        with contextlib.ExitStack() as opened:
            opened.callback(let_go, self._path, self)
            self._file = open_journal(self._path, header, header_line)
            opened.callback(_close_quietly, self._file)
            self._write([header_line])
            opened.pop_all()
        self._flusher = threading.Thread(target=self._flush_regularly, args=(flush_seconds,), daemon=True)
        self._flusher.start()

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Note the steps and, where it is an event, the decision.

        Raises:
            OSError: An earlier write failed, or this one.
        """
        if self._failure is not None:
            raise self._failure
        if self._closed.is_set():
            return  # another writer took over
        self._pending.append((tuple(observations), decision, self._clock() if decision.is_event else None))
        if decision.is_event or len(self._pending) >= _MOST_PENDING:
            self._flush()

    def note_save(self, step: int) -> None:
        """Note that the model is being saved; no checkpoint is ever ahead of its journal."""
        if self._closed.is_set() or self._failure is not None:
            return
        try:
            self._flush({"kind": "saved", "step": step, "wall_time": self._clock()})
        except OSError as error:
            self._failure = error

    def close(self, *, interrupted: bool = False) -> None:
        """Write what is pending and close the file. Harmless if called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        let_go(self._path, self)
        self._flusher.join()
        try:
            self._flush({"kind": "end", "wall_time": self._clock(), **({"interrupted": True} if interrupted else {})})
        finally:
            self._file.close()

    def _flush(self, last: dict[str, Any] | None = None) -> None:
        """Write what is pending, and a line after it where one is given."""
        with self._lock:
            while self._pending:  # the training may add to it meanwhile
                self._encoder.add_execution(*self._pending.popleft())
            if last is not None:
                self._encoder.add(last)
            self._write(self._encoder.take())

    def _write(self, lines: Sequence[str]) -> None:
        if lines:
            self._file.write("\n".join(lines) + "\n")
            self._file.flush()

    def _flush_regularly(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            try:
                self._flush()
            except OSError as error:
                self._failure = error
                return
            except ValueError:
                return  # the file was closed meanwhile
            with contextlib.suppress(OSError):
                os.utime(self._path)


def _close_quietly(file: TextIO) -> None:
    """Close a file that could not be written to; closing it fails for the same reason."""
    with contextlib.suppress(OSError):
        file.close()


def read_journal(path: str | os.PathLike[str]) -> Journal:
    """Read a journal, also one that is still being written or whose writer was killed.

    Args:
        path: The `journal.jsonl` file.

    Returns:
        The journal. Lines that cannot be read are left out and named in its `problems`.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file does not begin with a journal's header, or its format is newer than this package.
    """
    journal = Journal()
    pending: list[tuple[Observation, float]] = []  # steps of an execution whose last one, with the decision, is to come
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                values = json.loads(line)
                kind = values["kind"]
                if kind == "header":
                    _leave_out(journal, pending)
                    journal.headers.append(read_header(values, path))
                    journal.segments.append([])
                elif not journal.headers:
                    break
                elif kind == "step":
                    pending.append((read_step(values), float(values["weight"])))
                    if "reason" in values:
                        journal.segments[-1].append(Entry(tuple(seen for seen, _ in pending)))
                        journal.weights += [weight for _, weight in pending]
                        pending.clear()
                elif kind == "event":
                    _add_event(journal.segments[-1], Decision.from_dict(values))
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                cut = "was cut off" if not line.endswith("\n") else f"cannot be read ({error!r})"
                journal.problems.append(f"line {number} {cut}; it is left out")
    if not journal.headers:
        raise ValueError(f"read_journal: {os.fspath(path)!r} does not begin with the header of a journal.")
    _leave_out(journal, pending)
    return journal


def _leave_out(journal: Journal, pending: list[tuple[Observation, float]]) -> None:
    """Drop the steps of an execution that came to no decision, and say so."""
    if pending:
        steps = f"the {len(pending)} steps up to step {pending[-1][0].step}"
        journal.problems.append(f"{steps} have no decision after them; they are left out")
        pending.clear()


def _add_event(segment: list[Entry], event: Decision) -> None:
    """Attach an event to the execution it was decided after, or add it as one asked for by hand."""
    if not event.by_hand and segment and segment[-1].event is None and segment[-1].observations:
        segment[-1] = Entry(segment[-1].observations, event)
    else:
        segment.append(Entry((), event))
