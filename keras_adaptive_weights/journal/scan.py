"""The lines of a journal that are no steps, and where its steps are: what the indices of all its terms share.

`refresh` reads only the bytes that are new, parses the lines that are not steps, and remembers where the steps are.
Steps that the writer has put into no block yet (or never will, as it was killed) are put into blocks here.

A run that was resumed from an earlier checkpoint starts again at an earlier step: what the journal says about later
steps before that is superseded and left out.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.journal.blocks import BLOCK_STEPS, RunBlocks
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.lines import HEADER_LINE, MOST_LINE_BYTES, STEP_LINE, Values, read_line
from keras_adaptive_weights.journal.pieces import PiecedFile
from keras_adaptive_weights.journal.places import is_url
from keras_adaptive_weights.journal.regular_files import LocalFile
from keras_adaptive_weights.journal.terms import Rows, event_of

_CHUNK_BYTES = MOST_LINE_BYTES
_NO_STEP = re.compile(rb"\n(?!%b)" % re.escape(STEP_LINE))
_LEAST_STEP_BYTES = 64
_FINGERPRINT_BYTES = 512
_KEPT_RANGES = 128
_TOLD_PROBLEMS = 20


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


@dataclass(slots=True)
class _Open:
    """The steps that no block of the file sums up yet, and the blocks that are made of them here.

    Attributes:
        start: Byte at which their lines begin.
        parsed: Byte up to which they were read.
        builder: Collects the steps that are in none of the blocks yet.
        spans: Those that are, as there may be many.
        damaged: Whether a line among them could not be read.
    """

    start: int
    parsed: int
    builder: RunBlocks
    spans: list[Span] = field(default_factory=list)
    damaged: bool = False

    @property
    def begin(self) -> int:
        """Byte at which the lines of the steps begin that are in none of the blocks yet."""
        return self.spans[-1].end if self.spans else self.start


class Standing(NamedTuple):
    """How a weight stands after the last line: in force, decided on, and whether adaptation is disabled."""

    weight: float = float("nan")
    proposed: float = float("nan")
    disabled: bool = False


class Scan:
    """What is known so far of a journal. `refresh`, `spans` and `rows` may be called from any thread.

    Args:
        path: The file, or its URL.

    Attributes:
        headers: All headers.
        events: The event lines in force, oldest first.
        standing: By term, how its weight stands after the last line.
        position: Bytes taken in so far. For the others see `JournalIndex`, which tells of them.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = PiecedFile(path) if is_url(path) else LocalFile(path)
        self._lock = threading.RLock()
        self.generation = 0
        self._forget()

    def _forget(self) -> None:
        self._fingerprint = b""
        self.headers: list[Header] = []
        self.events: list[Values] = []
        self.standing: dict[str, Standing] = {}
        self.problems = self.superseded = self.position = 0
        self.problem_texts: list[str] = []
        self.ended = self._foreign = False
        self._spans: list[Span] = []
        self._open: _Open | None = None
        self._read_rows = lru_cache(maxsize=_KEPT_RANGES)(self._step_rows)

    def refresh(self) -> bool:
        """See `JournalIndex.refresh`."""
        with self._lock:
            size = self._file.size()
            if size < self.position or not self._is_the_same_file():
                self.generation += 1
                self._forget()
            before = self.position
            while size > self.position and not self._foreign:
                data = self._file.read(self.position, min(_CHUNK_BYTES, size - self.position))
                whole = data.rfind(b"\n") + 1
                if not whole:
                    if len(data) == _CHUNK_BYTES:
                        self._leave_out_the_rest("it is part of a line that is too long")
                    break
                self._take(data[:whole])
            if self.position != before:
                start = max(0, self.position - _FINGERPRINT_BYTES)
                self._fingerprint = self._file.read(start, self.position - start)
            return self.position != before

    @property
    def terms(self) -> dict[str, bool]:
        """All terms, those of the last header first, and whether their weights were ever adaptive."""
        adaptive = {name for header in self.headers for name in header.adaptive}
        return {name: name in adaptive for header in reversed(self.headers) for name in header.terms}

    def with_figure(self, figure: str) -> set[str]:
        """Return the names of the terms that have a figure somewhere."""
        blocks = (span.block["terms"] for span in self.spans)
        return {name for block in blocks for name, of_one in block.items() if figure in of_one["figures"]}

    @property
    def spans(self) -> list[Span]:
        """All runs of steps, oldest first, with those that are not yet complete."""
        with self._lock:
            if (run := self._open) is None:
                return []
            self._parse(run)
            unfinished = [self._span(run.begin, run.parsed, run.builder.preview())] if run.builder.steps else []
            return self._spans + run.spans + unfinished

    def _span(self, start: int, end: int, block: Values) -> Span:
        return Span(start, end, block, block["last"], len(self.headers) - 1)

    def rows(self, span: Span) -> list[dict[str, Values]]:
        """Return what the step lines of a span say of each term; those that cannot be read are left out."""
        with self._lock:
            return self._read_rows(span.start, span.end, span.header)

    def _step_rows(self, start: int, end: int, number: int) -> list[dict[str, Values]]:
        header = self.headers[number]
        lines = self._file.read(start, end - start).split(b"\n")
        found = (self._read(line, header) for line in lines if line.startswith(STEP_LINE))
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
        return self._file.read(self.position - len(known), len(known)) == known

    def _take(self, data: bytes) -> None:
        """Take in whole lines."""
        base = self.position
        if base == 0 and not data.startswith(HEADER_LINE):
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
            if self._open is not None:
                self._open.damaged = True
            return
        if not self.headers and values["kind"] != "header":  # of two kinds in a line the last one counts
            raise ValueError(f"{self.path!r} does not begin with the header of a journal.")
        match values["kind"]:
            case "block" if self._open is not None:
                self._take_block(self._open, values, start, end)
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

    def _take_block(self, run: _Open, values: Values, start: int, end: int) -> None:
        """Take in a block if it can be one of the steps before it; otherwise they are put into blocks here."""
        before = self._spans[-1].last if self._spans else 0
        fits = values["first"] > before and values["steps"] * _LEAST_STEP_BYTES <= start - run.start
        if not fits:
            self._note_problem(start, "block: it does not fit the steps before it.")
        if fits and not run.damaged:
            self._spans.append(self._span(run.start, start, values))
        else:  # what was damaged may have been a block, too: the steps of both are before it
            self._spans = self.spans
        terms = self._spans[-1].block["terms"] if self._spans else {}
        phases = {name: block["phases"][-1][1] for name, block in terms.items()}
        self._open = _Open(end, end, RunBlocks(self.headers[-1], phases))

    def _take_event(self, values: Values) -> None:
        for term in values.get("new_weights", (values["term"],)):
            of_term = event_of(values, term) or values
            new, disabled = of_term["new_weight"], self.standing.get(term, Standing()).disabled
            if values["action"] in (Action.DISABLE, Action.ENABLE):
                disabled = values["action"] == Action.DISABLE
            self.standing[term] = Standing(of_term.get("held_weight") or new, new, disabled)
        self.events.append(values)

    def _take_header(self, header: Header, end: int) -> None:
        self.ended = False
        for name, start in header.terms.items():
            state = start.state or {"weight": start.weight, "disabled": False}
            self.standing[name] = Standing(start.in_force, state["weight"], state["disabled"])
        if self.headers:
            self._spans = self.spans
            self._supersede(header.step)
        self.headers.append(header)
        self._open = _Open(end, end, RunBlocks(header))

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

    def _parse(self, run: _Open) -> None:
        """Put the steps after the last block into blocks of our own."""
        while run.parsed < self.position:
            data = self._file.read(run.parsed, min(_CHUNK_BYTES, self.position - run.parsed))
            data = data[: data.rfind(b"\n") + 1]
            if not data:
                return
            for line in data.splitlines(keepends=True):
                step = self._read(line, self.headers[-1], run.parsed) if line.startswith(STEP_LINE) else None
                run.parsed += len(line)
                if step is not None:
                    run.builder.add(step)
                if run.builder.steps >= 2 * BLOCK_STEPS:
                    run.spans.append(self._span(run.begin, run.parsed, run.builder.take()))


def _other_lines(data: bytes) -> Iterator[int]:
    """Yield where in `data`, which is of whole lines, those begin that are not steps."""
    if not data.startswith(STEP_LINE):
        yield 0
    yield from (match.end() for match in _NO_STEP.finditer(data) if match.end() < len(data))
