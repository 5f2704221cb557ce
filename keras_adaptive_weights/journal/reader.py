"""Reading a journal whole: for a replay, where every observation counts. For an overview see `index` and `view`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from keras_adaptive_weights.decision import Decision, Observation
from keras_adaptive_weights.journal.lines import Header, read_header, read_step


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
