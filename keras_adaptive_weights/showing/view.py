"""What a picture of a journal needs: series of bounded length, bands, reasons and skipped steps within a window."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.deciding.shares import KEPT
from keras_adaptive_weights.journal.blocks import FIGURES, BlockBuilder
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.lines import Values
from keras_adaptive_weights.journal.scan import Span

_COARSEST = 8
_FIRST_LOSSES = 50
CHANGES = (Action.INCREASE, Action.DECREASE, Action.BALANCE, Action.CALIBRATE)
"""Actions after which a trial begins."""
_PHASE_EVENTS = (*CHANGES, Action.ROLLBACK, Action.DISABLE, Action.ENABLE, Action.RESET)


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of steps in one phase: "warmup", "trial", "cooling" or "disabled"; both ends belong to it."""

    kind: str
    first: int
    last: int


@dataclass(slots=True)
class View:
    """A window of a journal.

    Attributes:
        first: First step of the window that the journal has.
        last: Last step of the window that the journal has.
        steps: Number of steps in the window.
        buckets: Blocks (see `blocks`) of equal shares of the steps, oldest first; of one step each where
            they are few enough.
        reasons: How often each reason of a HOLD was given.
        bands: Phases of the controller.
        skipped: Skipped steps: step, what was non-finite or None, whether it was routine loss scaling.
        dampened: Steps whose total loss was scaled down: step and factor.
    """

    first: int = 0
    last: int = 0
    steps: int = 0
    buckets: list[Values] = field(default_factory=list)
    reasons: dict[str, int] = field(default_factory=dict)
    bands: list[Band] = field(default_factory=list)
    skipped: list[list[Any]] = field(default_factory=list)
    dampened: list[list[Any]] = field(default_factory=list)

    def column(self, figure: str, which: str = "last") -> list[float]:
        """Return one figure of all buckets: its "least", "greatest" or "last" value; NaN where it has none."""
        position = ("least", "greatest", "last").index(which)
        return [
            bucket["figures"][figure][position] if figure in bucket["figures"] else math.nan for bucket in self.buckets
        ]


