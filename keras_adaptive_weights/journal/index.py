"""An index over a journal that may be long and still growing: what an overview, a window or a report asks for.

`refresh` reads only the bytes that are new, parses the lines that are not steps, and remembers where the steps are; a
window is answered from the blocks in it, or from its own lines where the blocks would be too coarse. Steps that the
writer has put into no block yet (or never will, as it was killed) are put into blocks here.

A run that was resumed from an earlier checkpoint starts again at an earlier step: what the journal says about later
steps before that is superseded and left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.journal.blocks import BLOCK_STEPS, BlockBuilder
from keras_adaptive_weights.journal.chain import lines_by_chain, other_lines
from keras_adaptive_weights.journal.lines import FORMAT
from keras_adaptive_weights.journal.regular_files import open_regular

_CHUNK_BYTES = 1 << 22
_STEP_LINE = b'{"kind": "step"'
_LONG_BYTES = 1 << 22
_FINGERPRINT_BYTES = 512
_KEPT_RANGES = 128
Values = dict[str, Any]


class Files(Protocol):
    """Where journals are kept."""

    def size(self, path: str) -> int:
        """Return the size in bytes."""

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""

    def many_small_reads(self, path: str) -> bool:
        """Return whether thousands of small reads are cheaper than one of hundreds of megabytes."""


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

    def many_small_reads(self, path: str) -> bool:
        """Return True."""
        del path
        return True


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
            if before == 0 and size > _LONG_BYTES and self._files.many_small_reads(self.path):
                self._take_by_chain(size)
            while size > self._position:
                data = self._files.read(self.path, self._position, min(_CHUNK_BYTES, size - self._position))
                whole = data.rfind(b"\n") + 1
                if not whole:
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
        """Return the step lines of a span, as dictionaries."""
        key = (span.start, span.end)
        with self._lock:
            rows = self._ranges.get(key)
            if rows is None:
                rows = _step_rows(self._files.read(self.path, span.start, span.end - span.start))
                self._ranges[key] = rows
                while len(self._ranges) > _KEPT_RANGES:
                    self._ranges.popitem(last=False)
            self._ranges.move_to_end(key)
        return rows if span.last >= span.block["last"] else [row for row in rows if row["step"] <= span.last]

    def _is_the_same_file(self) -> bool:
        """Whether what was taken in last is still there: a resumed run cuts its journal and goes on writing."""
        known = self._fingerprint
        return self._files.read(self.path, self._position - len(known), len(known)) == known

    def _forget(self) -> None:
        self._fingerprint = b""
        self.headers: list[Values] = []
        self.events: list[Values] = []
        self.problems = self.superseded = 0
        self.weight = self.proposed = float("nan")
        self.shadow = self.disabled = self.ended = False
        self._position = 0
        self._spans: list[Span] = []
        self._ranges: OrderedDict[tuple[int, int], list[Values]] = OrderedDict()
        self._begin_open(0)
        self._builder = BlockBuilder()

    def _begin_open(self, start: int) -> None:
        """Begin the run of steps that no block sums up yet."""
        self._open_start = self._open_parsed = self._open_block_start = start
        self._provisional: list[Span] = []

    def _take(self, data: bytes) -> None:
        """Take in whole lines."""
        base = self._position
        if base == 0 and not data.startswith(b'{"kind": "header"'):
            raise ValueError(f"{self.path!r} does not begin with the header of a journal.")
        for start in other_lines(data):
            end = data.index(b"\n", start) + 1
            self._position = base + start
            self._take_line(data[start:end], base + start, base + end)
        self._position = base + len(data)

    def _take_by_chain(self, size: int) -> None:
        """Take in a long journal up to its last block, without reading the steps."""
        lines = lines_by_chain(self._files, self.path, size)
        if not lines or not lines[0][1].startswith(b'{"kind": "header"') or not lines[-1][1].endswith(b"\n"):
            return
        for start, line in lines:
            self._position = start
            self._take_line(line, start, start + len(line))
        self._position = lines[-1][0] + len(lines[-1][1])

    def _take_line(self, line: bytes, start: int, end: int) -> None:
        """Take in one line that is no step."""
        try:
            values = json.loads(line)
            kind = values["kind"]
            if kind == "block":
                self._spans.append(Span(self._open_start, start, values, int(values["last"])))
                self._builder = BlockBuilder(phase=values["phases"][-1][1])
                self._begin_open(end)
            elif kind == "event":
                self._take_event(values)
            elif kind == "header":
                self._take_header(values, start, end)
            elif kind == "end":
                self.ended = True
        except (ValueError, KeyError, TypeError, IndexError):
            if not self.headers:
                raise ValueError(f"{self.path!r} does not begin with the header of a journal.") from None
            self.problems += 1

    def _take_event(self, values: Values) -> None:
        self.proposed = float(values["new_weight"])
        self.weight = float(values.get("held_weight", self.proposed))
        if values["action"] in (Action.DISABLE, Action.ENABLE):
            self.disabled = values["action"] == Action.DISABLE
        values["index"] = len(self.events)
        self.events.append(values)

    def _take_header(self, values: Values, start: int, end: int) -> None:
        if values["format"] > FORMAT:
            raise ValueError(f"{self.path!r} has format {values['format']}, this package reads up to {FORMAT}.")
        state = values["state"]
        held = state.get("held_weight")
        self.shadow, self.disabled, self.ended = held is not None, bool(state["disabled"]), False
        self.proposed = float(state["weight"])
        self.weight = self.proposed if held is None else float(held)
        if self.headers:
            self._position = start
            self._spans = self.spans
            self._supersede(int(state["step"]))
        self.headers.append(values)
        self._builder = BlockBuilder()
        self._begin_open(end)

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
                offset += len(line)
                if line.startswith(_STEP_LINE):
                    self._add_open_step(line, offset)
            self._open_parsed = offset

    def _add_open_step(self, line: bytes, end: int) -> None:
        rows = _step_rows(line)
        self.problems += not rows
        for row in rows:
            self._builder.add(row)
        if self._builder.steps >= 2 * BLOCK_STEPS:
            block = self._builder.take()
            self._provisional.append(Span(self._open_block_start, end, block, block["last"]))
            self._open_block_start = end


def _step_rows(data: bytes) -> list[Values]:
    """Return the step lines within `data`, as dictionaries; lines that cannot be read are left out."""
    lines = [line for line in data.split(b"\n") if line.startswith(_STEP_LINE)]
    try:
        return list(json.loads(b"[" + b",".join(lines) + b"]"))
    except ValueError:
        pass
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows
