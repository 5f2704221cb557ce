"""The picture of a run: weight with its decisions, loss, loss ratio, variance and gradient norm over the same steps.

It is the dashboard's, on paper: the same panels, scales, markers and colours, from `look` and `scales`.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.showing.explain import headline
from keras_adaptive_weights.showing.look import (
    Line,
    Panel,
    colours,
    in_order,
    kind_label,
    kind_of,
    kind_shape,
    known_kind,
    limit_values,
    panels,
    phases,
)
from keras_adaptive_weights.showing.scales import Scale, scale_of, spread_scale
from keras_adaptive_weights.showing.view import View, last_header, view

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

    from keras_adaptive_weights.deciding.decision import Decision
    from keras_adaptive_weights.journal.reader import Journal
    from keras_adaptive_weights.recording.what_if import WhatIf

Colours = Mapping[str, str]
_POINTS = 1500
_NAMED_EVENTS = 6
_NAMED_PEAKS = 3
_PEAKS_APART, _NAMES_APART = 0.012, 0.06
_MARKER, _PIN = 62, 74
_LANE = 5
_TICK_GAP = 0.22
_CORNERS, _HOLE = 24, 3.0
_WIDTHS = {"raw": 0.7, "weight": 1.9, "proposed": 1.4}


def draw_run(
    index: JournalIndex, *, theme: str = "light", title: str = "", validation: Sequence[tuple[int, float]] = ()
) -> bytes:
    """Return a picture of a run as PNG.

    Args:
        index: A refreshed index of its journal.
        theme: "light" or "dark".
        title: Headline; by default the term and the weight in force.
        validation: Step and loss of the term at each validation, drawn with the loss.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    look, seen = colours(theme), view(index, points=_POINTS)
    shown = panels()
    figure = _figure(12.0, 9.6, look)
    weight, lane, *others = _panel_axes(figure, [panel.share for panel in shown])
    for axis, panel in zip((weight, *others), shown, strict=True):
        _draw_panel(axis, panel, seen, index, look)
    _draw_events(weight, index.events, look)
    _draw_lane(lane, seen, look)
    for phase in phases():
        if any(band.kind == phase for band in seen.bands):
            weight.fill_between([], [], color=look[phase], linewidth=0, label=phase)
    if validation:
        steps, losses = zip(*validation, strict=True)
        others[0].plot(steps, losses, "o-", color=look["validation"], markersize=4, linewidth=1.2, label="validation")
    for axis, panel in zip((weight, *others), shown, strict=True):
        _name_panel(axis, panel, index, look)
    kinds = Counter(kind_of(event) for event in index.events)
    kinds.update({kind: len(steps) for kind, steps in _pins(seen).items()})
    _name_kinds(figure, kinds, look)
    others[-1].set(xlabel="training step", xlim=(seen.first - 1, max(seen.last, 1)))
    others[-1].tick_params(labelbottom=True)
    _headline(figure, title or _title(index, seen), look)
    return _png(figure)


def _panel_axes(figure: Figure, shares: Sequence[int]) -> list[Axes]:
    """Return an axis for the weight, one for the lane close below it, and one for each further panel."""
    grid = figure.add_gridspec(len(shares), 1, height_ratios=[shares[0] + _LANE, *shares[1:]])
    top = grid[0].subgridspec(2, 1, height_ratios=(shares[0], _LANE), hspace=0.03)
    first = figure.add_subplot(top[0])
    places = [top[1], *(grid[number] for number in range(1, len(shares)))]
    return [first, *(figure.add_subplot(place, sharex=first) for place in places)]


