"""The plain records everything else passes around: what was seen, what was decided, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self

from keras_adaptive_weights.deciding.printable import bounded, printable


class Action(StrEnum):
    """What a decision does to the weight, or to the weights of a balance (`BALANCE`, `CALIBRATE`: each its own way).

    Example:

    >>> Action("rollback") is Action.ROLLBACK, Action.ROLLBACK.code
    (True, 3)
    """

    HOLD = "hold"
    INCREASE = "increase"
    DECREASE = "decrease"
    ROLLBACK = "rollback"
    REJECT = "reject"
    DISABLE = "disable"
    ENABLE = "enable"
    RESET = "reset"
    BALANCE = "balance"
    CALIBRATE = "calibrate"

    __hash__ = str.__hash__  # that of an enum's name is ten times as slow

    @property
    def code(self) -> int:
        """A stable small integer, for scalar dashboards (`hold` is 0)."""
        return _ACTION_CODES[self]


class Reason(StrEnum):
    """Why a decision was taken. Every reason has one sentence of advice: `Decision.advice`.

    Example:

    >>> Reason.WARMUP.advice({"observed_steps": 20, "warmup_steps": 100})
    '20 of 100 warmup steps seen: wait, or lower warmup_steps.'
    """

    SWITCHED_OFF = "switched_off"
    DISABLED = "disabled"
    NON_FINITE = "non_finite"
    LOSS_SCALING = "loss_scaling"
    WARMUP = "warmup"
    COOLING = "cooling"
    HIGH_VARIANCE = "high_variance"
    UNSTABLE = "unstable"
    COLLECTING = "collecting"
    NO_SCALE = "no_scale"
    WITHIN_BAND = "within_band"
    NOT_SIGNIFICANT = "not_significant"
    NOT_LASTING = "not_lasting"
    GRADIENTS_BLOCK_INCREASE = "gradients_block_increase"
    AT_MAX = "at_max"
    AT_MIN = "at_min"
    LOSS_HIGH = "loss_high"
    LOSS_LOW = "loss_low"
    GRADIENTS_GROWING = "gradients_growing"
    GRADIENTS_ABOVE_THRESHOLD = "gradients_above_threshold"
    TRIAL_LOSS_WORSE = "trial_loss_worse"
    TRIAL_LOSS_SPIKE = "trial_loss_spike"
    TRIAL_NON_FINITE = "trial_non_finite"
    WEIGHT_NOT_FINITE = "weight_not_finite"
    WEIGHT_OUT_OF_RANGE = "weight_out_of_range"
    WEIGHTED_LOSS_NOT_FINITE = "weighted_loss_not_finite"
    WEIGHTED_LOSS_ABSURD = "weighted_loss_absurd"
    NOTHING_TO_ROLL_BACK = "nothing_to_roll_back"
    REPEATED_ROLLBACKS = "repeated_rollbacks"
    REPEATED_NON_FINITE = "repeated_non_finite"
    MANUAL = "manual"
    RECOVERED_FROM_SKIPS = "recovered_from_skips"
    RECOVERED_FROM_HIGH_LOSS = "recovered_from_high_loss"
    RECOVERED_FROM_BAD_VARIABLES = "recovered_from_bad_variables"
    EMPTY = "empty"
    MEASURING = "measuring"
    ON_TARGET = "on_target"
    WITHIN_NOISE = "within_noise"
    OFF_TARGET = "off_target"
    MEASURED_AT_START = "measured_at_start"
    TARGETS_OUT_OF_REACH = "targets_out_of_reach"
    HOLDING = "holding"

    __hash__ = str.__hash__  # as above

    @property
    def code(self) -> int:
        """A stable small integer, for scalar dashboards."""
        return _REASON_CODES[self]

    @property
    def from_outside(self) -> bool:
        """Whether it is a person's reason, or the recovery of the model."""
        return self in _FROM_OUTSIDE

    def advice(self, numbers: Mapping[str, float]) -> str:
        """One sentence for a person: what it means with these numbers, and what to do."""
        return _ADVICE[self].format_map(_Unknown(numbers))


