"""The picture of a run: weight with its decisions, loss, loss ratio, variance and gradient norm over the same steps."""

from __future__ import annotations

import io
import math
import os
import warnings
from typing import TYPE_CHECKING, Any

from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.view import View, view
from keras_adaptive_weights.showing.explain import RECOVERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from keras_adaptive_weights.recording.what_if import WhatIf

_MARKERS = {
    "increase": ("^", "#00845f"),
    "decrease": ("v", "#0b66b8"),
    "rollback": ("<", "#c97800"),
    "reject": ("X", "#6b4fa0"),
    "disable": ("s", "#c81e3a"),
    "enable": ("o", "#0e7c86"),
    "reset": ("D", "#84541b"),
}
_OTHER = ("*", "#b0126b")
_BANDS = {"warmup": "#8aa4c8", "trial": "#e2b93b", "cooling": "#7cc0b8", "disabled": "#d9818b"}
_INK, _LIMIT = "#26323a", "#8a5a2b"
_POINTS = 1500


def draw_run(index: JournalIndex) -> bytes:
    """Return a picture of a run as PNG.

    Args:
        index: A refreshed index of its journal.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    figure = _figure(12, 10)
    seen = view(index, points=_POINTS)
    header = index.headers[-1]
    config = header["config"]
    axes = figure.subplots(5, 1, sharex=True, height_ratios=(2.2, 1.3, 1, 0.8, 1))
    for axis in axes:
        for band in seen.bands:
            axis.axvspan(band.first - 1, band.last, color=_BANDS.get(band.kind, "#999999"), alpha=0.25, linewidth=0)
    _draw_weight(axes[0], seen, index, header)
    _draw_lines(axes[1], seen, "loss", ("loss", "running_average"))
    _draw_lines(axes[2], seen, "loss ratio", ("loss_ratio",), config["loss_ratio_high"], config["loss_ratio_low"])
    _draw_lines(axes[3], seen, "variance", ("loss_variance",), config["variance_threshold"])
    limits = [limit for limit in (config["gradient_norm_threshold"],) if limit is not None]
    _draw_lines(axes[4], seen, "gradient norm", ("gradient_norm", "average_gradient_norm"), *limits)
    axes[3].set_yscale("function", functions=(_root, _square))
    axes[4].set(xlabel="step", xlim=(seen.first - 1, max(seen.last, 1)))
    shadow = " (shadow run)" if index.shadow else ""
    axes[0].set_title(f"Adaptive weight of {printable(header['term'], 80)}{shadow}", loc="left", parse_math=False)
    return _png(figure)


def draw_what_if(result: WhatIf, base_weight: float) -> bytes:
    """Return the recorded weight path and that under other settings, as PNG.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    figure = _figure(11, 4.5)
    axis = figure.subplots()
    last = max([event.step for event in (*result.recorded, *result.decided)], default=1)
    for path, events, label, color in (
        (result.recorded_path, result.recorded, "recorded", _INK),
        (result.path, result.decided, "what if", "#c4560f"),
    ):
        steps, weights = zip(*path, (last, path[-1][1]), strict=True)
        axis.step(steps, weights, where="post", color=color, label=f"{label}, {len(events)} events")
        for event in events:
            marker, _ = _MARKERS.get(event.action, _OTHER)
            axis.plot(event.step, event.new_weight, marker, color=color, markersize=6)
    axis.axhline(base_weight, color=_LIMIT, linestyle=":", linewidth=1)
    axis.set(xlabel="step", ylabel="weight")
    axis.legend(loc="best")
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure that belongs to no window and no notebook."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - an extra, and slow to import
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "A picture needs matplotlib, which is not installed: pip install 'keras-adaptive-weights[plot]'."
        ) from error
    return Figure(figsize=(width, height), layout="tight")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font does not have
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_weight(axis: Axes, seen: View, index: JournalIndex, header: dict[str, Any]) -> None:
    steps = [bucket["last"] for bucket in seen.buckets]
    weights = seen.column("weight")
    ends = [*(step - 1 for step in steps[:1]), *steps]
    axis.step(ends, [*weights[:1], *weights], where="pre", color=_INK)
    proposed = seen.column("proposed_weight")
    if not all(map(math.isnan, proposed)):
        axis.step(
            ends, [*proposed[:1], *proposed], where="pre", color=_INK, linestyle="--", label="proposed, not in force"
        )
    for value, style in (
        (header["config"]["min_weight"], "-"),
        (header["config"]["max_weight"], "-"),
        (header["base_weight"], ":"),
    ):
        axis.axhline(value, color=_LIMIT, linestyle=style, linewidth=1)
    for action in dict.fromkeys(_kind(event) for event in index.events):
        chosen = [event for event in index.events if _kind(event) == action]
        marker, color = _MARKERS.get(action, _OTHER)
        weights = [float(event["new_weight"]) for event in chosen]
        label = f"{printable(action, 40)} ({len(chosen)})"
        at = [event["step"] for event in chosen]
        axis.scatter(
            at, weights, marker=marker, c=color, s=44, label=label, zorder=3, edgecolors="white", linewidths=0.6
        )
    if seen.skipped:
        skipped = [step for step, _, _ in seen.skipped]
        low = header["config"]["min_weight"]
        axis.scatter(
            skipped, [low] * len(skipped), marker="|", c="#d24a00", s=90, label=f"skipped step ({len(skipped)})"
        )
    axis.set_ylabel("weight")
    if axis.get_legend_handles_labels()[0]:
        legend = axis.legend(loc="upper right", ncols=4, fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _kind(event: dict[str, Any]) -> str:
    return "model recovery" if event["reason"] in RECOVERIES else str(event["action"])


def _draw_lines(axis: Axes, seen: View, label: str, figures: tuple[str, ...], *limits: float) -> None:
    steps = [bucket["last"] for bucket in seen.buckets]
    for number, name in enumerate(figures):
        raw = len(figures) == 2 and number == 0
        least, greatest, last = (seen.column(name, which) for which in ("least", "greatest", "last"))
        axis.fill_between(steps, least, greatest, color=_INK, alpha=0.2 if raw else 0.25, linewidth=0)
        shown = name.replace("_", " ")
        axis.plot(steps, last, color=_INK, linewidth=0.6 if raw else 1.4, alpha=0.35 if raw else 1.0, label=shown)
    for limit in limits:
        axis.axhline(limit, color=_LIMIT, linestyle="--", linewidth=1)
    _clip_outliers(axis, [value for name in figures for value in seen.column(name)], limits)
    axis.set_ylabel(label)


def _root(values: Any) -> Any:
    return abs(values) ** 0.5


def _square(values: Any) -> Any:
    return values**2


def _clip_outliers(axis: Axes, values: list[float], limits: tuple[float, ...]) -> None:
    """Choose a scale that a few spikes do not set."""
    finite = sorted(value for value in values if not math.isnan(value))
    if len(finite) < 20:
        return
    middle, high = finite[len(finite) // 2], finite[int(0.98 * (len(finite) - 1))]
    top = max(high + 0.75 * (high - middle), *(limits or (high,)))
    low = min(finite[int(0.005 * (len(finite) - 1))], *(limits or (finite[0],)))
    pad = 0.06 * (top - low) or 0.1
    axis.set_ylim(max(0.0, low - pad) if low >= 0.0 else low - pad, top + pad)


def write_picture(path: str | os.PathLike[str], picture: bytes) -> None:
    """Write a picture to a file."""
    with open(path, "wb") as file:
        file.write(picture)
