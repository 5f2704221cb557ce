"""Records read back from plain values: what they may hold, and what is said where they hold something else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import pytest
from mutations import mutated

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Observation, Reason
from keras_adaptive_weights.deciding.guide_rule import step
from keras_adaptive_weights.deciding.plain_records import ADDED_LATER, MAY_OVERFLOW, read_fields, read_record
from keras_adaptive_weights.deciding.state import ControllerState, EnvelopeState, initial_state
from keras_adaptive_weights.journal.regular_files import parse_json

CONFIG = AdaptiveWeightConfig(warmup_steps=15, cooling_period=10, min_stable_steps=5, loss_smoothing_factor=0.25)
_WEIGHT = "must be a weight above 0 that float32 can hold"
_COUNT = "must be an integer from 0 to 1e.15"
_FINITE = "must be a finite number"


def on_trial():
    """A state with a change on trial, so that no field is empty."""
    state = initial_state(CONFIG, 2.5)
    for number in range(1, 60):
        state, _ = step(CONFIG, state, (Observation(number, 1.0 + 0.5 * (number > 40), 3.0, 1.0),))
        if state.trial is not None and state.trial.steps > 2:
            return state
    raise AssertionError(state)


def values():
    """The same as JSON has it."""
    return json.loads(json.dumps(on_trial().to_dict()))


def changed(path, value):
    """The values with one of them, at a path such as "trial.noise.samples", replaced."""
    found = inner = values()
    *way, last = path.split(".")
    for name in way:
        inner = inner[name]
    inner[last] = value
    return found


def test_a_state_comes_back_as_it_was():
    state = on_trial()
    assert state.trial.noise.samples > 0
    assert ControllerState.from_dict(values()) == state
    assert ControllerState.from_dict(values() | {"trial": None}) == state._replace(trial=None)
    harmed = state._replace(trial=state.trial._replace(harm=Reason.TRIAL_LOSS_SPIKE))
    assert ControllerState.from_dict(changed("trial.harm", "trial_loss_spike")) == harmed


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        *((name, value, _WEIGHT) for name in ("weight", "trial.previous_weight") for value in (0, -1.0, 1e39, 1e300)),
        *(
            (name, math.nan, _FINITE)
            for name in ("weight", "base_weight", "held_weight", "previous_weight", "running_total_loss")
        ),
        *((name, 10**400, "must be a number") for name in ("weight", "running_total_loss", "trial.ratio")),
        *(("weight", value, "must be a number") for value in ("2.5", None, True, [2.5], {})),
        *((name, value, _COUNT) for name in ("step", "cooling") for value in ("7", 7.0, -1, True, None, 10**16)),
        *((name, value, _COUNT) for name in ("trial.noise.samples", "trial.steps") for value in ("7", -1)),
        *(("disabled", value, "must be true or false") for value in (0, 1, "no", None)),
        ("losses", {"recent": []}, "field `losses.reference` is missing"),
        ("losses", {"recent": 3}, "field `losses.recent` must be a list"),
        ("losses", None, "field `losses` must be a mapping"),
        ("losses", [1.0], "field `losses` must be a mapping"),
        ("losses.recent", 3, "field `losses.recent` must be a list"),
        ("losses.recent", "123", "must be a list"),
        ("losses.recent", [1.0, None], "must be a number"),
        ("losses.recent", [1.0, math.inf], _FINITE),
        ("gradient_norms.reference", [math.nan], _FINITE),
        ("losses.recent", [0.0] * ((1 << 20) + 1), "must be a list"),
        ("losses.reference_mean", 7.0, "field `losses.reference_mean` must be the mean of `losses.reference`"),
        ("losses.reference_mean", math.nan, "must be the mean of"),
        ("trial", 3, "field `trial` must be a mapping"),
        ("trial.noise", {}, "field `trial.noise.deviation` is missing"),
        *(("trial.noise.autocorrelation", value, "must hold what can be measured") for value in (1, -0.5, 1e300)),
        ("trial.noise.deviation", -1.0, "must hold what can be measured"),
        ("trial.baseline_steps", 0, "must hold what can be measured"),
        ("trial.harm", "moonlight", "field `trial.harm` must be the name of a Reason"),
        ("trial.moon", 1, r"unknown fields \['trial.moon'\]: written by a newer version"),
        ("moon", 0, r"unknown fields \['moon'\]: written by a newer version"),
    ],
)
def test_a_field_that_holds_something_else_is_named(path, value, said):
    with pytest.raises(ValueError, match=f"^ControllerState: .*{said}") as caught:
        ControllerState.from_dict(changed(path, value))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["weight", "losses", "disabled", "trial", "step"])
def test_a_field_that_is_missing_is_named(name):
    state = values()
    del state[name]
    with pytest.raises(ValueError, match=f"field `{name}` is missing"):
        ControllerState.from_dict(state)


@pytest.mark.parametrize("state", [None, [], 3, "state", [["weight", 2.5]]])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match="ControllerState: field `state` must be a mapping"):
        ControllerState.from_dict(state)


def test_what_overflowed_comes_back():
    """Losses near the end of what a float holds have no mean: our own checkpoint must not be refused for it."""
    state = initial_state(CONFIG, 2.5)
    for number in range(1, 120):
        state, _ = step(CONFIG, state, (Observation(number, 1.7e308, -1.7e308 if number % 2 else 1.7e308, 1.0),))
    assert math.isinf(state.losses.reference_mean)
    assert math.isfinite(state.running_total_loss)
    assert ControllerState.from_dict(json.loads(json.dumps(state.to_dict()))) == state


def test_weights_of_several_terms_are_read_by_their_names():
    class JointState(EnvelopeState[Mapping[str, float]]):
        __slots__ = ()

    one = {"mel_loss": 2.5, "stop_loss": 1.0}
    state = JointState(weight=one, base_weight=one, trial=on_trial().trial._replace(previous_weight=one))
    assert JointState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
    for weight, said in (
        ({"mel_loss": 0.0}, _WEIGHT),
        ({1: 1.0}, "mapping"),
        (2.5, "mapping"),
        ({"a": None}, "number"),
    ):
        with pytest.raises(ValueError, match=f"JointState: field `weight` must be .*{said.removeprefix('must be ')}"):
            JointState.from_dict({**state.to_dict(), "weight": weight})


@pytest.mark.timeout(1800)
def test_a_damaged_state_is_refused_or_goes_on(seeds):
    """Bytes of a checkpoint's state: a ValueError, or a state that the controller can go on from."""
    data, refused = json.dumps(on_trial().to_dict()).encode() + b"\n", 0
    for seed in seeds:
        try:
            state = ControllerState.from_dict(parse_json(mutated(data, seed)))
        except ValueError:
            refused += 1
            continue
        for number in range(1, 40):
            state, decision = step(CONFIG, state.within(CONFIG), (Observation(state.step + 1, 1.0 + number, 3.0, 1.0),))
            assert CONFIG.min_weight <= decision.new_weight <= CONFIG.max_weight, seed
    assert refused > 0


