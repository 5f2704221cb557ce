"""The guide's rule for one weight: what losses and gradient norms ask for. `step` is the rule in its envelope.

Growing gradients or a low loss ask for less weight, a high loss with steady gradients for more, and a difference counts
only where it lasts over all of the recent values and is significant against the noise (`statistics`). Losses around or
below zero have no scale, so nothing follows from them: no change here, and in `intake` neither a spike nor harm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from keras_adaptive_weights.deciding import envelope
from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action, Decision, Observation, Reason
from keras_adaptive_weights.deciding.state import ControllerState
from keras_adaptive_weights.deciding.statistics import Comparison


def step(
    config: AdaptiveWeightConfig, state: ControllerState, observations: Sequence[Observation], term: str = ""
) -> tuple[ControllerState, Decision]:
    """Take in the observations of one execution, oldest first, and decide once by this rule: see `envelope.step`."""
    return envelope.step(weigh, config, state, observations, term)


def weigh(
    config: AdaptiveWeightConfig, losses: Comparison, norms: Comparison, evidence: dict[str, float]
) -> tuple[Action, Reason]:
    """Say what the evidence asks for, and why, or why for nothing."""
    if not math.isfinite(losses.ratio):
        return Action.HOLD, Reason.NO_SCALE
    limit = math.inf if config.gradient_norm_threshold is None else config.gradient_norm_threshold
    growing = norms.ratio > config.gradient_growth_threshold
    near = norms.current > 0.999 * limit  # the lower half's mean is at most that of all, but for rounding
    above = near and norms.lowest > limit
    lasting = growing and norms.lowest > config.gradient_growth_threshold * norms.average
    if above or lasting:
        noise = norms.noise()
        needed = noise.quantile(config.significance)
        if above and norms.deviation_from(limit, noise) > needed:
            return Action.DECREASE, Reason.GRADIENTS_ABOVE_THRESHOLD
        if lasting and norms.deviation(noise) > needed:
            return Action.DECREASE, Reason.GRADIENTS_GROWING
    if config.loss_ratio_low <= losses.ratio <= config.loss_ratio_high:
        return Action.HOLD, Reason.WITHIN_BAND
    low = losses.ratio < config.loss_ratio_low
    if low:
        lasting = losses.highest < config.loss_ratio_low * losses.average
    else:
        lasting = losses.lowest > config.loss_ratio_high * losses.average
    if not lasting:
        return Action.HOLD, Reason.NOT_LASTING
    noise = losses.noise()
    deviation, needed = losses.deviation(noise), noise.quantile(config.significance)
    evidence.update(deviation=deviation, deviation_needed=needed)
    if not deviation > needed:
        return Action.HOLD, Reason.NOT_SIGNIFICANT
    if low:
        return Action.DECREASE, Reason.LOSS_LOW
    if growing or norms.current > limit:
        return Action.HOLD, Reason.GRADIENTS_BLOCK_INCREASE
    return Action.INCREASE, Reason.LOSS_HIGH
