"""Settings: each is read by somebody, and a bad one is refused where it is given."""

import dataclasses
import inspect
import json
import math
import re
from dataclasses import fields, replace
from fractions import Fraction

import numpy as np
import pytest
from guide_training import FLAT, RISE, observations, zigzag

from keras_adaptive_weights import AdaptiveWeightConfig, Observation, TrainingConfig, XTTSConfig, replay
from keras_adaptive_weights.deciding.config import FLOAT32_MAX, FLOAT32_MIN, check_bool, check_number, config_around
from keras_adaptive_weights.deciding.guide_rule import step
from keras_adaptive_weights.deciding.state import initial_state

NAN, INF = math.nan, math.inf
QUICK = AdaptiveWeightConfig(
    warmup_steps=20, cooling_period=12, min_stable_steps=5, reference_steps=20, loss_smoothing_factor=0.4
)


def outcome(config, stream, base_weight=2.5):
    """What was done at each step; not the evidence, which quotes the settings."""
    return [(d.action, d.reason, d.new_weight) for d in replay(stream, config, base_weight)]


FALL = FLAT + zigzag(40, 0.7)
WORSE = FLAT + zigzag(4, 1.5) + zigzag(40, 1.8)
# each field of AdaptiveWeightConfig: another value, and a stream on which it makes a difference
EFFECT = {
    "enabled": (False, observations(RISE)),
    "min_weight": (2.45, observations(FALL)),
    "max_weight": (2.55, observations(RISE)),
    "max_change_percent": (0.02, observations(RISE)),
    "warmup_steps": (45, observations(RISE)),
    "cooling_period": (15, observations(zigzag(40) + zigzag(30, 0.8) + zigzag(60, 0.5))),
    "min_stable_steps": (9, observations([*FLAT, NAN, *zigzag(30, 1.5)])),
    "variance_threshold": (1e-3, observations(zigzag(40, noise=0.05))),
    "loss_smoothing_factor": (0.2, observations(RISE)),
    "max_loss_spike_threshold": (1.2, observations(RISE)),
    "gradient_norm_threshold": (None, observations(FLAT, [6.0] * 40)),
    "loss_ratio_high": (1.6, observations(RISE)),
    "loss_ratio_low": (0.6, observations(FALL)),
    "gradient_growth_threshold": (3.0, observations(FLAT * 2, [1.0] * 40 + [2.0] * 40)),
    "reference_steps": (8, observations([0.988**i for i in range(60)])),
    "significance": (0.1, observations(zigzag(40, noise=0.2) + zigzag(40, 1.25, 0.2))),
    "trial_tolerance": (0.5, observations(WORSE)),
    "trial_significance": (100.0, observations(zigzag(40, noise=0.01) + zigzag(4, 1.5, 0.01) + zigzag(40, 1.9, 0.01))),
    "cooling_backoff": (1.0, observations(WORSE)),
    "max_cooling_factor": (1.0, observations(WORSE)),
    "absurd_loss_factor": (1.2, observations(RISE)),
    "max_rollbacks": (1, observations(WORSE)),
    "max_non_finite_steps": (2, observations(FLAT + [NAN] * 4)),
}


@pytest.mark.parametrize("name", [field.name for field in fields(AdaptiveWeightConfig)])
def test_each_setting_changes_what_is_decided(name):
    """A new field fails here until a row shows what it is for."""
    value, stream = EFFECT[name]
    assert value != getattr(QUICK, name)
    assert outcome(QUICK, stream) != outcome(replace(QUICK, **{name: value}), stream)


def test_the_rows_name_no_field_that_is_gone():
    assert set(EFFECT) == {field.name for field in fields(AdaptiveWeightConfig)}


