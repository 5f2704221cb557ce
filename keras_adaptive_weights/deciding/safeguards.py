"""What keeps any decision safe, for one weight and for several alike: gates, and the ways back.

`envelope` decides on one weight with it, `joint_envelope` on those of several terms at once. What is the same for both
is here: which gate forbids a change, what must be done whatever a rule says, and how the state goes on after a change,
a rollback, a disable, an enable, a reset, and at the ends of a shadow run. A state is only ever read here for its
statistics and counters; its weights are put in place as they are.
"""

from __future__ import annotations

import math
from typing import Any

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Observation, Reason
from keras_adaptive_weights.deciding.intake import MIN_REFERENCE, S, breaker_tripped
from keras_adaptive_weights.deciding.plain_records import FLOAT32_MAX
from keras_adaptive_weights.deciding.state import EnvelopeState, Trial
from keras_adaptive_weights.deciding.statistics import Comparison, Noise, Series, mean


def emergency(config: AdaptiveWeightConfig, state: EnvelopeState[Any]) -> Reason | None:
    """Return what must be answered first: too many non-finite steps, or the harm that a change on trial did."""
    if not config.enabled or state.disabled:
        return None
    if breaker_tripped(config, state):
        return Reason.REPEATED_NON_FINITE
    return state.trial.harm if state.trial is not None else None


def closed_gate(
    config: AdaptiveWeightConfig, state: EnvelopeState[Any], last: Observation, variance: float
) -> Reason | None:
    """Return the first gate that forbids a change now."""
    if not config.enabled:
        return Reason.SWITCHED_OFF
    if state.disabled:
        return Reason.DISABLED
    if last.empty:
        return Reason.EMPTY
    if last.loss_scaling:
        return Reason.LOSS_SCALING
    if not state.last_finite:
        return Reason.NON_FINITE
    if state.observed_steps <= config.warmup_steps:
        return Reason.WARMUP
    if state.trial is not None or state.steps_since_change <= state.cooling:
        return Reason.COOLING
    if variance > config.variance_threshold:
        return Reason.HIGH_VARIANCE
    if state.stable_steps < config.min_stable_steps:
        return Reason.UNSTABLE
    if len(state.losses.reference) < MIN_REFERENCE:
        return Reason.COLLECTING
    return None


def within_step(config: AdaptiveWeightConfig, weight: float, *, up: bool) -> float:
    """Return the weight one step further: up is times `1 + max_change_percent`, down is divided by it."""
    factor = 1.0 + config.max_change_percent
    return weight * factor if up else weight / factor


def refused_weight(weight: float, low: float, high: float) -> Reason | None:
    """Return why a weight must not be used, or None."""
    if not math.isfinite(weight):
        return Reason.WEIGHT_NOT_FINITE
    return None if low <= weight <= high else Reason.WEIGHT_OUT_OF_RANGE


def refused_loss(
    config: AdaptiveWeightConfig, weighted: float, average: float, evidence: dict[str, float]
) -> Reason | None:
    """Return why a weighted loss must not come about, or None; how it compares with its average joins the evidence.

    Where the average is not above 0 there is no such ratio.
    """
    if not abs(weighted) <= FLOAT32_MAX:
        return Reason.WEIGHTED_LOSS_NOT_FINITE
    if not average > 0.0:
        return None
    evidence["weighted_loss_ratio"] = weighted / average
    return Reason.WEIGHTED_LOSS_ABSURD if evidence["weighted_loss_ratio"] > config.absurd_loss_factor else None


def changed(
    config: AdaptiveWeightConfig, state: S, weight: Any, recent: tuple[float, ...], noise: Noise, norms: Comparison
) -> S:
    """Put a new weight in place and on trial, and begin the statistics afresh from the newest values.

    Args:
        config: The settings.
        state: The state before.
        weight: The new weight, or weights.
        recent: The newest losses before the change, as they compare with those after it.
        noise: Their noise.
        norms: The gradient norms.
    """
    return state._replace(
        weight=weight,
        previous_weight=state.weight,
        steps_since_change=0,
        cooling=config.cooling_period,
        trial=Trial(state.weight, mean(recent), len(recent), noise),
        losses=Series(recent),
        gradient_norms=Series(norms.newer),
    )


