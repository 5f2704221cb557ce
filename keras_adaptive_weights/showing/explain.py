"""What each reason means for a person who asks why the weight moves, or why it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from keras_adaptive_weights.deciding.decision import Reason
from keras_adaptive_weights.deciding.printable import printable

RECOVERIES = tuple(reason.value for reason in Reason if reason.value.startswith("recovered_"))

_MEANING: dict[str, str] = {
    Reason.SWITCHED_OFF: "Adaptation is switched off in the configuration: set enabled=True.",
    Reason.DISABLED: "Adaptation is disabled and the weight is at its base: enable it once the cause is dealt with.",
    Reason.NON_FINITE: "The step had a non-finite loss or gradient: look at the batch, at divisions and logarithms, "
    "and at the learning rate.",
    Reason.LOSS_SCALING: "The mixed-precision loss scale overflowed and is being halved: routine.",
    Reason.WARMUP: "The first {warmup_steps} steps only collect statistics: wait, or lower warmup_steps.",
    Reason.COOLING: "At least {cooling_period} steps lie between two changes: wait, or lower cooling_period.",
    Reason.HIGH_VARIANCE: "The loss varies by more than {variance_threshold} of its squared average: lower the "
    "learning rate, enlarge the batch, or raise variance_threshold.",
    Reason.UNSTABLE: "Fewer than {min_stable_steps} stable steps in a row: look for spikes and bad batches.",
    Reason.COLLECTING: "Too few earlier losses to compare with yet: wait.",
    Reason.NO_SCALE: "Losses around or below zero have no relative scale: use a positive loss, or a fixed weight.",
    Reason.WITHIN_BAND: "The loss ratio is between {loss_ratio_low} and {loss_ratio_high}: the loss is where it was, "
    "nothing to do.",
    Reason.NOT_SIGNIFICANT: "The loss moved, but not by more than its own noise explains: larger batches make it "
    "less noisy.",
    Reason.NOT_LASTING: "The loss moved, but not over all of the recent losses: noise, or a change that has only "
    "begun; wait a few steps.",
    Reason.GRADIENTS_BLOCK_INCREASE: "The loss is high, but gradients are growing: clip them, lower the learning rate.",
    Reason.AT_MAX: "The loss asks for more weight than {max_weight}: raise max_weight, or find out why the term does "
    "not learn.",
    Reason.AT_MIN: "The evidence asks for less weight than {min_weight}: lower min_weight or the learning rate.",
    Reason.LOSS_HIGH: "The loss was above its running average with steady gradients.",
    Reason.LOSS_LOW: "The loss was below its running average: the term learns and needs less weight.",
    Reason.GRADIENTS_GROWING: "Gradient norms were above {gradient_growth_threshold} times their average: clip them or "
    "lower the learning rate if that goes on.",
    Reason.GRADIENTS_ABOVE_THRESHOLD: "Gradient norms were above {gradient_norm_threshold}: clip them, lower the "
    "learning rate, or raise gradient_norm_threshold if such norms are normal.",
    Reason.TRIAL_LOSS_WORSE: "The loss got worse after a change, which was undone.",
    Reason.TRIAL_LOSS_SPIKE: "The loss spiked while a change was on trial, which was undone: look at that batch.",
    Reason.TRIAL_NON_FINITE: "A non-finite step came while a change was on trial, which was undone: see that batch.",
    Reason.WEIGHT_NOT_FINITE: "A proposed weight was not finite and was refused: please report this.",
    Reason.WEIGHT_OUT_OF_RANGE: "A proposed weight was outside its bounds and was refused: please report this.",
    Reason.WEIGHTED_LOSS_NOT_FINITE: "A proposed weight would have overflowed the weighted loss: scale the loss down.",
    Reason.WEIGHTED_LOSS_ABSURD: "The weighted loss would have been more than {absurd_loss_factor} times its average: "
    "look at that batch.",
    Reason.NOTHING_TO_ROLL_BACK: "A rollback was asked for, but there was no change to undo.",
    Reason.REPEATED_ROLLBACKS: "{max_rollbacks} changes in a row had to be undone, so adaptation switched itself off: "
    "lower the learning rate or keep a fixed weight, then enable it again.",
    Reason.REPEATED_NON_FINITE: "Too many non-finite steps, so adaptation switched itself off: find the batch or layer "
    "that makes them, then enable it again.",
    Reason.MANUAL: "Asked for by hand.",
    Reason.RECOVERED_FROM_SKIPS: "Steps in a row were skipped, so the model went back to its last good snapshot: lower "
    "the learning rate, and look at the batches before it.",
    Reason.RECOVERED_FROM_HIGH_LOSS: "The loss stayed far above its level, so the model went back to its last good "
    "snapshot: lower the learning rate.",
    Reason.RECOVERED_FROM_BAD_VARIABLES: "Some variables were not finite although the losses were, so the model went "
    "back to its last good snapshot: lower the learning rate, and look at activations that hide a NaN.",
    Reason.EMPTY: "The batch held nothing to measure and was left out: no sample, weights of 0, or all of it masked.",
    Reason.MEASURING: "Too few measurements yet to say what the weights should be: wait.",
    Reason.ON_TARGET: "The weights were within a step of their targets: nothing to do.",
    Reason.WITHIN_NOISE: "The weights were off their targets, but not by more than these are known: larger batches "
    "make the measurements less noisy.",
    Reason.OFF_TARGET: "The weights were off their targets by more than a step and than noise, and went towards them.",
    Reason.MEASURED_AT_START: "The weights were set to what was measured over the first steps: rollback() undoes it.",
    Reason.TARGETS_OUT_OF_REACH: "The targets were beyond the bounds: widen the bounds, start nearer, or ask for less.",
    Reason.HOLDING: "{max_rollbacks} changes in a row had to be undone, so the weights stay where they are: lower the "
    "learning rate or keep fixed weights, or call enable() to go on.",
}


class Move(NamedTuple):
    """What an event does to the weight of a term: from, to, and in a shadow run what stays in force, else None."""

    term: str
    old: float
    new: float
    held: float | None


def moves_of(event: Mapping[str, Any]) -> list[Move]:
    """Return what an event did to its weight; one on all weights of a balance, to those that moved."""
    if "old_weight" in event:
        held = event.get("held_weight")
        return [Move(event.get("term", ""), float(event["old_weight"]), float(event["new_weight"]), held)]
    held, new = event.get("held_weights", {}), event["new_weights"]
    moves = [Move(name, float(old), float(new[name]), held.get(name)) for name, old in event["old_weights"].items()]
    return [move for move in moves if move.new != move.old]


class _Unknown(dict[str, Any]):
    """Settings for `format_map`: one that was not recorded reads as its name."""

    def __missing__(self, key: str) -> str:
        return key


def meaning(reason: str, config: Mapping[str, Any]) -> str:
    """Return a sentence on a reason, with the settings of the run; an empty one for a reason of a newer version.

    Args:
        reason: Value of a `Reason`.
        config: Settings as plain values, from a journal's header.
    """
    return _MEANING.get(reason, "").format_map(_Unknown(config))


def headline(reason: str) -> str:
    """Return a reason as words: "within band" for `within_band`; one of a newer version is made printable."""
    return printable(reason.replace("_", " "), 60)
