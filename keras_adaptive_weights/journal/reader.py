"""Reading a journal whole: for a replay, where every observation counts. For an overview see `index`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.journal.lines import (
    MOST_LINE_BYTES,
    Header,
    read_header,
    read_line,
    read_step,
    read_usual_step,
)
from keras_adaptive_weights.journal.regular_files import lines_of, open_regular

_TOLD_PROBLEMS = 100


class Entry(NamedTuple):
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
        problems: What could not be read, one sentence each; of very many, the first 100 and how many more.
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


def read_journal(path: str | os.PathLike[str]) -> Journal:
    """Read a journal, also one that is still being written or whose writer was killed.

    Args:
        path: The `journal.jsonl` file.

    Returns:
        The journal. Lines that cannot be read are left out and named in its `problems`.

    Raises:
        FileNotFoundError: No such file.
        OSError: It may not be read, or is a pipe, a device or a folder.
        ValueError: The file does not begin with a journal's header, or a header in it cannot be understood, as one of a
            newer format.
    """
    reading = _Reading(os.fspath(path))
    with open_regular(path) as file:
        reading.take(lines_of(file, MOST_LINE_BYTES))
    return reading.journal


class _Reading:
    """Puts lines together to a journal: steps to executions, of each of which the last step has the decision."""

    def __init__(self, path: str) -> None:
        self.journal = Journal()
        self._path = path
        self._pending: list[Observation] = []
        self._untold = 0

    def take(self, lines: Iterator[bytes]) -> None:
        """Take in all lines."""
        for number, line in enumerate(lines, 1):
            if self.journal.headers and (usual := read_usual_step(line)) is not None:
                self._add_step(*usual)
            elif not self._take_line(number, line):
                break
        if not self.journal.headers:
            raise ValueError(f"read_journal: {self._path!r} does not begin with the header of a journal.")
        self._leave_out_pending()
        if self._untold:
            self.journal.problems.append(f"and {self._untold} more")

    def _take_line(self, number: int, line: bytes) -> bool:
        """Take in one line; return whether what follows belongs to the same run."""
        try:
            values = read_line(line)
            if values["kind"] == "header":
                return self._add_header(number, read_header(values))
            if not self.journal.headers:
                return False
            if values["kind"] == "step":
                self._add_step(read_step(values), values["weight"], "reason" in values)
            elif values["kind"] == "event":
                _add_event(self.journal.segments[-1], Decision.from_dict(values))
        except ValueError as error:
            if line.startswith(b'{"kind": "header"') and line.endswith(b"\n"):  # what state the steps after it had?
                raise ValueError(f"read_journal: {self._path!r}, line {number}: {error}") from None
            if self.journal.headers:
                cut_off = len(line) <= MOST_LINE_BYTES and not line.endswith(b"\n")
                self._tell(f"line {number} {'was cut off' if cut_off else f'cannot be read ({error})'}; it is left out")
        return bool(self.journal.headers)

    def _add_header(self, number: int, header: Header) -> bool:
        headers = self.journal.headers
        if headers and header.run != headers[0].run:
            self._tell(f"line {number} begins another run ({header.run!r:.60}); what follows is left out")
            return False
        self._leave_out_pending()
        headers.append(header)
        self.journal.segments.append([])
        return True

    def _add_step(self, seen: Observation, weight: float, decided: bool) -> None:
        """Add a step; with the decision after it the execution is complete."""
        journal = self.journal
        steps: tuple[Observation, ...] = (seen,)
        journal.weights.append(weight)
        if self._pending or not decided:
            self._pending.append(seen)
            steps = tuple(self._pending)
        if decided:
            journal.segments[-1].append(Entry(steps))
            self._pending.clear()

    def _leave_out_pending(self) -> None:
        """Drop the steps of an execution that came to no decision, and say so."""
        if self._pending:
            steps = f"the {len(self._pending)} steps up to step {self._pending[-1].step}"
            self._tell(f"{steps} have no decision after them; they are left out")
            del self.journal.weights[-len(self._pending) :]
            self._pending.clear()

    def _tell(self, problem: str) -> None:
        if len(self.journal.problems) < _TOLD_PROBLEMS:
            self.journal.problems.append(problem)
        else:
            self._untold += 1


def _add_event(segment: list[Entry], event: Decision) -> None:
    """Attach an event to the execution it was decided after, or add it as one asked for by hand."""
    if not event.by_hand and segment and segment[-1].event is None and segment[-1].observations:
        segment[-1] = Entry(segment[-1].observations, event)
    else:
        segment.append(Entry((), event))
