"""The picture of a what-if: weights as recorded and under other settings, over the losses that both were decided on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from keras_adaptive_weights.deciding.decision import Decision
from keras_adaptive_weights.deciding.joint import by_term
from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.journal.reader import Journal
from keras_adaptive_weights.showing.curves import smoothed
from keras_adaptive_weights.showing.drawing import (
    Colours,
    colour_of,
    draw_events,
    empty_figure,
    headline_of,
    name_kinds,
    name_limit,
    png,
    set_scale,
    tidy,
    title_axis,
)
from keras_adaptive_weights.showing.look import colours, kind_of
from keras_adaptive_weights.showing.scales import Scale, joined, spread_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from keras_adaptive_weights.recording.what_if import WhatIf

_POINTS = 1500
_FIRST_LOSSES = 50
_FAR = 10.0


def draw_what_if(result: WhatIf, journal: Journal, *, theme: str = "light") -> bytes:
    """Return the recorded weight path and that under other settings, over the losses that both were decided on, as PNG.

    Of a journal that was read jointly these are the paths of all adaptive weights, and the losses of their terms, each
    relative to its first average.

    Args:
        result: What was decided anew.
        journal: The journal that it was decided on.
        theme: "light" or "dark".

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    look, header = colours(theme), journal.headers[0]
    figure = empty_figure(12.0, 6.4, look)
    weights, losses = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for axis in (weights, losses):
        tidy(axis, look)
    last = max([1, *(seen.step for seen in journal.observations[-1:]), *(step for step, _ in result.recorded_path)])
    terms = list(result.path[0][1]) if journal.joint else [header.term]
    for number, term in enumerate(terms):
        _draw_paths(weights, result, term, last, look, colour_of(number, look) if journal.joint else None)
    low, high = _set_weights_scale(weights, result)
    if not journal.joint:
        weights.axhline(header.base_weight, color=look["limit"], linestyle=":", linewidth=1)
        place = (header.base_weight - low) / (high - low)
        name_limit(weights, place, f"base {header.base_weight:.4g}", look["limit"])
    _draw_losses(losses, journal, terms, look)
    if result.first_difference is not None:
        for axis in (weights, losses):
            axis.axvspan(result.first_difference, last, color=look["second"], alpha=0.06, linewidth=0)
        losses.fill_between(
            [], [], color=look["second"], alpha=0.2, label="under the recorded weight, not the other one"
        )
    named = printable(header.term, 40)
    title_axis(weights, "Weights" if journal.joint else f"Weight of {named}", look)
    how = "Losses, each relative to its first average" if journal.joint else f"{named}, unweighted"
    title_axis(losses, how, look)
    losses.set(xlabel="training step", xlim=(result.path[0][0], last))
    losses.tick_params(labelbottom=True)
    name_kinds(figure, Counter(_kind(event) for event in (*result.recorded, *result.decided)), look)
    headline_of(figure, "The weight as recorded, and under other settings", look)
    return png(figure)


def _set_weights_scale(axis: Axes, result: WhatIf) -> tuple[float, float]:
    """Set the scale that all weights of both paths are in, a logarithmic one where they are far apart."""
    found = [weight for _, weight in (*result.recorded_path, *result.path)]
    values = [value for weight in found for value in (weight.values() if isinstance(weight, Mapping) else [weight])]
    low, high = axis.get_ylim()
    scale = Scale("linear", low, high)
    if max(values) > _FAR * min(values):
        pad = (max(values) / min(values)) ** 0.08
        scale = Scale("log", min(values) / pad, max(values) * pad)
    set_scale(axis, scale)
    return scale.low, scale.high


def _draw_paths(axis: Axes, result: WhatIf, term: str, last: int, look: Colours, color: str | None) -> None:
    """Draw both paths of a weight, with what moved it; `color`: of the term, where there are several."""
    shadow = any(one.held_weight is not None for event in result.recorded for one in by_term(event))
    recorded = "recorded, proposed in shadow" if shadow else "recorded"
    for path, events, label, role, style in (
        (result.recorded_path, result.recorded, recorded, "weight", "-"),
        (result.path, result.decided, "what if", "second", "--"),
    ):
        steps = [step for step, _ in path] + [max(last, path[-1][0])]
        values = [weight[term] if isinstance(weight, Mapping) else weight for _, weight in path]
        paint = {"color": color or look[role], "linestyle": style, "linewidth": 1.8}
        name = label if color is None else f"{printable(term, 40)} {label}"
        axis.step(steps, [*values, values[-1]], where="post", label=name, **paint)
        draw_events(axis, _plain_events(events, term, several=color is not None), look, edge=color or look[role])


def _plain_events(events: Sequence[Any], term: str, *, several: bool) -> list[dict[str, Any]]:
    """Return the events of a weight; where there are several, those that moved it."""
    mine: list[Decision] = [one for event in events for one in by_term(event) if not several or one.term == term]
    return [
        {"step": one.step, "action": one.action, "reason": one.reason, "new_weight": one.new_weight}
        for one in mine
        if not several or one.new_weight != one.old_weight
    ]


def _kind(event: Any) -> str:
    return kind_of({"action": event.action, "reason": event.reason})


def _draw_losses(axis: Axes, journal: Journal, terms: Sequence[str], look: Colours) -> None:
    found = [seen for seen in journal.observations if seen.finite]
    found = found[:: max(1, len(found) // _POINTS)]
    scales = []
    for number, term in enumerate(terms):
        pairs = [(seen.step, seen.losses.get(term) if journal.joint else seen.loss) for seen in found]
        known = [(step, loss) for step, loss in pairs if loss is not None]
        if not known:
            continue
        steps, values = zip(*known, strict=True)
        if journal.joint:
            first = fmean(values[:_FIRST_LOSSES])
            values = tuple(smoothed(value / (first or 1.0) for value in values))
        scales.append(spread_scale(values, values))
        color, width = (colour_of(number, look), 1.5) if journal.joint else (look["raw"], 0.7)
        label = printable(term, 40) if journal.joint else "every step, as recorded"
        axis.plot(steps, values, color=color, linewidth=width, label=label)
    if scales:
        set_scale(axis, joined(scales))
