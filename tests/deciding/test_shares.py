"""Weights in closed form, checked by putting them back into the shares; and how well a magnitude is known."""

import math
import random
import statistics

import pytest

from keras_adaptive_weights.deciding.joint import Term
from keras_adaptive_weights.deciding.shares import (
    FEW,
    KEPT,
    Magnitude,
    Measurements,
    ShareState,
    initial_state,
    propose,
    shares_of,
    targets,
)
from keras_adaptive_weights.deciding.statistics import mean, measure_noise
from keras_adaptive_weights.deciding.strategy import Proposal

NORMS = {"a": Magnitude(2.0), "b": Magnitude(0.01), "c": Magnitude(300.0)}


def solved(base, shares, magnitudes=NORMS):
    """The shares that the targets make, and the weights."""
    found = {name: target.weight for name, target in targets(base, shares, magnitudes).items()}
    return shares_of({**base, **found}, magnitudes), found


@pytest.mark.parametrize("shares", [{"a": 0.6}, {"b": 0.99}, {"a": 0.3, "c": 0.01}])
def test_beside_terms_that_stay_the_shares_come_true(shares):
    made, found = solved({"a": 1.0, "b": 3.0, "c": 0.5}, shares)
    assert found.keys() == shares.keys()
    assert {name: made[name] for name in shares} == pytest.approx(shares)


def test_where_all_move_the_shares_come_true_and_the_geometric_mean_is_held():
    base, shares = {"a": 1.0, "b": 3.0, "c": 0.5}, {"a": 0.2, "b": 0.3, "c": 0.5}
    made, found = solved(base, shares)
    assert made == pytest.approx(shares)
    assert math.prod(found.values()) == pytest.approx(math.prod(base.values()))


def test_a_term_that_is_not_known_stays_and_the_others_share_without_it():
    base = {"a": 1.0, "b": 3.0, "z": 0.5}
    made, found = solved(base, {"a": 0.2, "b": 0.3, "z": 0.5})
    assert found.keys() == {"a", "b"}
    assert made["a"] / made["b"] == pytest.approx(2.0 / 3.0)
    assert found["a"] * found["b"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("base", "shares"), [({"a": 1.0}, {"a": 0.5}), ({"a": 1.0, "z": 1.0}, {"a": 0.5}), ({"a": 1.0, "b": 1.0}, {})]
)
def test_nothing_follows_where_there_is_nothing_to_hold_it_against(base, shares):
    assert targets(base, shares, NORMS) == {}


def test_errors_of_targets_are_those_of_simulated_ones():
    """The formulas against many draws of the logarithms."""
    base, errors = {"a": 1.0, "b": 3.0, "c": 0.5}, {"a": 0.01, "b": 0.03, "c": 0.02}
    rng = random.Random(0)
    for shares in ({"a": 0.2, "b": 0.3, "c": 0.5}, {"a": 0.6}):
        drawn = []
        for _ in range(4000):
            noisy = {k: Magnitude(m.value * math.exp(rng.gauss(0.0, errors[k]))) for k, m in NORMS.items()}
            drawn.append({k: math.log(t.weight) for k, t in targets(base, shares, noisy).items()})
        stated = targets(base, shares, {k: Magnitude(m.value, errors[k], 7.0 + m.value) for k, m in NORMS.items()})
        for name, target in stated.items():
            assert target.error == pytest.approx(statistics.stdev(d[name] for d in drawn), rel=0.06)
            assert target.freedom == pytest.approx(7.01)


def test_shares_of_nothing():
    assert shares_of({"a": 1.0}, {}) == {}
    assert shares_of({"a": 1.0}, NORMS) == {"a": 1.0}


def pushed(rows, calibrate_steps=None):
    result = Measurements()
    for row in rows:
        result = result.push(row, calibrate_steps)
    return result


def test_measurements_are_bounded_and_begin_afresh_after_the_start():
    rows = [{"a": math.exp(i)} for i in range(100)]
    assert pushed(rows).logs == {"a": pytest.approx(tuple(range(100 - KEPT, 100)))}
    assert pushed(rows[:30], 30).logs == {"a": pytest.approx(tuple(range(30)))}, "all of the start"
    assert pushed(rows[:31], 30).logs == {"a": pytest.approx((30,))}
    assert pushed(rows, 30).taken == 100
    assert len(pushed(rows, 30).logs["a"]) == KEPT


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_what_is_not_positive_and_finite_teaches_nothing(value):
    before = pushed([{"a": 1.0, "b": 1.0}])
    assert before.push({"a": value}, None) is before
    after = before.push({"a": value, "b": 2.0}, None)
    assert (after.logs["a"], after.taken) == ((0.0,), 2)
    assert after.logs["b"] == (0.0, math.log(2.0))


def test_a_magnitude_needs_a_few_measurements():
    for number in range(FEW + 2):
        assert ("a" in pushed([{"a": 2.0}] * number).magnitudes(None)) is (number >= FEW)


