"""The way to targets: dead band, the part that all weights go, and what is within reach."""

import math

import pytest

from keras_adaptive_weights import AdaptiveWeightConfig, Reason
from keras_adaptive_weights.deciding.approach import bounds, nearest, part_of, reason_to_stay, usable, way_to
from keras_adaptive_weights.deciding.joint import Term
from keras_adaptive_weights.deciding.statistics import widened
from keras_adaptive_weights.deciding.strategy import Proposal, Target

NAN, INF = math.nan, math.inf
CONFIG = AdaptiveWeightConfig(max_change_percent=0.05, significance=4.5)
TERMS = {"a": Term("a", 1.0, 0.5, 4.0), "b": Term.adaptive("b", 1.0), "c": Term.adaptive("c", 2.0)}
STEP = math.log1p(0.05)


def way(weights, targets, *, calibrating=False):
    return way_to(CONFIG, TERMS, weights, targets, calibrating=calibrating)


@pytest.mark.parametrize(
    ("target", "calibrating", "needed"),
    [
        (Target(2.0), False, STEP),
        (Target(2.0, 0.01), False, STEP),
        (Target(2.0, 0.1), False, 0.3),
        (Target(2.0, 0.1, 20.0), False, 0.1 * widened(3.0, 20.0)),
        (Target(2.0, 0.1, 1.0), False, 0.1 * widened(3.0, 1.0)),
        (Target(2.0, 0.1, 0.2), False, 0.1 * widened(3.0, 1.0)),  # of one independent value at least
        (Target(2.0, 0.1, 0.2), True, 0.2),
        (Target(2.0, 0.01), True, STEP),
        (Target(2.0, NAN), False, INF),
        (Target(2.0, INF), True, INF),
    ],
)
def test_the_dead_band_is_a_step_and_the_noise_of_the_target(target, calibrating, needed):
    got = way({"b": 1.0}, {"b": target}, calibrating=calibrating)
    assert (got.distance, got.needed) == (pytest.approx(math.log(2.0)), pytest.approx(needed))
    assert got.goals == {"b": 2.0}
    assert not got.clipped


@pytest.mark.parametrize(
    ("targets", "distance", "needed"),
    [
        ({}, 0.0, STEP),
        ({"a": Target(2.0), "b": Target(3.0)}, math.log(3.0), STEP),
        ({"b": Target(3.0), "a": Target(2.0)}, math.log(3.0), STEP),
        ({"a": Target(2.0), "b": Target(3.0, 0.3)}, math.log(2.0), STEP),  # further out of its band, not further
        ({"b": Target(3.0, 0.3), "a": Target(2.0)}, math.log(2.0), STEP),
        ({"a": Target(0.5), "b": Target(1.5)}, math.log(2.0), STEP),  # down counts as up
        ({"a": Target(1.0, 0.5)}, 0.0, STEP),
        ({"a": Target(1.5, NAN), "b": Target(3.0, NAN)}, math.log(3.0), INF),  # as far: then the longer way
        ({"b": Target(3.0, NAN), "a": Target(1.5, NAN)}, math.log(3.0), INF),
    ],
)
def test_distance_and_band_are_those_of_the_weight_furthest_out(targets, distance, needed):
    got = way({"a": 1.0, "b": 1.0, "c": 2.0}, targets)
    assert (got.distance, got.needed) == (pytest.approx(distance), pytest.approx(needed))
    assert got.goals == {"a": 1.0, "b": 1.0, "c": 2.0} | {name: target.weight for name, target in targets.items()}


@pytest.mark.parametrize(
    ("target", "goal", "clipped"), [(9.0, 4.0, True), (0.1, 0.5, True), (4.0, 4.0, False), (0.5, 0.5, False)]
)
def test_goals_are_within_the_bounds(target, goal, clipped):
    got = way({"a": 1.0, "b": 1.0}, {"a": Target(target), "b": Target(1.0)})
    assert (got.goals["a"], got.clipped) == (goal, clipped)
    other = way({"a": 1.0, "b": 1.0}, {"b": Target(1.0), "a": Target(target)})
    assert (other.goals, other.clipped) == (got.goals, clipped)


@pytest.mark.parametrize(
    ("goals", "logs"),
    [
        ({"a": 4.0, "b": 0.5, "c": 2.0}, {"a": STEP, "b": -STEP / 2, "c": 0.0}),
        ({"a": 1.0, "b": 1.02, "c": 2.0 / 1.03}, {"a": 0.0, "b": math.log(1.02), "c": -math.log(1.03)}),
        ({"a": 1.0, "b": 1.0, "c": 2.0}, {"a": 0.0, "b": 0.0, "c": 0.0}),
        ({"a": 1.0, "b": 0.01, "c": 2.0}, {"a": 0.0, "b": -STEP, "c": 0.0}),
    ],
)
def test_all_go_the_same_part_of_their_way_and_none_beyond_its_goal(goals, logs):
    before = {"a": 1.0, "b": 1.0, "c": 2.0}
    after = part_of(CONFIG, TERMS, before, goals)
    assert {name: math.log(after[name] / before[name]) for name in before} == pytest.approx(logs, abs=1e-12)
    assert all(before[name] / 1.05 <= after[name] <= before[name] * 1.05 for name in before), "exactly"


def test_rounding_takes_no_weight_further_than_a_step_nor_out_of_its_bounds():
    for weight in (0.1, 1 / 3, 0.7, 1.1, 2.9, 3.99):
        for goal in (0.5, 4.0):
            moved = part_of(CONFIG, TERMS, {"a": weight}, {"a": goal})["a"]
            assert weight / 1.05 <= moved <= weight * 1.05 or moved == 0.5
            assert 0.5 <= moved <= 4.0


@pytest.mark.parametrize(
    ("distance", "clipped", "reason"),
    [
        (STEP * 1.01, False, "within_noise"),
        (STEP * 1.01, True, "within_noise"),
        (STEP, True, "targets_out_of_reach"),
        (STEP, False, "on_target"),
        (0.0, True, "targets_out_of_reach"),
        (0.0, False, "on_target"),
    ],
)
def test_why_to_stay(distance, clipped, reason):
    got = way({"b": 1.0}, {})._replace(distance=distance, clipped=clipped)
    assert reason_to_stay(CONFIG, got) is Reason(reason)


def test_bounds_of_terms():
    assert bounds(TERMS["a"]) == (0.5, 4.0)
    assert bounds(Term("f", 3.0)) == (3.0, 3.0)
    assert bounds(Term("f", 3.0, low=1.0)) == (1.0, 3.0)
    assert bounds(Term("f", 3.0, high=5.0)) == (3.0, 5.0)


@pytest.mark.parametrize(
    ("weight", "got"), [(0.1, 0.5), (0.5, 0.5), (2.0, 2.0), (4.1, 4.0), (NAN, 1.0), (INF, 1.0), (-INF, 1.0)]
)
def test_the_nearest_weight_within_the_bounds(weight, got):
    assert nearest(TERMS["a"], weight) == got


def test_targets_that_no_weight_can_have_are_left_out():
    good = {"a": Target(1e-300), "b": Target(3.4028235e38)}
    bad = {"c": Target(0.0), "d": Target(-1.0), "e": Target(NAN), "f": Target(INF), "g": Target(3.5e38)}
    whole = Proposal(good, calibrate=True, evidence={"x": 1.0})
    assert usable(whole) is whole
    assert usable(whole._replace(targets={**good, **bad})) == whole
