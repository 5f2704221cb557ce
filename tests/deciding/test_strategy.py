"""A strategy of one's own in twenty lines, and how a strategy's state becomes JSON and comes back."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from joint_streams import ADAPTIVE, QUICK, play, steady, through_json

from keras_adaptive_weights.deciding.constraint import Constraint
from keras_adaptive_weights.deciding.decision import Reason
from keras_adaptive_weights.deciding.described_strategy import describe, described
from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.joint import JointObservation, Term
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.deciding.plain_records import read_record
from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss
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


class Says:
    """A strategy that proposes what it is given, or raises it."""

    def __init__(self, proposal, state=()):
        self.proposal, self.state = proposal, state

    def initial(self, terms):
        return self.state

    def step(self, state, observations):
        if isinstance(self.proposal, Exception):
            raise self.proposal
        return state, self.proposal


STEPS = steady(60, {}, losses={"a": 1.0, "b": 1.0})


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e39])
@pytest.mark.parametrize("calibrate", [False, True])
def test_a_target_that_no_weight_can_have_is_refused_and_moves_nothing(weight, calibrate):
    turns = play(
        JointEnvelope(Says(Proposal({"a": Target(weight), "b": Target(2.0)}, calibrate)), ADAPTIVE, QUICK), STEPS
    )
    assert {t.decision.reason for t in turns if t.decision.is_event} == {Reason.WEIGHT_NOT_FINITE}
    assert turns[-1].after.core.weight == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("error", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("calibrate", [False, True])
def test_a_target_whose_error_is_unknown_is_not_gone_to(error, calibrate):
    turns = play(JointEnvelope(Says(Proposal({"a": Target(2.0, error)}, calibrate)), ADAPTIVE, QUICK), STEPS)
    assert [t.decision for t in turns if t.decision.is_event] == []
    assert turns[-1].decision.reason is Reason.WITHIN_NOISE


@pytest.mark.parametrize("freedom", [math.nan, -5.0, 0.0])
def test_degrees_of_freedom_that_cannot_be_are_the_fewest(freedom):
    few, odd = (
        play(JointEnvelope(Says(Proposal({"a": Target(2.0, 0.01, n)})), ADAPTIVE, QUICK), STEPS) for n in (1.0, freedom)
    )
    assert [t.decision.new_weights for t in odd] == [t.decision.new_weights for t in few]


@pytest.mark.parametrize("number", [np.float32(2.0), np.float64(2.0), np.int64(2), 2])
def test_numbers_of_numpy_become_plain_ones(number):
    proposal = Proposal({"a": Target(number, number * 0)}, evidence={"share.a": number})
    turns = play(JointEnvelope(Says(proposal), ADAPTIVE, QUICK), STEPS)
    moves = [t.decision for t in turns if t.decision.is_event]
    assert moves[0].new_weights["a"] == pytest.approx(1.05)
    assert {type(value) for value in moves[0].evidence.values()} == {float}
    json.dumps(moves[0].to_dict())


@pytest.mark.parametrize(
    ("proposal", "kind", "message"),
    [
        (
            Proposal({"y": Target(1.0)}),
            ValueError,
            r"proposes targets for \['y'\]. Expected some of the .*\['a', 'b'\]",
        ),
        (Proposal({"a": 2.0}), ValueError, r"must propose None or a `Proposal` of `Target`s"),
        (Proposal({"a": Target("much")}), ValueError, r"must propose None or a `Proposal` of `Target`s"),
        (Proposal({"a": Target(2.0)}, evidence={"why": "so"}), ValueError, r"and evidence that are numbers"),
        ({"a": 2.0}, ValueError, r"must propose None or a `Proposal`"),
        (ZeroDivisionError("division by zero"), ZeroDivisionError, "division by zero"),
        (KeyError("b"), KeyError, "b"),
    ],
)
def test_a_mistake_of_the_strategy_is_raised_with_its_name_and_the_step(proposal, kind, message):
    envelope = JointEnvelope(Says(proposal), ADAPTIVE, QUICK)
    state = envelope.initial()
    with pytest.raises(kind, match=message) as caught:
        play(envelope, STEPS[:3], state=state)
    assert caught.value.__notes__ == ["This came up in the strategy Says, at step 1."]
    assert state == envelope.initial(), "the state is as it was"


class Unannotated(NamedTuple):
    """A field that nobody says how to read back."""

    best: object = None


@pytest.mark.parametrize(
    "state", [{"a": 1.0}, [], 3.0, (1.0, 2.0), None, Unannotated(np.zeros(2)), Unannotated({1, 2}), Unannotated("x")]
)
def test_a_state_that_cannot_be_stored_is_refused_at_once(state):
    with pytest.raises(ValueError, match=r"^Says.initial: must return a state that can be stored: a NamedTuple"):
        JointEnvelope(Says(None, state), ADAPTIVE, QUICK)


def test_a_strategy_without_a_state_is_resumed():
    envelope = JointEnvelope(Says(Proposal({"a": Target(2.0)})), ADAPTIVE, QUICK)
    state = play(envelope, STEPS)[-1].after
    assert through_json(envelope, state) == state


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


@pytest.mark.parametrize(
    ("strategy", "alike"),
    [
        (GradientShare({"a": np.float32(0.5)}), {"shares": {"a": 0.5}}),
        (GradientShare(measure_every=np.int64(9)), {"measure_every": 9}),
        (GradientShare(calibrate_steps=np.int32(7)), {"calibrate_steps": 7}),
        (Constraint("a", at_most=np.float64(1.5), cooling_period=np.int8(3)), {"at_most": 1.5, "cooling_period": 3}),
        (Constraint("a", at_most=Fraction(1, 4)), {"at_most": 0.25}),
        (SqrtLoss(measure_every=np.int64(9), calibrate_steps=np.uint8(7)), {"measure_every": 9, "calibrate_steps": 7}),
    ],
)  # fmt: skip
def test_numbers_of_whatever_class_can_be_recorded(strategy, alike):
    assert described(json.loads(json.dumps(describe(strategy)))) == replace(strategy, **alike)


class Odd:
    """Returns what it was made with."""

    def __init__(self, *returned):
        self.returned = returned

    def initial(self, terms):
        return Logs()

    def step(self, state, observations):
        return self.returned[0] if len(self.returned) == 1 else self.returned


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Odd(None), r"must return the next state, and a `Proposal` or None\. Received: None\."),
        (Odd(Proposal()), r"must return the next state, and a `Proposal` or None"),
        (Odd(Logs(), None, None), r"must return the next state, and a `Proposal` or None"),
        (Odd(Logs({"a": np.float32(1.0)}), None), r"must return a state that can be stored.*float32"),
        (
            Odd(Logs({"a": math.nan}), None),
            r"must return a state that can be stored.*`of` must be a finite number",
        ),
        (Odd(Logs(), Proposal({"a": Target(10**400)})), r"must propose None or a `Proposal`.*too large"),
    ],
)
def test_a_mistake_in_what_a_step_returns_is_named_at_once(strategy, message):
    envelope = JointEnvelope(strategy, ADAPTIVE, QUICK)
    with pytest.raises(ValueError, match=f"^Odd.step: {message}"):
        play(envelope, steady(1, {"a": 1.0, "b": 1.0}))
