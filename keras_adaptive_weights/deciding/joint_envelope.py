"""Several weights, decided on at once and safely: a strategy says where they should be, and the envelope the rest.

Each execution leads to one decision for all adaptive terms. The order is that of `envelope`, with the same gates and
safety checks (`safeguards`) on the weighted sum of the raw losses, the *objective*, under the weights as decided:

1. a circuit breaker that tripped: DISABLE, all weights at their base;
2. a change on trial that did harm (the objective under the new weights significantly worse than it was under the same
   weights before, a spike, a non-finite step): ROLLBACK of all weights together, and the next cooling is longer. After
   `max_rollbacks` in a row the weights stay where they are until `enable`: their base may be a hundredfold away;
3. calibration, at most once in the life of the weights and before anything moved them: where the strategy measured its
   targets at the start and they are away by more than a step and twice their error, CALIBRATE goes there at once;
4. gates, each a HOLD with its reason: as for one weight;
5. the dead band: unless some target is away by more than a step and by more than its noise (two thirds of
   `significance` in standard errors, as targets are measured rarely), HOLD;
6. BALANCE: all weights go the same part of their way on the logarithmic scale, so far that none moves by more than
   `max_change_percent`, within their bounds, after a validation (REJECT); and the trial begins.

After any change the objective is what it would have been under the new weights, and its statistics begin from there.

No clock, no I/O, no randomness, no mutation; everything the state holds is bounded, if the strategy's state is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from keras_adaptive_weights.deciding import safeguards
from keras_adaptive_weights.deciding.approach import bounds, nearest, part_of, reason_to_stay, usable, way_to
from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action, Observation, Reason
from keras_adaptive_weights.deciding.intake import feed
from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation, Term, Weights
from keras_adaptive_weights.deciding.joint_state import JointCore, JointState, StoredState
from keras_adaptive_weights.deciding.plain_records import read_record
from keras_adaptive_weights.deciding.state import ControllerState
from keras_adaptive_weights.deciding.statistics import Comparison, Series, mean, total
from keras_adaptive_weights.deciding.strategy import (
    Strategy,
    checked_proposal,
    checked_state,
    checked_step,
    plain,
    restored_state,
)

_LARGEST = 1e200
"""What a loss counts at most: no weighted sum of such is infinite."""
_ALL_LOOKED_AT, _LOOKED_AT_EVERY = 10, 100
"""First steps in all of which a strategy's state is seen to be one that can be stored; then it is once in so many."""
_CALIBRATE_BEHIND = frozenset({None, Reason.WARMUP, Reason.HIGH_VARIANCE, Reason.UNSTABLE, Reason.COLLECTING})