class Younger(NamedTuple):
    count: int
    added: Annotated[int, ADDED_LATER] = 3


def test_a_field_that_older_versions_lack_has_its_default():
    assert read_record(Younger, {"count": 1}, "Younger") == Younger(1, 3)
    assert read_record(Younger, {"count": 1, "added": 2}, "Younger") == Younger(1, 2)
    with pytest.raises(ValueError, match="field `count` is missing"):
        read_record(Younger, {"added": 2}, "Younger")
    with pytest.raises(ValueError, match="field `added` must be an integer"):
        read_record(Younger, {"count": 1, "added": None}, "Younger")


class Inside(NamedTuple):
    number: float


class Whole(NamedTuple):
    """A field of each kind there is."""

    weight: float
    wall_time: float
    number: float
    huge: Annotated[float, MAY_OVERFLOW]
    count: int
    flag: bool
    text: str
    maybe: str | None
    reason: Reason
    row: tuple[float, ...]
    items: list[int]
    pair: tuple[str, float]
    weights: Mapping[str, float]
    inside: Inside
    rows: Mapping[str, tuple[Inside, ...]]
    named: Annotated[int, "of no meaning here"]


WHOLE = Whole(
    weight=1.0,
    wall_time=2.0,
    number=-3.0,
    huge=math.inf,
    count=0,
    flag=True,
    text="t",
    maybe=None,
    reason=Reason.AT_MAX,
    row=(1.0, 2.0),
    items=[1, 2],
    pair=["p", 1.0],
    weights={"a": 1.0},
    inside=Inside(1.0),
    rows={"a": (Inside(1.0), Inside(2.0))},
    named=1,
)
PLAIN = {**WHOLE._asdict(), "huge": "inf", "reason": "at_max", "inside": {"number": 1.0}, "row": [1.0, 2.0]}
PLAIN["rows"] = {"a": [{"number": 1.0}, {"number": 2.0}]}


