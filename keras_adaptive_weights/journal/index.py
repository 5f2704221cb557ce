"""An index over a journal that may be long and still growing: what an overview, a window or a report asks for.

`refresh` reads only the bytes that are new, parses the lines that are not steps, and remembers where the steps are; a
window is answered from the blocks in it, or from its own lines where the blocks would be too coarse. Steps that the
writer has put into no block yet (or never will, as it was killed) are put into blocks here.

A run that was resumed from an earlier checkpoint starts again at an earlier step: what the journal says about later
steps before that is superseded and left out.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.deciding.described_strategy import intents_of, loss_limits_of
from keras_adaptive_weights.journal.blocks import BLOCK_STEPS, RunBlocks
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.lines import MOST_LINE_BYTES, Values, read_line
from keras_adaptive_weights.journal.pieces import PiecedFile
from keras_adaptive_weights.journal.places import is_url
from keras_adaptive_weights.journal.regular_files import open_regular
from keras_adaptive_weights.journal.terms import Rows, block_of, event_of, header_of

_CHUNK_BYTES = MOST_LINE_BYTES
_STEP_LINE = b'{"kind": "step"'
_NO_STEP = re.compile(rb'\n(?!\{"kind": "step")')
_LEAST_STEP_BYTES = 64
_FINGERPRINT_BYTES = 512
_KEPT_RANGES = 128
_TOLD_PROBLEMS = 20
_INTENT = "intent."


class Files(Protocol):
    """Where journals are kept."""

    def size(self, path: str) -> int:
        """Return the size in bytes."""

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""


class LocalFiles:
    """Journals on this machine's own file system.

    They are read directly: through TensorFlow's file layer, the first reading of a long journal took five times as
    long.
    """

    def size(self, path: str) -> int:
        """Return the size in bytes."""
        return Path(path).stat().st_size

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""
        with open_regular(path) as file:
            file.seek(offset)
            return file.read(length)


class StoredFiles:
    """One journal in a store, in pieces or as a whole."""

    def __init__(self) -> None:
        self._files: dict[str, PiecedFile] = {}

    def size(self, path: str) -> int:
        """Return the size in bytes."""
        return self._files.setdefault(path, PiecedFile(path)).size()

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""
        return self._files.setdefault(path, PiecedFile(path)).read(offset, length)


@dataclass(slots=True)
class Span:
    """A run of steps.

    Attributes:
        start: Byte at which its lines begin.
        end: Byte at which they end.
        block: The block that sums them up.
        last: Up to which step it still counts.
        header: Number of the header before it.
    """

    start: int
    end: int
    block: Values
    last: int
    header: int

    @property
    def first(self) -> int:
        """Number of the first step."""
        return int(self.block["first"])


class JournalIndex:
    """What is known so far of one term of a journal. Every method may be called from any thread.

    Args:
        path: The `journal.jsonl` file, or its URL.
        files: How to read it; by default from this machine's file system, or the store that it is in.
        term: Name of the term, adaptive or not. `None`: the first adaptive one of the last header.

    Attributes:
        path: The file.

    The lines are read once for all terms: `of` gives the index of another one.
    """

    def __init__(self, path: str | os.PathLike[str], files: Files | None = None, term: str | None = None) -> None:
        self.path = os.fspath(path)
        self._term = term
        self._scan = _Scan(self.path, files or (StoredFiles() if is_url(self.path) else LocalFiles()))

    def of(self, term: str | None) -> JournalIndex:
        """Return the index of another term over the same scan of the file; `None`: of the first adaptive one.

        Raises:
            ValueError: There is no such term.
        """
        other = copy(self)
        other._term = term  # noqa: SLF001 - of this class
        if self._scan.headers:
            other.term  # noqa: B018 - refuses what is not there
        return other

    def refresh(self) -> bool:
        """Take in what was written since; return whether there was anything new.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is no journal, or its format is newer than this package.
        """
        return self._scan.refresh()

    @property
    def terms(self) -> list[str]:
        """Names of the terms whose weights are or were adaptive, in the order of the last header."""
        return [name for name, adaptive in self._scan.terms.items() if adaptive]

    @property
    def fixed(self) -> dict[str, float]:
        """The weights of the other terms by name, as far as anything of them was ever measured."""
        known = self._scan.headers[-1].terms if self._scan.headers else {}
        measured, terms = self._scan.with_figure("loss"), self._scan.terms.items()
        return {n: known[n].weight for n, ever in terms if not ever and n in known and n in measured}

    @property
    def term(self) -> str:
        """Name of the term; empty as long as there is no header.

        Raises:
            ValueError: There is no such term.
        """
        if not self._scan.headers:
            return ""
        if self._term is not None and self._term not in self._scan.terms:
            raise ValueError(f"{self.path!r} has no term {self._term!r:.60}; there are {list(self._scan.terms)}.")
        return self._scan.headers[-1].term if self._term is None else self._term

    @property
    def together(self) -> bool:
        """Whether it is of no term in particular, in a run of several adaptive weights or of balanced ones."""
        return self._term is None and (len(self.terms) > 1 or self.balance is not None)

    @property
    def balance(self) -> Values | None:
        """The strategy by which the weights are decided on together, as plain values; `None`: each by itself."""
        balance = self._scan.headers[-1].balance if self._scan.headers else None
        return None if balance is None else balance["strategy"]

    @property
    def intent(self) -> float | None:
        """Part of the gradient that the term is to make; `None`: no balance says so."""
        return self._scan.intents.get(self.term)

    @property
    def loss_limit(self) -> float | None:
        """What a balance keeps the term's loss at; `None`: nothing does."""
        return None if self.balance is None else loss_limits_of(self.balance).get(self.term)

    @property
    def headers(self) -> list[Values]:
        """What the headers that know the term say of it."""
        return [header_of(header, self.term) for header in self._scan.headers if self.term in header.terms]

    @property
    def events(self) -> list[Values]:
        """The term's event lines in force, oldest first, each with its `index` in this list."""
        term = self.term
        mine = (found for event in self._scan.events if (found := event_of(event, term)) is not None)
        return [{**event, "index": number} for number, event in enumerate(mine)]

    @property
    def all_events(self) -> list[Values]:
        """The event lines of all terms in force, oldest first."""
        return list(self._scan.events)

    @property
    def spans(self) -> list[Span]:
        """All runs of steps with the term, oldest first, with those that are not yet complete."""
        term = self.term
        known = [span for span in self._scan.spans if term in span.block["terms"]]
        return [Span(span.start, span.end, block_of(span.block, term), span.last, span.header) for span in known]

    def rows(self, span: Span) -> list[Values]:
        """Return what the step lines of a span say of the term; those that cannot be read are left out."""
        rows = self._scan.rows(span)
        return [row[self.term] for row in rows if self.term in row and row[self.term]["step"] <= span.last]

    @property
    def weight(self) -> float:
        """Weight in force after the last line."""
        return self._scan.standing.get(self.term, _NOWHERE).weight

    @property
    def proposed(self) -> float:
        """Weight decided on after the last line: in a shadow run only proposed, else the same."""
        return self._scan.standing.get(self.term, _NOWHERE).proposed

    @property
    def disabled(self) -> bool:
        """Whether adaptation is disabled after the last line."""
        return self._scan.standing.get(self.term, _NOWHERE).disabled

    @property
    def shadow(self) -> bool:
        """Whether the last `fit` was a shadow run."""
        return bool(self._scan.headers) and self._scan.headers[-1].shadow

    @property
    def ended(self) -> bool:
        """Whether the last writer closed the journal in an orderly way."""
        return self._scan.ended

    @property
    def problems(self) -> int:
        """How many lines could not be read."""
        return self._scan.problems

    @property
    def problem_texts(self) -> list[str]:
        """The first 20 of them, one sentence each."""
        return list(self._scan.problem_texts)

    @property
    def superseded(self) -> int:
        """How many events, of whatever term, were superseded by a resume from an earlier step."""
        return self._scan.superseded

    @property
    def generation(self) -> int:
        """Grows when something already told was taken back (the file was replaced, or a run resumed)."""
        return self._scan.generation

    @property
    def size(self) -> int:
        """Bytes taken in so far."""
        return self._scan.position


