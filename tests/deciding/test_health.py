"""How the training as a whole is doing: calm, high losses and skips in a row, step by step."""

import math

import pytest

from keras_adaptive_weights import Observation
from keras_adaptive_weights.deciding.health import LOSS_SCALING_GRACE, SCALE_STEPS, Health, feed, recovered

NAN = math.nan


def after(totals, *, too_high=None, horizon=50, **values):
    state = Health()
    for total in totals:
        finite = math.isfinite(total)
        given = {"applied": finite, "non_finite": None if finite else "mel_loss", **({} if finite else values)}
        state = feed(state, Observation(state.step + 1, 1.0, total, 1.0, **given), horizon=horizon, too_high=too_high)
    return state


@pytest.mark.parametrize(
    ("totals", "expected"),
    [
        ([1.0] * 9, {"calm": 9, "settled": False, "last_calm": 0}),
        ([1.0] * 10, {"calm": 10, "settled": True, "last_calm": 0}),
        ([1.0] * 11, {"settled": True, "last_calm": 11}),
        ([1.0] * 20 + [NAN], {"calm": 0, "settled": False, "skips": 1, "first_skip": 21, "last_calm": 20}),
        ([1.0] * 20 + [NAN] * 3 + [1.0], {"skips": 0, "first_skip": 0, "culprit": None, "calm": 1}),
        ([NAN] * 3, {"skips": 3, "first_skip": 1, "culprit": "mel_loss", "seen": 0}),
        ([1.0] * 20 + [100.0], {"fast": pytest.approx(1.2), "settled": True}),
        ([1.0] * 20 + [100.0] * 6, {"calm": 0, "settled": False, "last_calm": 25}),
        ([10.0, 1.0, 1.0] + [0.5] * 40, {"settled": True}),
        ([-1.0] * 20, {"settled": True}),
        ([0.0] * 20, {"settled": True}),
    ],
)
def test_calm(totals, expected):
    state = after(totals)
    assert {name: getattr(state, name) for name in expected} == expected


def test_high_losses_count_in_a_row():
    assert after([1.0] * 30 + [9.0] * 50, too_high=5.0).high > 30
    assert after([1.0] * 30 + [9.0] * 50 + [1.0] * 50, too_high=5.0).high == 0
    assert after([1.0] * 30 + ([100.0] + [1.0] * 9) * 20, too_high=5.0).high == 0
    assert after([1.0] * 30 + [9.0] * 50).high == 0


def test_totals_around_zero_have_no_level():
    """Half of them are below zero: each applied step is calm, and none is high."""
    totals = [0.3 if i % 2 else -0.2 for i in range(60)] + [50.0]
    state = after(totals, too_high=0.1)
    assert (state.calm, state.high, state.level) == (61, 0, 0.0)
    assert after([1.0] * 30, too_high=5.0).level == pytest.approx(1.0)
    forgotten = after([-1.0] + [1.0] * (SCALE_STEPS + 1) + [9.0] * 50, too_high=5.0)
    assert forgotten.high > 30
    assert recovered(state, state.level, 200).below_zero == state.below_zero


def test_a_step_with_nothing_to_measure_is_none():
    state = after([1.0] * 20 + [NAN] * 2)
    assert feed(state, Observation(23, NAN, applied=False, empty=True), horizon=200) == state._replace(step=23)


@pytest.mark.parametrize("steps", [1, LOSS_SCALING_GRACE, LOSS_SCALING_GRACE + 7])
def test_loss_scaling_is_routine_for_a_while(steps):
    state = after([1.0] * 20 + [NAN] * steps, loss_scaling=True)
    assert state.skips == max(0, steps - LOSS_SCALING_GRACE)
    assert state.first_skip == 21
    assert (state.culprit is None) == (state.skips == 0)


def test_loss_scaling_ends_no_calm():
    state = after([1.0] * 20 + [NAN] * 3, loss_scaling=True)
    assert (state.calm, state.scaling_skips, state.skips, state.step) == (20, 3, 0, 23)
    assert after([1.0] * 20 + [NAN] * 3).scaling_skips == 0
    assert after([1.0] * 20 + [NAN] * (LOSS_SCALING_GRACE + 1), loss_scaling=True).culprit == "mel_loss"


