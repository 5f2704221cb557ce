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
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.journal.blocks import BLOCK_STEPS, BlockBuilder
from keras_adaptive_weights.journal.lines import MOST_LINE_BYTES, Values, read_line
from keras_adaptive_weights.journal.regular_files import open_regular

_CHUNK_BYTES = MOST_LINE_BYTES
_STEP_LINE = b'{"kind": "step"'
_NO_STEP = re.compile(rb'\n(?!\{"kind": "step")')
_LEAST_STEP_BYTES = 64
_FINGERPRINT_BYTES = 512
_KEPT_RANGES = 128
_TOLD_PROBLEMS = 20


class Files(Protocol):
    """Where journals are kept."""

    def size(self, path: str) -> int:
        """Return the size in bytes."""

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""


class LocalFiles:
    """Journals on this machine's own file system."""

    def size(self, path: str) -> int:
        """Return the size in bytes."""
        return Path(path).stat().st_size

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""
        with open_regular(path) as file:
            file.seek(offset)
            return file.read(length)


@dataclass(slots=True)
class Span:
    """A run of steps: where its lines are, the block that sums them up, and up to which step it still counts."""

    start: int
    end: int
    block: Values
    last: int

    @property
    def first(self) -> int:
        """Number of the first step."""
        return int(self.block["first"])


