"""The picture of a run: weights with their decisions, losses and what was decided on, over the same steps.

It is the dashboard's, on paper: the same panels, scales, markers and colours, from `look` and `scales`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.showing.curves import Curve, curves_of, smoothed
from keras_adaptive_weights.showing.drawing import (
    Colours,
    colour_of,
    dashes,
    draw_events,
    empty_figure,
    headline_of,
    marker,
    name_kinds,
    name_limit,
    png,
    set_scale,
    tidy,
    title_axis,
    write_beside,
)
from keras_adaptive_weights.showing.explain import headline
from keras_adaptive_weights.showing.look import Line, Panel, colours, kind_of, panels, phases
from keras_adaptive_weights.showing.scales import Scale, joined, limits_of, scale_of
from keras_adaptive_weights.showing.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 1500
_NAMED_EVENTS = 6
_NAMED_TERMS = 3
_NAMED_PEAKS = 3
_PEAKS_APART, _NAMES_APART = 0.012, 0.06
_PIN = 74
_LIMIT_STYLES = {"base": ":", "maximum": "-", "minimum": "-"}
_DASH = 5.0, 3.0
_LANE = 5
_WIDTHS = {"raw": 0.7, "weight": 1.9, "proposed": 1.4}


def draw_run(
    index: JournalIndex, *, theme: str = "light", title: str = "", validation: Sequence[tuple[int, float]] = ()
) -> bytes:
    """Return a picture of a run as PNG.

    Where the index is of no term in particular, all weights of the run are drawn together, and all losses, each
    relative to its first average.

    Args:
        index: A refreshed index of its journal.
        theme: "light" or "dark".
        title: Headline; by default the terms and their weights in force.
        validation: Step and loss of the term at each validation, drawn with the loss.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    look, curves = colours(theme), curves_of(index, _POINTS)
    lead = curves[0]
    measured = any(not math.isnan(share) for curve in curves for share in curve.seen.column("share"))
    shown = [panel for panel in panels() if panel.is_shown(balanced=index.balance is not None, measured=measured)]
    figure = empty_figure(12.0, 9.6, look)
    weight, lane, *others = _panel_axes(figure, [panel.share for panel in shown])
    for axis, panel in zip((weight, *others), shown, strict=True):
        _draw_panel(axis, panel, curves, look)
        if panel.id == "loss" and validation:
            steps, losses = zip(*validation, strict=True)
            values = [loss * lead.factor(panel) for loss in losses]
            axis.plot(steps, values, "o-", color=look["validation"], markersize=4, linewidth=1.2, label="validation")
    _draw_lane(lane, lead.seen, look)
    for phase in phases():
        if any(band.kind == phase for band in lead.seen.bands):
            weight.fill_between([], [], color=look[phase], linewidth=0, label=phase)
    for axis, panel in zip((weight, *others), shown, strict=True):
        title_axis(axis, _panel_title(panel, curves), look)
    kinds = Counter(kind_of(event) for curve in curves for event in curve.told)
    kinds.update({kind: len(steps) for kind, steps in _pins(lead.seen).items()})
    name_kinds(figure, kinds, look)
    others[-1].set(xlabel="training step", xlim=(lead.seen.first - 1, max(lead.seen.last, 1)))
    others[-1].tick_params(labelbottom=True)
    headline_of(figure, title or _title(curves), look)
    return png(figure)


def write_picture(path: str | os.PathLike[str], picture: bytes) -> None:
    """Write a picture to a file."""
    with open(path, "wb") as file:
        file.write(picture)


def _panel_axes(figure: Figure, shares: Sequence[int]) -> list[Axes]:
    """Return an axis for the weight, one for the lane close below it, and one for each further panel."""
    grid = figure.add_gridspec(len(shares), 1, height_ratios=[shares[0] + _LANE, *shares[1:]])
    top = grid[0].subgridspec(2, 1, height_ratios=(shares[0], _LANE), hspace=0.03)
    first = figure.add_subplot(top[0])
    places = [top[1], *(grid[number] for number in range(1, len(shares)))]
    return [first, *(figure.add_subplot(place, sharex=first) for place in places)]


def _title(curves: Sequence[Curve]) -> str:
    lead, weights = curves[0], [curve for curve in curves if curve.adaptive]
    after = f"after {lead.seen.last:,} steps"
    if not lead.together:
        index = lead.index
        shadow = f" in force; a shadow run proposes {index.proposed:.4g}" if index.shadow else ""
        return f"Adaptive weight of {printable(lead.term, 60)}: {index.weight:.4g}{shadow} {after}"
    named = [f"{printable(curve.term, 40)} {curve.index.weight:.4g}" for curve in weights[:_NAMED_TERMS]]
    more = f" and {len(weights) - _NAMED_TERMS} more" if len(weights) > _NAMED_TERMS else ""
    balance = lead.index.balance
    by = "" if balance is None else f", balanced by {printable(balance.get('strategy', ''), 40)}"
    shadow = " in force; a shadow run proposes others" if lead.index.shadow else ""
    return f"Adaptive weights {after}{by}: {', '.join(named)}{more}{shadow}"


