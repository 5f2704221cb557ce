"""Reading a journal whole: for a replay, where every observation counts. For an overview see `index`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.deciding.joint import JointDecision
from keras_adaptive_weights.deciding.plain_records import FLOAT32_MAX
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.lines import HEADER_LINE, MOST_LINE_BYTES, Values, read_line, read_step
from keras_adaptive_weights.journal.regular_files import lines_of, open_regular
from keras_adaptive_weights.journal.terms import Rows

_TOLD_PROBLEMS = 100


_new = tuple.__new__  # takes half as long as a call of the class, and this is every line


class Entry(NamedTuple):
    """One term's part of an execution, its observations and an event among its decisions, or one event from outside.

    The entries of an execution follow each other in the order of the terms; in a journal read jointly there is one, of
    no term. An event from outside, from a person or the recovery of the model, has no observations.
    """

    observations: tuple[Any, ...]
    event: Decision | JointDecision | None = None
    term: str = ""


@dataclass(slots=True)
class Journal:
    """A journal that was read.

    Attributes:
        headers: One for each `fit` that wrote to it.
        segments: For each header, the entries after it.
        weights: The weight in force at each observation, also in a shadow run.
        problems: What could not be read, one sentence each; of very many, the first 100 and how many more.
        joint: Whether observations, events and weights are of all terms at once: `JointObservation`, `JointDecision`,
            and weights by term.

    Example:

    >>> journal = read_journal("runs/1/adaptive_weights/journal.jsonl")
    >>> journal.terms, len(journal.observations), len(journal.weights), journal.problems
    (['mel_loss'], 260, 260, [])
    """

    headers: list[Header] = field(default_factory=list)
    segments: list[list[Entry]] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    joint: bool = False

    @property
    def terms(self) -> list[str]:
        """Names of the terms whose weights are or were adaptive, those of the last `fit` first."""
        return list(dict.fromkeys(name for header in reversed(self.headers) for name in header.adaptive))

    def of(self, term: str) -> Journal:
        """Return what the journal says of one term.

        Raises:
            ValueError: There is no such term with an adaptive weight, or the weights were decided on together.
        """
        if self.joint:
            raise ValueError("Journal.of: what is decided on all terms together cannot be decided again for one.")
        if term not in self.terms:
            raise ValueError(f"Journal.of: argument `term` must be one of {self.terms}. Received: term={term!r:.60}.")
        kept = [[entry for entry in segment if entry.term == term] for segment in self.segments]
        terms = (entry.term for entry in self.entries for _ in entry.observations)
        weights = [weight for weight, name in zip(self.weights, terms, strict=False) if name == term]
        return Journal([header.only(term) for header in self.headers], kept, weights, self.problems)

    @property
    def entries(self) -> Iterator[Entry]:
        """All entries, oldest first."""
        return (entry for segment in self.segments for entry in segment)

    @property
    def observations(self) -> list[Any]:
        """All observations, oldest first, those of several terms of an execution one term after the other."""
        return [observation for entry in self.entries for observation in entry.observations]

    @property
    def events(self) -> list[Any]:
        """All decisions other than HOLD, oldest first."""
        return [entry.event for entry in self.entries if entry.event is not None]


def read_journal(path: str | os.PathLike[str], *, joint: bool = False) -> Journal:
    """Read a journal, also one that is still being written or whose writer was killed.

    Args:
        path: The `journal.jsonl` file, or its URL, also where it is there in pieces.
        joint: Read what was seen of all terms at once, as a journal whose weights were balanced always is.

    Returns:
        The journal. Lines that cannot be read are left out and named in its `problems`.

    Raises:
        FileNotFoundError: No such file.
        OSError: It may not be read, or is a pipe, a device or a folder.
        ValueError: The file does not begin with a journal's header, or a header in it cannot be understood, as one of a
            newer format; or there is no file system for the scheme of a URL.

    Example:

    >>> for decision in read_journal("runs/1/adaptive_weights/journal.jsonl").events[:1]:
    ...     print(decision.step, decision.action, decision.reason)
    65 increase loss_high
    """
    reading = _Reading(os.fspath(path), joint=joint)
    with open_regular(path) as file:
        reading.take(lines_of(file, MOST_LINE_BYTES))
    return reading.journal


class _Reading:
    """Puts lines together to a journal: steps to executions, of each of which the last step has the decisions."""

    def __init__(self, path: str, *, joint: bool) -> None:
        self.journal = Journal(joint=joint)
        self._path = path
        self._pending: list[Sequence[Any]] = []
        self._pending_weights: list[Any] = []
        self._terms: tuple[str, ...] = ()
        self._untold = 0

    def take(self, lines: Iterator[bytes]) -> None:
        """Take in all lines."""
        usual: UsualSteps | None = None
        for number, line in enumerate(lines, 1):
            if usual is not None and (step := usual.read(line)) is not None:
                self._add_step(*step)
                continue
            headers = len(self.journal.headers)
            if not self._take_line(number, line):
                break
            if len(self.journal.headers) > headers:
                usual = None if self.journal.joint else UsualSteps(self.journal.headers[-1], self._rows)
        if not self.journal.headers:
            raise ValueError(f"read_journal: {self._path!r} does not begin with the header of a journal.")
        self._leave_out_pending()
        if self._untold:
            self.journal.problems.append(f"and {self._untold} more")

    def _take_line(self, number: int, line: bytes) -> bool:
        """Take in one line; return whether what follows belongs to the same run."""
        headers = self.journal.headers
        try:
            values = read_line(line, headers[-1] if headers else None)
            if values["kind"] == "header":
                return self._add_header(number, values["header"])
            if not headers:
                return False
            if values["kind"] == "step":
                self._add_unusual_step(values)
            elif values["kind"] == "event":
                self._add_event(values)
        except ValueError as error:
            if line.startswith(HEADER_LINE) and line.endswith(b"\n"):  # what state the steps after it had?
                raise ValueError(f"read_journal: {self._path!r}, line {number}: {error}") from None
            if headers:
                cut_off = len(line) <= MOST_LINE_BYTES and not line.endswith(b"\n")
                self._tell(f"line {number} {'was cut off' if cut_off else f'cannot be read ({error})'}; it is left out")
        return bool(headers)

    def _add_header(self, number: int, header: Header) -> bool:
        headers = self.journal.headers
        if headers and header.run != headers[0].run:
            self._tell(f"line {number} begins another run ({header.run!r:.60}); what follows is left out")
            return False
        self._leave_out_pending()
        self.journal.joint = self.journal.joint or header.balance is not None
        headers.append(header)
        self._segment: list[Entry] = []
        self._add_weight = self.journal.weights.append
        self.journal.segments.append(self._segment)
        self._rows = Rows(header)
        self._terms = ("",) if self.journal.joint else header.adaptive
        return True

    def _add_unusual_step(self, values: Values) -> None:
        seen = read_step(values)
        self._rows.carry(values)
        of_terms = [seen] if self.journal.joint else [seen.of(term) for term in self._terms]
        self._add_step(of_terms, "decided" in values)

    def _add_step(self, seen: Sequence[Any], decided: bool) -> None:
        """Add a step; with the decisions after it the execution is complete."""
        weights, segment = self._rows.weights, self._segment
        if decided and not self._pending:
            for term, of_term in zip(self._terms, seen):  # noqa: B905 - as many: every step comes along here
                segment.append(_new(Entry, ((of_term,), None, term)))
                self._add_weight(weights[term] if term else dict(weights))
            return
        self._pending.append(seen)
        self._pending_weights += [weights[term] if term else dict(weights) for term in self._terms]
        if not decided:
            return
        for number, term in enumerate(self._terms):
            segment.append(Entry(tuple([step[number] for step in self._pending]), None, term))
            self.journal.weights += self._pending_weights[number :: len(self._terms)]
        self._pending, self._pending_weights = [], []

    def _add_event(self, values: Values) -> None:
        """Attach an event to the execution it was decided after, or add it as one asked for by hand."""
        event: Any = JointDecision.from_dict(values) if "old_weights" in values else Decision.from_dict(values)
        term = "" if self.journal.joint else values["term"]
        if self.journal.headers[-1].format == 1:
            event = event._replace(term="")
        segment = self._segment
        if not event.by_hand:
            place = next((i for i in range(len(segment) - 1, -1, -1) if segment[i].term == term), None)
            if place is not None and segment[place].event is None and segment[place].observations:
                segment[place] = segment[place]._replace(event=event)
                return
        segment.append(Entry((), event, term))

    def _leave_out_pending(self) -> None:
        """Drop the steps of an execution that came to no decision, and say so."""
        if self._pending:
            steps = f"the {len(self._pending)} steps up to step {self._pending[-1][0].step}"
            self._tell(f"{steps} have no decision after them; they are left out")
            self._pending, self._pending_weights = [], []

    def _tell(self, problem: str) -> None:
        if len(self.journal.problems) < _TOLD_PROBLEMS:
            self.journal.problems.append(problem)
        else:
            self._untold += 1


class UsualSteps:
    """Reads step lines in the usual layout, as nearly every line is: a fraction of the time a parser of JSON takes.

    Args:
        header: The header before them.
        rows: What carries the weights.
    """

    def __init__(self, header: Header, rows: Rows) -> None:
        number = b"([0-9.e+-]+)"
        if header.format == 1:
            seen, outcome = b'"weight": ' + number + b', "loss": ' + number, rb'"action": [^{}]*'
        else:  # of a fixed term a batch may have nothing to measure
            losses = ((json.dumps(name).encode(), name in header.adaptive) for name in header.terms)
            parts = [re.escape(key) + b": " + number + _NEXT if read else _unread(key) for key, read in losses]
            seen, outcome = rb'"losses": \{' + b"".join(parts) + rb"\}", rb'"decided": \{[^{}]*\}'
        self._fullmatch = re.compile(
            rb'\{"kind": "step", "step": ([0-9]{1,15}), %b, "total_loss": (null|[0-9.e+-]+), "gradient_norm": '
            rb'(null|[0-9.e+-]+), "applied": true(, %b)?\}\n?' % (seen, outcome)
        ).fullmatch
        self._weight_of = header.term if header.format == 1 else None
        self._rows = rows

    def read(self, line: bytes) -> tuple[list[Observation], bool] | None:
        """Return the step as seen of each adaptive term, and whether a decision came after it; None: any other line."""
        if (match := self._fullmatch(line)) is None:
            return None
        number, *losses, total, norm, outcome = match.groups()
        try:
            if self._weight_of is not None:
                if not 0.0 < (weight := float(losses.pop(0))) <= FLOAT32_MAX:
                    return None
                self._rows.weights[self._weight_of] = weight
            step, total = int(number), None if total == b"null" else float(total)
            norm = None if norm == b"null" else float(norm)
            more = (total, norm, *_USUAL)
            return [_new(Observation, (step, float(loss), *more)) for loss in losses], outcome is not None
        except ValueError:  # no number after all
            return None


_USUAL = Observation(0, 0.0)[4:]
_NEXT = rb'(?:, (?=")|(?=\}))'


def _unread(key: bytes) -> bytes:
    """Return a pattern for the loss of a fixed term, if there is one."""
    return b"(?:" + re.escape(key) + rb": -?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?" + _NEXT + b")?"
