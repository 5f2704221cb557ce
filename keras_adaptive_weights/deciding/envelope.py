"""One weight, decided on safely: a rule says which way, and the envelope whether and how far.

`step` takes the observations of one execution, feeds each to the statistics and the safety checks (`intake`), and takes
one decision at the end, in this order:

1. a circuit breaker that tripped: DISABLE, base weight;
2. a change on trial that did harm (loss significantly worse, a spike, a non-finite step): ROLLBACK to the weight before
   it, and the next cooling is longer; the `max_rollbacks`-th in a row is a DISABLE instead. One for a non-finite step
   does not count where such steps also came with no change on trial: then it is the data that make them;
3. gates, each a HOLD with its reason: switched off or disabled, last step empty or non-finite, warmup, cooling,
   variance, stable streak, too few losses to compare with (`safeguards`);
4. the rule: HOLD, or more weight, or less, and why;
5. at most `max_change_percent` that way, within the bounds, and validation of the new weight: REJECT, or INCREASE /
   DECREASE, and its trial begins.

A change consumes its evidence: the losses after it are compared with those it was based on, not with older ones, so one
lasting shift is answered once.

No clock, no I/O, no randomness, no mutation; everything the state holds is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from keras_adaptive_weights.deciding import safeguards
from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action, Decision, Observation, Reason
from keras_adaptive_weights.deciding.intake import feed
from keras_adaptive_weights.deciding.state import ControllerState
from keras_adaptive_weights.deciding.statistics import Comparison

Rule = Callable[[AdaptiveWeightConfig, Comparison, Comparison, dict[str, float]], tuple[Action, Reason]]
"""From settings, losses, gradient norms and the evidence so far (to which it may add) to HOLD, INCREASE or DECREASE."""
_Outcome = tuple[ControllerState, Action, Reason, Mapping[str, float]]
_new = tuple.__new__  # takes half as long as a call of the class, and this is every step


def step(
    rule: Rule,
    config: AdaptiveWeightConfig,
    state: ControllerState,
    observations: Sequence[Observation],
    term: str = "",
) -> tuple[ControllerState, Decision]:
    """Take in the observations of one execution, oldest first, and decide once; `term` is named in the decision.

    Raises:
        ValueError: No observations.
    """
    if not observations:
        raise ValueError("step: argument `observations` must hold at least one Observation. Received none.")
    for observation in observations:
        state = feed(config, state, observation)
    return _decided(state, _decide(rule, config, state, observations[-1]), "", term)


def disable(state: ControllerState, note: str = "", term: str = "") -> tuple[ControllerState, Decision]:
    """Go to the base weight at once and stay there until `enable`."""
    return _decided(state, _disable(state, Reason.MANUAL, {}), note, term)


def enable(
    config: AdaptiveWeightConfig, state: ControllerState, note: str = "", term: str = ""
) -> tuple[ControllerState, Decision]:
    """Let the weight move again, after a full cooling period; the circuit breaker starts afresh."""
    return _decided(state, (safeguards.enabled(config, state), Action.ENABLE, Reason.MANUAL, {}), note, term)


def reset(
    state: ControllerState,
    note: str = "",
    reason: Reason = Reason.MANUAL,
    evidence: Mapping[str, float] | None = None,
    term: str = "",
) -> tuple[ControllerState, Decision]:
    """Forget all statistics: warmup begins again. Weight, step counter, cooling and a disable stay as they are.

    So it is asked for by hand, and where the model went back to a snapshot: its losses are then those of another model.
    """
    return _decided(state, (safeguards.forgotten(state), Action.RESET, reason, evidence or {}), note, term)


def rollback(
    config: AdaptiveWeightConfig, state: ControllerState, note: str = "", term: str = ""
) -> tuple[ControllerState, Decision]:
    """Undo the last change by hand; REJECT where there is none to undo."""
    if state.previous_weight is None or state.disabled:
        return _decided(state, (state, Action.REJECT, Reason.NOTHING_TO_ROLL_BACK, {}), note, term)
    return _decided(state, _roll_back(config, state, Reason.MANUAL, {}), note, term)


def _decide(rule: Rule, config: AdaptiveWeightConfig, state: ControllerState, last: Observation) -> _Outcome:
    """Take the decision that is due after the observations were fed."""
    streak = min(state.stable_steps, config.smoothing_steps)
    losses, norms = state.losses.compare(streak), state.gradient_norms.compare(streak)
    variance = state.losses.variance
    evidence = safeguards.evidence(config, state, losses, norms, loss=last.loss, variance=variance)
    harm = safeguards.emergency(config, state)
    if harm is Reason.REPEATED_NON_FINITE:
        return _disable(state, harm, evidence)
    if harm is not None and state.trial is not None:
        return _roll_back(config, state, harm, {**evidence, "trial_ratio": state.trial.ratio})
    reason = safeguards.closed_gate(config, state, last, variance)
    if reason is None:
        action, reason = rule(config, losses, norms, evidence)
        if action is not Action.HOLD:
            return _change(config, state, action, reason, losses, norms, evidence)
    return state, Action.HOLD, reason, evidence


def _change(
    config: AdaptiveWeightConfig,
    state: ControllerState,
    action: Action,
    reason: Reason,
    losses: Comparison,
    norms: Comparison,
    evidence: dict[str, float],
) -> _Outcome:
    """Move the weight within its bounds, put the change on trial, and start the statistics afresh from here."""
    up = action is Action.INCREASE
    weight, stopped = safeguards.within_step(config, state.weight, up=up), Reason.AT_MAX if up else Reason.AT_MIN
    weight = min(weight, config.max_weight) if up else max(weight, config.min_weight)
    if weight == state.weight:
        return state, Action.HOLD, stopped, evidence
    refusal = _refusal(config, state, weight, evidence)
    if refusal is not None:
        return safeguards.refused(config, state), Action.REJECT, refusal, evidence
    changed = safeguards.changed(config, state, weight, losses.newer, losses.noise(), norms)
    return changed, action, reason, evidence


def _refusal(
    config: AdaptiveWeightConfig, state: ControllerState, weight: float, evidence: dict[str, float]
) -> Reason | None:
    """Return why the weight must not be used, or None."""
    refusal = safeguards.refused_weight(weight, config.min_weight, config.max_weight)
    if refusal is not None:
        return refusal
    average = state.weight * evidence["running_average"]
    return safeguards.refused_loss(config, weight * evidence["loss"], average, evidence)


def _roll_back(
    config: AdaptiveWeightConfig, state: ControllerState, reason: Reason, evidence: dict[str, float]
) -> _Outcome:
    """Undo the last change and cool longer; disable where that happened too often in a row."""
    rollbacks = safeguards.rollbacks_with(state, reason)
    if rollbacks >= config.max_rollbacks:
        return _disable(state, Reason.REPEATED_ROLLBACKS, {**evidence, "rollbacks": float(rollbacks)})
    return safeguards.undone(config, state, reason), Action.ROLLBACK, reason, evidence


def _disable(state: ControllerState, reason: Reason, evidence: dict[str, float]) -> _Outcome:
    """Go to the base weight and stay there."""
    return safeguards.disabled(state), Action.DISABLE, reason, evidence


def _decided(before: ControllerState, outcome: _Outcome, note: str, term: str) -> tuple[ControllerState, Decision]:
    """Return the state after a decision, and the decision."""
    after, action, reason, evidence = outcome
    decision = before.step, action, reason, before.weight, after.weight, evidence, note, before.held_weight, term
    return after, _new(Decision, decision)
