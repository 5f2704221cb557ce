"""Reading a journal whole: for a replay, where every observation counts. For an overview see `index`."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.deciding.joint import JointDecision
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.lines import (
    HEADER_LINE,
    MOST_LINE_BYTES,
    Values,
    read_decision,
    read_line,
    read_step,
)
from keras_adaptive_weights.journal.regular_files import chunks_of, open_regular
from keras_adaptive_weights.journal.terms import Rows

_TOLD_PROBLEMS = 100


_NUMBER = "([0-9.e+-]+)"
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
    with open_regular(path) as file:
        return _Reading(os.fspath(path), joint=joint).take(chunks_of(file, MOST_LINE_BYTES))


class _Reading:
    """Puts lines together to a journal: steps to executions, of each of which the last step has the decisions."""

    def __init__(self, path: str, *, joint: bool) -> None:
        self.journal = Journal(joint=joint)
        self._path = path
        self._line = 0
        self._usual: Callable[[str, int], re.Match[str] | None] | None = None
        self._pending: list[Sequence[Any]] = []
        self._pending_weights: list[Any] = []
        self._terms: tuple[str, ...] = ()
        self._untold = 0

    def take(self, chunks: Iterable[bytes]) -> Journal:
        """Take in all lines, many at a time."""
        for data in chunks:
            if not self._take_lines(data):
                break
        if not self.journal.headers:
            raise ValueError(f"read_journal: {self._path!r} does not begin with the header of a journal.")
        self._leave_out_pending()
        if self._untold:
            self.journal.problems.append(f"and {self._untold} more")
        return self.journal

    def _take_lines(self, data: bytes) -> bool:
        """Take in whole lines; return whether what follows belongs to the same run."""
        text, at = data.decode("latin-1"), 0  # a letter for every byte, and quicker to make numbers of
        while (at := self._take_usual_steps(text, at)) < len(data):
            end = data.find(b"\n", at) + 1 or len(data)
            self._line += 1
            if not self._take_line(data[at:end]):
                return False
            at = end
        return True

    def _take_usual_steps(self, text: str, at: int) -> int:
        """Take in steps as nearly all are, in a fraction of the time a parser takes; return where others begin."""
        if self._usual is None:
            return at
        usual, terms, append, alone = self._usual, self._terms, self._segment.append, 0
        applied, scaling, dampening, what, empty = Observation(0, 0.0)[4:]
        weight = str(self._rows.weights[terms[0]]) if self.journal.headers[-1].format == 1 else None
        with contextlib.suppress(ValueError):  # what is no number after all
            while (found := usual(text, at)) is not None:
                number, *losses, total, norm, outcome = found.groups()
                if weight is not None and losses.pop(0) != weight:
                    break
                step, values = int(number), [*map(float, losses)]
                total, norm = None if total == "null" else float(total), None if norm == "null" else float(norm)
                if outcome is not None and not self._pending:  # an execution by itself
                    for term, loss in zip(terms, values):  # noqa: B905 - as many: every step comes along here
                        seen = step, loss, total, norm, applied, scaling, dampening, what, empty
                        append(_new(Entry, ((_new(Observation, seen),), None, term)))
                    alone += 1
                else:
                    self._add_weights(alone)
                    self._add_step([Observation(step, loss, total, norm) for loss in values], outcome is not None)
                    alone = 0
                self._line += 1
                at = found.end()
        self._add_weights(alone)  # no usual step says that one has changed
        return at

    def _add_weights(self, steps: int) -> None:
        self.journal.weights += [self._rows.weights[term] for term in self._terms] * steps

    def _take_line(self, line: bytes) -> bool:
        """Take in one line; return whether what follows belongs to the same run."""
        headers = self.journal.headers
        try:
            values = read_line(line, headers[-1] if headers else None)
            if values["kind"] == "header":
                return self._add_header(values["header"])
            if not headers:
                return False
            if values["kind"] == "step":
                self._add_unusual_step(values)
            elif values["kind"] == "event":
                self._add_event(values)
        except ValueError as error:
            if line.startswith(HEADER_LINE) and line.endswith(b"\n"):  # what state the steps after it had?
                raise ValueError(f"read_journal: {self._path!r}, line {self._line}: {error}") from None
            if headers:
                cut_off = len(line) <= MOST_LINE_BYTES and not line.endswith(b"\n")
                what = "was cut off" if cut_off else f"cannot be read ({error})"
                self._tell(f"line {self._line} {what}; it is left out")
        return bool(headers)

    def _add_header(self, header: Header) -> bool:
        headers = self.journal.headers
        if headers and header.run != headers[0].run:
            self._tell(f"line {self._line} begins another run ({header.run!r:.60}); what follows is left out")
            return False
        self._leave_out_pending()
        self.journal.joint = self.journal.joint or header.balance is not None
        headers.append(header)
        self._segment: list[Entry] = []
        self.journal.segments.append(self._segment)
        self._rows = Rows(header)
        self._terms = ("",) if self.journal.joint else header.adaptive
        self._usual = None if self.journal.joint else usual_step(header)
        return True

    def _add_unusual_step(self, values: Values) -> None:
        seen = read_step(values)
        self._rows.carry(values)
        of_terms = [seen] if self.journal.joint else [seen.of(term) for term in self._terms]
        self._add_step(of_terms, "decided" in values)

    def _add_step(self, seen: Sequence[Any], decided: bool) -> None:
        """Add a step; with the decisions after it the execution is complete."""
        weights, segment = self._rows.weights, self._segment
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
        event: Any = read_decision(values)
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


def usual_step(header: Header) -> Callable[[str, int], re.Match[str] | None]:
    """Return what matches a step line after a header in the usual layout, from a position on, up to its end.

    Its groups are the step, in format 1 its weight, the loss of each adaptive term, total loss, gradient norm, and
    what was decided, if anything was. Of a fixed term a batch may have nothing to measure.
    """
    if header.format == 1:
        seen, outcome = f'"weight": {_NUMBER}, "loss": {_NUMBER}', r'"action": [^{}\n]*'
    else:
        named = ((re.escape(json.dumps(name)), name in header.adaptive) for name in header.terms)
        fixed, after = r"-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?", r'(?:, (?=")|(?=\}))'
        losses = [f"{key}: {_NUMBER}{after}" if read else f"(?:{key}: {fixed}{after})?" for key, read in named]
        seen = rf'"losses": \{{{"".join(losses)}\}}'
        outcome = r'"decided": \{[^}]*\}'  # no line that another runs into goes on with a second brace
    return re.compile(
        rf'\{{"kind": "step", "step": ([0-9]{{1,15}}), {seen}, "total_loss": (null|{_NUMBER[1:]}, '
        rf'"gradient_norm": (null|{_NUMBER[1:]}, "applied": true(, {outcome})?\}}(?:\n|\Z)'
    ).match
