"""The way of several weights to their targets: whether it is worth going, and how far all of them go at once.

A target is worth going to where it is away by more than a step and by more than its noise: two thirds of the settings'
`significance` in standard errors, as targets are measured rarely, or twice the error for the one calibration. That is
the *dead band*. All weights go the same part of their way on the logarithmic scale, so far that none moves by more
than `max_change_percent`, and each within its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Reason
from keras_adaptive_weights.deciding.joint import Term, Weights
from keras_adaptive_weights.deciding.plain_records import FLOAT32_MAX
from keras_adaptive_weights.deciding.statistics import widened
from keras_adaptive_weights.deciding.strategy import Proposal, Target

_CALIBRATION_ERRORS = 2.0
_RARELY = 2.0 / 3.0


class Way(NamedTuple):
    """Where the weights should go within their bounds, and whether it is worth it.

    `distance` and `needed`, on the logarithmic scale, are those of the weight that is furthest out of its dead band, or
    nearest to its end. `clipped`: some target lies beyond its bounds.
    """

    goals: Weights
    distance: float
    needed: float
    clipped: bool


def way_to(
    config: AdaptiveWeightConfig,
    terms: Mapping[str, Term],
    weights: Weights,
    targets: Mapping[str, Target],
    *,
    calibrating: bool,
) -> Way:
    """Hold each weight against its target within the bounds of its term."""
    step, significance = math.log1p(config.max_change_percent), _RARELY * config.significance
    goals, distance, needed, clipped = dict(weights), 0.0, step, False
    for name, target in targets.items():
        goals[name] = nearest(terms[name], target.weight)
        clipped = clipped or goals[name] != target.weight
        errors = _CALIBRATION_ERRORS if calibrating else widened(significance, max(1.0, target.freedom))
        noise = errors * target.error
        band = max(step, noise) if noise >= 0.0 else math.inf  # an error that is no number, or below 0, is unknown
        way = abs(math.log(goals[name]) - math.log(weights[name]))
        if (way / band, way) > (distance / needed, distance):
            distance, needed = way, band
    return Way(goals, distance, needed, clipped)


def part_of(
    config: AdaptiveWeightConfig, terms: Mapping[str, Term], weights: Weights, goals: Weights
) -> dict[str, float]:
    """Return the weights after the part of their ways at which the furthest has gone one step."""
    factor = 1.0 + config.max_change_percent
    ways = {name: math.log(goal) - math.log(weights[name]) for name, goal in goals.items()}
    furthest = max(map(abs, ways.values()))
    part = min(1.0, math.log(factor) / furthest) if furthest > 0.0 else 0.0
    moved = {}
    for name, weight in weights.items():
        new = min(max(weight * math.exp(part * ways[name]), weight / factor), weight * factor)
        moved[name] = nearest(terms[name], new)
    return moved


def reason_to_stay(config: AdaptiveWeightConfig, way: Way) -> Reason:
    """Say why a dead band was not left."""
    if way.distance > math.log1p(config.max_change_percent):
        return Reason.WITHIN_NOISE
    return Reason.TARGETS_OUT_OF_REACH if way.clipped else Reason.ON_TARGET


def bounds(term: Term) -> tuple[float, float]:
    """Return the lowest and the highest weight; of a fixed term both are its weight."""
    return term.weight if term.low is None else term.low, term.weight if term.high is None else term.high


def nearest(term: Term, weight: float) -> float:
    """Return the weight within the term's bounds; what is no number is as the term starts."""
    low, high = term.low, term.high
    if low is None or high is None:
        low, high = bounds(term)
    return (low if weight < low else min(weight, high)) if math.isfinite(weight) else term.weight


def usable(proposal: Proposal) -> Proposal:
    """Return the proposal without targets that no weight can have."""
    targets = {name: target for name, target in proposal.targets.items() if 0.0 < target.weight <= FLOAT32_MAX}
    return proposal if len(targets) == len(proposal.targets) else proposal._replace(targets=targets)