def test_the_defaults_are_the_guides():
    assert dataclasses.asdict(XTTSConfig().training) == {
        "mel_loss_weight": 2.5,
        "use_adaptive_loss_weights": True,
        "loss_smoothing_factor": 0.1,
        "max_loss_spike_threshold": 2.0,
        "gradient_norm_threshold": 5.0,
        "adaptive_weight_max_change_percent": 0.05,
        "adaptive_weight_cooling_period": 50,
        "adaptive_weight_min_stable_steps": 10,
        "adaptive_weight_min_warmup_steps": 100,
        "adaptive_weight_variance_threshold": 0.5,
    }
    config = AdaptiveWeightConfig()
    assert (config.min_weight, config.max_weight) == (1.0, 5.0)
    assert (config.loss_ratio_low, config.loss_ratio_high, config.gradient_growth_threshold) == (0.9, 1.1, 1.5)
    assert XTTSConfig().training.adaptive_weight_config() == config


INTEGERS = {"warmup_steps", "cooling_period", "min_stable_steps", "reference_steps", "max_rollbacks"}
INTEGERS |= {"max_non_finite_steps", "adaptive_weight_cooling_period", "adaptive_weight_min_stable_steps"}
INTEGERS |= {"adaptive_weight_min_warmup_steps"}
BOOLS = {"enabled", "use_adaptive_loss_weights"}
OPTIONAL = {"gradient_norm_threshold"}
# the nearest values that are refused, and the bounds themselves where they are allowed
LIMITS = {
    "min_weight": ([0.0, 5.1, 1.1e-38, 1e-300], [1.2e-38, 1e-6, 5.0]),
    "max_weight": ([0.0, 0.9, 3.5e38, 1e300], [1.0, 1e6, 3.4e38]),
    "max_change_percent": ([0.0, 1.1], [1e-6, 1.0]),
    "warmup_steps": ([-1, 1.0], [0]),
    "cooling_period": ([0, 2.5], [1]),
    "min_stable_steps": ([0, 2.5], [1]),
    "variance_threshold": ([0.0], [1e-6]),
    "loss_smoothing_factor": ([0.0, 1e-300, 0.00019, 1.1], [0.0002, 1.0]),
    "max_loss_spike_threshold": ([1.0, 0.5], [1.01]),
    "gradient_norm_threshold": ([0.0], [1e-6, None]),
    "loss_ratio_high": ([1.0, 0.9], [1.01]),
    "loss_ratio_low": ([1.0, 1.1], [0.0, 0.99]),
    "gradient_growth_threshold": ([1.0, 0.9], [1.01]),
    "reference_steps": ([4, 10_001, 20.0], [5, 10_000]),
    "significance": ([-0.1], [0.0]),
    "trial_tolerance": ([-0.1], [0.0]),
    "trial_significance": ([-0.1], [0.0]),
    "cooling_backoff": ([0.9], [1.0]),
    "max_cooling_factor": ([0.9], [1.0]),
    "absurd_loss_factor": ([1.0, 0.5], [1.01]),
    "max_rollbacks": ([0, 1.5], [1]),
    "max_non_finite_steps": ([0, 1.5], [1]),
}
ALIASES = {
    "adaptive_weight_max_change_percent": "max_change_percent",
    "adaptive_weight_cooling_period": "cooling_period",
    "adaptive_weight_min_stable_steps": "min_stable_steps",
    "adaptive_weight_min_warmup_steps": "warmup_steps",
    "adaptive_weight_variance_threshold": "variance_threshold",
}
TRAINING_LIMITS = {name: LIMITS[ALIASES.get(name, name)] for name in ALIASES}
TRAINING_LIMITS |= {
    name: LIMITS[name] for name in ("loss_smoothing_factor", "max_loss_spike_threshold", "gradient_norm_threshold")
}
TRAINING_LIMITS["mel_loss_weight"] = ([0.9, 5.1], [1.0, 5.0])


def bad_values(cls, limits):
    for field in fields(cls):
        name = field.name
        yield from ((cls, name, value) for value in ("1", [1.0], object))
        if name in BOOLS:
            yield from ((cls, name, value) for value in (0, 1, None, NAN))
            continue
        yield from ((cls, name, value) for value in (True, False, NAN, INF, -INF, -1, -1.0, 1j))
        if name not in OPTIONAL:
            yield cls, name, None
        yield from ((cls, name, value) for value in limits[name][0])


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [*bad_values(AdaptiveWeightConfig, LIMITS), *bad_values(TrainingConfig, TRAINING_LIMITS)],
)
def test_a_bad_value_is_refused_by_name(cls, name, value):
    """The message names the class, the argument and what was received."""
    with pytest.raises((TypeError, ValueError)) as refusal:
        cls(**{name: value})
    message = str(refusal.value)
    assert message.startswith(f"{cls.__name__}: argument `")
    assert f"`{name}`" in message
    assert re.search(rf"Received: .*={re.escape(repr(value))}", message)


