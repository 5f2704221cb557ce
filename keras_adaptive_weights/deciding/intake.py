"""Taking in observations: statistics, stable streak, circuit breaker, and the trial of the last change."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Observation, Reason
from keras_adaptive_weights.deciding.state import KEPT_FIELDS, EnvelopeState, Trial, W
from keras_adaptive_weights.deciding.statistics import Series, mean, measure_noise

MIN_REFERENCE = 5
"""Losses needed before one is compared with them."""
_BREAKER_COST = 10
_SPIKE_DEVIATIONS = 5.0
S = TypeVar("S", bound=EnvelopeState[Any])


def breaker_tripped(config: AdaptiveWeightConfig, state: EnvelopeState[Any]) -> bool:
    """Whether there were too many non-finite steps: each fills a bucket by ten, each finite step drains it by one."""
    return state.breaker >= config.max_non_finite_steps * _BREAKER_COST


def feed(config: AdaptiveWeightConfig, state: S, seen: Observation) -> S:
    """Return the state after one more observation.

    Statistics come from finite, applied steps only. A step that loss scaling skipped is routine: it is counted, no
    more. So is one on which there was nothing to measure. Any other skipped or non-finite step ends the stable streak,
    fills the circuit breaker, and harms a change on trial.
    """
    if seen.empty:
        return state._replace(step=seen.step, empty_steps=state.empty_steps + 1)
    if seen.loss_scaling or not seen.finite:
        return _feed_skipped(config, state, seen)
    if seen.dampening != 1.0:
        state = state._replace(dampened_steps=state.dampened_steps + 1)
    spike = _is_spike(config, state, seen.loss)
    steps_since_change = state.steps_since_change + 1
    span, reference_steps, clip = config.smoothing_steps, config.reference_steps, config.max_loss_spike_threshold
    losses, norms = state.losses.push(seen.loss, span, reference_steps, clip), state.gradient_norms
    if seen.gradient_norm is not None:
        norms = norms.push(seen.gradient_norm, span, reference_steps, clip)
    trial, rollbacks = state.trial, state.rollbacks
    if trial is not None:
        trial = _feed_trial(config, trial, losses, spike=spike)
        if steps_since_change >= state.cooling and trial.harm is None:  # passed
            trial, rollbacks = None, 0
    kept = state[:KEPT_FIELDS]
    changed = (  # in the order of the fields: `_replace` takes several times as long, and this is every step
        seen.step,
        steps_since_change,
        state.observed_steps + 1,
        0 if spike else state.stable_steps + 1,
        True,
        max(0, state.breaker - 1),
        rollbacks,
        trial,
        _smoothed(config, state.running_total_loss, seen.total_loss),
        losses,
        norms,
    )
    return tuple.__new__(type(state), kept + changed)


def _feed_skipped(config: AdaptiveWeightConfig, state: S, seen: Observation) -> S:
    """Return the state after a step that the optimizer did not take, or on which something was not finite."""
    state = state._replace(
        step=seen.step,
        steps_since_change=state.steps_since_change + 1,
        skipped_steps=state.skipped_steps + (not seen.applied),
    )
    if seen.loss_scaling:
        return state
    return state._replace(
        stable_steps=0,
        last_finite=False,
        faults_off_trial=state.faults_off_trial or (state.trial is None and state.stable_steps > 0),
        breaker=min(state.breaker + _BREAKER_COST, config.max_non_finite_steps * _BREAKER_COST),
        trial=state.trial and _harmed(state.trial, Reason.TRIAL_NON_FINITE, state.trial.ratio),
    )


def _smoothed(config: AdaptiveWeightConfig, average: float | None, value: float | None) -> float | None:
    """Return the exponential average after one more value."""
    if value is None or average is None:
        return average if value is None else value
    smoothed = average + config.loss_smoothing_factor * (value - average)
    return smoothed if math.isfinite(smoothed) else value  # their difference overflowed


def _is_spike(config: AdaptiveWeightConfig, state: EnvelopeState[Any], loss: float) -> bool:
    """Whether the loss is far above its level, and further than the noise of the losses reaches."""
    level = state.losses.average if state.trial is None else state.trial.baseline
    if not (level > 0.0 and loss > config.max_loss_spike_threshold * level) or state.losses.below_zero:
        return False
    if state.trial is None and len(state.losses.recent) + len(state.losses.reference) < MIN_REFERENCE:
        return False
    noise = state.trial.noise if state.trial else measure_noise(state.losses.reference or state.losses.recent)
    return loss > level * math.exp(min(_SPIKE_DEVIATIONS * noise.deviation, 700.0))


def _harmed(trial: Trial[W], reason: Reason, ratio: float) -> Trial[W]:
    """Return the trial with the harm that was done; what was found first stands."""
    return trial if trial.harm else trial._replace(harm=reason, ratio=ratio)


def _feed_trial(config: AdaptiveWeightConfig, trial: Trial[W], losses: Series, *, spike: bool) -> Trial[W]:
    """Hold the newest losses since the change against what they were before it.

    The newest only, as what a weight does to the loss shows with a lag. Losses without a scale tell nothing.
    """
    if not trial.baseline > 0.0 or losses.below_zero:
        return trial._replace(steps=trial.steps + 1)
    recent = losses.recent
    if spike:
        return _harmed(trial, Reason.TRIAL_LOSS_SPIKE, recent[-1] / trial.baseline)
    steps = trial.steps + 1
    since = recent[-steps:]
    ratio = trial.ratio if trial.harm else mean(since) / trial.baseline
    trial = trial._replace(steps=steps, ratio=ratio)
    if steps < min(config.min_stable_steps, config.cooling_period):
        return trial
    error = trial.noise.standard_error(trial.baseline_steps, len(since))
    forgiven = 1.0 + config.trial_tolerance + trial.noise.quantile(config.trial_significance) * error
    return _harmed(trial, Reason.TRIAL_LOSS_WORSE, ratio) if ratio > forgiven else trial
