"""How the training as a whole is doing, step by step: skipped steps in a row, a loss that left its level, calm.

Pure, like the controller: `feed` takes a frozen `Health` and one step, and returns the next `Health`.

Two exponential averages of the total loss are compared: a fast one over about ten steps and a slow one over about
`horizon` steps. A step is calm where it was applied and the fast average is no more than 1.5 times the slow one. A
single spike moves the fast average by at most a fifth; only losses that stay high make it leave its level.

Losses around or below zero have no relative scale: for `SCALE_STEPS` steps after a total below zero no step is high,
and every applied one is calm. A step on which there was nothing to measure is none.
"""

from __future__ import annotations

from typing import NamedTuple

from keras_adaptive_weights.deciding.decision import Observation

CALM_STEPS = 10
"""Calm steps in a row before a snapshot is taken, and after it before it is trusted."""
LOSS_SCALING_GRACE = 40
"""Steps in a row that loss scaling may skip: halving as often takes any scale that is in use far below 1."""
SCALE_STEPS = 1000
"""Steps after a total loss below zero in which none counts as high: it has no zero to be measured from."""
_FAST_RATE = 0.1
_CALM_FACTOR = 1.5
_SPIKE_FACTOR = 3.0


class Health(NamedTuple):
    """What is remembered of the steps so far.

    Attributes:
        step: Number of the last step.
        skips: Skipped steps in a row up to the last one. Of those that only loss scaling skipped, the first
            `LOSS_SCALING_GRACE` in a row are routine and not counted.
        scaling_skips: Steps in a row that only loss scaling skipped.
        first_skip: Number of the first skipped step of the row, counted or not.
        culprit: What was not finite on the first counted step of the row.
        seen: Applied steps.
        fast: Average of the total loss over about ten steps.
        slow: Average of the total loss over about `horizon` steps.
        calm: Calm steps in a row.
        last_calm: Number of the last calm step that had `CALM_STEPS` calm steps before it.
        high: Applied steps in a row with a fast average above the level that was given as too high.
        below_zero: Steps to come in which the total has no relative scale.
    """

    step: int = 0
    skips: int = 0
    scaling_skips: int = 0
    first_skip: int = 0
    culprit: str | None = None
    seen: int = 0
    fast: float = 0.0
    slow: float = 0.0
    calm: int = 0
    last_calm: int = 0
    high: int = 0
    below_zero: int = 0

    @property
    def level(self) -> float:
        """The level that later averages are compared with; 0 where there is no scale to compare them by."""
        return 0.0 if self.below_zero else self.fast

    @property
    def settled(self) -> bool:
        """Whether the last steps were calm enough to trust the parameters."""
        return self.calm >= CALM_STEPS and self.high == 0


def feed(health: Health, seen: Observation, *, horizon: int, too_high: float | None = None) -> Health:
    """Return the health after one more step.

    Args:
        health: The health before.
        seen: The step; its `total_loss` is looked at.
        horizon: Steps in the slow average.
        too_high: Fast average above which a step counts as high. `None`: none does.
    """
    if seen.empty:
        return health._replace(step=seen.step)
    if not seen.finite or seen.total_loss is None:
        return _skipped(health, seen)
    count, total = health.seen + 1, seen.total_loss
    below_zero = SCALE_STEPS if total < 0.0 else max(0, health.below_zero - 1)
    if count > CALM_STEPS and health.fast > 0.0 and not below_zero:
        total = min(total, _SPIKE_FACTOR * health.fast)
    fast = health.fast + max(_FAST_RATE, 1.0 / count) * (total - health.fast)
    slow = health.slow + max(1.0 / horizon, 1.0 / count) * (total - health.slow)
    calm = health.calm + 1 if below_zero or slow <= 0.0 or fast <= _CALM_FACTOR * slow else 0
    high = health.high + 1 if too_high is not None and fast > too_high and not below_zero else 0
    last_calm = seen.step if calm > CALM_STEPS and high == 0 else health.last_calm
    return Health(seen.step, 0, 0, 0, None, count, fast, slow, calm, last_calm, high, below_zero)  # skips are over


def recovered(health: Health, level: float, horizon: int) -> Health:
    """Return the health after the model went back to a snapshot at which the fast average was `level`."""
    return Health(
        step=health.step,
        seen=max(health.seen, horizon),
        fast=level,
        slow=level,
        last_calm=health.last_calm,
        below_zero=health.below_zero,
    )


def _skipped(health: Health, seen: Observation) -> Health:
    scaling = health.scaling_skips + 1 if seen.loss_scaling else 0
    counted = not seen.loss_scaling or scaling > LOSS_SCALING_GRACE
    return health._replace(
        step=seen.step,
        skips=health.skips + counted,
        scaling_skips=scaling,
        first_skip=health.first_skip or seen.step,
        culprit=health.culprit or ((seen.non_finite or "a value") if counted else None),
        calm=health.calm if seen.loss_scaling else 0,
    )
