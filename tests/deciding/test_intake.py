"""Taking in a step: what counts as a spike or a fault, and how a trial goes."""

import math

import pytest
from test_safeguards import CONFIG, FULL

from keras_adaptive_weights import AdaptiveWeightConfig, Observation, Reason
from keras_adaptive_weights.deciding.intake import breaker_tripped, feed
from keras_adaptive_weights.deciding.state import ControllerState, Trial
from keras_adaptive_weights.deciding.statistics import Noise, Series

NAN, INF = math.nan, math.inf
QUIET = Noise(0.0, 0.0, 20)
KNOWN = ControllerState(2.5, 2.5, stable_steps=9, losses=Series((1.0,), (1.0,) * 9, 1.0))


def after(state, *losses, config=CONFIG, **values):
    """The state after steps with these losses; one that is not finite was skipped."""
    for loss in losses:
        given = {"applied": math.isfinite(loss), **values}
        state = feed(config, state, Observation(state.step + 1, loss, **given))
    return state


def on_trial(baseline=1.0, noise=QUIET, steps=0, **values):
    return KNOWN._replace(cooling=12, trial=Trial(2.4, baseline, 4, noise, steps), losses=Series((), (), 0.0), **values)


# --- spikes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "loss", "spike"),
    [
        (KNOWN, 2.0, False),
        (KNOWN, 2.001, True),
        (KNOWN._replace(losses=Series((1.0,) * 5)), 2.001, True),
        (KNOWN._replace(losses=Series((1.0,) * 4)), 9.0, False),  # too few to compare it with
        (KNOWN._replace(losses=Series((1.0,), (1.0,) * 4, 1.0)), 2.001, True),
        (KNOWN._replace(losses=Series((1.0,), (1.0,) * 9, 1.0, below_zero=3)), 9.0, False),
        (KNOWN._replace(losses=Series((0.0,), (0.0,) * 9, 0.0)), 9.0, False),
        (on_trial(), 2.001, True),
        (on_trial(), 2.0, False),
        (on_trial(2.0), 4.0, False),
        (on_trial(0.0), 9.0, False),
        (on_trial(noise=Noise(0.2, 0.0, 20)), math.exp(1.0) - 0.001, False),
        (on_trial(noise=Noise(0.2, 0.0, 20)), math.exp(1.0) + 0.001, True),
        (on_trial(noise=Noise(1e9, 0.0, 20)), 1e300, False),
    ],
)
def test_a_spike_is_above_twice_the_level_and_five_deviations_of_noise(state, loss, spike):
    assert (after(state, loss).stable_steps == 0) is spike


def test_noise_of_the_older_losses_excuses_a_spike():
    noisy = (0.5, 1.5) * 8
    assert after(KNOWN._replace(losses=Series((1.0,), noisy, 1.0)), 5.0).stable_steps == 10
    assert after(KNOWN._replace(losses=Series(noisy)), 5.0).stable_steps == 10


# --- faults -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "stray"),
    [
        ({"stable_steps": 0}, False),
        ({"stable_steps": 1}, True),
        ({"stable_steps": 0, "faults_off_trial": True}, True),
        ({"trial": on_trial().trial}, False),
        ({"trial": on_trial().trial, "faults_off_trial": True}, True),
    ],
)
def test_a_fault_after_a_stable_step_with_no_change_on_trial_is_remembered(values, stray):
    assert after(KNOWN._replace(**values), NAN).faults_off_trial is stray


def test_what_a_fault_changes():
    before = FULL._replace(last_finite=True)
    assert after(before, NAN) == before._replace(
        step=101,
        steps_since_change=6,
        skipped_steps=12,
        stable_steps=0,
        last_finite=False,
        breaker=40,
        trial=FULL.trial._replace(harm=Reason.TRIAL_NON_FINITE),
    )
    assert after(before, 1.0, gradient_norm=NAN).skipped_steps == 11, "it was applied, and is no less a fault"
    assert after(before, NAN, loss_scaling=True) == before._replace(step=101, steps_since_change=6, skipped_steps=12)