def good_values(cls, limits):
    return [(cls, name, value) for name, (_, allowed) in limits.items() for value in allowed]


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [*good_values(AdaptiveWeightConfig, LIMITS), *good_values(TrainingConfig, TRAINING_LIMITS)],
)
def test_a_value_at_its_bound_is_taken(cls, name, value):
    assert getattr(cls(**{name: value}), name) == value


@pytest.mark.parametrize("cls", [AdaptiveWeightConfig, TrainingConfig])
def test_integers_are_taken_for_numbers_but_not_the_other_way_round(cls):
    for field in fields(cls):
        if field.name in INTEGERS:
            with pytest.raises(TypeError, match=r"must be an integer"):
                cls(**{field.name: 60.0})
    assert AdaptiveWeightConfig(max_weight=6).max_weight == 6


def test_the_smallest_weight_is_not_above_the_largest():
    with pytest.raises(ValueError, match=r"`min_weight` must not be above `max_weight`\. Received: min_weight=3, max"):
        AdaptiveWeightConfig(min_weight=3, max_weight=2)
    assert AdaptiveWeightConfig(min_weight=2.0, max_weight=2.0).min_weight == 2.0


@pytest.mark.parametrize("value", [0.99, 5.01, NAN, INF, -INF, -2.5, "2.5", None, True])
def test_a_base_weight_outside_the_bounds_is_refused(value):
    attempts = [
        lambda: initial_state(AdaptiveWeightConfig(), value),
        lambda: TrainingConfig(mel_loss_weight=value),
    ]
    if value is not None:
        attempts.append(lambda: replay([], AdaptiveWeightConfig(), base_weight=value))
    for attempt in attempts:
        with pytest.raises((TypeError, ValueError), match=rf"_weight` must be .*weight={re.escape(repr(value))}"):
            attempt()


@pytest.mark.parametrize(
    ("owner", "value", "call"),
    [
        ("AdaptiveWeight", 0.2, "AdaptiveWeight(0.2, config=AdaptiveWeightConfig(min_weight=0.08, max_weight=0.4))"),
        ("XTTSLoss", np.float32(50), "XTTSLoss(50.0, config=AdaptiveWeightConfig(min_weight=20.0, max_weight=100.0))"),
        ("TrainingConfig", 1e-9, "XTTSLoss(1e-09, config=AdaptiveWeightConfig(min_weight=4e-10, max_weight=2e-09))"),
        ("replay", 3e38, "config=AdaptiveWeightConfig(min_weight=1.2e+38, max_weight=3.4028235e+38)"),
    ],
)
def test_a_base_weight_outside_the_bounds_is_told_the_call_that_works(owner, value, call):
    with pytest.raises(ValueError, match=r"in \[1, 5\]\..* `min_weight` and `max_weight`") as refusal:
        AdaptiveWeightConfig().check_base_weight(owner, "base_weight", value)
    assert f"write `{call}` for" in str(refusal.value)
    settings = eval(
        call[call.index("AdaptiveWeightConfig") :].rstrip(")") + ")", {"AdaptiveWeightConfig": AdaptiveWeightConfig}
    )
    assert settings.check_base_weight(owner, "base_weight", value) == value


@pytest.mark.parametrize("value", [0.0, -2.5, 1e39, NAN])
def test_a_base_weight_that_no_bounds_allow_is_told_no_call(value):
    with pytest.raises(ValueError, match=r"in \[1, 5\]\. Received: base_weight=\S+\.$"):
        AdaptiveWeightConfig().check_base_weight("AdaptiveWeight", "base_weight", value)


