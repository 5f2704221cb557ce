"""Reading a journal whole: for a replay, where every observation counts. For an overview see `index` and `view`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.journal.lines import Header, read_header, read_step, read_usual_step


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
    steps = _Steps(journal)
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if journal.headers and (usual := read_usual_step(line)) is not None:
                steps.add(*usual)
                continue
            kind = None
            try:
                values = json.loads(line)
                kind = values["kind"]
                if kind == "header":
                    header = read_header(values, path)
                    steps.leave_out()
                    journal.headers.append(header)
                    journal.segments.append([])
                elif not journal.headers:
                    break
                elif kind == "step":
                    steps.add(read_step(values), float(values["weight"]), "reason" in values)
                elif kind == "event":
                    _add_event(journal.segments[-1], Decision.from_dict(values))
            except (ValueError, KeyError, TypeError) as error:
                if kind == "header" and isinstance(error, ValueError):  # of a newer version: nothing after it is known
                    raise
                cut = "was cut off" if not line.endswith("\n") else f"cannot be read ({error!r})"
                journal.problems.append(f"line {number} {cut}; it is left out")
    if not journal.headers:
        raise ValueError(f"read_journal: {os.fspath(path)!r} does not begin with the header of a journal.")
    steps.leave_out()
    return journal


class _Steps:
    """Puts steps together to executions, of each of which the last step has the decision."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._pending: list[Observation] = []

    def add(self, seen: Observation, weight: float, decided: bool) -> None:
        """Add a step; with the decision after it the execution is complete."""
        self._pending.append(seen)
        self._journal.weights.append(weight)
        if decided:
            self._journal.segments[-1].append(Entry(tuple(self._pending)))
            self._pending.clear()

    def leave_out(self) -> None:
        """Drop the steps of an execution that came to no decision, and say so."""
        if self._pending:
            steps = f"the {len(self._pending)} steps up to step {self._pending[-1].step}"
            self._journal.problems.append(f"{steps} have no decision after them; they are left out")
            del self._journal.weights[-len(self._pending) :]
            self._pending.clear()


def _add_event(segment: list[Entry], event: Decision) -> None:
    """Attach an event to the execution it was decided after, or add it as one asked for by hand."""
    if not event.by_hand and segment and segment[-1].event is None and segment[-1].observations:
        segment[-1] = Entry(segment[-1].observations, event)
    else:
        segment.append(Entry((), event))
