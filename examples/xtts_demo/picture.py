"""The picture of a run: losses, gradient norm, and the mel weight with its decisions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from keras_adaptive_weights import Action, AdaptiveWeightConfig, Journal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _GRID = "#333333", "#e6e6e6"
_TRAIN, _VALIDATION, _NORM, _WEIGHT = "#4c78a8", "#b5179e", "#5b8e7d", "#6a4c93"
_SKIP, _SPIKE = "#c1121f", "#e08e0b"
_MARKS = {
    Action.INCREASE: ("^", "#2a9d3a"),
    Action.DECREASE: ("v", "#1f6fb2"),
    Action.ROLLBACK: ("s", "#e08e0b"),
    Action.REJECT: ("X", "#7f7f7f"),
    Action.DISABLE: ("D", "#c1121f"),
    Action.ENABLE: ("P", "#2a9d3a"),
    Action.RESET: ("o", "#333333"),
}


def draw(
    path: Path, journal: Journal, validation: Sequence[tuple[int, float]], config: AdaptiveWeightConfig, title: str
) -> None:
    """Draw a run.

    Args:
        path: The PNG file.
        journal: The run's journal, with at least one step.
        validation: Step and mel loss of each validation.
        config: Settings of the weight, for its bounds, the warmup, and the threshold of the norms.
        title: Headline.
    """
    figure = Figure(figsize=(11.0, 9.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    losses, norms, weights = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 3))
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=_INK)
    _draw_losses(losses, journal, validation)
    _draw_norms(norms, journal, config)
    _draw_weights(weights, journal, config)
    for panel in (losses, norms, weights):
        _mark_bad_steps(panel, journal, named=panel is losses)
        panel.grid(color=_GRID, linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(colors=_INK)
        panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=9)
    weights.set_xlabel("training step")
    losses.set_xlim(0, journal.observations[-1].step + 1)
    figure.savefig(path)


def _logarithmic(panel: Axes, label: str) -> None:
    """Give the vertical axis a logarithmic scale with plain numbers."""
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_ylabel(label)


def _draw_losses(panel: Axes, journal: Journal, validation: Sequence[tuple[int, float]]) -> None:
    """Draw the mel loss of every step and of the validations."""
    steps = [seen.step for seen in journal.observations]
    values = [seen.loss for seen in journal.observations]
    panel.plot(steps, values, color=_TRAIN, linewidth=1.0, label="training, every step")
    panel.plot(*zip(*validation, strict=True), "o-", color=_VALIDATION, markersize=5, linewidth=1.4, label="validation")
    _logarithmic(panel, "mel loss")


def _draw_norms(panel: Axes, journal: Journal, config: AdaptiveWeightConfig) -> None:
    """Draw the norm of the gradients before clipping."""
    known = [seen for seen in journal.observations if seen.gradient_norm is not None]
    norms = [seen.gradient_norm if math.isfinite(seen.gradient_norm) else math.nan for seen in known]
    panel.plot([seen.step for seen in known], norms, color=_NORM, linewidth=1.0, label="gradient norm")
    if config.gradient_norm_threshold is not None:
        panel.axhline(config.gradient_norm_threshold, color=_INK, linestyle=":", linewidth=1.0, label="its threshold")
    _logarithmic(panel, "gradient norm")


def _draw_weights(panel: Axes, journal: Journal, config: AdaptiveWeightConfig) -> None:
    """Draw the weight in force, its bounds and base, the warmup, and every decision that is an event."""
    steps = [seen.step for seen in journal.observations]
    base = journal.headers[0].base_weight
    bounds = f"bounds {config.min_weight:g} and {config.max_weight:g}"
    panel.axhline(config.max_weight, color=_WEIGHT, linestyle="-.", linewidth=1.2, label=bounds)
    panel.axhline(config.min_weight, color=_WEIGHT, linestyle="-.", linewidth=1.2)
    panel.axhline(base, color=_INK, linestyle="--", linewidth=0.9, label=f"base {base:g}")
    panel.axvspan(0, min(config.warmup_steps, steps[-1]), color="#000000", alpha=0.05, linewidth=0, label="warmup")
    weights = [*journal.weights, journal.events[-1].new_weight if journal.events else journal.weights[-1]]
    panel.step([*steps, steps[-1] + 1], weights, where="post", color=_WEIGHT, linewidth=2.0, label="mel weight")
    named: set[Action] = set()
    for number, event in enumerate(journal.events):
        shape, colour = _MARKS[event.action]
        label = None if event.action in named else event.action.value
        named.add(event.action)
        place = (event.step, event.new_weight)
        panel.plot(*place, shape, color=colour, markersize=9, markeredgecolor="white", label=label, zorder=4)
        panel.annotate(
            f"{event.new_weight:.3g}\n{event.reason.value.replace('_', ' ')}",
            place,
            xytext=(0, 12 if number % 2 == 0 else -30),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=_INK,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )
    margin = 0.05 * (config.max_weight - config.min_weight)
    panel.set_ylim(config.min_weight - margin, config.max_weight + margin)
    panel.set_ylabel("mel weight")


def _mark_bad_steps(panel: Axes, journal: Journal, *, named: bool) -> None:
    """Mark skipped steps and spikes across a panel, with or without names for the legend."""
    kinds = (
        ("skipped step", _SKIP, "-", [seen.step for seen in journal.observations if not seen.applied]),
        ("dampened spike", _SPIKE, "--", [seen.step for seen in journal.observations if seen.dampening < 1.0]),
    )
    for name, colour, style, steps in kinds:
        for number, step in enumerate(steps):
            label = name if named and number == 0 else None
            panel.axvline(step, color=colour, linestyle=style, linewidth=1.2, alpha=0.8, label=label, zorder=1)
