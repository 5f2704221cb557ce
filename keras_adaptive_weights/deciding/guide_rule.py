"""The decision rule: a pure step from configuration, state and observations to the next state and one decision.

`step` takes the observations of one execution, feeds each to the statistics and the safety checks (`intake`), and takes
one decision at the end, in this order:

1. a circuit breaker that tripped: DISABLE, base weight;
2. a change on trial that did harm (loss significantly worse, a spike, a non-finite step): ROLLBACK to the weight before
   it, and the next cooling is longer; the `max_rollbacks`-th in a row is a DISABLE instead. One for a non-finite step
   does not count where such steps also came with no change on trial: then it is the data that make them;
3. gates, each a HOLD with its reason: switched off or disabled, last step non-finite, warmup, cooling, variance, stable
   streak, too few losses to compare with;
4. the evidence: growing gradients or a low loss ask for less weight, a high loss with steady gradients for more, and a
   difference counts only where it is significant against the noise (`statistics`);
5. validation of the new weight: REJECT, or INCREASE / DECREASE, and its trial begins.

A change consumes its evidence: the losses after it are compared with those it was based on, not with older ones, so one
lasting shift is answered once.

No clock, no I/O, no randomness, no mutation; everything the state holds is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action, Decision, Observation, Reason
from keras_adaptive_weights.deciding.intake import MIN_REFERENCE, breaker_tripped, feed
from keras_adaptive_weights.deciding.state import ControllerState, Trial
from keras_adaptive_weights.deciding.statistics import Comparison, Series, mean

_FLOAT32_MAX = 3.4028235e38
_DIRECTION = {
    Reason.LOSS_HIGH: Action.INCREASE,
    Reason.LOSS_LOW: Action.DECREASE,
    Reason.GRADIENTS_GROWING: Action.DECREASE,
    Reason.GRADIENTS_ABOVE_THRESHOLD: Action.DECREASE,
}


def step(
    config: AdaptiveWeightConfig, state: ControllerState, observations: Sequence[Observation]
) -> tuple[ControllerState, Decision]:
    """Take in the observations of one execution, oldest first, and decide once.

    Raises:
        ValueError: No observations.
    """
    if not observations:
        raise ValueError("step: argument `observations` must hold at least one Observation. Received none.")
    for observation in observations:
        state = feed(config, state, observation)
    return _decide(config, state, observations[-1])


def disable(state: ControllerState, note: str = "") -> tuple[ControllerState, Decision]:
    """Go to the base weight at once and stay there until `enable`."""
    return _disable(state, Reason.MANUAL, {}, note)


def enable(config: AdaptiveWeightConfig, state: ControllerState, note: str = "") -> tuple[ControllerState, Decision]:
    """Let the weight move again, after a full cooling period; the circuit breaker starts afresh."""
    enabled = state._replace(
        disabled=False, breaker=0, rollbacks=0, cooling=config.cooling_period, steps_since_change=0
    )
    return enabled, _decision(state, Action.ENABLE, Reason.MANUAL, state.weight, {}, note)


def reset(
    state: ControllerState,
    note: str = "",
    reason: Reason = Reason.MANUAL,
    evidence: Mapping[str, float] | None = None,
) -> tuple[ControllerState, Decision]:
    """Forget all statistics: warmup begins again. Weight, step counter, cooling and a disable stay as they are.

    So it is asked for by hand, and where the model went back to a snapshot: its losses are then those of another model.
    """
    fresh = ControllerState(
        weight=state.weight,
        base_weight=state.base_weight,
        step=state.step,
        steps_since_change=state.steps_since_change,
        cooling=state.cooling,
        skipped_steps=state.skipped_steps,
        disabled=state.disabled,
        held_weight=state.held_weight,
    )
    return fresh, _decision(state, Action.RESET, reason, state.weight, evidence or {}, note)


def rollback(config: AdaptiveWeightConfig, state: ControllerState, note: str = "") -> tuple[ControllerState, Decision]:
    """Undo the last change by hand; REJECT where there is none to undo."""
    if state.previous_weight is None or state.disabled:
        return state, _decision(state, Action.REJECT, Reason.NOTHING_TO_ROLL_BACK, state.weight, {}, note)
    return _roll_back(config, state, Reason.MANUAL, {}, note)


def set_shadow(config: AdaptiveWeightConfig, state: ControllerState, *, shadow: bool) -> ControllerState:
    """Let decisions only be recorded from here on, or take effect; the weight in force stays either way.

    Where they take effect again, what was proposed meanwhile is dropped: the controller goes on from the weight in
    force, with the statistics it has, after a full cooling period. A disable stays.
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