def test_a_fault_among_overflows_begins_their_count_again():
    state = after([1.0] * 20 + [NAN] * 5, loss_scaling=True)
    state = feed(state, Observation(26, 1.0, NAN, applied=False), horizon=50)
    assert (state.skips, state.scaling_skips, state.first_skip) == (1, 0, 21)
    assert state.culprit == "a value", "its name was not given"
    again = feed(state, Observation(27, 1.0, NAN, applied=False, non_finite="stop_loss"), horizon=50)
    assert (again.skips, again.culprit) == (2, "a value"), "the first one stands"


def test_a_total_that_is_not_known_counts_as_a_skip():
    assert feed(after([1.0] * 20), Observation(21, 1.0), horizon=50).skips == 1


@pytest.mark.parametrize(
    ("totals", "horizon", "fast", "slow"),
    [
        ([3.0], 50, 3.0, 3.0),
        ([3.0, 6.0], 50, 4.5, 4.5),
        ([3.0] * 10 + [6.0], 50, 3.3, 3.0 + 3.0 / 11),
        ([3.0] * 10 + [6.0], 5, 3.3, 3.6),
        ([3.0] * 10 + [99.0], 50, 3.6, 3.0 + 6.0 / 11),  # a spike is cut off at three times the level
        ([3.0] * 9 + [99.0], 50, 12.6, 12.6),  # where that is known
        ([-3.0] * 10 + [99.0], 50, 7.2, -3.0 + 102.0 / 11),  # and where there is one
        ([0.0] * 10 + [10.0], 50, 1.0, 10.0 / 11),
    ],
)
def test_two_averages_of_the_total(totals, horizon, fast, slow):
    state = after(totals, horizon=horizon)
    assert (state.fast, state.slow) == (pytest.approx(fast), pytest.approx(slow))
    assert (state.seen, state.step) == (len(totals), len(totals))


@pytest.mark.parametrize(
    ("fast", "slow", "calm"), [(1.5, 1.0, 4), (1.5000001, 1.0, 0), (1.0, -1.0, 4), (0.5, 0.5, 4), (0.2, 0.1, 0)]
)
def test_a_step_is_calm_up_to_one_and_a_half_times_the_slow_average(fast, slow, calm):
    state = Health(100, seen=10**20, fast=fast, slow=slow, calm=3)
    total = fast  # neither average moves: the slow one over a horizon without end
    assert feed(state, Observation(101, 1.0, total), horizon=10**20).calm == calm


@pytest.mark.parametrize(("level", "high"), [(2.0, 0), (1.9999, 6), (2.1, 0)])
def test_a_step_is_high_above_the_level_and_not_at_it(level, high):
    state = Health(100, seen=1000, fast=2.0, slow=2.0, high=5)
    assert feed(state, Observation(101, 1.0, 2.0), horizon=50, too_high=level).high == high


def test_a_high_step_is_no_calm_one_to_go_back_to():
    calm = Health(100, seen=1000, fast=2.0, slow=2.0, calm=20, last_calm=99)
    assert feed(calm, Observation(101, 1.0, 2.0), horizon=50, too_high=3.0).last_calm == 101
    high = feed(calm, Observation(101, 1.0, 2.0), horizon=50, too_high=1.0)
    assert (high.last_calm, high.settled) == (99, False)


def test_the_last_calm_step_has_ten_calm_ones_before_it():
    assert [after([1.0] * steps).last_calm for steps in (10, 11, 12)] == [0, 11, 12]


def test_how_long_a_total_below_zero_takes_the_scale_away():
    state = after([1.0] * 5 + [-1e-9])
    assert state.below_zero == SCALE_STEPS
    assert after([1.0] * 5 + [-1e-9] + [1.0] * 7).below_zero == SCALE_STEPS - 7
    assert after([0.0] * 5).below_zero == 0


def test_after_a_recovery_the_averages_begin_at_the_snapshots_level():
    bad = after([1.0] * 30 + [9.0] * 30 + [NAN] * 4, too_high=5.0)
    for horizon, seen in ((200, 200), (20, 60)):
        assert recovered(bad, 1.25, horizon) == Health(
            step=64, seen=seen, fast=1.25, slow=1.25, last_calm=bad.last_calm, below_zero=0
        )
    assert bad.last_calm == 33