def test_a_field_of_each_kind_comes_back():
    assert read_record(Whole, PLAIN, "Owner") == WHOLE
    assert type(read_record(Whole, {**PLAIN, "items": (1, 2)}, "Owner").items) is list
    assert read_record(Whole, {**PLAIN, "weight": 1, "number": 10**15 - 1, "huge": 7}, "Owner")[:4] == (
        1.0,
        2.0,
        1e15 - 1,
        7.0,
    )
    assert read_fields(Whole, {**PLAIN, "moon": 1}, "Owner") == WHOLE._asdict(), "others are left alone"
    for word in ("nan", "inf", "-inf"):
        assert repr(read_record(Whole, {**PLAIN, "huge": word}, "Owner").huge) == word
    assert read_record(Whole, {**PLAIN, "weight": 3.4028235e38, "wall_time": 0.0, "text": "x" * 10_000}, "Owner")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weight", 0.0, "`weight` must be a weight above 0 that float32 can hold. Received: 0.0"),
        ("weight", -0.1, "`weight` must be a weight above 0 that float32 can hold. Received: -0.1"),
        ("weight", 3.5e38, "`weight` must be a weight above 0 that float32 can hold. Received: 3.5e+38"),
        ("weights", {"a": "inf"}, "`weights` must be a finite number. Received: 'inf'"),
        ("wall_time", -1.0, "`wall_time` must be seconds since the epoch. Received: -1.0"),
        ("wall_time", 1.1e12, "`wall_time` must be seconds since the epoch. Received: 1100000000000.0"),
        ("number", math.inf, "`number` must be a finite number. Received: inf"),
        ("number", "inf", "`number` must be a finite number. Received: 'inf'"),
        ("number", 10**15, "`number` must be a number. Received: 1000000000000000"),
        ("number", -(10**15), "`number` must be a number. Received: -1000000000000000"),
        ("huge", "Inf", "`huge` must be a number. Received: 'Inf'"),
        ("count", 10**15, "`count` must be an integer from 0 to 1e+15. Received: 1000000000000000"),
        ("count", -1, "`count` must be an integer from 0 to 1e+15. Received: -1"),
        ("named", 1.5, "`named` must be an integer from 0 to 1e+15. Received: 1.5"),
        ("flag", 1, "`flag` must be true or false. Received: 1"),
        ("text", 3, "`text` must be text of up to 10000 letters. Received: 3"),
        ("text", "x" * 10_001, "`text` must be text of up to 10000 letters. Received: 'xxx"),
        ("maybe", 3, "`maybe` must be text of up to 10000 letters. Received: 3"),
        ("reason", "moon", "`reason` must be the name of a Reason. Received: 'moon'"),
        ("row", "12", "`row` must be a list. Received: '12'"),
        ("row", [1.0, None], "`row` must be a number. Received: None"),
        ("items", [1, -1], "`items` must be an integer from 0 to 1e+15. Received: -1"),
        ("pair", ["p"], "`pair` must be 2 values. Received: ['p']"),
        ("pair", ["p", 1.0, 2.0], "`pair` must be 2 values. Received: ['p', 1.0, 2.0]"),
        ("pair", ["p", "q"], "`pair` must be a number. Received: 'q'"),
        ("weights", [1.0], "`weights` must be a mapping of names to values. Received: [1.0]"),
        ("weights", {1: 1.0}, "`weights` must be a mapping of names to values. Received: {1: 1.0}"),
        ("inside", 3, "`inside` must be a mapping of names to values. Received: 3"),
        ("inside", {}, "`inside.number` is missing"),
        ("inside", {"number": None}, "`inside.number` must be a number. Received: None"),
        ("rows", {"a": [{"number": 1.0}, 3]}, "`rows` must be a mapping of names to values. Received: 3"),
    ],
)
def test_what_is_said_of_a_field_that_holds_something_else(name, value, said):
    with pytest.raises(ValueError, match=f"^Owner: field {re.escape(said)}"):
        read_record(Whole, {**PLAIN, name: value}, "Owner")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"moon": 1},
            "unknown fields ['moon']: written by a newer version of keras-adaptive-weights, which is the one ",
        ),
        ({"moon": 1, 3: 1}, "unknown fields ['3', 'moon']: "),
        ({"inside": {"number": 1.0, "moon": 1}}, "unknown fields ['inside.moon']: "),
    ],
)
def test_unknown_fields_are_named(values, said):
    with pytest.raises(ValueError, match=f"^{re.escape(f'Owner: {said}')}"):
        read_record(Whole, {**PLAIN, **values}, "Owner")
    with pytest.raises(ValueError, match=r"^Owner: unknown fields \['place\.moon'\]"):
        read_record(Inside, {"moon": 1}, "Owner", "place")


