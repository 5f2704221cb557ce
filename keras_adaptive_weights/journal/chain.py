"""The quick way through a long journal: from block to block, backwards, without reading the steps between.

A block says how many bytes the lines it sums up take (`bytes`) and which of them are events (`events`, pairs of offset
and length), so each leads to the one before it. Every link is checked; where one does not hold (a writer that was
killed, a full disk), the stretch up to the block or header before it is searched instead.
"""

from __future__ import annotations

import json
from typing import Protocol

_NEEDLES = (b'\n{"kind": "h', b'\n{"kind": "e', b'\n{"kind": "b')
_ENDS = (b'\n{"kind": "b', b'\n{"kind": "h')
_LINKS = (b'{"kind": "b', b'{"kind": "h')
_STEP = 1 << 20
_LINE = 1 << 12
Lines = list[tuple[int, bytes]]


class _Files(Protocol):
    def read(self, path: str, offset: int, length: int) -> bytes: ...


def other_lines(data: bytes) -> list[int]:
    """Return where in `data`, which begins with a line, the lines begin that are not steps."""
    starts = [] if data.startswith(b'{"kind": "step"') else [0]
    for needle in _NEEDLES:
        found = data.find(needle)
        while found >= 0:
            starts.append(found + 1)
            found = data.find(needle, found + 1)
    return sorted(set(starts))


def lines_by_chain(files: _Files, path: str, size: int) -> Lines:
    """Return the lines that are not steps, with their positions, oldest first, up to the last block; none: no block.

    Args:
        files: How to read.
        path: The journal.
        size: Bytes of it to look at.
    """
    found: list[Lines] = []
    at = _last_link(files, path, size)
    while at is not None:
        line = _line_at(files, path, at)
        found.append([(at, line)])
        if at == 0:
            break
        events, before = _follow(files, path, at, line)
        if before is None:
            before = _last_link(files, path, at)
            if before is not None:
                events = _searched(files, path, before, at)
        found.append(events)
        at = before
    found.reverse()
    return [line for lines in found for line in lines]


def _follow(files: _Files, path: str, at: int, line: bytes) -> tuple[Lines, int | None]:
    """Return the events of a block and where the block or header before it begins; None where a link does not hold."""
    try:
        values = json.loads(line)
        if values["kind"] != "block":
            return [], None
        begin = at - int(values["bytes"])
        spots = [(begin + int(offset), int(length)) for offset, length in values["events"]]
    except (ValueError, KeyError, TypeError):
        return [], None
    before = _line_before(files, path, begin) if 0 < begin <= at else None
    if before is None:
        return [], None
    events = [(spot, files.read(path, spot, length)) for spot, length in spots]
    if not all(event.startswith(b'{"kind": "event"') and event.endswith(b"}\n") for _, event in events):
        return [], None
    return events, before


def _line_before(files: _Files, path: str, end: int) -> int | None:
    """Return where the line begins that ends at `end`, if it is a block or a header."""
    length = _LINE
    while length <= _STEP:
        start = max(0, end - length)
        data = files.read(path, start, end - start)
        newline = data.rfind(b"\n", 0, len(data) - 1)
        if data.endswith(b"\n") and (newline >= 0 or start == 0):
            return start + newline + 1 if data.startswith(_LINKS, newline + 1) else None
        length *= 8
    return None


def _last_link(files: _Files, path: str, end: int) -> int | None:
    """Return where the last block or header before `end` begins."""
    while end > 0:
        start = max(0, end - _STEP)
        data = files.read(path, start, end - start)
        found = max(data.rfind(needle) for needle in _ENDS)
        if found >= 0:
            return start + found + 1
        if start == 0:
            return 0 if data.startswith(_LINKS) else None
        end = start + len(_ENDS[0])
    return None


def _searched(files: _Files, path: str, before: int, at: int) -> Lines:
    """Return the lines that are not steps between the line that begins at `before` and the one at `at`."""
    begin = before + len(_line_at(files, path, before))
    data = files.read(path, begin, at - begin)
    if not data:
        return []
    return [(begin + start, data[start : data.find(b"\n", start) + 1]) for start in other_lines(data)]


def _line_at(files: _Files, path: str, at: int) -> bytes:
    length = _LINE
    while True:
        data = files.read(path, at, length)
        newline = data.find(b"\n")
        if newline >= 0 or len(data) < length:
            return data[: newline + 1] if newline >= 0 else data
        length *= 8
