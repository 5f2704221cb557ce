"""A strategy of one's own in twenty lines, and how a strategy's state becomes JSON and comes back."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from joint_streams import ADAPTIVE, QUICK, play, steady, through_json

from keras_adaptive_weights.deciding.joint import JointObservation, Term
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.deciding.plain_records import read_record
from keras_adaptive_weights.deciding.strategy import Proposal, Strategy, Target, plain


class Logs(NamedTuple):
    """Smoothed logarithm of each loss."""

    of: Mapping[str, float] = {}


@dataclass(frozen=True)
class EqualLosses:
    """Weights with which all weighted losses are equal: `w_k` goes as `1 / loss_k`. (Not to be recommended.)"""

    rate: float = 0.02

    def initial(self, terms: Sequence[Term]) -> Logs:
        """Nothing is known yet."""
        return Logs()

    def step(self, state: Logs, observations: Sequence[JointObservation]) -> tuple[Logs, Proposal | None]:
        """Follow the logarithm of each loss, and propose what follows from it."""
        logs = dict(state.of)
        for seen in observations:
            for name, loss in seen.losses.items():
                log = math.log(max(loss, 1e-30))
                logs[name] = logs.get(name, log) + self.rate * (log - logs.get(name, log))
        center = sum(logs.values()) / len(logs)
        return Logs(logs), Proposal({name: Target(math.exp(center - log), 0.01) for name, log in logs.items()})


def test_a_strategy_of_ones_own():
    """The envelope gives it warmup, cooling, steps and bounds."""
    strategy: Strategy[Logs] = EqualLosses()
    envelope = JointEnvelope(strategy, ADAPTIVE, QUICK)
    turns = play(envelope, steady(200, {}, losses={"a": 0.5, "b": 2.0}))
    moves = [t.decision for t in turns if t.decision.is_event]
    assert moves[0].step > QUICK.warmup_steps
    assert {str(move.action) for move in moves} == {"balance"}
    assert moves[0].new_weights == pytest.approx({"a": 1.05, "b": 1 / 1.05})
    assert 1.5 < turns[-1].after.core.weight["a"] < 2.0
    assert through_json(envelope, turns[-1].after) == turns[-1].after


class Inner(NamedTuple):
    number: float
    row: tuple[float, ...] = ()


class Outer(NamedTuple):
    inner: Inner
    rows: Mapping[str, tuple[float, ...]]
    inners: Mapping[str, Inner] = {}
    on: bool = False


def test_a_state_survives_json():
    state = Outer(Inner(1.0, (2.0,)), {"a": (1.0, 2.0)}, {"b": Inner(3.0)}, on=True)
    assert read_record(Outer, json.loads(json.dumps(plain(state))), "Outer") == state