_ACTION_CODES = {action: code for code, action in enumerate(Action)}
_REASON_CODES = {reason: code for code, reason in enumerate(Reason)}
_ADVICE: dict[Reason, str] = {
    Reason.SWITCHED_OFF: "adaptation is switched off in the configuration: set enabled=True to let the weight move.",
    Reason.DISABLED: "adaptation is disabled and the weight is at its base: call enable() once the cause is gone.",
    Reason.NON_FINITE: "the step had a non-finite loss or gradient and taught nothing: look at the batch, "
    "at divisions and logarithms in the model, and at the learning rate.",
    Reason.LOSS_SCALING: "the mixed-precision loss scale overflowed and is being halved: routine, nothing to do.",
    Reason.WARMUP: "{observed_steps:.0f} of {warmup_steps:.0f} warmup steps seen: wait, or lower warmup_steps.",
    Reason.COOLING: "{steps_since_change:.0f} of {cooling:.0f} cooling steps passed since the last change: "
    "wait, or lower cooling_period.",
    Reason.HIGH_VARIANCE: "loss variance {loss_variance:.3g} is above {variance_threshold:.3g}: lower the learning "
    "rate, enlarge the batch, or shuffle better; or raise variance_threshold if such losses are normal here.",
    Reason.UNSTABLE: "{stable_steps:.0f} of {min_stable_steps:.0f} consecutive stable steps: a spike or a skipped step "
    "was seen; if there are many of them, look for bad batches or lower the learning rate.",
    Reason.COLLECTING: "only {reference_steps:.0f} earlier losses to compare with: wait a few steps more.",
    Reason.NO_SCALE: "losses around or below zero (running average {running_average:.3g}), or without end, have no "
    "relative scale, so none is high, low or a spike and the weight stays: use a positive loss, or a fixed weight.",
    Reason.WITHIN_BAND: "loss ratio {loss_ratio:.3f} is between {loss_ratio_low:.3g} and {loss_ratio_high:.3g}: "
    "the loss is where it was, nothing to do.",
    Reason.NOT_SIGNIFICANT: "loss ratio {loss_ratio:.3f} is {deviation:.1f} standard errors from 1 where "
    "{deviation_needed:.1f} are needed: as likely noise as signal; larger batches make the losses less noisy.",
    Reason.NOT_LASTING: "loss ratio {loss_ratio:.3f}, but not over all of the recent losses: noise, or a change that "
    "has only begun; wait a few steps.",
    Reason.GRADIENTS_BLOCK_INCREASE: "the loss is high, but gradient norms are too (recent average "
    "{gradient_norm:.3g}), so the weight is not raised: clip gradients or lower the learning rate.",
    Reason.AT_MAX: "the loss asks for more weight but {old_weight:.4g} is the maximum: raise max_weight or look for "
    "the reason why this term does not learn.",
    Reason.AT_MIN: "the evidence asks for less weight but {old_weight:.4g} is the minimum: lower min_weight or the "
    "learning rate.",
    Reason.LOSS_HIGH: "the loss is {loss_ratio:.3f} times its running average with steady gradients: if it keeps "
    "rising, lower the learning rate.",
    Reason.LOSS_LOW: "the loss is {loss_ratio:.3f} times its running average: the term is learning and needs less "
    "weight; nothing to do.",
    Reason.GRADIENTS_GROWING: "gradient norms are {gradient_ratio:.2f} times their average: clip gradients or lower "
    "the learning rate if they go on growing.",
    Reason.GRADIENTS_ABOVE_THRESHOLD: "recent gradient norms average {gradient_norm:.3g}, above "
    "{gradient_norm_threshold:.3g}: clip gradients, lower the learning rate, or raise gradient_norm_threshold if such "
    "norms are normal here.",
    Reason.TRIAL_LOSS_WORSE: "after the change the loss was {trial_ratio:.3f} times what it had been: the change is "
    "undone; nothing to do unless it repeats.",
    Reason.TRIAL_LOSS_SPIKE: "the loss spiked to {trial_ratio:.3g} times its level while a change was on trial: the "
    "change is undone; look at that batch if it repeats.",
    Reason.TRIAL_NON_FINITE: "a non-finite step came while a change was on trial: the change is undone; look at that "
    "batch.",
    Reason.WEIGHT_NOT_FINITE: "the proposed weight was not a finite number and was refused: please report this.",
    Reason.WEIGHT_OUT_OF_RANGE: "the proposed weight was outside its bounds and was refused: please report this.",
    Reason.WEIGHTED_LOSS_NOT_FINITE: "the proposed weight would overflow the weighted loss: scale the loss down.",
    Reason.WEIGHTED_LOSS_ABSURD: "the weighted loss would be {weighted_loss_ratio:.3g} times its running average: "
    "the last batch is far from the others; look at it.",
    Reason.NOTHING_TO_ROLL_BACK: "there is no change to undo: the last one was already undone, confirmed by a reset, "
    "or never happened.",
    Reason.REPEATED_ROLLBACKS: "{rollbacks:.0f} changes in a row had to be undone: adaptation switched itself off at "
    "the base weight; lower the learning rate or keep a fixed weight, then call enable().",
    Reason.REPEATED_NON_FINITE: "too many non-finite steps: adaptation switched itself off at the base weight; find "
    "the batch or layer that makes them, then call enable().",
    Reason.MANUAL: "asked for by hand.",
    Reason.RECOVERED_FROM_SKIPS: "{consecutive_skips:.0f} steps in a row were skipped, so the model went back to step "
    "{snapshot_step:.0f} (recovery {recoveries:.0f} of {max_recoveries:.0f}) and the statistics begin again: lower the "
    "learning rate, and look at the batches before it.",
    Reason.RECOVERED_FROM_HIGH_LOSS: "the average total loss stayed at {total_loss_average:.3g}, far above "
    "{snapshot_loss:.3g}, so the model went back to step {snapshot_step:.0f} (recovery {recoveries:.0f} of "
    "{max_recoveries:.0f}) and the statistics begin again: lower the learning rate.",
    Reason.RECOVERED_FROM_BAD_VARIABLES: "some variables were not finite although the losses were, so the model went "
    "back to step {snapshot_step:.0f} (recovery {recoveries:.0f} of {max_recoveries:.0f}) and the statistics begin "
    "again: lower the learning rate, and look at activations that hide a NaN, as a ReLU may.",
    Reason.EMPTY: "the batch held nothing to measure (no sample, or weights of 0, or all of it masked): nothing to do, "
    "unless there are many of them ({empty_steps:.0f} so far).",
    Reason.MEASURING: "{measurements:.0f} measurements so far, too few to say what the weights should be: wait, or "
    "look whether all terms take part and reach the variables that are measured.",
    Reason.ON_TARGET: "the weights are within a step of their targets (the furthest {distance:.3f} away on the "
    "logarithmic scale): nothing to do.",
    Reason.WITHIN_NOISE: "the weights are up to {distance:.3f} from their targets on the logarithmic scale, which are "
    "not known better than to {distance_needed:.3f}: nothing to do; larger batches make the measurements less noisy.",
    Reason.OFF_TARGET: "the weights were up to {distance:.3f} from their targets on the logarithmic scale, more than "
    "the {distance_needed:.3f} of a step and of noise: nothing to do.",
    Reason.MEASURED_AT_START: "the weights are now what was measured over the first steps ({measurements:.0f} "
    "measurements): look whether they make sense; rollback() undoes it.",
    Reason.TARGETS_OUT_OF_REACH: "the targets lie beyond the bounds and the weights are as near as they may be: widen "
    "the bounds, start nearer, or ask for less.",
    Reason.HOLDING: "{rollbacks:.0f} changes in a row had to be undone, so the weights stay where they are: lower the "
    "learning rate or keep fixed weights, or call enable() to go on.",
}