def _panel_title(panel: Panel, curves: Sequence[Curve]) -> str:
    lead = curves[0]
    title = panel.title
    if lead.together:
        one = panel.id == "weight" and sum(curve.adaptive for curve in curves) == 1
        balanced = panel.balanced if lead.index.balance is not None else ""
        title = balanced or (panel.title if one else panel.several)
        if panel.id == "loss":
            title += ", each relative to its first average"
    return title.format(term=printable(lead.term, 40))


def _draw_panel(axis: Axes, panel: Panel, curves: Sequence[Curve], look: Colours) -> None:
    lead = curves[0]
    drawn = [curve for curve in curves if curve is lead or curve.is_in(panel)]
    tidy(axis, look)
    scales = [_scaled(scale_of(panel, curve.seen, curve.index), curve.factor(panel)) for curve in drawn]
    scale = joined(scales)
    set_scale(axis, scale)
    for band in lead.seen.bands:
        axis.axvspan(band.first - 1, band.last, color=look.get(band.kind, look["other"]), alpha=0.09, linewidth=0)
    for curve in drawn:
        for line in _lines_of(panel, curve, lead):
            _draw_line(axis, panel, line, curve, look)
    _draw_limits(axis, panel, drawn, scale, look)
    if panel.id == "weight":
        _draw_calibration(axis, lead, look)
        for curve in drawn:
            draw_events(axis, curve.concerning, look, edge=colour_of(curve.number, look) if len(drawn) > 1 else None)
        if len(drawn) == 1 and len(lead.concerning) <= _NAMED_EVENTS:
            for event in lead.concerning:
                _name_event(axis, event, look)
    elif panel.id != "share":
        _draw_peaks(axis, panel, scale, lead, look)


def _scaled(scale: Scale, factor: float) -> Scale:
    return Scale(scale.kind, scale.low * factor, scale.high * factor)


def _lines_of(panel: Panel, curve: Curve, lead: Curve) -> list[Line]:
    """Return the lines of a curve: of many losses each has one, and the first its single steps."""
    if panel.id != "loss" or not curve.together:
        return list(panel.lines)
    return [line for line in panel.lines if line.role == "main" or (line.role == "raw" and curve is lead)]


def _draw_line(axis: Axes, panel: Panel, line: Line, curve: Curve, look: Colours) -> None:
    seen, factor = curve.seen, curve.factor(panel)
    last = [value * factor for value in seen.column(line.figure)]
    if panel.id == "loss" and line.role == "main" and not curve.smoothed:
        last = smoothed(value * factor for value in seen.column(panel.lines[0].figure))
    if all(map(math.isnan, last)):
        return
    at = [bucket["last"] for bucket in seen.buckets]
    by_term = curve.together and panel.id in ("weight", "share", "loss")
    paint: dict[str, Any] = {
        "color": colour_of(curve.number, look) if by_term else look.get(line.role, look["weight"]),
        "linewidth": _WIDTHS.get(line.role, 1.5),
        "alpha": 0.75 if line.role == "raw" else 1.0,
        "label": line.label,
    }
    if by_term:
        paint |= {"label": printable(curve.term, 40), "linestyle": "-" if line.seldom else dashes(curve.number)}
    if line.role == "raw" and by_term:
        paint |= {"alpha": 0.4, "label": None, "linestyle": "-"}
    if panel.id == "weight":  # the weight of a step is drawn up to and with it, and a change where it was decided
        style = {"linestyle": "--"} if line.role == "proposed" else {}
        axis.step([at[0] - 1, *at], [last[0], *last], where="pre", **(paint | style))
        return
    if line.role == "raw":
        least, greatest = ([v * factor for v in seen.column(line.figure, which)] for which in ("least", "greatest"))
        axis.fill_between(at, least, greatest, color=paint["color"], alpha=0.3 * paint["alpha"] / 0.75, linewidth=0)
    if line.seldom:
        at = [step for step, value in zip(at, last, strict=True) if not math.isnan(value)]
        last = [value for value in last if not math.isnan(value)]
    axis.plot(at, last, **paint)


