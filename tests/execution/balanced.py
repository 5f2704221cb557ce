"""What a balance must do in every mode: a strategy whose weight no gradient depends on, norms and decisions by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from modes import CONFIG, WEIGHTS

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope

TERMS = [kaw.Term.adaptive(n, w) if n == "energy_loss" else kaw.Term(n, w) for n, w in WEIGHTS.items()]


class Ratio(NamedTuple):
    """How often the norms were measured."""

    measured: int = 0


@keras.saving.register_keras_serializable(package="execution")
@dataclass(frozen=True)
class NormRatio:
    """Wants the weight of "energy_loss", which no gradient depends on, at ten times the ratio of the others' norms."""

    measure_every: int = 5
    calibrate_steps: int = 4
    variables: Any = None

    def initial(self, terms):
        return Ratio()

    def step(self, state, observations):
        told = [seen.term_norms for seen in observations if seen.term_norms]
        told = [norms for norms in told if math.isfinite(norms["mel_loss"]) and math.isfinite(norms["stop_loss"])]
        state = Ratio(state.measured + len(told))
        if not told or state.measured < self.calibrate_steps:
            return state, None
        ratio = told[-1]["mel_loss"] / told[-1]["stop_loss"]
        return state, kaw.Proposal({"energy_loss": kaw.Target(10.0 * ratio)}, calibrate=True)

    def get_config(self):
        return {}


def measured_steps(hand):
    """Return the steps in which norms are due: the first few that were taken, and every few after them."""
    strategy, due, left, since = NormRatio(), [], NormRatio().calibrate_steps, 0
    for step, (_, norm, _) in enumerate(hand, 1):
        is_due, taken = left > 0 or since + 1 >= strategy.measure_every, bool(np.isfinite(norm))
        due += [step] * (is_due and taken)
        left, since = max(0, left - (is_due and taken)), 0 if is_due and taken else since + 1
    return due


def norm_deviation(run, hand):
    """Largest relative deviation of the norms of the terms; infinite where they were measured in other steps."""
    if [step for step, _ in run.norms] != measured_steps(hand):
        return np.inf
    worst = 0.0
    for step, norms in run.norms:
        for name, expected in hand[step - 1][2].items():
            worst = max(worst, abs(norms[name] - expected) / expected if expected else abs(norms[name]))
    return float(worst)


def decided_otherwise(mode, run, hand):
    """Number of executions decided otherwise than the pure envelope does on the values by hand and the norms measured.

    How far these are from those by hand is looked at by itself: in half precision a percent, which may decide whether a
    weight is on its target.
    """
    envelope, measured, seen = JointEnvelope(NormRatio(), TERMS, CONFIG), dict(run.norms), []
    state, wrong, actions = envelope.initial(), 0.0, []
    for step, (terms, norm, _) in enumerate(hand, 1):
        applied, told = bool(np.isfinite(norm)), measured.get(step, {})
        seen.append(kaw.JointObservation(step, terms, None, norm, told, applied, loss_scaling=not applied))
    groups = [seen[i : i + mode.steps] for i in range(0, mode.length, mode.steps)]
    if len(groups) != len(run.decisions):
        return np.inf
    for group, decided in zip(groups, run.decisions, strict=True):
        state, decision = envelope.step(state, group)
        actions.append(decision.action)
        wrong += ("energy_loss", len(group), *decision[:3]) != tuple(decided[:5])
    return wrong + (kaw.Action.CALIBRATE not in actions) + (kaw.Action.BALANCE not in actions)
