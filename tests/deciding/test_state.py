"""What an envelope remembers: its bounds, its metrics, and what a stored one must agree with."""

import json
import math

import pytest
from test_safeguards import FULL

from keras_adaptive_weights import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.state import (
    ControllerState,
    Trial,
    adaptive_weight_metrics,
    initial_state,
    stability_metrics,
)
from keras_adaptive_weights.deciding.statistics import Noise, Series

NAN, INF = math.nan, math.inf


def test_the_state_before_the_first_step():
    assert initial_state(AdaptiveWeightConfig(), 3) == ControllerState(weight=3.0, base_weight=3.0)
    assert type(initial_state(AdaptiveWeightConfig(), 3).weight) is float
    for value, error in ((5.5, ValueError), ("3", TypeError)):
        with pytest.raises(error, match=r"initial_state: argument `base_weight` must be a number"):
            initial_state(AdaptiveWeightConfig(), value)


@pytest.mark.parametrize(
    ("low", "high", "weight", "base", "held", "previous"),
    [
        (1.0, 5.0, 3.0, 2.5, 2.75, 2.9),
        (2.6, 2.8, 2.8, 2.6, 2.75, 2.8),
        (2.95, 5.0, 3.0, 2.95, 2.95, 2.95),
        (0.1, 0.2, 0.2, 0.2, 0.2, 0.2),
    ],
)
def test_within_other_bounds_each_weight_goes_to_the_nearer_one(low, high, weight, base, held, previous):
    config = AdaptiveWeightConfig(min_weight=low, max_weight=high)
    assert FULL.within(config) == FULL._replace(
        weight=weight,
        base_weight=base,
        held_weight=held,
        previous_weight=previous,
        trial=FULL.trial._replace(previous_weight=previous),
    )
    fresh = ControllerState(3.0, 2.5)
    assert fresh.within(config) == ControllerState(weight, base), "no other weights come about"


def test_the_weight_in_force():
    assert FULL.weight_in_force == 2.75
    assert FULL._replace(held_weight=None).weight_in_force == 3.0


# --- metrics ----------------------------------------------------------------------------------------------


def test_the_metrics_of_stability():
    assert stability_metrics(FULL) == {
        "running_mel_loss": 2.0,
        "running_total_loss": 4.0,
        "loss_variance": pytest.approx(0.25),
        "loss_stability_score": pytest.approx(0.8),
        "step_count": 100,
    }


@pytest.mark.parametrize(
    ("changes", "enabled", "expected"),
    [
        (
            {},
            True,
            {"current": 2.75, "previous": 2.75, "enabled": False, "proposed_mel_weight": 3.0},
        ),
        ({"held_weight": None}, True, {"current": 3.0, "previous": 2.9, "enabled": False}),
        ({"held_weight": None, "previous_weight": None}, True, {"current": 3.0, "previous": 3.0, "enabled": False}),
        ({"held_weight": None, "disabled": False}, True, {"current": 3.0, "previous": 2.9, "enabled": True}),
        ({"held_weight": None, "disabled": False}, False, {"current": 3.0, "previous": 2.9, "enabled": False}),
    ],
)
def test_the_metrics_of_the_weight(changes, enabled, expected):
    expected = dict(expected)
    assert adaptive_weight_metrics(AdaptiveWeightConfig(enabled=enabled), FULL._replace(**changes)) == {
        "current_mel_weight": expected.pop("current"),
        "previous_mel_weight": expected.pop("previous"),
        "base_mel_weight": 2.5,
        "steps_since_weight_change": 5,
        "consecutive_stable_steps": 9,
        "weight_adjustment_enabled": expected.pop("enabled"),
        "avg_gradient_norm": 6.0,
        **expected,
    }


# --- stored -----------------------------------------------------------------------------------------------


def stored(**changes):
    return json.loads(json.dumps(FULL._replace(**changes).to_dict()))


@pytest.mark.parametrize("changes", [{}, {"trial": None}, {"held_weight": None, "running_total_loss": None}])
def test_a_state_survives_json(changes):
    assert ControllerState.from_dict(stored(**changes)) == FULL._replace(**changes)


@pytest.mark.parametrize("name", ["losses", "gradient_norms"])
@pytest.mark.parametrize(
    ("reference", "average", "agrees"),
    [
        ((), 0.0, True),
        ((), 1.0, False),
        ((1.0, 3.0), 2.0, True),
        ((1.0, 3.0), 2.0 * (1.0 + 0.9e-9), True),
        ((1.0, 3.0), 2.0 * (1.0 + 1.2e-9), False),
        ((1e-300, 3e-300), 2.1e-300, False),
        ((1.7e308, 1.7e308), INF, True),
        ((1.7e308, 1.7e308), NAN, True),
        ((1.7e308, 1.7e308), 1.7e308, False),
        ((1.0, 3.0), INF, False),
    ],
)
def test_a_stored_running_average_is_that_of_its_values(name, reference, average, agrees):
    values = stored(**{name: Series((1.0,), reference, average)})
    if agrees:
        assert repr(getattr(ControllerState.from_dict(values), name).reference_mean) == repr(average)
        return
    with pytest.raises(
        ValueError,
        match=rf"ControllerState: field `{name}\.reference_mean` must be the mean of `{name}\.reference`\. "
        rf"Received: {average!r}\.".replace("+", r"\+"),
    ):
        ControllerState.from_dict(values)


@pytest.mark.parametrize(
    ("changes", "possible"),
    [
        ({}, True),
        ({"baseline_steps": 1}, True),
        ({"baseline_steps": 0}, False),
        ({"noise": Noise(0.0, 0.98, 0)}, True),
        ({"noise": Noise(NAN, 0.0, 0)}, True),
        ({"noise": Noise(-0.1, 0.0, 9)}, False),
        ({"noise": Noise(0.1, -0.1, 9)}, False),
        ({"noise": Noise(0.1, 0.99, 9)}, False),
    ],
)
def test_a_stored_trial_holds_what_can_be_measured(changes, possible):
    trial: Trial[float] = FULL.trial._replace(**changes)
    if possible:
        assert repr(ControllerState.from_dict(stored(trial=trial)).trial) == repr(trial)
        return
    with pytest.raises(ValueError, match=r"ControllerState: field `trial` must hold what can be measured\. Received: "):
        ControllerState.from_dict(stored(trial=trial))