def _draw_limits(axis: Axes, panel: Panel, curves: Sequence[Curve], scale: Scale, look: Colours) -> None:
    """Draw what figures are held against; what a balance aims at, for each term in its colour."""
    several, aims = len(curves) > 1, panel.id in ("share", "loss")
    if several and panel.id == "weight":
        return
    limits = [
        (label, limit * curve.factor(panel), colour_of(curve.number, look) if aims and several else look["limit"])
        for curve in (curves if aims else curves[:1])
        for label, limit in limits_of(panel, curve.index)
    ]
    values = [value for _, value, _ in limits]
    for number, (label, value, color) in enumerate(limits):
        place, before = scale.place(value), values[:number].count(value)
        if 0.0 <= place <= 1.0:
            style = _turns(values.count(value), before) if aims else _LIMIT_STYLES.get(label, "--")
            axis.axhline(value, color=color, linestyle=style, linewidth=1.2 if aims else 1)
        if not before:
            name_limit(axis, place, f"{label} {value:.4g}", look["quiet"] if values.count(value) > 1 else color)


def _turns(alike: int, before: int) -> Any:
    """Return dashes; those of several lines that lie over each other take turns."""
    dash, gap = _DASH
    turn = dash + gap
    return (-before * turn, (dash, alike * turn - dash))


def _draw_calibration(axis: Axes, lead: Curve, look: Colours) -> None:
    """Mark the step at which the weights went to what was measured."""
    for event in lead.told:
        if kind_of(event) == "calibrate":
            color = look["calibrate"]
            axis.axvline(event["step"], color=color, linestyle=":", linewidth=1.3, zorder=1)
            middle = (event["step"], sum(axis.transData.inverted().transform(axis.transAxes.transform((0, 0.5)))[1:]))
            write_beside(axis, "calibrated", middle, (5, 0), color, look)


def _name_event(axis: Axes, event: Mapping[str, Any], look: Colours) -> None:
    low, high = axis.get_ylim()
    above = float(event["new_weight"]) < (low + high) / 2
    weight = float(event["new_weight"])
    write_beside(
        axis,
        f"{weight:.4g}, {headline(event['reason'])}",
        (event["step"], weight),
        (9, 7 if above else -15),
        look["quiet"],
        look,
    )


def _draw_lane(axis: Axes, seen: View, look: Colours) -> None:
    """Draw the steps that were skipped or dampened, and below them the phases."""
    tidy(axis, look)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set(ylim=(0.0, 2.0), yticks=[])
    reach = max(1, seen.last - seen.first)
    for band in seen.bands:
        color = look.get(band.kind, look["other"])
        axis.broken_barh(
            [(band.first - 1, band.last - band.first + 1)], (0.0, 0.85), color=color, alpha=0.85, linewidth=0
        )
        if (band.last - band.first) / reach > 0.05:
            axis.text(band.first - 1 + 0.004 * reach, 0.38, band.kind, fontsize=7.5, color=look["ink"], va="center")
    for kind, steps in _pins(seen).items():
        axis.scatter(
            steps, [1.55] * len(steps), marker=marker(kind), s=_PIN, color=look[kind], linewidths=0, clip_on=False
        )


def _draw_peaks(axis: Axes, panel: Panel, scale: Scale, curve: Curve, look: Colours) -> None:
    """Mark at the upper edge what the first line of a panel reaches beyond it; the highest of them with their value."""
    seen, factor = curve.seen, curve.factor(panel)
    reach = max(1, seen.last - seen.first)
    peaks: list[tuple[float, int]] = []
    for raw, bucket in zip(seen.column(panel.lines[0].figure, "greatest"), seen.buckets, strict=True):
        value = raw * factor
        if not scale.place(value) > 1.0:
            continue
        if peaks and bucket["last"] - peaks[-1][1] <= _PEAKS_APART * reach:
            peaks[-1] = max(peaks[-1], (value, bucket["last"]))
        else:
            peaks.append((value, bucket["last"]))
    steps, at = [step for _, step in peaks], [scale.high] * len(peaks)
    axis.scatter(steps, at, marker=marker("spike"), s=40, color=look["spike"], linewidths=0, zorder=4, clip_on=False)
    named: list[int] = []
    for value, step in sorted(peaks, reverse=True):
        if len(named) < _NAMED_PEAKS and all(abs(step - other) > _NAMES_APART * reach for other in named):
            named.append(step)
            write_beside(axis, f"{value:.3g}", (step, scale.high), (6, -9), look["spike"], look)


def _pins(seen: View) -> dict[str, list[int]]:
    """Return the steps that were skipped or dampened, by the kind of their marker."""
    pins: dict[str, list[int]] = {}
    for step, _, routine in seen.skipped:
        pins.setdefault("routine" if routine else "skipped", []).append(step)
    for step, _ in getattr(seen, "dampened", ()):
        pins.setdefault("dampened", []).append(step)
    return pins