def _decide(
    config: AdaptiveWeightConfig, state: ControllerState, last: Observation
) -> tuple[ControllerState, Decision]:
    """Take the decision that is due after the observations were fed."""
    streak = min(state.stable_steps, config.smoothing_steps)
    losses, norms = state.losses.compare(streak), state.gradient_norms.compare(streak)
    variance = state.losses.variance
    evidence = _evidence(config, state, losses, norms, loss=last.loss, variance=variance)
    if config.enabled and not state.disabled:
        if breaker_tripped(config, state):
            return _disable(state, Reason.REPEATED_NON_FINITE, evidence)
        if state.trial is not None and state.trial.harm is not None:
            return _roll_back(config, state, state.trial.harm, {**evidence, "trial_ratio": state.trial.ratio})
    reason = _closed_gate(config, state, last, variance) or _weigh(config, losses, norms, evidence)
    if reason in _DIRECTION:
        return _change(config, state, reason, losses, norms, evidence)
    return state, _decision(state, Action.HOLD, reason, state.weight, evidence)


def _closed_gate(
    config: AdaptiveWeightConfig, state: ControllerState, last: Observation, variance: float
) -> Reason | None:
    """Return the first gate that forbids a change now."""
    if not config.enabled:
        return Reason.SWITCHED_OFF
    if state.disabled:
        return Reason.DISABLED
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


def _weigh(config: AdaptiveWeightConfig, losses: Comparison, norms: Comparison, evidence: dict[str, float]) -> Reason:
    """Say what the evidence asks for: a reason in `_DIRECTION`, or why there is none."""
    if not (losses.average > 0.0 and math.isfinite(losses.ratio)):
        return Reason.NO_SCALE
    limit = math.inf if config.gradient_norm_threshold is None else config.gradient_norm_threshold
    growing = norms.ratio > config.gradient_growth_threshold
    near = norms.current > 0.999 * limit  # the lower half's mean is at most that of all, but for rounding
    above = near and norms.lowest > limit
    lasting = growing and norms.lowest > config.gradient_growth_threshold * norms.average
    if above or lasting:
        noise = norms.noise()
        needed = noise.quantile(config.significance)
        if above and norms.deviation_from(limit, noise) > needed:
            return Reason.GRADIENTS_ABOVE_THRESHOLD
        if lasting and norms.deviation(noise) > needed:
            return Reason.GRADIENTS_GROWING
    if config.loss_ratio_low <= losses.ratio <= config.loss_ratio_high:
        return Reason.WITHIN_BAND
    low = losses.ratio < config.loss_ratio_low
    if low:
        lasting = losses.highest < config.loss_ratio_low * losses.average
    else:
        lasting = losses.lowest > config.loss_ratio_high * losses.average
    if not lasting:
        return Reason.NOT_LASTING
    noise = losses.noise()
    deviation, needed = losses.deviation(noise), noise.quantile(config.significance)
    evidence.update(deviation=deviation, deviation_needed=needed)
    if not deviation > needed:
        return Reason.NOT_SIGNIFICANT
    if low:
        return Reason.LOSS_LOW
    return Reason.GRADIENTS_BLOCK_INCREASE if growing or norms.current > limit else Reason.LOSS_HIGH


