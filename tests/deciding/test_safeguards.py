"""What the gates and the ways back do to each field of a state, and each number that goes with a decision."""

import math
from dataclasses import replace

import pytest

from keras_adaptive_weights import AdaptiveWeightConfig, Observation, Reason
from keras_adaptive_weights.deciding import safeguards
from keras_adaptive_weights.deciding.state import ControllerState, Trial
from keras_adaptive_weights.deciding.statistics import Comparison, Noise, Series

NAN, INF = math.nan, math.inf
CONFIG = AdaptiveWeightConfig(warmup_steps=20, cooling_period=12, min_stable_steps=5, reference_steps=20)
NOISE = Noise(0.1, 0.2, 30)
FULL = ControllerState(
    weight=3.0,
    base_weight=2.5,
    held_weight=2.75,
    previous_weight=2.9,
    cooling=7,
    disabled=True,
    faults_off_trial=True,
    skipped_steps=11,
    dampened_steps=12,
    empty_steps=13,
    step=100,
    steps_since_change=5,
    observed_steps=80,
    stable_steps=9,
    last_finite=False,
    breaker=30,
    rollbacks=1,
    trial=Trial(2.9, 1.0, 4, NOISE, 5, 1.1),
    running_total_loss=4.0,
    losses=Series((1.0, 3.0), (2.0,) * 6, 2.0),
    gradient_norms=Series((5.0,), (6.0,), 6.0),
)
"""No field is as it is in a fresh state."""
OPEN = ControllerState(
    2.5, 2.5, observed_steps=21, steps_since_change=1, stable_steps=5, losses=Series((1.0,), (1.0,) * 5, 1.0)
)
"""No gate is closed."""


def test_the_full_state_is_full():
    fresh = ControllerState(1.0, 1.0)
    assert not [name for name in fresh._fields if getattr(FULL, name) == getattr(fresh, name)]


# --- gates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "values", "last", "variance", "reason"),
    [
        ({}, {}, {}, 0.5, None),
        ({"enabled": False}, {"disabled": True}, {"empty": True}, 0.0, "switched_off"),
        ({}, {"disabled": True}, {"empty": True}, 0.0, "disabled"),
        ({}, {"last_finite": False}, {"empty": True, "loss_scaling": True}, 0.0, "empty"),
        ({}, {"last_finite": False}, {"loss_scaling": True}, 0.0, "loss_scaling"),
        ({}, {"last_finite": False, "observed_steps": 0}, {}, 0.0, "non_finite"),
        ({}, {"observed_steps": 20, "trial": FULL.trial}, {}, 0.0, "warmup"),
        ({}, {"trial": FULL.trial}, {}, 9.0, "cooling"),
        ({}, {"cooling": 1}, {}, 9.0, "cooling"),
        ({}, {"cooling": 2}, {}, 9.0, "cooling"),
        ({}, {"stable_steps": 0}, {}, 0.51, "high_variance"),
        ({}, {"stable_steps": 4, "losses": Series()}, {}, 0.0, "unstable"),
        ({}, {"losses": Series((1.0,), (1.0,) * 4, 1.0)}, {}, 0.0, "collecting"),
    ],
)
def test_the_first_gate_that_is_closed(settings, values, last, variance, reason):
    state, seen = OPEN._replace(**values), Observation(1, 1.0, **last)
    assert safeguards.closed_gate(replace(CONFIG, **settings), state, seen, variance) == reason


HARMED = FULL.trial._replace(harm=Reason.TRIAL_LOSS_WORSE)


@pytest.mark.parametrize(
    ("settings", "values", "reason"),
    [
        ({}, {}, None),
        ({}, {"trial": FULL.trial}, None),
        ({}, {"trial": HARMED}, "trial_loss_worse"),
        ({}, {"trial": HARMED, "breaker": 49}, "trial_loss_worse"),
        ({}, {"trial": HARMED, "breaker": 50}, "repeated_non_finite"),
        ({"max_non_finite_steps": 6}, {"breaker": 59}, None),
        ({"max_non_finite_steps": 6}, {"breaker": 60}, "repeated_non_finite"),
        ({"enabled": False}, {"trial": HARMED, "breaker": 50}, None),
        ({}, {"trial": HARMED, "breaker": 50, "disabled": True}, None),
    ],
)
def test_what_must_be_answered_first(settings, values, reason):
    assert safeguards.emergency(replace(CONFIG, **settings), OPEN._replace(**values)) == reason