_FROM_OUTSIDE = frozenset(
    {
        Reason.MANUAL,
        Reason.NOTHING_TO_ROLL_BACK,
        Reason.RECOVERED_FROM_SKIPS,
        Reason.RECOVERED_FROM_HIGH_LOSS,
        Reason.RECOVERED_FROM_BAD_VARIABLES,
    }
)


class _Unknown(dict[str, float]):
    """Evidence for `format_map`: a key that was not recorded reads as not a number."""

    def __missing__(self, key: str) -> float:
        return math.nan


def checked_note(owner: str, note: Any) -> str:
    """Return a person's note as it is recorded: cut where it is long, so that nothing asked for in need is refused.

    Raises:
        TypeError: It is no text.
    """
    if not isinstance(note, str):
        raise TypeError(
            f"{owner}: argument `note` must be text. Received: note={note!r} of type {type(note).__name__}. Write "
            "`note=str(...)`."
        )
    return bounded(str(note))


class Observation(NamedTuple):
    """One training step as the controller sees it.

    Attributes:
        step: Number of the step, counted from 1 over the whole life of the weight; never rewinds.
        loss: Raw, unweighted loss of the term for this batch.
        total_loss: Weighted sum of all terms for this batch, before spike dampening. `None`: unknown.
        gradient_norm: Global norm of the unscaled gradients. `None`: not measured.
        applied: Whether the optimizer took the step. `False`: the step was skipped.
        loss_scaling: The step was skipped only because the mixed-precision loss scale overflowed: routine.
        dampening: Factor by which the total and its gradients were scaled down, 1.0 where they were not.
        non_finite: Name of the first non-finite thing seen (a loss term, else a variable's gradient).
        empty: There was nothing to measure: no sample, all sample weights 0, or all masked. No evidence of anything;
            `loss` is NaN, and whether the step was `applied` (for the sake of other terms) says nothing, either.

    Example:

    >>> Observation(step=1, loss=0.8, total_loss=2.1, gradient_norm=np.inf).finite
    False
    """

    step: int
    loss: float
    total_loss: float | None = None
    gradient_norm: float | None = None
    applied: bool = True
    loss_scaling: bool = False
    dampening: float = 1.0
    non_finite: str | None = None
    empty: bool = False

    @property
    def finite(self) -> bool:
        """Whether the step was applied and everything measured on it is finite."""
        return (
            self.applied
            and not self.empty
            and math.isfinite(self.loss)
            and (self.total_loss is None or math.isfinite(self.total_loss))
            and (self.gradient_norm is None or math.isfinite(self.gradient_norm))
        )