def draw_what_if(result: WhatIf, journal: Journal, *, theme: str = "light") -> bytes:
    """Return the recorded weight path and that under other settings, over the losses that both were decided on, as PNG.

    Args:
        result: What was decided anew.
        journal: The journal that it was decided on.
        theme: "light" or "dark".

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    look, header = colours(theme), journal.headers[0]
    figure = _figure(12.0, 6.4, look)
    weights, losses = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for axis in (weights, losses):
        _tidy(axis, look)
    last = max([1, *(seen.step for seen in journal.observations[-1:]), *(step for step, _ in result.recorded_path)])
    events = [*map(_plain_event, result.recorded), *map(_plain_event, result.decided)]
    shadow = any(event.held_weight is not None for event in result.recorded)
    for path, label, role, style in (
        (result.recorded_path, "recorded, proposed in shadow" if shadow else "recorded", "weight", "-"),
        (result.path, "what if", "second", "--"),
    ):
        steps, values = zip(*path, (max(last, path[-1][0]), path[-1][1]), strict=True)
        weights.step(steps, values, where="post", color=look[role], linewidth=1.8, linestyle=style, label=label)
    _draw_events(weights, events[: len(result.recorded)], look, edge=look["weight"])
    _draw_events(weights, events[len(result.recorded) :], look, edge=look["second"])
    weights.axhline(header.base_weight, color=look["limit"], linestyle=":", linewidth=1)
    _set_scale(weights, Scale("linear", *weights.get_ylim()))
    low, high = weights.get_ylim()
    _name_limit(weights, (header.base_weight - low) / (high - low), f"base {header.base_weight:.4g}", look)
    seen = [(seen.step, seen.loss) for seen in journal.observations if seen.finite]
    seen = seen[:: max(1, len(seen) // _POINTS)]
    if seen:
        steps, values = zip(*seen, strict=True)
        _set_scale(losses, spread_scale(values, values))
        losses.plot(steps, values, color=look["raw"], linewidth=_WIDTHS["raw"], label="every step, as recorded")
    if result.first_difference is not None:
        for axis in (weights, losses):
            axis.axvspan(result.first_difference, last, color=look["second"], alpha=0.06, linewidth=0)
        losses.fill_between(
            [], [], color=look["second"], alpha=0.2, label="under the recorded weight, not the other one"
        )
    term = printable(header.term, 40)
    _title_axis(weights, f"Weight of {term}", look)
    _title_axis(losses, f"{term}, unweighted", look)
    losses.set(xlabel="training step", xlim=(result.path[0][0], last))
    losses.tick_params(labelbottom=True)
    _name_kinds(figure, Counter(kind_of(event) for event in events), look)
    _headline(figure, "The weight as recorded, and under other settings", look)
    return _png(figure)


def write_picture(path: str | os.PathLike[str], picture: bytes) -> None:
    """Write a picture to a file."""
    with open(path, "wb") as file:
        file.write(picture)


def _plain_event(event: Decision) -> dict[str, Any]:
    return {"step": event.step, "action": event.action, "reason": event.reason, "new_weight": event.new_weight}


def _title(index: JournalIndex, seen: View) -> str:
    shadow = f" in force; a shadow run proposes {index.proposed:.4g}" if index.shadow else ""
    term = printable(index.headers[-1]["term"], 60)
    return f"Adaptive weight of {term}: {index.weight:.4g}{shadow} after {seen.last:,} steps"


def _figure(width: float, height: float, look: Colours) -> Figure:
    """Return an empty figure that belongs to no window and no notebook."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "A picture needs matplotlib, which is not installed: pip install 'keras-adaptive-weights[plot]'."
        ) from error
    figure = Figure(figsize=(width, height), facecolor=look["paper"])
    figure.subplots_adjust(left=0.065, right=0.885, top=1 - 0.85 / height, bottom=0.55 / height, hspace=0.34)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font does not have
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _tidy(axis: Axes, look: Colours) -> None:
    axis.set_facecolor(look["paper"])
    axis.grid(color=look["faint"], linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[:].set_color(look["edge"])
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=look["quiet"], labelsize=8.5, length=0, labelbottom=False)
    axis.xaxis.label.set(color=look["quiet"], size=9)
    axis.yaxis.label.set(color=look["quiet"], size=9)


def _draw_panel(axis: Axes, panel: Panel, seen: View, index: JournalIndex, look: Colours) -> None:
    _tidy(axis, look)
    scale = scale_of(panel, seen, index)
    _set_scale(axis, scale)
    for band in seen.bands:
        axis.axvspan(band.first - 1, band.last, color=look.get(band.kind, look["other"]), alpha=0.09, linewidth=0)
    for line in panel.lines:
        _draw_line(axis, line, seen, look, steps=panel.id == "weight")
    for label, value in limit_values(panel, last_header(index)):
        place = scale.place(value)
        if 0.0 <= place <= 1.0:
            style = {"base": ":", "maximum": "-", "minimum": "-"}.get(label, "--")
            axis.axhline(value, color=look["limit"], linestyle=style, linewidth=1)
        _name_limit(axis, place, f"{label} {value:.4g}", look)
    if panel.id != "weight":
        _draw_peaks(axis, panel, scale, seen, look)


