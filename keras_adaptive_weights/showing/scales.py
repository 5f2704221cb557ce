"""How a panel's values are spread over its height: one home for the dashboard and the pictures.

Kinds of scale, by the panel's `scale`:

- `moved`: fits to what the weight did in view, with at least a change or two of room, so that a single change of five
  per cent is seen; a bound, or the base, that is far from there is for the edge of the panel to name; logarithmic where
  that reaches over more than a factor of ten;
- `spread`: logarithmic where the values are positive and reach over more than a factor of ten, else linear;
- `plain`: linear;
- `part`: linear from 0;
- `root`: square root from 0, for figures that are mostly small, up to eight times their limit.

But for the first, a few spikes do not set the scale: what they reach beyond is marked at its edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.showing.look import Panel, limit_values
from keras_adaptive_weights.showing.view import View, last_header

_LEAST_SPAN = 0.1
_LOGARITHMIC_FROM = 10.0
_NEAR = 3.0
_ROOT_CAP = 8.0


class Scale(NamedTuple):
    """Kind ("linear", "log" or "root"), and the values at the lower and upper edge."""

    kind: str
    low: float
    high: float

    def place(self, value: float) -> float:
        """Return where a value is, from 0.0 at the lower edge to 1.0 at the upper one; beyond them outside of that."""
        low, high, at = (_bent(self.kind, number) for number in (self.low, self.high, value))
        return (at - low) / (high - low)


def scale_of(panel: Panel, seen: View, index: JournalIndex) -> Scale:
    """Return the scale of a panel for what is in view.

    Args:
        panel: The panel.
        seen: The window.
        index: The journal that it is of.
    """
    limits = [value for _, value in limits_of(panel, index)]
    if panel.scale == "moved":
        return _moved(panel, seen, index.events, limits)
    columns = [(line.figure, which) for line in panel.lines for which in ("last", "least", "greatest")]
    values = [value for column in columns for value in seen.column(*column) if math.isfinite(value)]
    usual = [value for line in panel.lines for value in _usual(seen, line.figure)]
    if panel.scale == "part":
        return Scale("linear", 0.0, 1.06 * max([*values, *limits], default=1.0))
    if panel.scale == "root":
        _, high = _without_spikes("root", usual, values)
        return Scale("root", 0.0, 1.06 * min([max([high, *limits]), *(_ROOT_CAP * limit for limit in limits)]) or 1.0)
    return spread_scale(usual, values, limits, logarithmic=panel.scale == "spread")


def joined(scales: Sequence[Scale]) -> Scale:
    """Return one scale for several curves of a panel."""
    low, high = min(scale.low for scale in scales), max(scale.high for scale in scales)
    kinds = {scale.kind for scale in scales}
    if low > 0.0 and "log" in kinds:
        return Scale("log", low, high)
    if len(scales) > 1 and low > 0.0 and high > _LOGARITHMIC_FROM * low:
        room = (high / low) ** 0.06
        return Scale("log", low / room, high * room)
    return Scale(kinds.pop() if len(kinds) == 1 else "linear", low, high)


def limits_of(panel: Panel, index: JournalIndex) -> list[tuple[str, float]]:
    """Return the limits of a panel for a term, by what they are called."""
    return limit_values(panel, {**last_header(index), "intent": index.intent, "loss_limit": index.loss_limit})


def spread_scale(
    usual: Sequence[float], values: Sequence[float], limits: Sequence[float] = (), *, logarithmic: bool = True
) -> Scale:
    """Return the scale of figures that a few spikes are not to set.

    Args:
        usual: Finite values, nearly all of which are to be within.
        values: Further finite values, such as the extremes of many steps.
        limits: What they are held against; within, unless far above.
        logarithmic: Whether it may be logarithmic.
    """
    low, high = _without_spikes("linear", usual, values)
    near = [limit for limit in limits if limit <= _NEAR * high]
    if logarithmic and min(values, default=0.0) > 0.0 and high / low > _LOGARITHMIC_FROM:
        low, high = _without_spikes("log", usual, values)
        pad = (high / low) ** 0.05
        return Scale("log", min([low, *near]) / pad, max([high, *near]) * pad)
    low, high = min([low, *near]), max([high, *near])
    pad = 0.06 * (high - low or abs(high) or 1.0)
    return Scale("linear", max(0.0, low - pad) if low >= 0.0 else low - pad, high + pad)


def _moved(panel: Panel, seen: View, events: Iterable[Mapping[str, Any]], limits: Sequence[float]) -> Scale:
    values = [
        value
        for line in panel.lines
        for which in ("least", "greatest", "last")
        for value in seen.column(line.figure, which)
    ]
    for event in events:
        if seen.first - 1 <= event["step"] <= seen.last:
            values += [float(event["old_weight"]), float(event["new_weight"])]
    finite = [value for value in values if math.isfinite(value)] or list(limits) or [1.0]
    low, high = min(finite), max(finite)
    if low > 0.0 and high / low > _LOGARITHMIC_FROM:
        pad = (high / low) ** 0.12
        return Scale("log", low / pad, high * pad)
    room = max(0.0, _LEAST_SPAN * abs(high) - (high - low)) / 2
    span = high - low + 2 * room or 1.0
    low, high = low - room - 0.12 * span, high + room + 0.12 * span
    touched = [limit for limit in limits if low - 0.25 * span <= limit <= high + 0.25 * span]
    edge = 0.06 * span
    return Scale(
        "linear", min([low, *(limit - edge for limit in touched)]), max([high, *(limit + edge for limit in touched)])
    )


def _usual(seen: View, figure: str) -> list[float]:
    """Return the figure's values, and of the extremes of many steps each what most of them reach."""
    values = [value for value in seen.column(figure) if math.isfinite(value)]
    lows = sorted(value for value in seen.column(figure, "least") if math.isfinite(value))
    highs = sorted(value for value in seen.column(figure, "greatest") if math.isfinite(value))
    if lows:
        values += [lows[int(0.75 * (len(lows) - 1))], highs[int(0.25 * (len(highs) - 1))]]
    return values


def _without_spikes(kind: str, usual: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return a range that holds nearly all usual values, and of the others those for which it need not be doubled."""
    if not usual:
        return 0.0, 1.0
    bent = sorted(_bent(kind, value) for value in usual)
    last = len(bent) - 1
    low, middle, high = (bent[int(share * last)] for share in (0.005, 0.5, 0.98))
    top = min(bent[-1], high + 0.75 * (high - middle))
    bottom = max(bent[0], low - 0.75 * (middle - low))
    room = top - bottom
    within = [value for value in (_bent(kind, value) for value in values) if bottom - room <= value <= top + room]
    top, bottom = max([top, *within]), min([bottom, *within])
    unbend = math.exp if kind == "log" else float
    return unbend(bottom), unbend(top)


def _bent(kind: str, value: float) -> float:
    if kind == "log":
        return math.log(value) if value > 0.0 else -math.inf
    return math.sqrt(max(0.0, value)) if kind == "root" else value