def test_a_step_up_and_a_step_down_undo_each_other():
    assert safeguards.within_step(CONFIG, 2.0, up=True) == 2.0 * 1.05
    assert safeguards.within_step(CONFIG, 2.0, up=False) == 2.0 / 1.05


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (1.0, None),
        (5.0, None),
        (0.9999, "weight_out_of_range"),
        (5.0001, "weight_out_of_range"),
        (NAN, "weight_not_finite"),
        (INF, "weight_not_finite"),
        (-INF, "weight_not_finite"),
    ],
)
def test_a_weight_is_finite_and_within_its_bounds_or_refused(weight, reason):
    assert safeguards.refused_weight(weight, 1.0, 5.0) == reason


@pytest.mark.parametrize(
    ("weighted", "average", "reason", "ratio"),
    [
        (20.0, 2.0, None, 10.0),
        (20.1, 2.0, "weighted_loss_absurd", 10.05),
        (-20.1, 2.0, None, -10.05),
        (20.1, 0.0, None, None),
        (20.1, -2.0, None, None),
        (20.1, NAN, None, None),
        (0.5, 0.05, None, 10.0),
        (3.4028235e38, 3e38, None, 3.4028235 / 3),
        (3.4028236e38, 3e38, "weighted_loss_not_finite", None),
        (-3.4028236e38, 3e38, "weighted_loss_not_finite", None),
        (NAN, 1.0, "weighted_loss_not_finite", None),
    ],
)
def test_a_weighted_loss_is_finite_and_not_absurd_or_refused(weighted, average, reason, ratio):
    evidence = {"loss": 1.0}
    assert safeguards.refused_loss(CONFIG, weighted, average, evidence) == reason
    assert evidence == {"loss": 1.0, **({} if ratio is None else {"weighted_loss_ratio": pytest.approx(ratio)})}


# --- what goes on from where: all other fields stay ------------------------------------------------------


def test_a_change_is_on_trial_and_its_statistics_begin_from_the_newest_values():
    norms = Comparison((1.0, 2.0, 3.0), (), 2.0, NAN, NAN)
    after = safeguards.changed(CONFIG, FULL, 3.15, (1.0, 2.0, 6.0), NOISE, norms)
    assert after == FULL._replace(
        weight=3.15,
        previous_weight=3.0,
        steps_since_change=0,
        cooling=12,
        trial=Trial(3.0, 3.0, 3, NOISE),
        losses=Series((1.0, 2.0, 6.0)),
        gradient_norms=Series((2.0, 3.0)),
    )
    assert after.trial.steps == 0
    assert after.trial.ratio == 1.0
    assert after.trial.harm is None


def test_a_refusal_is_looked_at_again_after_a_cooling():
    assert safeguards.refused(CONFIG, FULL) == FULL._replace(cooling=17)


@pytest.mark.parametrize(
    ("reason", "rollbacks", "stray", "counted"),
    [
        ("trial_loss_worse", 1, False, 2),
        ("trial_loss_worse", 1, True, 2),
        ("trial_loss_spike", 0, True, 1),
        ("trial_non_finite", 1, False, 2),
        ("trial_non_finite", 1, True, 1),
        ("manual", 1, False, 1),
        ("manual", 1, True, 1),
    ],
)
def test_which_rollbacks_count(reason, rollbacks, stray, counted):
    state = FULL._replace(rollbacks=rollbacks, faults_off_trial=stray)
    assert safeguards.rollbacks_with(state, Reason(reason)) == counted
    assert safeguards.undone(CONFIG, state, Reason(reason)).rollbacks == counted


@pytest.mark.parametrize(
    ("reason", "rollbacks", "settings", "cooling"),
    [
        ("trial_loss_worse", 0, {}, 24),
        ("trial_loss_worse", 1, {}, 48),
        ("trial_loss_worse", 2, {}, 96),
        ("trial_loss_worse", 3, {}, 96),
        ("trial_loss_worse", 3, {"max_cooling_factor": 100.0}, 192),
        ("trial_loss_worse", 1, {"cooling_backoff": 1.0}, 12),
        ("trial_loss_worse", 0, {"cooling_backoff": 1.21}, 15),
        ("manual", 0, {}, 12),
        ("manual", 2, {}, 48),
    ],
)
def test_each_rollback_in_a_row_lengthens_the_cooling(reason, rollbacks, settings, cooling):
    state = FULL._replace(rollbacks=rollbacks)
    assert safeguards.undone(replace(CONFIG, **settings), state, Reason(reason)).cooling == cooling