@dataclass(frozen=True)
class JointEnvelope:
    """A strategy in its envelope: pure functions of a state.

    Args:
        strategy: What the weights should be.
        terms: All terms of the loss, fixed ones too.
        config: Settings, as for one weight. The bounds are those of the terms. A strategy's own `cooling_period` comes
            before the settings'.

    Raises:
        ValueError: Two terms of one name, a weight that is not positive and finite or outside its bounds, terms that
            the strategy cannot balance, or a state of it that cannot be stored.
    """

    strategy: Strategy[Any]
    terms: Sequence[Term]
    config: AdaptiveWeightConfig = field(default_factory=AdaptiveWeightConfig)

    def __post_init__(self) -> None:
        """Validate terms and strategy."""
        names = [term.name for term in self.terms]
        if len(set(names)) < len(names):
            raise ValueError(f"JointEnvelope: argument `terms` must have names of their own. Received: {names}.")
        for term in self.terms:
            low, high = bounds(term)
            if not 0.0 < low <= term.weight <= high < math.inf:
                raise ValueError(
                    "JointEnvelope: argument `terms` must have weights within their bounds, above 0 and finite. "
                    f"Received: {term}."
                )
        cooling = getattr(self.strategy, "cooling_period", None)
        config = self.config if cooling is None else replace(self.config, cooling_period=cooling)
        object.__setattr__(self, "config", config)
        object.__setattr__(self, "terms", tuple(self.terms))
        checked_state(self.strategy.initial(self.terms), self.name)

    def initial(self) -> JointState:
        """Return the state before the first step, at the base weights."""
        base = {name: float(term.weight) for name, term in self._adaptive.items()}
        return JointState(JointCore(base, base), {}, self.strategy.initial(self.terms))

    def going_on(self, states: Mapping[str, ControllerState]) -> JointState:
        """Return the state of a run that decided on each weight by itself until now: it is too late to calibrate."""
        state = self.initial()
        core = state.core._replace(
            weight={name: one.weight_in_force for name, one in states.items()},
            step=max((one.step for one in states.values()), default=0),
            disabled=any(one.disabled for one in states.values()),
        )
        return state._replace(core=self._within(core), calibrated=True)

    def step(self, state: JointState, observations: Sequence[JointObservation]) -> tuple[JointState, JointDecision]:
        """Take in the observations of one execution, oldest first, and decide once.

        Raises:
            ValueError: No observations, or a strategy that proposes something else than targets for adaptive terms.
                What the strategy raises passes through, with a note that names it and the step.
        """
        if not observations:
            raise ValueError("step: argument `observations` must hold at least one JointObservation. Received none.")
        core, recent, taught = state.core, state.recent, []
        weights = {**self._fixed, **core.weight}
        for seen in observations:
            loss = math.nan
            if seen.losses and seen.finite and not seen.loss_scaling:
                recent = self._with(recent, seen.losses)
                loss = total([weights[name] * losses[-1] for name, losses in recent.items()])
                balanced = {name: value for name, value in seen.losses.items() if name in weights}
                taught.append(seen._replace(losses=balanced, weights=weights))
            last = _as_one(seen, loss)
            core = feed(self.config, core, last)
        state = JointState(core, recent, *state[2:])
        if taught:
            state = self._taught(state, taught)
        return self._decide(state, last)

    def disable(self, state: JointState, note: str = "") -> tuple[JointState, JointDecision]:
        """Go to the base weights at once and stay there until `enable`; a calibration that was not made is missed."""
        return self._disable(state, Reason.MANUAL, {}, note)

    def enable(self, state: JointState, note: str = "") -> tuple[JointState, JointDecision]:
        """Let the weights move again, after a full cooling period; circuit breaker and rollbacks start afresh."""
        after = state._replace(core=safeguards.enabled(self.config, state.core))
        return after, _decision(state, after, Action.ENABLE, Reason.MANUAL, {}, note)

    def reset(
        self,
        state: JointState,
        note: str = "",
        reason: Reason = Reason.MANUAL,
        evidence: Mapping[str, float] | None = None,
    ) -> tuple[JointState, JointDecision]:
        """Forget all statistics, the strategy's too: warmup begins again. Weights, cooling and a disable stay.

        So do the number of rollbacks in a row, and whether a calibration was made.
        """
        core = safeguards.forgotten(state.core)._replace(rollbacks=state.core.rollbacks)
        after = JointState(core, {}, self.strategy.initial(self.terms), calibrated=state.calibrated)
        return after, _decision(state, after, Action.RESET, reason, evidence or {}, note)

    def rollback(self, state: JointState, note: str = "") -> tuple[JointState, JointDecision]:
        """Undo the last change by hand, a calibration too; REJECT where there is none to undo."""
        if state.core.previous_weight is None or state.core.disabled:
            return state, _decision(state, state, Action.REJECT, Reason.NOTHING_TO_ROLL_BACK, {}, note)
        return self._roll_back(state, Reason.MANUAL, {}, note)

    def set_shadow(self, state: JointState, *, shadow: bool) -> JointState:
        """Let decisions only be recorded from here on, or take effect; the weights in force stay either way."""
        return self._rebased(state, safeguards.set_shadow(self.config, state.core, shadow=shadow))

    def to_dict(self, state: JointState) -> dict[str, Any]:
        """Return a state as plain values that `restored` reads back."""
        return {
            "core": state.core.to_dict(),
            "recent": plain(state.recent),
            "strategy": {self.name: plain(state.strategy)},
            "proposal": plain(state.proposal),
            "calibrated": state.calibrated,
        }

    def restored(self, values: Mapping[str, Any]) -> JointState:
        """Read what `to_dict` wrote; weights outside today's bounds are moved to the nearer one.

        Where terms or strategy are others today, weights and counters go on and everything that was measured begins
        afresh. A calibration is not made again.

        Raises:
            ValueError: A field is missing, unknown (of a newer version), or holds something else than it should.
        """
        stored = read_record(
            StoredState, {key: value for key, value in values.items() if key != "strategy"}, "JointState"
        )
        state = self.initial()._replace(core=self._within(stored.core), calibrated=stored.calibrated)
        if set(stored.core.weight) != set(self._adaptive) or self.name not in values.get("strategy", {}):
            return self.reset(state)[0]._replace(calibrated=True)
        known = restored_state(state.strategy, values["strategy"][self.name], self.name)
        return state._replace(recent=stored.recent, strategy=known, proposal=stored.proposal)

    @property
    def name(self) -> str:
        """Name of the strategy's class."""
        return type(self.strategy).__name__

    @cached_property
    def _adaptive(self) -> dict[str, Term]:
        return {term.name: term for term in self.terms if not term.fixed}

    @cached_property
    def _fixed(self) -> dict[str, float]:
        return {term.name: float(term.weight) for term in self.terms if term.fixed}

    def _with(self, recent: Mapping[str, tuple[float, ...]], losses: Weights) -> dict[str, tuple[float, ...]]:
        """Return the newest losses with those of one more step."""
        kept = 1 - self.config.smoothing_steps
        result = {}
        for term in self.terms:
            before = recent.get(term.name, ())
            loss = losses.get(term.name)
            loss = (mean(before) if before else 0.0) if loss is None else min(max(loss, -_LARGEST), _LARGEST)
            result[term.name] = (*before[kept:], loss)
        return result

    def _taught(self, state: JointState, observations: Sequence[JointObservation]) -> JointState:
        """Let the strategy take in what was seen, and keep what it proposes."""
        try:
            known, news = checked_step(self.strategy.step(state.strategy, observations), self.name)
            if state.core.step <= _ALL_LOOKED_AT or state.core.step % _LOOKED_AT_EVERY < len(observations):
                checked_state(known, self.name, "step")
            if news is not None:
                news = checked_proposal(news, self._adaptive, self.name)
        except Exception as error:
            error.add_note(f"This came up in the strategy {self.name}, at step {observations[-1].step}.")
            raise
        return JointState(*state[:2], known, state.proposal if news is None else news, state.calibrated)

    def _decide(self, state: JointState, last: Observation) -> tuple[JointState, JointDecision]:
        """Take the decision that is due after the observations were fed."""
        core, config = state.core, self.config
        streak = min(core.stable_steps, config.smoothing_steps)
        losses, norms = core.losses.compare(streak), core.gradient_norms.compare(streak)
        variance = core.losses.variance
        evidence = safeguards.evidence(config, core, losses, norms, loss=last.loss, variance=variance)
        evidence |= state.proposal.evidence
        harm = safeguards.emergency(config, core)
        if harm is Reason.REPEATED_NON_FINITE:
            return self._disable(state, harm, evidence)
        if harm is not None and core.trial is not None:
            return self._roll_back(state, harm, {**evidence, "trial_ratio": core.trial.ratio})
        reason = safeguards.closed_gate(config, core, last, variance)
        if reason not in (Reason.SWITCHED_OFF, Reason.DISABLED) and core.rollbacks >= config.max_rollbacks:
            reason, evidence["rollbacks"] = Reason.HOLDING, 1.0 * core.rollbacks
        if self._calibrates(state, reason):
            return self._move(state, Action.CALIBRATE, reason, evidence)
        if reason is None:
            return self._move(state, Action.BALANCE, None, evidence)
        return state, _decision(state, state, Action.HOLD, reason, evidence)

    def _calibrates(self, state: JointState, closed: Reason | None) -> bool:
        """Whether the one calibration is due."""
        due = bool(state.proposal.calibrate and state.proposal.targets) and not state.calibrated
        cooled = state.core.trial is None and state.core.steps_since_change > state.core.cooling
        return due and cooled and closed in _CALIBRATE_BEHIND

    def _move(
        self, state: JointState, action: Action, closed: Reason | None, evidence: dict[str, float]
    ) -> tuple[JointState, JointDecision]:
        """Move the weights towards their targets, or say why not."""
        core, calibrating = state.core, action is Action.CALIBRATE
        if not state.proposal.targets:
            return state, _decision(state, state, Action.HOLD, Reason.MEASURING, evidence)
        if usable(state.proposal) != state.proposal:
            return self._reject(state, Reason.WEIGHT_NOT_FINITE, evidence)
        move = way_to(self.config, self._adaptive, core.weight, state.proposal.targets, calibrating=calibrating)
        evidence |= {f"target.{name}": target.weight for name, target in state.proposal.targets.items()}
        evidence |= {"distance": move.distance, "distance_needed": move.needed}
        done = state._replace(calibrated=True) if calibrating else state
        weights = core.weight
        if move.distance > move.needed:
            weights = move.goals if calibrating else part_of(self.config, self._adaptive, core.weight, move.goals)
        if weights == core.weight:
            return done, _decision(state, done, Action.HOLD, closed or reason_to_stay(self.config, move), evidence)
        refusal = self._refusal(state, weights, evidence)
        if refusal is not None:
            return self._reject(state, refusal, evidence)
        recent = _combined({**self._fixed, **weights}, state.recent)
        recent = recent[-max(1, min(core.stable_steps, len(recent))) :]
        losses = Comparison(recent, core.losses.reference, math.nan, math.nan, math.nan)
        norms = core.gradient_norms.compare(1)
        changed = safeguards.changed(self.config, core, weights, losses.newer, losses.noise(), norms)
        after = self._rebased(done, changed, losses.newer)
        reason = Reason.MEASURED_AT_START if calibrating else Reason.OFF_TARGET
        return after, _decision(state, after, action, reason, evidence)

    def _refusal(self, state: JointState, weights: Weights, evidence: dict[str, float]) -> Reason | None:
        """Return why the weights must not be used, or None."""
        for name, term in self._adaptive.items():
            refusal = safeguards.refused_weight(weights[name], *bounds(term))
            if refusal is not None:
                return refusal
        combined = _combined({**self._fixed, **weights}, state.recent)
        return safeguards.refused_loss(self.config, combined[-1], mean(combined), evidence)

    def _reject(
        self, state: JointState, reason: Reason, evidence: Mapping[str, float]
    ) -> tuple[JointState, JointDecision]:
        """Keep the weights, and try again after a cooling period."""
        after = state._replace(core=safeguards.refused(self.config, state.core))
        return after, _decision(state, after, Action.REJECT, reason, evidence)

    def _roll_back(
        self, state: JointState, reason: Reason, evidence: Mapping[str, float], note: str = ""
    ) -> tuple[JointState, JointDecision]:
        """Undo the last change of all weights and cool longer."""
        after = self._rebased(state, safeguards.undone(self.config, state.core, reason))
        return after, _decision(state, after, Action.ROLLBACK, reason, evidence, note)

    def _disable(
        self, state: JointState, reason: Reason, evidence: Mapping[str, float], note: str = ""
    ) -> tuple[JointState, JointDecision]:
        """Go to the base weights and stay there."""
        after = self._rebased(state._replace(calibrated=True), safeguards.disabled(state.core))
        return after, _decision(state, after, Action.DISABLE, reason, evidence, note)

    def _rebased(self, state: JointState, core: JointCore, recent: tuple[float, ...] | None = None) -> JointState:
        """Return the state with this core, and where its weights are others with the objective as it is under them."""
        if core.weight == state.core.weight:
            return state._replace(core=core)
        if recent is None:
            recent = _combined({**self._fixed, **core.weight}, state.recent)
        below_zero = self.config.smoothing_steps + self.config.reference_steps if min(recent, default=0.0) < 0.0 else 0
        losses = Series(recent, below_zero=below_zero)
        return state._replace(core=core._replace(losses=losses, gradient_norms=Series()))

    def _within(self, core: JointCore) -> JointCore:
        """Return the core with the weights of today's terms, each within its bounds."""

        def weights(stored: Weights) -> Weights:
            return {name: nearest(term, stored.get(name, term.weight)) for name, term in self._adaptive.items()}

        previous, trial, held = core.previous_weight, core.trial, core.held_weight
        return core._replace(
            weight=weights(core.weight),
            base_weight=weights(core.base_weight),
            previous_weight=None if previous is None else weights(previous),
            trial=trial and trial._replace(previous_weight=weights(trial.previous_weight)),
            held_weight=None if held is None else weights(held),
        )


def _as_one(seen: JointObservation, loss: float) -> Observation:
    """Return the step as the safety checks see it: the objective in place of one term's loss."""
    return Observation(
        seen.step,
        loss,
        seen.total_loss,
        seen.gradient_norm,
        seen.applied,
        seen.loss_scaling,
        seen.dampening,
        seen.non_finite,
        empty=not seen.losses,
    )


def _combined(weights: Weights, recent: Mapping[str, tuple[float, ...]]) -> tuple[float, ...]:
    """Return the objective of the newest steps under these weights."""
    scaled = [[weights[name] * loss for loss in losses] for name, losses in recent.items()]
    return tuple(map(total, zip(*scaled, strict=True)))


def _decision(
    before: JointState,
    after: JointState,
    action: Action,
    reason: Reason,
    evidence: Mapping[str, float],
    note: str = "",
) -> JointDecision:
    core = before.core
    return JointDecision(
        core.step, action, reason, core.weight, after.core.weight, evidence, note, held_weights=core.held_weight
    )