class JournalIndex:
    """What is known of one journal so far. Every method may be called from any thread.

    Args:
        path: The `journal.jsonl` file.
        files: How to read it; by default from this machine's file system.

    Attributes:
        headers: The header lines, as dictionaries.
        events: The event lines in force, oldest first.
        problems: How many lines could not be read.
        problem_texts: The first 20 of them, one sentence each.
        superseded: How many events were superseded by a resume from an earlier step.
        generation: Grows when something already told was taken back (the file was replaced, or a run resumed).
        weight: Weight in force after the last line.
        proposed: Weight decided on after the last line: in a shadow run only proposed, else the same.
        shadow: Whether the last `fit` was a shadow run.
        disabled: Whether adaptation is disabled after the last line.
        ended: Whether the last writer closed the journal in an orderly way.
    """

    def __init__(self, path: str | os.PathLike[str], files: Files | None = None) -> None:
        self.path = os.fspath(path)
        self._files = files or LocalFiles()
        self._lock = threading.RLock()
        self.generation = 0
        self._position = 0
        self._foreign = False
        self._forget()

    def refresh(self) -> bool:
        """Take in what was written since; return whether there was anything new.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file is no journal, or its format is newer than this package.
        """
        with self._lock:
            size = self._files.size(self.path)
            if size < self._position or not self._is_the_same_file():
                self.generation += 1
                self._forget()
            before = self._position
            while size > self._position and not self._foreign:
                data = self._files.read(self.path, self._position, min(_CHUNK_BYTES, size - self._position))
                whole = data.rfind(b"\n") + 1
                if not whole:
                    if len(data) == _CHUNK_BYTES:
                        self._leave_out_the_rest("it is part of a line that is too long")
                    break
                self._take(data[:whole])
            if self._position != before:
                start = max(0, self._position - _FINGERPRINT_BYTES)
                self._fingerprint = self._files.read(self.path, start, self._position - start)
            return self._position != before

    @property
    def size(self) -> int:
        """Bytes taken in so far."""
        return self._position

    @property
    def spans(self) -> list[Span]:
        """All runs of steps, oldest first, with those that are not yet complete."""
        with self._lock:
            self._parse_open_lines()
            unfinished = []
            if self._builder.steps:
                block = self._builder.preview()
                unfinished = [Span(self._open_block_start, self._open_parsed, block, block["last"])]
            return self._spans + self._provisional + unfinished

    def rows(self, span: Span) -> list[Values]:
        """Return the step lines of a span, as dictionaries; those that cannot be read are left out."""
        with self._lock:
            rows = self._read_rows(span.start, span.end)
        return rows if span.last >= span.block["last"] else [row for row in rows if row["step"] <= span.last]

    def _step_rows(self, start: int, end: int) -> list[Values]:
        lines = self._files.read(self.path, start, end - start).split(b"\n")
        return [row for line in lines if line.startswith(_STEP_LINE) and (row := self._read(line)) is not None]

    def _read(self, line: bytes, at: int | None = None) -> Values | None:
        """Return what a line holds; where it cannot be read, None, and it is counted if its place is given."""
        try:
            return read_line(line)
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
        return self._files.read(self.path, self._position - len(known), len(known)) == known

    def _forget(self) -> None:
        self._fingerprint = b""
        self.headers: list[Values] = []
        self.events: list[Values] = []
        self.problems = self.superseded = self._position = 0
        self.problem_texts: list[str] = []
        self.weight = self.proposed = float("nan")
        self.shadow = self.disabled = self.ended = self._foreign = False
        self._spans: list[Span] = []
        self._read_rows = lru_cache(maxsize=_KEPT_RANGES)(self._step_rows)
        self._begin_open(0, BlockBuilder())

    def _begin_open(self, start: int, builder: BlockBuilder) -> None:
        """Begin the run of steps that no block sums up yet."""
        self._open_start = self._open_parsed = self._open_block_start = start
        self._provisional: list[Span] = []
        self._builder = builder
        self._damaged = False

    def _take(self, data: bytes) -> None:
        """Take in whole lines."""
        base = self._position
        if base == 0 and not data.startswith(b'{"kind": "header"'):
            raise ValueError(f"{self.path!r} does not begin with the header of a journal.")
        for start in _other_lines(data):
            end = data.index(b"\n", start) + 1
            self._position = base + start
            self._take_line(data[start:end], base + start, base + end)
            if self._foreign:
                return
        self._position = base + len(data)

    def _take_line(self, line: bytes, start: int, end: int) -> None:
        """Take in one line that is no step."""
        try:
            values = read_line(line)
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
            case "header" if self.headers and values["run"] != self.headers[0]["run"]:
                self._leave_out_the_rest(f"another run begins there ({values['run']!r:.60})")
            case "header":
                self._take_header(values, end)
            case "end":
                self.ended = True

    def _leave_out_the_rest(self, why: str) -> None:
        self._foreign = True
        self._note_problem(self._position, f"{why}; what follows is left out, too.")

    def _take_block(self, values: Values, start: int, end: int) -> None:
        """Take in a block if it can be one of the steps before it; otherwise they are put into blocks here."""
        before = self._spans[-1].last if self._spans else 0
        fits = values["first"] > before and values["steps"] * _LEAST_STEP_BYTES <= start - self._open_start
        if not fits:
            self._note_problem(start, "block: it does not fit the steps before it.")
        if fits and not self._damaged:
            self._spans.append(Span(self._open_start, start, values, values["last"]))
        else:  # what was damaged may have been a block, too: the steps of both are before it
            self._spans = self.spans
        phase = self._spans[-1].block["phases"][-1][1] if self._spans else ""
        self._begin_open(end, BlockBuilder(phase))

    def _take_event(self, values: Values) -> None:
        self.proposed = values["new_weight"]
        self.weight = values.get("held_weight", self.proposed)
        if values["action"] in (Action.DISABLE, Action.ENABLE):
            self.disabled = values["action"] == Action.DISABLE
        values["index"] = len(self.events)
        self.events.append(values)

    def _take_header(self, values: Values, end: int) -> None:
        state = values["state"]
        held = state["held_weight"]
        self.shadow, self.disabled, self.ended = held is not None, state["disabled"], False
        self.proposed = state["weight"]
        self.weight = self.proposed if held is None else held
        if self.headers:
            self._spans = self.spans
            self._supersede(state["step"])
        self.headers.append(values)
        self._begin_open(end, BlockBuilder())

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
        while self._open_parsed < self._position:
            length = min(_CHUNK_BYTES, self._position - self._open_parsed)
            data = self._files.read(self.path, self._open_parsed, length)
            data = data[: data.rfind(b"\n") + 1]
            if not data:
                return
            offset = self._open_parsed
            for line in data.splitlines(keepends=True):
                if line.startswith(_STEP_LINE) and (row := self._read(line, offset)) is not None:
                    self._add_open_step(row, offset + len(line))
                offset += len(line)
            self._open_parsed = offset

    def _add_open_step(self, row: Values, end: int) -> None:
        self._builder.add(row)
        if self._builder.steps >= 2 * BLOCK_STEPS:
            block = self._builder.take()
            self._provisional.append(Span(self._open_block_start, end, block, block["last"]))
            self._open_block_start = end


def _other_lines(data: bytes) -> Iterator[int]:
    """Yield where in `data`, which is of whole lines, those begin that are not steps."""
    if not data.startswith(_STEP_LINE):
        yield 0
    yield from (match.end() for match in _NO_STEP.finditer(data) if match.end() < len(data))