def test_the_breakers_bucket_is_bounded_and_drained():
    state = after(KNOWN, *[NAN] * 9)
    assert (state.breaker, breaker_tripped(CONFIG, state)) == (50, True)
    assert after(KNOWN, *[NAN] * 4).breaker == 40
    assert not breaker_tripped(CONFIG, after(KNOWN, *[NAN] * 5, 1.0))
    assert after(KNOWN, NAN, *[1.0] * 7).breaker == 3
    assert after(KNOWN, NAN, *[1.0] * 70).breaker == 0


# --- the total --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("average", "total", "smoothed"),
    [
        (None, 3.0, 3.0),
        (None, None, None),
        (3.0, None, 3.0),
        (3.0, 4.0, 3.1),
        (-1.7e308, 1.7e308, 1.7e308),  # their difference overflows
    ],
)
def test_the_smoothed_total(average, total, smoothed):
    got = after(KNOWN._replace(running_total_loss=average), 1.0, total_loss=total).running_total_loss
    assert got == (None if smoothed is None else pytest.approx(smoothed))


# --- trials -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("below_zero", [0, 30])
@pytest.mark.parametrize("baseline", [0.0, -1.0, 1.0])
def test_without_a_scale_a_trial_only_counts_its_steps(baseline, below_zero):
    state = on_trial(baseline)._replace(losses=Series((), (), 0.0, below_zero=below_zero))
    trial = after(state, *[99.0] * 3).trial
    if baseline > 0.0 and not below_zero:
        assert trial.harm is Reason.TRIAL_LOSS_SPIKE
        return
    assert (trial.steps, trial.ratio, trial.harm) == (3, 1.0, None)


def test_a_trial_remembers_the_ratio_since_the_change_and_that_of_the_spike():
    assert after(on_trial(2.0), 2.0, 3.0).trial._replace(noise=None) == Trial(2.4, 2.0, 4, None, 2, 1.25)
    spiked = after(on_trial(2.0), 2.0, 5.0).trial
    assert (spiked.harm, spiked.ratio) == (Reason.TRIAL_LOSS_SPIKE, 2.5)
    later = after(on_trial(2.0), 2.0, 5.0, NAN, 9.0).trial
    assert (later.harm, later.ratio) == (Reason.TRIAL_LOSS_SPIKE, 2.5), "what was found first stands"
    assert later.steps == 1, "a spike is not counted as a step of the trial"
    assert after(on_trial(2.0), 2.0, 5.0, 2.0).trial.ratio == 2.5, "nor does a good step take it back"


@pytest.mark.parametrize(
    ("losses", "settings", "harm"),
    [
        ([1.5] * 4, {}, None),
        ([1.5] * 5, {}, "trial_loss_worse"),
        ([1.5] * 2, {"cooling_period": 3}, None),
        ([1.5] * 3, {"cooling_period": 3}, "trial_loss_worse"),
        ([1.5] * 5, {"trial_tolerance": 0.5}, None),  # no more than is forgiven
        ([1.5] * 5, {"trial_tolerance": 0.499}, "trial_loss_worse"),
        ([1.0] * 9, {}, None),
    ],
)
def test_a_trial_is_judged_from_a_few_steps_on_and_forgives_a_tolerance(losses, settings, harm):
    config = AdaptiveWeightConfig(**{"cooling_period": 12, "min_stable_steps": 5, **settings})
    assert after(on_trial(), *losses, config=config).trial.harm == harm


def test_noise_is_forgiven_too():
    noise = Noise(0.1, 0.0, 200)
    error = 0.1 * math.sqrt(1 / 4 + 1 / 5)
    forgiven = 1.05 + noise.quantile(2.5) * error
    for level, harm in ((forgiven - 1e-6, None), (forgiven + 1e-6, Reason.TRIAL_LOSS_WORSE)):
        assert after(on_trial(noise=noise), *[level] * 5).trial.harm is harm


def test_a_trial_passes_with_the_cooling_and_ends_the_row_of_rollbacks():
    state = after(on_trial(rollbacks=2), *[1.0] * 11)
    assert (state.trial.steps, state.rollbacks) == (11, 2)
    assert (after(state, 1.0).trial, after(state, 1.0).rollbacks) == (None, 0)
    harmed = after(state, 9.0)
    assert (harmed.trial.harm, harmed.rollbacks) == (Reason.TRIAL_LOSS_SPIKE, 2)
