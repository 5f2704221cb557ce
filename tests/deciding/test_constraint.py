"""Constraint: which way the weight is to go, and how sure that is."""

import math
import random

import pytest
from joint_streams import ADAPTIVE, BESIDE, QUICK, changes, play, seen, steady

from keras_adaptive_weights.deciding.constraint import Constraint
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.deciding.statistics import measure_noise

WEIGHTS = {"a": 2.0, "b": 1.0}


def last(losses, at_most=1.0):
    strategy = Constraint("a", at_most=at_most)
    state, proposal = strategy.initial(ADAPTIVE), None
    for loss in losses:
        state, proposal = strategy.step(state, (seen({"a": loss, "b": 9.0}, weights=WEIGHTS),))
    return state, proposal


@pytest.mark.parametrize(
    ("loss", "weight"),
    [(1.0, 2.0), (1.05, 2.0 * 1.05**4), (0.95, 2.0 * 0.95**4), (9.0, 4.0), (1e-9, 1.0), (0.0, 1.0), (-3.0, 1.0)],
)
def test_the_weight_goes_by_the_ratio_of_loss_and_limit_but_never_far(loss, weight):
    _, proposal = last([loss] * 20)
    assert set(proposal.targets) == {"a"}
    assert proposal.targets["a"].weight == pytest.approx(weight)
    assert (proposal.targets["a"].error, proposal.calibrate) == (0.0, False)
    assert proposal.evidence == {"constrained_loss": pytest.approx(loss), "limit": 1.0}


def test_only_the_newest_losses_count_and_a_few_are_needed():
    state, proposal = last([9.0] * 50 + [1.0] * 100)
    assert len(state.losses) == 100
    assert proposal.targets["a"].weight == pytest.approx(2.0)
    assert [bool(last([1.0] * n)[1].targets) for n in (1, 4, 5)] == [False, False, True]
    assert last([1.0] * 4)[1].evidence == {"measurements": 4.0}


def test_of_the_losses_before_the_weight_moved_the_newest_stay():
    strategy = Constraint("a", at_most=1.0)
    state, _ = last([9.0] * 30 + [3.0] * 39)
    state, proposal = strategy.step(state, (seen({"a": 3.0}, weights={"a": 2.1, "b": 1.0}),))
    assert state.losses == (3.0,) * 40
    assert proposal.evidence["constrained_loss"] == pytest.approx(3.0)
    state, _ = strategy.step(state, (seen({"a": 3.0}, weights={"a": 2.1, "b": 1.0}),))
    assert len(state.losses) == 41


def test_noise_makes_it_unsure():
    rng = random.Random(0)
    target = last([rng.lognormvariate(0.0, 0.1) for _ in range(20)])[1].targets["a"]
    assert 0.2 * 4.0 * 0.1 / math.sqrt(20) < target.error < 3.0 * 4.0 * 0.1 / math.sqrt(20)
    assert 1.0 <= target.freedom <= 18.0


def test_a_batch_without_the_term_says_nothing():
    strategy = Constraint("a", at_most=1.0)
    state = strategy.initial(ADAPTIVE)
    assert strategy.step(state, (seen({"b": 1.0}, weights=WEIGHTS),))[0].losses == ()


def test_in_its_envelope_it_changes_every_ten_steps():
    envelope = JointEnvelope(Constraint("a", at_most=0.5), BESIDE, QUICK)
    turns = play(envelope, steady(100, {}, losses={"a": 1.0, "f": 1.0}))
    moved = [step for step, _, _ in changes(turns)]
    assert moved == list(range(21, 100, 11))
    assert turns[-1].after.core.weight["a"] == pytest.approx(1.05 ** len(moved))
    assert envelope.config.cooling_period == 10
    assert JointEnvelope(Constraint("a", at_most=0.5, cooling_period=3), BESIDE, QUICK).config.cooling_period == 3


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"term": 3, "at_most": 1.0}, TypeError, "`term` must be a term's name"),
        ({"term": "a", "at_most": 0.0}, ValueError, "`at_most` must be a number"),
        ({"term": "a", "at_most": math.inf}, ValueError, "`at_most` must be a number"),
        ({"term": "a", "at_most": "1"}, TypeError, "`at_most` must be a number"),
        ({"term": "a", "at_most": 1.0, "cooling_period": 0}, ValueError, "`cooling_period` must be an integer"),
    ],
)
def test_what_it_refuses(arguments, kind, message):
    with pytest.raises(kind, match=f"^Constraint: argument {message}"):
        Constraint(**arguments)


@pytest.mark.parametrize("term", ["f", "z"])
def test_the_term_must_have_an_adaptive_weight(term):
    with pytest.raises(
        ValueError,
        match=rf"^Constraint: argument `term` must name a term with .*'{term}'.*one of \['a'\].* to let it move\.$",
    ):
        Constraint(term, at_most=1.0).initial(BESIDE)


def test_steps_at_their_bounds():
    assert Constraint("a", at_most=1.0, cooling_period=1).cooling_period == 1


def test_the_limit_is_the_unit():
    for factor in (0.01, 300.0):
        (target,) = last([1.05 * factor] * 20, at_most=factor)[1].targets.values()
        assert target.weight == pytest.approx(2.0 * 1.05**4)


def test_error_and_freedom_are_those_of_the_mean_of_the_newest_losses():
    losses = [1.0 + 0.1 * (-1) ** i for i in range(40)]
    noise = measure_noise(tuple(losses))
    (target,) = last(losses)[1].targets.values()
    assert (target.error, target.freedom) == (pytest.approx(4.0 * noise.standard_error(40)), noise.freedom)


def test_all_steps_of_an_execution_are_taken_in():
    strategy = Constraint("a", at_most=1.0)
    steps = [seen({"a": 1.0}, weights=WEIGHTS), seen({"b": 1.0}, weights=WEIGHTS), seen({"a": 3.0}, weights=WEIGHTS)]
    assert strategy.step(strategy.initial(ADAPTIVE), steps)[0].losses == (1.0, 3.0)