def _set_scale(axis: Axes, scale: Scale) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator  # noqa: PLC0415 - as above

    if scale.kind == "linear":
        axis.locator_params(axis="y", nbins=5)
    elif scale.kind == "log":
        axis.set_yscale("log")
    else:
        axis.set_yscale("function", functions=(_root, _square))
    if scale.kind != "linear":
        axis.yaxis.set_major_locator(FixedLocator(_ticks(scale)))
        axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axis.set_ylim(scale.low, scale.high)


def _ticks(scale: Scale) -> list[float]:
    """Return round values on a scale that is not linear, far enough from each other for their numbers."""
    kept: list[float] = []
    for value in [0.0, *(digit * 10.0**power for power in range(-6, 10) for digit in (1, 2, 5))]:
        inside = scale.low <= value <= scale.high and (value > 0.0 or scale.kind == "root")
        if inside and (not kept or scale.place(value) - scale.place(kept[-1]) > _TICK_GAP):
            kept.append(value)
    return kept


def _draw_line(axis: Axes, line: Line, seen: View, look: Colours, *, steps: bool) -> None:
    last = seen.column(line.figure)
    if all(map(math.isnan, last)):
        return
    at = [bucket["last"] for bucket in seen.buckets]
    paint: dict[str, Any] = {
        "color": look.get(line.role, look["weight"]),
        "linewidth": _WIDTHS.get(line.role, 1.5),
        "alpha": 0.75 if line.role == "raw" else 1.0,
        "label": line.label,
    }
    if steps:  # the weight of a step is drawn up to and with it, and a change where it was decided
        style = "--" if line.role == "proposed" else "-"
        axis.step([at[0] - 1, *at], [last[0], *last], where="pre", linestyle=style, **paint)
        return
    if line.role == "raw":
        least, greatest = (seen.column(line.figure, which) for which in ("least", "greatest"))
        axis.fill_between(at, least, greatest, color=paint["color"], alpha=0.3, linewidth=0)
    axis.plot(at, last, **paint)


def _draw_events(axis: Axes, events: Sequence[Mapping[str, Any]], look: Colours, edge: str | None = None) -> None:
    for kind in dict.fromkeys(kind_of(event) for event in events):
        chosen = [event for event in events if kind_of(event) == kind]
        axis.scatter(
            [event["step"] for event in chosen],
            [float(event["new_weight"]) for event in chosen],
            marker=_marker(kind),
            s=_MARKER,
            color=look[known_kind(kind)],
            edgecolors=edge or look["paper"],
            linewidths=0.7,
            zorder=4,
            clip_on=False,
        )
    if edge is None and len(events) <= _NAMED_EVENTS:
        for event in events:
            _name_event(axis, event, look)


def _name_event(axis: Axes, event: Mapping[str, Any], look: Colours) -> None:
    low, high = axis.get_ylim()
    above = float(event["new_weight"]) < (low + high) / 2
    weight = float(event["new_weight"])
    _write(
        axis,
        f"{weight:.4g}, {headline(event['reason'])}",
        (event["step"], weight),
        (9, 7 if above else -15),
        look["quiet"],
        look,
    )


def _draw_lane(axis: Axes, seen: View, look: Colours) -> None:
    """Draw the steps that were skipped or dampened, and below them the phases."""
    _tidy(axis, look)
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
            steps, [1.55] * len(steps), marker=_marker(kind), s=_PIN, color=look[kind], linewidths=0, clip_on=False
        )


def _draw_peaks(axis: Axes, panel: Panel, scale: Scale, seen: View, look: Colours) -> None:
    """Mark at the upper edge what the first line of a panel reaches beyond it; the highest of them with their value."""
    reach = max(1, seen.last - seen.first)
    peaks: list[tuple[float, int]] = []
    for value, bucket in zip(seen.column(panel.lines[0].figure, "greatest"), seen.buckets, strict=True):
        if not scale.place(value) > 1.0:
            continue
        if peaks and bucket["last"] - peaks[-1][1] <= _PEAKS_APART * reach:
            peaks[-1] = max(peaks[-1], (value, bucket["last"]))
        else:
            peaks.append((value, bucket["last"]))
    marker, steps = _marker("spike"), [step for _, step in peaks]
    at = [scale.high] * len(peaks)
    axis.scatter(steps, at, marker=marker, s=40, color=look["spike"], linewidths=0, zorder=4, clip_on=False)
    named: list[int] = []
    for value, step in sorted(peaks, reverse=True):
        if len(named) < _NAMED_PEAKS and all(abs(step - other) > _NAMES_APART * reach for other in named):
            named.append(step)
            _write(axis, f"{value:.3g}", (step, scale.high), (6, -9), look["spike"], look)


