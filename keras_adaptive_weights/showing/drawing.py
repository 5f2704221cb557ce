"""What pictures are drawn with: figures, scales, names and markers in the shared visual language, by matplotlib."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.showing.look import dash_of, in_order, kind_label, kind_of, kind_shape, known_kind
from keras_adaptive_weights.showing.scales import Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path

Colours = Mapping[str, str]
_COLOURS = 8
_MARKER = 62
_TICK_GAP = 0.22
_CORNERS, _HOLE = 24, 3.0


def empty_figure(width: float, height: float, look: Colours) -> Figure:
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


def png(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font does not have
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def tidy(axis: Axes, look: Colours) -> None:
    """Give an axis the look of a panel."""
    axis.set_facecolor(look["paper"])
    axis.grid(color=look["faint"], linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[:].set_color(look["edge"])
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=look["quiet"], labelsize=8.5, length=0, labelbottom=False)
    axis.xaxis.label.set(color=look["quiet"], size=9)
    axis.yaxis.label.set(color=look["quiet"], size=9)


def set_scale(axis: Axes, scale: Scale) -> None:
    """Give an axis a scale, with round numbers at it."""
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


def write_beside(
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


def colour_of(number: int, look: Colours) -> str:
    """Return the colour of a term by its number."""
    return look[f"run-{number % _COLOURS}"]


def dashes(number: int) -> Any:
    """Return the line style of a term by its number."""
    found = dash_of(number)
    return (0, tuple(found)) if found else "-"


def name_limit(axis: Axes, place: float, label: str, color: str) -> None:
    """Name a limit in the right margin: at its height, or with an arrow at the edge that it lies beyond."""
    arrow, at = ("↑ ", 0.97) if place > 1.0 else ("↓ ", 0.03) if place < 0.0 else ("", place)
    axis.text(1.008, at, f"{arrow}{label}", transform=axis.transAxes, fontsize=8, color=color, va="center")


def title_axis(axis: Axes, name: str, look: Colours) -> None:
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


def name_kinds(figure: Figure, kinds: Mapping[str, int], look: Colours) -> None:
    """Name the kinds of markers there are, and how many of each, below the headline."""
    from matplotlib.lines import Line2D  # noqa: PLC0415 - as above

    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker(kind),
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


def headline_of(figure: Figure, text: str, look: Colours) -> None:
    """Write what a figure is of above everything."""
    figure.text(
        0.065, 1 - 0.12 / figure.get_figheight(), text, fontsize=12.5, color=look["ink"], va="top", parse_math=False
    )


def draw_events(axis: Axes, events: Sequence[Mapping[str, Any]], look: Colours, edge: str | None = None) -> None:
    """Mark events at their new weights; `edge`: colour of the marks' edges."""
    for kind in dict.fromkeys(kind_of(event) for event in events):
        chosen = [event for event in events if kind_of(event) == kind]
        axis.scatter(
            [event["step"] for event in chosen],
            [float(event["new_weight"]) for event in chosen],
            marker=marker(kind),
            s=_MARKER,
            color=look[known_kind(kind)],
            edgecolors=edge or look["paper"],
            linewidths=0.7,
            zorder=4,
            clip_on=False,
        )


def marker(kind: str) -> Path:
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
