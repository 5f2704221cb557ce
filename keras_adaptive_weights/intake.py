"""Taking in observations: statistics, stable streak, circuit breaker, and the trial of the last change."""

from __future__ import annotations

import math
from typing import Any

from keras_adaptive_weights.config import AdaptiveWeightConfig
from keras_adaptive_weights.controller_state import ControllerState, Trial
from keras_adaptive_weights.decision import Observation, Reason
from keras_adaptive_weights.statistics import Series, mean, measure_noise

MIN_REFERENCE = 5
"""Losses needed before one is compared with them."""
_BREAKER_COST = 10
_SPIKE_DEVIATIONS = 5.0


def breaker_tripped(config: AdaptiveWeightConfig, state: ControllerState) -> bool:
    """Whether there were too many non-finite steps: each fills a bucket by ten, each finite step drains it by one."""
    return state.breaker >= config.max_non_finite_steps * _BREAKER_COST


def feed(config: AdaptiveWeightConfig, state: ControllerState, seen: Observation) -> ControllerState:
    """Return the state after one more observation.

    Statistics come from finite, applied steps only. A step that loss scaling skipped is routine: it is counted, no
    more. Any other skipped or non-finite step ends the stable streak, fills the circuit breaker, and harms a change on
    trial.
    """
    counted: dict[str, Any] = {"step": seen.step, "steps_since_change": state.steps_since_change + 1}
    if not seen.applied:
        counted["skipped_steps"] = state.skipped_steps + 1
    if seen.loss_scaling:
        return state._replace(**counted)
    if not seen.finite:
        return state._replace(
            **counted,
            stable_steps=0,
            last_finite=False,
            breaker=min(state.breaker + _BREAKER_COST, config.max_non_finite_steps * _BREAKER_COST),
            trial=state.trial and _harmed(state.trial, Reason.TRIAL_NON_FINITE, state.trial.ratio),
        )
    spike = _is_spike(config, state, seen.loss)
    cooled = state.steps_since_change + 1 >= state.cooling
    losses = _push(config, state.losses, seen.loss)
    trial = state.trial and _feed_trial(config, state.trial, losses.recent, spike=spike)
    if trial is not None and cooled and trial.harm is None:  # passed
        trial = None
        counted["rollbacks"] = 0
    return state._replace(
        **counted,
        observed_steps=state.observed_steps + 1,
        stable_steps=0 if spike else state.stable_steps + 1,
        last_finite=True,
        breaker=max(0, state.breaker - 1),
        trial=trial,
        losses=losses,
        running_total_loss=_smoothed(config, state.running_total_loss, seen.total_loss),
        gradient_norms=_push(config, state.gradient_norms, seen.gradient_norm),
    )


def _push(config: AdaptiveWeightConfig, series: Series, value: float | None) -> Series:
    if value is None:
        return series
    return series.push(
        value,
        span=config.smoothing_steps,
        reference_steps=config.reference_steps,
        clip=config.max_loss_spike_threshold,
    )


def _smoothed(config: AdaptiveWeightConfig, average: float | None, value: float | None) -> float | None:
    """Return the exponential average after one more value."""
    if value is None or average is None:
        return average if value is None else value
    return average + config.loss_smoothing_factor * (value - average)


def _is_spike(config: AdaptiveWeightConfig, state: ControllerState, loss: float) -> bool:
    """Whether the loss is far above its level, and further than the noise of the losses reaches."""
    if state.trial is not None:
        level = state.trial.baseline
    elif len(state.losses.recent) + len(state.losses.reference) >= MIN_REFERENCE:
        level = state.losses.average
    else:
        return False
    if not (level > 0.0 and loss > config.max_loss_spike_threshold * level):
        return False
    noise = state.trial.noise if state.trial else measure_noise(state.losses.reference or state.losses.recent)
    return loss > level * math.exp(min(_SPIKE_DEVIATIONS * noise.deviation, 700.0))


def _harmed(trial: Trial, reason: Reason, ratio: float) -> Trial:
    """Return the trial with the harm that was done; what was found first stands."""
    return trial if trial.harm else trial._replace(harm=reason, ratio=ratio)


def _feed_trial(config: AdaptiveWeightConfig, trial: Trial, recent: tuple[float, ...], *, spike: bool) -> Trial:
    """Hold the newest losses since the change against what they were before it.

    The newest only, as what a weight does to the loss shows with a lag.
    """
    if not trial.baseline > 0.0:
        return trial._replace(steps=trial.steps + 1)
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