class Decision(NamedTuple):
    """What was decided after one execution, why, and on what evidence.

    Attributes:
        step: The last step the decision looked at.
        action: What happens to the weight.
        reason: Why.
        old_weight: Weight before the decision.
        new_weight: Weight from the next step on.
        evidence: The numbers the decision was taken on, by name.
        note: What the person who asked for it said; empty for automatic decisions.
        held_weight: In a shadow run, the weight that stays in force: the decision is a proposal. `None`: it takes
            effect.
        term: Name of the loss term whose weight it is about; empty where nobody said.

    Example:

    >>> print(Decision(40, Action.DISABLE, Reason.MANUAL, 2.625, 2.5, note="heard clipping"))
    step 40: disable 2.625 -> 2.5, manual (heard clipping): asked for by hand.
    """

    step: int
    action: Action
    reason: Reason
    old_weight: float
    new_weight: float
    evidence: Mapping[str, float] = {}
    note: str = ""
    held_weight: float | None = None
    term: str = ""

    @property
    def weight_in_force(self) -> float:
        """The weight that the loss reads from the next step on."""
        return self.new_weight if self.held_weight is None else self.held_weight

    @property
    def is_event(self) -> bool:
        """Whether this is anything but a HOLD."""
        return self.action is not Action.HOLD

    @property
    def by_hand(self) -> bool:
        """Whether it came from outside the controller: from a person, or from the recovery of the model."""
        return self.reason.from_outside

    @property
    def advice(self) -> str:
        """One sentence for a person: what it means and what to do."""
        return self.reason.advice({**self.evidence, "old_weight": self.old_weight, "new_weight": self.new_weight})

    def __str__(self) -> str:
        """Return one line, whatever the note holds: step, term, action, weights, reason, note."""
        term = f"{printable(self.term)}, " if self.term else ""
        note = f" ({printable(self.note)})" if self.note else ""
        held = "" if self.held_weight is None else f" in shadow ({self.held_weight:.4g} stays in force)"
        return (
            f"step {self.step}: {term}{self.action} {self.old_weight:.4g} -> {self.new_weight:.4g}{held}, "
            f"{self.reason}{note}: {self.advice}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `from_dict` reads back; `held_weight` in a shadow run only, `term` if known."""
        seldom: dict[str, Any] = {} if self.held_weight is None else {"held_weight": self.held_weight}
        if self.term:
            seldom["term"] = self.term
        return {
            "step": self.step,
            "action": self.action.value,
            "reason": self.reason.value,
            "old_weight": self.old_weight,
            "new_weight": self.new_weight,
            "evidence": dict(self.evidence),
            "note": self.note,
            **seldom,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; other keys are ignored."""
        held = values.get("held_weight")
        return cls(
            step=int(values["step"]),
            action=Action(values["action"]),
            reason=Reason(values["reason"]),
            old_weight=float(values["old_weight"]),
            new_weight=float(values["new_weight"]),
            evidence={name: float(value) for name, value in values.get("evidence", {}).items()},
            note=str(values.get("note", "")),
            held_weight=None if held is None else float(held),
            term=str(values.get("term", "")),
        )