def _change(
    config: AdaptiveWeightConfig,
    state: ControllerState,
    reason: Reason,
    losses: Comparison,
    norms: Comparison,
    evidence: dict[str, float],
) -> tuple[ControllerState, Decision]:
    """Move the weight within its bounds, put the change on trial, and start the statistics afresh from here."""
    action = _DIRECTION[reason]
    factor = 1.0 + config.max_change_percent
    if action is Action.INCREASE:
        weight, stopped = min(state.weight * factor, config.max_weight), Reason.AT_MAX
    else:
        weight, stopped = max(state.weight / factor, config.min_weight), Reason.AT_MIN
    if weight == state.weight:
        return state, _decision(state, Action.HOLD, stopped, state.weight, evidence)
    refusal = _refusal(config, state, weight, evidence)
    if refusal is not None:
        retried_later = state._replace(cooling=state.steps_since_change + config.cooling_period)
        return retried_later, _decision(state, Action.REJECT, refusal, state.weight, evidence)
    changed = state._replace(
        weight=weight,
        previous_weight=state.weight,
        steps_since_change=0,
        cooling=config.cooling_period,
        trial=Trial(state.weight, mean(losses.newer), len(losses.newer), losses.noise()),
        losses=Series(losses.newer),
        gradient_norms=Series(norms.newer),
    )
    return changed, _decision(state, action, reason, weight, evidence)


def _refusal(
    config: AdaptiveWeightConfig, state: ControllerState, weight: float, evidence: dict[str, float]
) -> Reason | None:
    """Return why the weight must not be used, or None."""
    if not math.isfinite(weight):
        return Reason.WEIGHT_NOT_FINITE
    if not config.min_weight <= weight <= config.max_weight:
        return Reason.WEIGHT_OUT_OF_RANGE
    weighted = weight * evidence["loss"]
    if not abs(weighted) <= _FLOAT32_MAX:
        return Reason.WEIGHTED_LOSS_NOT_FINITE
    evidence["weighted_loss_ratio"] = weighted / (state.weight * evidence["running_average"])
    if evidence["weighted_loss_ratio"] > config.absurd_loss_factor:
        return Reason.WEIGHTED_LOSS_ABSURD
    return None


def _roll_back(
    config: AdaptiveWeightConfig, state: ControllerState, reason: Reason, evidence: dict[str, float], note: str = ""
) -> tuple[ControllerState, Decision]:
    """Undo the last change and cool longer; disable where that happened too often in a row."""
    automatic = reason is not Reason.MANUAL
    stray = reason is Reason.TRIAL_NON_FINITE and state.faults_off_trial  # such steps come without a change, as well
    rollbacks = state.rollbacks + (automatic and not stray)
    if rollbacks >= config.max_rollbacks:
        return _disable(state, Reason.REPEATED_ROLLBACKS, {**evidence, "rollbacks": float(rollbacks)}, note)
    backoff = min(config.cooling_backoff ** (state.rollbacks + automatic), config.max_cooling_factor)
    weight = state.weight if state.previous_weight is None else state.previous_weight
    back = state._replace(
        weight=weight,
        previous_weight=None,
        trial=None,
        rollbacks=rollbacks,
        faults_off_trial=False,
        steps_since_change=0,
        cooling=round(config.cooling_period * backoff),
    )
    return back, _decision(state, Action.ROLLBACK, reason, weight, evidence, note)


def _disable(
    state: ControllerState, reason: Reason, evidence: dict[str, float], note: str = ""
) -> tuple[ControllerState, Decision]:
    """Go to the base weight and stay there."""
    changed = state.weight != state.base_weight
    off = state._replace(
        weight=state.base_weight,
        previous_weight=None,
        trial=None,
        disabled=True,
        steps_since_change=0 if changed else state.steps_since_change,
    )
    return off, _decision(state, Action.DISABLE, reason, state.base_weight, evidence, note)


def _evidence(
    config: AdaptiveWeightConfig,
    state: ControllerState,
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
        "stable_steps": 1.0 * state.stable_steps,
        "min_stable_steps": 1.0 * config.min_stable_steps,
        "reference_steps": 1.0 * len(losses.reference),
    }


def _decision(
    state: ControllerState,
    action: Action,
    reason: Reason,
    new_weight: float,
    evidence: Mapping[str, float],
    note: str = "",
) -> Decision:
    return Decision(state.step, action, reason, state.weight, new_weight, evidence, note, state.held_weight)