@pytest.mark.parametrize("value", [10**400, Fraction(10**400), np.longdouble("inf"), np.float16("inf")])
def test_a_number_that_no_float_can_hold_is_refused(value):
    with pytest.raises(ValueError, match=r"`max_weight`"):
        AdaptiveWeightConfig(max_weight=value)


def test_numbers_of_numpy_become_plain_ones():
    """A state, a journal and a saved model hold them as JSON."""
    config = AdaptiveWeightConfig(
        min_weight=np.float32(0.5),
        max_weight=np.int64(6),
        warmup_steps=np.int32(3),
        gradient_norm_threshold=Fraction(9, 2),
    )
    assert config == AdaptiveWeightConfig(min_weight=0.5, max_weight=6, warmup_steps=3, gradient_norm_threshold=4.5)
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()
    training = TrainingConfig(mel_loss_weight=np.float16(2.5), adaptive_weight_cooling_period=np.uint8(20))
    assert [type(value) for value in (training.mel_loss_weight, training.adaptive_weight_cooling_period)] == [
        float,
        int,
    ]


@pytest.mark.parametrize("value", [np.array(2.5), np.ones(3)])
def test_what_holds_a_number_is_told_how_to_give_it(value):
    with pytest.raises(TypeError, match=r"of type ndarray\. Write `max_weight=float\(\.\.\.\)`"):
        AdaptiveWeightConfig(max_weight=value)


def test_the_state_stays_bounded_at_the_smallest_smoothing_factor():
    assert AdaptiveWeightConfig(loss_smoothing_factor=0.0002).smoothing_steps == 9_999


@pytest.mark.parametrize("config", [AdaptiveWeightConfig(), TrainingConfig(), XTTSConfig()])
def test_settings_are_frozen_and_taken_by_name_only(config):
    first = fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, first, getattr(config, first))
    with pytest.raises(TypeError, match=r"positional"):
        type(config)(getattr(config, first))


@pytest.mark.parametrize("cls", [AdaptiveWeightConfig, TrainingConfig, XTTSConfig])
def test_a_setting_that_does_not_exist_is_refused(cls):
    with pytest.raises(TypeError, match=r"warm_up"):
        cls(warm_up=10)


def test_every_setting_is_documented():
    for cls in (AdaptiveWeightConfig, TrainingConfig, XTTSConfig):
        for field in fields(cls):
            assert f"\n    {field.name}: " in inspect.getdoc(cls)


def test_settings_read_back_what_they_wrote():
    config = replace(QUICK, gradient_norm_threshold=None, enabled=False)
    assert AdaptiveWeightConfig.from_dict(config.to_dict()) == config


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(ValueError, match=r"unknown settings \['warm_up'\]\. Expected some of .*'warmup_steps'"):
        AdaptiveWeightConfig.from_dict({"warm_up": 3})


@pytest.mark.parametrize(("factor", "steps"), [(0.1, 19), (0.2, 9), (0.4, 4), (0.9, 2), (1.0, 2), (0.01, 199)])
def test_the_smoothing_span_has_the_lag_of_the_exponential_average(factor, steps):
    """Mean age of the values in a mean over n is (n - 1) / 2; of an exponential average, 1 / factor - 1."""
    assert AdaptiveWeightConfig(loss_smoothing_factor=factor).smoothing_steps == steps
    if steps > 2:
        assert (steps - 1) / 2 == pytest.approx(1 / factor - 1, abs=0.5)


def test_the_training_part_must_be_a_training_config():
    with pytest.raises(TypeError, match=r"XTTSConfig: argument `training` must be a TrainingConfig\. Received: .*\{\}"):
        XTTSConfig(training={})


@pytest.mark.parametrize("settings", [{"cooling_backoff": 1e200}, {"max_cooling_factor": 1e308}])
def test_no_setting_that_is_accepted_ends_a_run(settings):
    """Extremes are refused at construction or work."""
    try:
        config = replace(QUICK, **settings, max_rollbacks=100, trial_tolerance=0.0, trial_significance=0.0)
    except ValueError:
        return
    state, rollbacks = initial_state(config, 2.5), 0
    for round_ in range(1, 40):
        state = state._replace(steps_since_change=10**6, cooling=0)
        for loss in zigzag(40, 1.2**round_) + zigzag(4, 1.5 * 1.2**round_) + zigzag(5, 1.9 * 1.2**round_):
            state, decision = step(config, state, [Observation(state.step + 1, loss)])
            rollbacks += decision.action == "rollback"
    assert rollbacks > 2