def _write(
    axis: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], color: str, look: Colours
) -> None:
    """Write beside a point, so that no line behind it makes it unreadable."""
    axis.annotate(
        text,
        at,
        xytext=shift,
        textcoords="offset points",
        fontsize=8,
        color=color,
        parse_math=False,
        annotation_clip=False,
        bbox={"boxstyle": "square,pad=0.08", "facecolor": look["paper"], "edgecolor": "none", "alpha": 0.75},
    )


def _pins(seen: View) -> dict[str, list[int]]:
    """Return the steps that were skipped or dampened, by the kind of their marker."""
    pins: dict[str, list[int]] = {}
    for step, _, routine in seen.skipped:
        pins.setdefault("routine" if routine else "skipped", []).append(step)
    for step, _ in getattr(seen, "dampened", ()):
        pins.setdefault("dampened", []).append(step)
    return pins


def _name_limit(axis: Axes, place: float, label: str, look: Colours) -> None:
    """Name a limit in the right margin: at its height, or with an arrow at the edge that it lies beyond."""
    arrow, at = ("↑ ", 0.97) if place > 1.0 else ("↓ ", 0.03) if place < 0.0 else ("", place)
    axis.text(1.008, at, f"{arrow}{label}", transform=axis.transAxes, fontsize=8, color=look["limit"], va="center")


def _name_panel(axis: Axes, panel: Panel, index: JournalIndex, look: Colours) -> None:
    _title_axis(axis, panel.title.format(term=printable(index.headers[-1]["term"], 40)), look)


def _title_axis(axis: Axes, name: str, look: Colours) -> None:
    """Name an axis above its left end, and its lines above its right one."""
    axis.set_title(name, loc="left", fontsize=9.5, fontweight="bold", color=look["ink"], pad=4, parse_math=False)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(
            loc="lower right",
            bbox_to_anchor=(1.005, 0.985),
            ncols=6,
            fontsize=8,
            frameon=False,
            labelcolor=look["quiet"],
            handlelength=1.4,
            columnspacing=1.2,
            borderpad=0.1,
        )


def _name_kinds(figure: Figure, kinds: Mapping[str, int], look: Colours) -> None:
    """Name the kinds of markers there are, and how many of each, below the headline."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 - as above

    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=_marker(kind),
            markersize=8,
            color=look[known_kind(kind)],
            markeredgewidth=0,
            label=f"{printable(kind_label(kind), 40)} {kinds[kind]:,}",
        )
        for kind in in_order(kinds)
    ]
    legend = figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.06, 1 - 0.3 / figure.get_figheight()),
        ncols=max(1, len(handles)),
        fontsize=8.5,
        frameon=False,
        labelcolor=look["ink"],
        handletextpad=0.2,
        columnspacing=1.1,
        borderpad=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _headline(figure: Figure, text: str, look: Colours) -> None:
    figure.text(
        0.065, 1 - 0.12 / figure.get_figheight(), text, fontsize=12.5, color=look["ink"], va="top", parse_math=False
    )


def _marker(kind: str) -> Path:
    """Return the shape of a kind of marker."""
    from matplotlib.path import Path  # noqa: PLC0415 - as above

    contours = []
    for number, contour in enumerate(kind_shape(kind)):
        points = [tuple(point) for point in contour["polygon"]] if "polygon" in contour else _circle(*contour["circle"])
        inside = "circle" in contour and number > 0 and contour["circle"][2] < _HOLE
        upwards = [(x, -y) for x, y in (reversed(points) if inside else points)]  # the other way round: a hole
        contours.append(Path([*upwards, upwards[0]], closed=True))
    return Path.make_compound_path(*contours)


def _circle(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    angles = [2 * math.pi * corner / _CORNERS for corner in range(_CORNERS)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _root(values: Any) -> Any:
    return abs(values) ** 0.5


def _square(values: Any) -> Any:
    return values**2