def test_what_holds_no_fields_is_named():
    with pytest.raises(
        ValueError, match=r"^Owner: field `state` must be a mapping of names to values\. Received: 3\.$"
    ):
        read_record(Inside, 3, "Owner")
    with pytest.raises(ValueError, match=r"^Owner: field `place` must be a mapping"):
        read_fields(Inside, 3, "Owner", "place")


@pytest.mark.parametrize(
    ("value", "shown"),
    [("x" * 198, repr("x" * 198)), ("x" * 199, "'" + "x" * 198 + "…"), (10**5000, "int")],
    ids=["just not", "just", "of 5,000 digits"],
)
def test_a_long_value_is_shown_short(value, shown):
    with pytest.raises(ValueError, match=rf"Received: {re.escape(shown)}\.$"):
        read_record(Inside, {"number": value}, "Owner")


def test_a_value_that_nests_too_deeply_is_shown_as_its_kind():
    nest = []
    for _ in range(100_000):
        nest = [nest]
    with pytest.raises(ValueError, match=r"field `number` must be a number\. Received: list\.$"):
        read_record(Inside, {"number": nest}, "Owner")
    while nest:  # taken apart by hand: its end would be as deep
        nest = nest[0]


class Past(NamedTuple):
    weights: tuple[float, ...] = ()
    weight: tuple[float, str] = (1.0, "")
    start_weight: float | None = None


@pytest.mark.parametrize("values", [{"weights": [1.0, 0.0]}, {"weight": [0.0, "t"]}, {"start_weight": 0.0}])
def test_weights_in_a_row_are_weights(values):
    with pytest.raises(ValueError, match=r"must be (a weight|weights) above 0 that float32 can hold"):
        read_record(Past, {"weights": [1.0], "weight": [1.0, "t"], "start_weight": None, **values}, "Owner")