def refused(config: AdaptiveWeightConfig, state: S) -> S:
    """Keep the weight, and try again after a cooling period."""
    return state._replace(cooling=state.steps_since_change + config.cooling_period)


def rollbacks_with(state: EnvelopeState[Any], reason: Reason) -> int:
    """Return how many rollbacks in a row it would be with one for this reason.

    One by hand does not count, nor does one for a non-finite step where such steps come without a change, as well.
    """
    stray = reason is Reason.TRIAL_NON_FINITE and state.faults_off_trial
    return state.rollbacks + (reason is not Reason.MANUAL and not stray)


def undone(config: AdaptiveWeightConfig, state: S, reason: Reason) -> S:
    """Go back to the weight before the last change, and cool longer with each time in a row."""
    automatic = reason is not Reason.MANUAL
    backoff = min(config.cooling_backoff ** (state.rollbacks + automatic), config.max_cooling_factor)
    return state._replace(
        weight=state.weight if state.previous_weight is None else state.previous_weight,
        previous_weight=None,
        trial=None,
        rollbacks=rollbacks_with(state, reason),
        faults_off_trial=False,
        steps_since_change=0,
        cooling=round(config.cooling_period * backoff),
    )


def disabled(state: S) -> S:
    """Go to the base weight and stay there."""
    return state._replace(
        weight=state.base_weight,
        previous_weight=None,
        trial=None,
        disabled=True,
        steps_since_change=0 if state.weight != state.base_weight else state.steps_since_change,
    )


def enabled(config: AdaptiveWeightConfig, state: S) -> S:
    """Let the weight move again, after a full cooling period; circuit breaker and rollbacks start afresh."""
    return state._replace(disabled=False, breaker=0, rollbacks=0, cooling=config.cooling_period, steps_since_change=0)


def forgotten(state: S) -> S:
    """Forget all statistics: warmup begins again. Weight, step counter, cooling and a disable stay as they are."""
    return type(state)(
        weight=state.weight,
        base_weight=state.base_weight,
        step=state.step,
        steps_since_change=state.steps_since_change,
        cooling=state.cooling,
        skipped_steps=state.skipped_steps,
        dampened_steps=state.dampened_steps,
        empty_steps=state.empty_steps,
        disabled=state.disabled,
        held_weight=state.held_weight,
    )


def set_shadow(config: AdaptiveWeightConfig, state: S, *, shadow: bool) -> S:
    """Let decisions only be recorded from here on, or take effect; the weight in force stays either way.

    Where they take effect again, what was proposed meanwhile is dropped: decisions go on from the weight in force, with
    the statistics there are, after a full cooling period. A disable stays.
    """
    if shadow == (state.held_weight is not None):
        return state
    if shadow:
        return state._replace(held_weight=state.weight)
    return state._replace(
        weight=state.weight_in_force,
        held_weight=None,
        previous_weight=None,
        trial=None,
        rollbacks=0,
        steps_since_change=0,
        cooling=config.cooling_period,
    )


def evidence(
    config: AdaptiveWeightConfig,
    state: EnvelopeState[Any],
    losses: Comparison,
    norms: Comparison,
    *,
    loss: float,
    variance: float,
) -> dict[str, float]:
    """Return the numbers that every decision carries."""
    return {
        "loss": loss,
        "smoothed_loss": losses.current,
        "running_average": losses.average,
        "loss_ratio": losses.ratio,
        "loss_ratio_low": config.loss_ratio_low,
        "loss_ratio_high": config.loss_ratio_high,
        "loss_variance": variance,
        "variance_threshold": config.variance_threshold,
        "gradient_norm": norms.current,
        "average_gradient_norm": norms.average,
        "gradient_ratio": norms.ratio,
        "gradient_norm_threshold": config.gradient_norm_threshold or math.nan,
        "observed_steps": 1.0 * state.observed_steps,
        "warmup_steps": 1.0 * config.warmup_steps,
        "steps_since_change": 1.0 * state.steps_since_change,
        "cooling": 1.0 * state.cooling,
        "skipped_steps": 1.0 * state.skipped_steps,
        "dampened_steps": 1.0 * state.dampened_steps,
        "empty_steps": 1.0 * state.empty_steps,
        "stable_steps": 1.0 * state.stable_steps,
        "min_stable_steps": 1.0 * config.min_stable_steps,
        "reference_steps": 1.0 * len(losses.reference),
    }