class _Standing(NamedTuple):
    """How a weight stands after the last line: in force, decided on, and whether adaptation is disabled."""

    weight: float
    proposed: float
    disabled: bool = False


_NOWHERE = _Standing(float("nan"), float("nan"))


class _Scan:
    """The lines of a journal that are no steps, and where the steps are: what all its terms share."""

    def __init__(self, path: str, files: Files) -> None:
        self.path = path
        self._files = files
        self._lock = threading.RLock()
        self.generation = 0
        self.position = 0
        self._foreign = False
        self._forget()

    def refresh(self) -> bool:
        """See `JournalIndex`."""
        with self._lock:
            size = self._files.size(self.path)
            if size < self.position or not self._is_the_same_file():
                self.generation += 1
                self._forget()
            before = self.position
            while size > self.position and not self._foreign:
                data = self._files.read(self.path, self.position, min(_CHUNK_BYTES, size - self.position))
                whole = data.rfind(b"\n") + 1
                if not whole:
                    if len(data) == _CHUNK_BYTES:
                        self._leave_out_the_rest("it is part of a line that is too long")
                    break
                self._take(data[:whole])
            if self.position != before:
                start = max(0, self.position - _FINGERPRINT_BYTES)
                self._fingerprint = self._files.read(self.path, start, self.position - start)
            return self.position != before

    @property
    def terms(self) -> dict[str, bool]:
        """All terms, those of the last header first, and whether their weights were ever adaptive."""
        adaptive = {name for header in self.headers for name in header.adaptive}
        return {name: name in adaptive for header in reversed(self.headers) for name in header.terms}

    @property
    def intents(self) -> Mapping[str, float]:
        """Part of the gradient that terms are to make: as the strategy says or, one of a user's own, its decisions."""
        header = self.headers[-1] if self.headers else None
        if header is None or header.balance is None:
            return {}
        found = intents_of(header.balance["strategy"], header.adaptive, self.with_figure("share"))
        if found is not None:
            return found
        said = [event["evidence"] for event in self.events if not event["term"] and event["step"] > header.step]
        last = said[-1] if said else {}
        return {name[len(_INTENT) :]: value for name, value in last.items() if name.startswith(_INTENT)}

    def with_figure(self, figure: str) -> set[str]:
        """Return the names of the terms that have a figure somewhere."""
        blocks = (span.block["terms"] for span in self.spans)
        return {name for block in blocks for name, of_one in block.items() if figure in of_one.figures}

    @property
    def spans(self) -> list[Span]:
        """All runs of steps, oldest first, with those that are not yet complete."""
        with self._lock:
            self._parse_open_lines()
            unfinished = []
            if self._builder is not None and self._builder.steps:
                unfinished = [self._span(self._open_block_start, self._open_parsed, self._builder.preview())]
            return self._spans + self._provisional + unfinished

    def _span(self, start: int, end: int, block: Values) -> Span:
        return Span(start, end, block, block["last"], len(self.headers) - 1)

    def rows(self, span: Span) -> list[dict[str, Values]]:
        """Return what the step lines of a span say of each term; those that cannot be read are left out."""
        with self._lock:
            return self._read_rows(span.start, span.end, span.header)

    def _step_rows(self, start: int, end: int, number: int) -> list[dict[str, Values]]:
        header = self.headers[number]
        lines = self._files.read(self.path, start, end - start).split(b"\n")
        found = (self._read(line, header) for line in lines if line.startswith(_STEP_LINE))
        split = Rows(header).split
        return [split(row) for row in found if row is not None]

    def _read(self, line: bytes, header: Header, at: int | None = None) -> Values | None:
        """Return what a line holds; where it cannot be read, None, and it is counted if its place is given."""
        try:
            return read_line(line, header)
        except ValueError as error:
            if at is not None:
                self._note_problem(at, error)
            return None

    def _note_problem(self, at: int, problem: object) -> None:
        self.problems += 1
        if len(self.problem_texts) < _TOLD_PROBLEMS:
            self.problem_texts.append(f"the line at byte {at} is left out: {problem}")

    def _is_the_same_file(self) -> bool:
        """Whether what was taken in last is still there: a resumed run cuts its journal and goes on writing."""
        known = self._fingerprint
        return self._files.read(self.path, self.position - len(known), len(known)) == known

    def _forget(self) -> None:
        self._fingerprint = b""
        self.headers: list[Header] = []
        self.events: list[Values] = []
        self.standing: dict[str, _Standing] = {}
        self.problems = self.superseded = self.position = 0
        self.problem_texts: list[str] = []
        self.ended = self._foreign = False
        self._spans: list[Span] = []
        self._read_rows = lru_cache(maxsize=_KEPT_RANGES)(self._step_rows)
        self._begin_open(0, None)

    def _begin_open(self, start: int, builder: RunBlocks | None) -> None:
        """Begin the run of steps that no block sums up yet."""
        self._open_start = self._open_parsed = self._open_block_start = start
        self._provisional: list[Span] = []
        self._builder = builder
        self._damaged = False

    def _take(self, data: bytes) -> None:
        """Take in whole lines."""
        base = self.position
        if base == 0 and not data.startswith(b'{"kind": "header"'):
            raise ValueError(f"{self.path!r} does not begin with the header of a journal.")
        for start in _other_lines(data):
            end = data.index(b"\n", start) + 1
            self.position = base + start
            self._take_line(data[start:end], base + start, base + end)
            if self._foreign:
                return
        self.position = base + len(data)

    def _take_line(self, line: bytes, start: int, end: int) -> None:
        """Take in one line that is no step."""
        try:
            values = read_line(line, self.headers[-1] if self.headers else None)
        except ValueError as error:
            if not self.headers:
                raise ValueError(f"{self.path!r} does not begin with a header that can be read: {error}") from None
            self._note_problem(start, error)
            self._damaged = True
            return
        match values["kind"]:
            case "block":
                self._take_block(values, start, end)
            case "event":
                self._take_event(values)
            case "header" if self.headers and values["run"] != self.headers[0].run:
                self._leave_out_the_rest(f"another run begins there ({values['run']!r:.60})")
            case "header":
                self._take_header(values["header"], end)
            case "end":
                self.ended = True

    def _leave_out_the_rest(self, why: str) -> None:
        self._foreign = True
        self._note_problem(self.position, f"{why}; what follows is left out, too.")

    def _take_block(self, values: Values, start: int, end: int) -> None:
        """Take in a block if it can be one of the steps before it; otherwise they are put into blocks here."""
        before = self._spans[-1].last if self._spans else 0
        fits = values["first"] > before and values["steps"] * _LEAST_STEP_BYTES <= start - self._open_start
        if not fits:
            self._note_problem(start, "block: it does not fit the steps before it.")
        if fits and not self._damaged:
            self._spans.append(self._span(self._open_start, start, values))
        else:  # what was damaged may have been a block, too: the steps of both are before it
            self._spans = self.spans
        terms = self._spans[-1].block["terms"] if self._spans else {}
        phases = {name: block.phases[-1][1] for name, block in terms.items()}
        self._begin_open(end, RunBlocks(self.headers[-1], phases))

    def _take_event(self, values: Values) -> None:
        for term in values.get("new_weights", (values["term"],)):
            of_term = event_of(values, term) or values
            new, disabled = of_term["new_weight"], self.standing.get(term, _NOWHERE).disabled
            if values["action"] in (Action.DISABLE, Action.ENABLE):
                disabled = values["action"] == Action.DISABLE
            self.standing[term] = _Standing(of_term.get("held_weight") or new, new, disabled)
        self.events.append(values)

    def _take_header(self, header: Header, end: int) -> None:
        self.ended = False
        for name, start in header.terms.items():
            state = start.state or {"weight": start.weight, "disabled": False}
            self.standing[name] = _Standing(start.in_force, state["weight"], state["disabled"])
        if self.headers:
            self._spans = self.spans
            self._supersede(header.step)
        self.headers.append(header)
        self._begin_open(end, RunBlocks(header))

    def _supersede(self, step: int) -> None:
        """Leave out what was said about steps after `step`: the run goes on from there."""
        taken_back = any(span.last > step for span in self._spans)
        self._spans = [span for span in self._spans if span.first <= step]
        for span in self._spans:
            span.last = min(span.last, step)
        events = [event for event in self.events if event["step"] <= step]
        self.superseded += len(self.events) - len(events)
        self.generation += taken_back or len(events) < len(self.events)
        self.events = events

    def _parse_open_lines(self) -> None:
        """Put the steps after the last block into blocks of our own."""
        while self._builder is not None and self._open_parsed < self.position:
            length = min(_CHUNK_BYTES, self.position - self._open_parsed)
            data = self._files.read(self.path, self._open_parsed, length)
            data = data[: data.rfind(b"\n") + 1]
            if not data:
                return
            offset = self._open_parsed
            for line in data.splitlines(keepends=True):
                if line.startswith(_STEP_LINE) and (row := self._read(line, self.headers[-1], offset)) is not None:
                    self._add_open_step(self._builder, row, offset + len(line))
                offset += len(line)
            self._open_parsed = offset

    def _add_open_step(self, builder: RunBlocks, row: Values, end: int) -> None:
        builder.add(row)
        if builder.steps >= 2 * BLOCK_STEPS:
            self._provisional.append(self._span(self._open_block_start, end, builder.take()))
            self._open_block_start = end


def _other_lines(data: bytes) -> Iterator[int]:
    """Yield where in `data`, which is of whole lines, those begin that are not steps."""
    if not data.startswith(_STEP_LINE):
        yield 0
    yield from (match.end() for match in _NO_STEP.finditer(data) if match.end() < len(data))
