"""What holds for every strategy, stream and setting: Hypothesis looks for the exception."""

import json
import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from history_checks import Checks
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_streams import by_hand, play, through_json

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.constraint import Constraint
from keras_adaptive_weights.deciding.decision import Action, Reason
from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation, Term
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss
from keras_adaptive_weights.deciding.strategy import Proposal, Target

NAN, INF = math.nan, math.inf
ODD = (NAN, INF, -INF, 0.0, -1.0, 1e300, -1e300, 1e-300, 5e-324, 1.7e308, 1.0)
REQUESTS = ("disable", "enable", "enable", "rollback", "reset", "recover")


class History:
    """An envelope, and what it did turn by turn. Shown short, as Hypothesis prints it."""

    def __init__(self, envelope, turns):
        self.envelope, self.turns = envelope, turns

    def __repr__(self):
        return (
            f"History({self.envelope}, {[t.given if isinstance(t.given, str) else len(t.given) for t in self.turns]})"
        )


class Drawn(NamedTuple):
    """How often it was asked."""

    calls: int = 0


@dataclass(frozen=True)
class Hostile:
    """A strategy of one's own that proposes whatever a float can hold, and always asks for a calibration."""

    seed: int

    def initial(self, terms):
        return Drawn()

    def step(self, state, observations):
        rng = random.Random(1000 * self.seed + state.calls)
        usual = (0.5, 1.0, 2.0, 1e-3, 1e3)
        names = [name for name in ("a", "b") if rng.random() < 0.8]
        odd = rng.random() < 0.3
        targets = {
            name: Target(rng.choice(ODD if odd else usual), rng.choice((0.0, 0.1, *ODD)), rng.choice((INF, 1.0, *ODD)))
            for name in names
        }
        proposal = Proposal(targets, calibrate=True, evidence={"share.a": rng.choice(ODD)})
        return Drawn(state.calls + 1), rng.choice((None, proposal, proposal))


@st.composite
def envelopes(draw):
    config = AdaptiveWeightConfig(
        enabled=draw(st.sampled_from([True] * 9 + [False])),
        max_change_percent=draw(st.sampled_from([0.001, 0.05, 0.05, 0.5])),
        warmup_steps=draw(st.integers(0, 20)),
        cooling_period=draw(st.integers(1, 15)),
        min_stable_steps=draw(st.integers(1, 6)),
        variance_threshold=draw(st.sampled_from([0.01, 0.5, 1e9])),
        loss_smoothing_factor=draw(st.sampled_from([0.15, 0.5])),
        reference_steps=draw(st.integers(5, 20)),
        significance=draw(st.sampled_from([0.0, 1.0, 4.5])),
        absurd_loss_factor=draw(st.sampled_from([1.1, 10.0])),
        max_rollbacks=draw(st.integers(1, 3)),
        max_non_finite_steps=draw(st.integers(1, 5)),
    )
    base = draw(st.sampled_from([1e-3, 1.0, 300.0]))
    terms = (Term.adaptive("a", base), Term("b", 2.0, 1.5, 2.5), *draw(st.sampled_from([(), (Term("f", 1.0),)])))
    strategy = draw(
        st.sampled_from(
            [
                GradientShare(measure_every=5, calibrate_steps=5),
                GradientShare({"a": 0.6}, calibrate_steps=None),
                SqrtLoss(measure_every=4, calibrate_steps=6),
                Constraint("a", at_most=0.5),
                Hostile(draw(st.integers(0, 99))),
            ]
        )
    )
    return JointEnvelope(strategy, terms, config)


@st.composite
def segments(draw, names):
    """A stretch of a stream: ordinary steps around levels, odd values, or something asked for by hand."""
    kind = draw(st.sampled_from(["level"] * 5 + ["odd", "hand"]))
    if kind == "hand":
        return [draw(st.sampled_from(REQUESTS))]
    rng = random.Random(draw(st.integers(0, 999)))
    if kind == "odd":
        losses = {name: rng.choice(ODD) for name in names if rng.random() < 0.8}
        norms = {name: rng.choice(ODD) for name in names if rng.random() < 0.8}
        steps = draw(st.integers(1, 4))
        return [JointObservation(0, losses, None, None, norms, rng.random() < 0.8, rng.random() < 0.2)] * steps
    noise = draw(st.sampled_from([0.0, 0.02, 0.3]))
    levels = {name: math.exp(rng.uniform(-3.0, 3.0)) for name in names}
    slopes = {name: math.exp(rng.gauss(0.0, 1.0)) for name in names}

    def step(_):
        losses = {name: level * rng.lognormvariate(0.0, noise) for name, level in levels.items()}
        norms = {name: losses[name] * slopes[name] for name in names} if rng.random() < 0.7 else {}
        return JointObservation(0, losses, sum(losses.values()), rng.lognormvariate(0.0, noise), norms)

    return list(map(step, range(draw(st.integers(1, 60)))))