@pytest.mark.parametrize("calibrate_steps", [None, KEPT])
def test_the_error_of_a_magnitude_is_that_of_the_mean_of_the_logarithms(calibrate_steps):
    rng, centers, errors = random.Random(1), [], []
    for _ in range(500):
        rows = [{"a": rng.lognormvariate(1.0, 0.3)} for _ in range(KEPT)]
        magnitude = pushed(rows, calibrate_steps).magnitudes(calibrate_steps)["a"]
        centers.append(math.log(magnitude.value))
        errors.append(magnitude.error)
    assert statistics.fmean(centers) == pytest.approx(1.0, abs=0.01)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(centers), rel=0.2)


def test_a_drift_hardly_adds_to_the_error_and_autocorrelation_at_the_start_does():
    """Later measurements are many steps apart; those at the start follow each other."""
    rng = random.Random(2)
    drifting = [{"a": math.exp(0.1 * i) * rng.lognormvariate(0.0, 0.1)} for i in range(KEPT)]
    assert pushed(drifting).magnitudes(None)["a"].error < 2.0 * 0.1 / math.sqrt(KEPT)
    value, rows = 0.0, []
    for _ in range(KEPT):
        value = 0.9 * value + math.sqrt(0.19) * rng.gauss(0.0, 0.15)
        rows.append({"a": math.exp(value)})
    at_start, later = pushed(rows, KEPT).magnitudes(KEPT)["a"], pushed(rows).magnitudes(None)["a"]
    assert at_start.error > 1.5 * later.error
    assert at_start.freedom < later.freedom == pytest.approx((KEPT - 1) / 1.5)


def test_one_measurement_far_off_hardly_moves_a_magnitude():
    magnitude = pushed([{"a": 1.0}] * 19 + [{"a": 100.0}]).magnitudes(None)["a"]
    assert magnitude.value == pytest.approx(100.0 ** (1 / 20))


def test_weights_of_zero_make_no_shares():
    assert shares_of({"a": 0.0, "b": 0.0}, NORMS) == {}
    assert shares_of({"a": 0.0, "b": 1.0}, NORMS) == {"a": 0.0, "b": 1.0}


def test_terms_that_cannot_be_balanced():
    with pytest.raises(
        ValueError,
        match=r"^SqrtLoss: needs two or more terms, at least one of them with an adaptive weight\. Received the terms "
        r"\['f', 'g'\], of which \[\] are adaptive\. Give a term `weight=AdaptiveWeight\(\.\.\.\)` to let it move\.$",
    ):
        initial_state("SqrtLoss", [Term("f", 1.0), Term("g", 2.0)])
    assert initial_state("SqrtLoss", [Term("f", 3), Term.adaptive("a", 2)]) == ShareState({"a": 2.0}, {"f": 3.0})


@pytest.mark.parametrize(
    ("calibrate_steps", "count", "proposed"), [(None, 4, False), (None, 5, True), (8, 7, False), (8, 8, True)]
)
def test_what_is_proposed_and_when(calibrate_steps, count, proposed):
    rows = [{"a": 2.0, "f": 3.0}] * count
    state = ShareState({"a": 1.0}, {"f": 2.0}, pushed(rows, calibrate_steps))
    got = propose(state, None, calibrate_steps, {"a": 1.5, "f": 2.0})
    evidence = {"measurements": float(count)}
    if count >= FEW:
        evidence |= {"share.a": 3.0 / 9.0, "share.f": 6.0 / 9.0, "intent.a": 0.5}
    assert got.evidence == pytest.approx(evidence)
    assert set(got.targets) == ({"a"} if proposed else set())
    assert got.calibrate is (proposed and calibrate_steps is not None)
    if proposed:
        assert got.targets["a"].weight == pytest.approx(3.0), "six parts of twelve"
    intended = propose(state, {"a": 0.25}, calibrate_steps, {"a": 1.5, "f": 2.0})
    assert intended.evidence["intent.a"] == 0.25


def test_the_error_after_the_start_by_hand():
    """Four differences of 1: their mean square is twice the variance, of a mean over five."""
    magnitude = pushed([{"a": math.exp(log)} for log in (0.0, 1.0, 0.0, 1.0, 0.0)]).magnitudes(None)["a"]
    assert magnitude == (pytest.approx(math.exp(0.4)), pytest.approx(math.sqrt(4 / (2 * 4) / 5)), 4 / 1.5)


def test_at_the_start_errors_are_those_of_successive_steps():
    rng = random.Random(3)
    rows = [{"a": rng.lognormvariate(0.0, 0.1), "f": 1.0} for _ in range(8)]
    state = ShareState({"a": 1.0}, {"f": 1.0}, pushed(rows, 8))
    (target,) = propose(state, None, 8, {}).targets.values()
    noise = measure_noise(tuple(1.0 + log - mean(state.measured.logs["a"]) for log in state.measured.logs["a"]))
    assert target.error == pytest.approx(noise.standard_error(8))


def test_a_term_that_alone_is_known_is_all_there_is():
    state = ShareState({"a": 1.0}, {"f": 1.0}, pushed([{"a": 2.0}] * 5))
    assert propose(state, None, None, {"a": 1.0, "f": 1.0}) == Proposal(
        evidence={"measurements": 5.0, "share.a": 1.0, "intent.a": 1.0}
    )