@pytest.mark.parametrize(
    ("value", "bounds", "said"),
    [
        (0, {"low": 1}, "a number in [1, inf). Received: x=0."),
        (0, {"low": 0, "open_low": True}, "a number in (0, inf). Received: x=0."),
        (2.0, {"low": 0, "high": 1}, "a number in [0, 1]. Received: x=2.0."),
        (1.0, {"low": 0, "high": 1, "open_high": True}, "a number in [0, 1). Received: x=1.0."),
        (NAN, {}, "a number in [-inf, inf). Received: x=nan."),
        (INF, {}, "a number in [-inf, inf). Received: x=inf."),
        (10**301, {}, f"a number in [-inf, inf). Received: x={10**301}."),
        (-(10**301), {}, f"a number in [-inf, inf). Received: x={-(10**301)}."),
        (0, {"low": 1, "integer": True}, "an integer in [1, inf). Received: x=0."),
        ("1", {}, "a number. Received: x='1' of type str."),
        (None, {}, "a number. Received: x=None of type NoneType."),
        ("1", {"optional": True}, "a number or None. Received: x='1' of type str."),
        (1.5, {"integer": True}, "an integer. Received: x=1.5 of type float."),
        (True, {}, "a number. Received: x=True of type bool."),
        (
            np.float32(1.5),
            {"integer": True},
            f"an integer. Received: x={np.float32(1.5)!r} of type float32. Write `x=int(...)` for its value.",
        ),
    ],
)
def test_what_is_said_of_a_number_that_is_refused(value, bounds, said):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(f'Owner: argument `x` must be {said}')}$"):
        check_number("Owner", "x", value, **bounds)


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (1e300, {}),
        (-1e300, {}),
        (0, {"low": 0, "high": 0}),
        (0.5, {"low": 0, "high": 1, "open_low": True, "open_high": True}),
        (None, {"optional": True}),
        (7, {"integer": True}),
    ],
)
def test_what_is_taken_for_a_number(value, bounds):
    assert repr(check_number("Owner", "x", value, **bounds)) == repr(value)


def test_what_is_no_truth_value():
    check_bool("Owner", "x", False)
    with pytest.raises(TypeError, match=r"^Owner: argument `x` must be True or False\. Received: x=0\.$"):
        check_bool("Owner", "x", 0)
    with pytest.raises(TypeError, match=r"^XTTSConfig: argument `training` must be a TrainingConfig\. Received: tr"):
        XTTSConfig(training=None)


@pytest.mark.parametrize(
    ("weight", "low", "high"),
    [(2.5, 1.0, 5.0), (1 / 3, 0.133, 0.667), (2e-38, 1.1754944e-38, 4e-38), (3e38, 1.2e38, 3.4028235e38)],
)
def test_settings_around_a_weight_reach_as_far_as_the_guides(weight, low, high):
    assert config_around(weight) == f"AdaptiveWeightConfig(min_weight={low!r}, max_weight={high!r})"
    assert AdaptiveWeightConfig().check_base_weight("Owner", "weight", 2) == 2


@pytest.mark.parametrize("value", [FLOAT32_MIN, FLOAT32_MAX])
def test_the_last_weights_that_float32_holds_are_told_a_call(value):
    with pytest.raises(ValueError, match=r"write `Owner\(.*config=AdaptiveWeightConfig"):
        AdaptiveWeightConfig().check_base_weight("Owner", "weight", value)
    assert (AdaptiveWeightConfig(min_weight=FLOAT32_MIN).min_weight, FLOAT32_MIN) == (FLOAT32_MIN, 1.1754944e-38)


def test_a_call_is_that_of_whoever_takes_the_weight():
    with pytest.raises(ValueError, match=r"write `config=Adapt.*` for a weight that moves around that value\.$"):
        AdaptiveWeightConfig().check_base_weight("replay", "weight", 0.5)