@st.composite
def histories(draw):
    """Turns of any strategy in its envelope, with arbitrary settings over an arbitrary stream."""
    envelope = draw(envelopes())
    names = [term.name for term in envelope.terms]
    script = [item for part in draw(st.lists(segments(names), min_size=1, max_size=6)) for item in part]
    state = envelope.set_shadow(envelope.initial(), shadow=draw(st.sampled_from([False, False, False, True])))
    return History(envelope, play(envelope, script, draw(st.sampled_from([1, 1, 3])), state))


holds = Checks()


@given(histories())
def test_what_holds_for_every_history(history):
    holds.look_at(history)


def test_the_streams_reach_everything():
    """Without this the properties below could hold because nothing happens."""
    actions, reasons = Counter(), Counter()

    @settings(derandomize=True, database=None, max_examples=150)
    @given(histories())
    def collect(history):
        actions.update({t.decision.action for t in history.turns})
        reasons.update({t.decision.reason for t in history.turns})

    collect()
    assert min(actions[action] for action in set(Action) - {Action.INCREASE, Action.DECREASE}) >= 3
    expected = {reason for reason in Reason if reason.code >= Reason.MEASURING.code}
    assert expected <= set(reasons) | {Reason.TARGETS_OUT_OF_REACH}


@holds
def weights_are_always_finite_and_within_their_bounds(history):
    terms = {term.name: term for term in history.envelope.terms}
    for turn in history.turns:
        assert turn.after.core.weight == turn.decision.new_weights
        assert turn.before.core.weight == turn.decision.old_weights
        for name, weight in turn.after.core.weight.items():
            assert terms[name].low <= weight <= terms[name].high
        if turn.decision.held_weights is not None:
            assert turn.decision.weights_in_force == history.envelope.initial().core.weight


@holds
def no_weight_moves_by_more_than_a_step_but_for_one_calibration_what_undoes_it_and_a_disable(history):
    factor = (1.0 + history.envelope.config.max_change_percent) * (1.0 + 1e-12)
    undo = None
    for turn in history.turns:
        d = turn.decision
        ratios = [d.new_weights[name] / old for name, old in d.old_weights.items()]
        match d.action:
            case Action.BALANCE:
                assert all(1.0 / factor <= ratio <= factor for ratio in ratios)
                assert d.new_weights != d.old_weights
                undo = d.old_weights
            case Action.CALIBRATE:
                undo = d.old_weights
            case Action.ROLLBACK:
                assert d.new_weights == undo
                undo = None
            case Action.DISABLE:
                assert d.new_weights == turn.before.core.base_weight
                undo = None
            case _:
                assert d.new_weights == d.old_weights
                undo = None if d.action is Action.RESET else undo
    assert [t.decision.action for t in history.turns].count(Action.CALIBRATE) <= 1


@holds
def no_balance_in_the_warmup_nor_within_the_cooling(history):
    config, taken, since = history.envelope.config, 0, None
    for turn in history.turns:
        if turn.given in ("reset", "recover"):
            taken = 0
        elif turn.given == "enable":
            since = 0
        elif not isinstance(turn.given, str):
            taken += sum(o.finite and not o.loss_scaling and bool(o.losses) for o in turn.given)
            since = None if since is None else since + sum(bool(o.losses) for o in turn.given)
        if turn.decision.action is Action.BALANCE:
            assert taken > config.warmup_steps
            assert since is None or since > config.cooling_period
        if turn.after.core.weight != turn.before.core.weight:
            since = 0


@holds
def a_bad_step_and_a_disable_move_nothing_but_back(history):
    for turn in history.turns:
        if isinstance(turn.given, str):
            continue
        last = turn.given[-1]
        if turn.before.core.disabled or not history.envelope.config.enabled:
            assert turn.decision.action is Action.HOLD
        if not last.finite or not last.losses:
            assert turn.decision.action in (Action.HOLD, Action.ROLLBACK, Action.DISABLE)


@holds
def the_state_survives_json_and_goes_on_the_same(history):
    for turn in history.turns[::4]:
        restored = through_json(history.envelope, turn.before)
        if isinstance(turn.given, str):
            after, decision = by_hand(history.envelope, restored, turn.given)
        else:
            after, decision = history.envelope.step(restored, turn.given)
        assert repr(after) == repr(turn.after), "repr: NaN is not equal to itself"
        assert repr(decision) == repr(turn.decision)
        assert repr(JointDecision.from_dict(json.loads(json.dumps(decision.to_dict())))) == repr(decision)


def leaves(value):
    """Number of plain values in a structure."""
    if isinstance(value, dict):
        return sum(map(leaves, value.values()))
    return sum(map(leaves, value)) if isinstance(value, (list, tuple)) else 1


@holds
def memory_is_bounded(history):
    config = history.envelope.config
    bound = 150 + len(history.envelope.terms) * (3 * config.smoothing_steps + 2 * config.reference_steps + 60)
    assert all(leaves(history.envelope.to_dict(t.after)) <= bound for t in history.turns[-1:])