def test_a_rollback_goes_to_the_weight_before_and_ends_the_trial():
    after = safeguards.undone(CONFIG, FULL, Reason.TRIAL_LOSS_WORSE)
    assert after == FULL._replace(
        weight=2.9,
        previous_weight=None,
        trial=None,
        rollbacks=2,
        faults_off_trial=False,
        steps_since_change=0,
        cooling=48,
    )
    alone = FULL._replace(previous_weight=None)
    assert safeguards.undone(CONFIG, alone, Reason.TRIAL_LOSS_WORSE).weight == 3.0, "nowhere to go back to"


@pytest.mark.parametrize(("weight", "steps_since_change"), [(3.0, 0), (2.5, 5)])
def test_a_disable_is_a_change_where_the_weight_was_not_at_its_base(weight, steps_since_change):
    before = FULL._replace(weight=weight, disabled=False)
    assert safeguards.disabled(before) == before._replace(
        weight=2.5, previous_weight=None, trial=None, disabled=True, steps_since_change=steps_since_change
    )


def test_enable_starts_circuit_breaker_rollbacks_and_cooling_afresh():
    assert safeguards.enabled(CONFIG, FULL) == FULL._replace(
        disabled=False, breaker=0, rollbacks=0, cooling=12, steps_since_change=0
    )


def test_what_a_reset_does_not_forget():
    kept = {"weight", "base_weight", "step", "steps_since_change", "cooling", "skipped_steps", "dampened_steps"}
    kept |= {"empty_steps", "disabled", "held_weight"}
    fresh = ControllerState(1.0, 1.0)
    after = safeguards.forgotten(FULL)
    assert after == ControllerState(**{name: getattr(FULL if name in kept else fresh, name) for name in FULL._fields})
    assert type(after) is ControllerState


def test_into_a_shadow_run_and_out_of_it():
    shadow = FULL._replace(held_weight=None)
    assert safeguards.set_shadow(CONFIG, shadow, shadow=False) is shadow
    assert safeguards.set_shadow(CONFIG, shadow, shadow=True) == shadow._replace(held_weight=3.0)
    assert safeguards.set_shadow(CONFIG, FULL, shadow=True) is FULL, "what is held stays"
    assert safeguards.set_shadow(CONFIG, FULL, shadow=False) == FULL._replace(
        weight=2.75,
        held_weight=None,
        previous_weight=None,
        trial=None,
        rollbacks=0,
        steps_since_change=0,
        cooling=12,
    )


# --- evidence ---------------------------------------------------------------------------------------------


def test_the_numbers_that_go_with_every_decision():
    losses, norms = Comparison((1.0,), (2.0, 2.0, 2.0), 1.5, 2.0, 0.75), Comparison((5.0,), (4.0,), 5.0, 4.0, 1.25)
    got = safeguards.evidence(CONFIG, FULL, losses, norms, loss=1.25, variance=0.3)
    assert got == {
        "loss": 1.25,
        "smoothed_loss": 1.5,
        "running_average": 2.0,
        "loss_ratio": 0.75,
        "loss_ratio_low": 0.9,
        "loss_ratio_high": 1.1,
        "loss_variance": 0.3,
        "variance_threshold": 0.5,
        "gradient_norm": 5.0,
        "average_gradient_norm": 4.0,
        "gradient_ratio": 1.25,
        "gradient_norm_threshold": 5.0,
        "observed_steps": 80.0,
        "warmup_steps": 20.0,
        "steps_since_change": 5.0,
        "cooling": 7.0,
        "skipped_steps": 11.0,
        "dampened_steps": 12.0,
        "empty_steps": 13.0,
        "stable_steps": 9.0,
        "min_stable_steps": 5.0,
        "reference_steps": 3.0,
    }
    assert {type(value) for value in got.values()} == {float}, "they are written down as such"
    limitless = replace(CONFIG, gradient_norm_threshold=None)
    assert math.isnan(
        safeguards.evidence(limitless, FULL, losses, norms, loss=1.0, variance=0.0)["gradient_norm_threshold"]
    )