def view(index: JournalIndex, first: int | None = None, last: int | None = None, points: int = 1000) -> View:
    """Return a window of a journal in at most `points` buckets; its events, skipped and dampened steps are all in it.

    Args:
        index: A refreshed index.
        first: First step; by default the journal's.
        last: Last step; by default the journal's.
        points: Largest number of buckets.
    """
    low = -math.inf if first is None else first
    high = math.inf if last is None else last
    spans = [span for span in index.spans if span.first <= high and span.last >= low]
    steps = sum(span.block["steps"] for span in spans)
    if len(spans) >= max(1, points // _COARSEST) and steps > points:
        blocks = list(_edge_exact(index, spans, low, high))
    else:
        blocks = list(_of_rows(index, spans, low, high, math.ceil(steps / points)))
    if not blocks:
        return View()
    size = math.ceil(len(blocks) / points)
    return View(
        first=blocks[0]["first"],
        last=blocks[-1]["last"],
        steps=sum(block["steps"] for block in blocks),
        buckets=[_merged(blocks[i : i + size]) for i in range(0, len(blocks), size)],
        reasons=_total_reasons(blocks),
        bands=_bands(index, blocks),
        skipped=[skip for block in blocks for skip in block["skipped"]],
        dampened=[step for block in blocks for step in block["dampened"]],
    )


def last_header(index: JournalIndex) -> Values:
    """Return the last header that says how the term's weight is decided on; of a fixed term, the last that knows it."""
    headers = index.headers
    return next((header for header in reversed(headers) if "config" in header), headers[-1])


def first_average(index: JournalIndex) -> float:
    """Return the mean of the term's first 50 finite losses: what others of other sizes are compared by. NaN: none."""
    rows = (row for span in index.spans for row in index.rows(span))
    finite = (float(row["loss"]) for row in rows if math.isfinite(row.get("loss", math.nan)))
    first = list(itertools.islice(finite, _FIRST_LOSSES))
    return math.fsum(first) / len(first) if first else math.nan


def parts_of_the_gradient(index: JournalIndex) -> dict[str, float]:
    """Return the part that each term makes under the weights in force; of those whose norms are measured.

    A term's norm is, as for a balance, the geometric mean of its last 20 ones.
    """
    if index.balance is None:
        return {}
    each = {name: index.of(name) for name in [*index.terms, *index.fixed]}
    norms = {name: _last_norms(one) for name, one in each.items()}
    parts = {name: each[name].weight * statistics.geometric_mean(found) for name, found in norms.items() if found}
    total = sum(parts.values())
    return {name: part / total for name, part in parts.items()} if 0.0 < total < math.inf else {}


def _last_norms(index: JournalIndex) -> list[float]:
    found: list[float] = []
    for span in reversed(index.spans):
        if "term_norm" in span.block["figures"]:
            rows = (row.get("term_norm", math.nan) for row in reversed(index.rows(span)))
            found += [float(norm) for norm in rows if 0.0 < norm < math.inf]
        if len(found) >= KEPT:
            break
    return found[:KEPT]


def _edge_exact(index: JournalIndex, spans: Sequence[Span], low: float, high: float) -> Iterable[Values]:
    """Return the spans' blocks; those that the window (or a resume) cuts are made anew of the steps inside."""
    for span in spans:
        if span.first >= low and span.block["last"] <= min(high, span.last):
            yield span.block
        else:
            yield from _of_rows(index, [span], low, high, span.block["steps"])


def _of_rows(index: JournalIndex, spans: Sequence[Span], low: float, high: float, size: int) -> Iterable[Values]:
    """Return a block for every `size` steps of the spans within the window."""
    for span in spans:
        builder = BlockBuilder(phase=span.block["phases"][0][1])
        for row in index.rows(span):
            if row["step"] > high:
                break
            builder.add(row)
            if row["step"] < low:
                builder.take()  # it only carries the phase on
            elif builder.steps >= size:
                yield builder.take()
        if builder.steps:
            yield builder.take()


def _merged(blocks: Sequence[Values]) -> Values:
    """Return one block for several that follow each other, as far as a picture needs it."""
    if len(blocks) == 1:
        return blocks[0]
    figures: dict[str, list[float]] = {}
    for block in blocks:
        for name, (least, greatest, last) in block["figures"].items():
            seen = figures.get(name)
            figures[name] = (
                [least, greatest, last] if seen is None else [min(seen[0], least), max(seen[1], greatest), last]
            )
    return {
        "first": blocks[0]["first"],
        "last": blocks[-1]["last"],
        "steps": sum(block["steps"] for block in blocks),
        "figures": figures,
        "reasons": _total_reasons(blocks),
    }


def _total_reasons(blocks: Iterable[Values]) -> dict[str, int]:
    counter: Counter[str] = Counter()
    for block in blocks:
        counter.update(block["reasons"])
    return dict(counter.most_common())


def _bands(index: JournalIndex, blocks: Sequence[Values]) -> list[Band]:
    """Return the phases of the blocks; the cooling after a change is its trial."""
    first, last = blocks[0]["first"], blocks[-1]["last"]
    events = [event for event in index.events if event["action"] in _PHASE_EVENTS and event["step"] <= last]
    changes: list[tuple[int, str]] = []
    for block in blocks:
        for step, phase in block["phases"]:
            if not changes or changes[-1][1] != phase:
                changes.append((step, phase))
    bands: list[Band] = []
    position, tried = 0, False
    for (start, phase), (after, _) in zip(changes, [*changes[1:], (last + 1, "")], strict=True):
        begin = max(start, first)
        while position < len(events) and events[position]["step"] < after:
            step = events[position]["step"]
            if phase and step >= begin:
                bands.append(Band(_kind(phase, tried), begin, step))
                begin = step + 1
            tried = events[position]["action"] in CHANGES
            position += 1
        if phase and begin < after:
            bands.append(Band(_kind(phase, tried), begin, after - 1))
    return _joined(bands)


def _kind(phase: str, tried: bool) -> str:
    return "trial" if phase == "cooling" and tried else phase


def _joined(bands: Iterable[Band]) -> list[Band]:
    """Join bands of one kind that touch."""
    joined: list[Band] = []
    for band in bands:
        if joined and joined[-1].kind == band.kind and band.first == joined[-1].last + 1:
            joined[-1] = Band(band.kind, joined[-1].first, band.last)
        else:
            joined.append(band)
    return joined


def to_columns(seen: View) -> dict[str, Any]:
    """Return a view as columns of plain values, for JSON: missing figures are None."""
    figures: dict[str, Any] = {}
    exact = all(bucket["steps"] == 1 for bucket in seen.buckets)
    for name in FIGURES:
        columns = {"last": _plain(seen.column(name))}
        if not exact:
            columns |= {which: _plain(seen.column(name, which)) for which in ("least", "greatest")}
        figures[name] = columns
    return {
        "first": seen.first,
        "last": seen.last,
        "steps": seen.steps,
        "exact": exact,
        "from": [bucket["first"] for bucket in seen.buckets],
        "to": [bucket["last"] for bucket in seen.buckets],
        "figures": figures,
        "reasons": seen.reasons,
        "bands": [[band.kind, band.first, band.last] for band in seen.bands],
        "skipped": seen.skipped,
        "dampened": seen.dampened,
    }


def _plain(values: Iterable[float]) -> list[float | None]:
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
