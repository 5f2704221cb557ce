"""What holds for the decision rule on every sequence, whatever the settings: Hypothesis looks for the exception."""

import json
import math
import random
from collections import Counter

from history_checks import Checks
from hypothesis import given, settings
from hypothesis import strategies as st
from test_guide_rule import ACTIONS, OF_A_BALANCE, RECOVERIES, UNREACHABLE, by_hand, play

from keras_adaptive_weights import Action, AdaptiveWeightConfig, Observation, Reason
from keras_adaptive_weights.deciding import guide_rule
from keras_adaptive_weights.deciding.state import (
    ControllerState,
    adaptive_weight_metrics,
    initial_state,
    stability_metrics,
)

NAN, INF = math.nan, math.inf


class History:
    """Settings, and what the controller did with them turn by turn. Shown short, as Hypothesis prints it."""

    def __init__(self, config, turns):
        self.config, self.turns = config, turns

    def __repr__(self):
        given_ = [t.given if isinstance(t.given, str) else [o.loss for o in t.given] for t in self.turns]
        return f"History({self.config}, losses and requests: {given_[-20:]})"


ODD = (NAN, INF, -INF, 0.0, -0.0, -1.0, 1e300, -1e300, 1e-300, 5e-324, 1.7e308, 1.0, 3e38)


@st.composite
def configs(draw):
    low = draw(st.sampled_from([1e-3, 0.5, 1.0, 2.4]))
    return AdaptiveWeightConfig(
        enabled=draw(st.sampled_from([True] * 9 + [False])),
        min_weight=low,
        max_weight=draw(st.sampled_from([2.5, 2.6, 5.0, 1e6])),
        max_change_percent=draw(st.sampled_from([0.001, 0.05, 0.05, 0.5, 1.0])),
        warmup_steps=draw(st.integers(0, 30)),
        cooling_period=draw(st.integers(1, 20)),
        min_stable_steps=draw(st.integers(1, 8)),
        variance_threshold=draw(st.sampled_from([0.01, 0.5, 0.5, 1e9])),
        loss_smoothing_factor=draw(st.sampled_from([0.15, 0.3, 0.5, 1.0])),
        max_loss_spike_threshold=draw(st.sampled_from([1.1, 2.0, 2.0, 1e9])),
        gradient_norm_threshold=draw(st.sampled_from([None, 5.0, 0.1])),
        loss_ratio_high=draw(st.sampled_from([1.001, 1.1])),
        loss_ratio_low=draw(st.sampled_from([0.999, 0.9])),
        reference_steps=draw(st.integers(5, 20)),
        significance=draw(st.sampled_from([0.0, 1.0, 4.5])),
        trial_tolerance=draw(st.sampled_from([0.0, 0.05])),
        trial_significance=draw(st.sampled_from([0.0, 3.0])),
        cooling_backoff=draw(st.sampled_from([1.0, 2.0])),
        absurd_loss_factor=draw(st.sampled_from([1.1, 10.0])),
        max_rollbacks=draw(st.integers(1, 4)),
        max_non_finite_steps=draw(st.integers(1, 5)),
    )


@st.composite
def segments(draw):
    """A stretch of a stream: ordinary losses around a level, odd values, or something asked for by hand."""
    kind = draw(st.sampled_from(["level", "level", "level", "level", "drift", "odd", "odd", "hand"]))
    if kind == "hand":
        return [draw(st.sampled_from(["disable", "enable", "enable", "rollback", "reset", *RECOVERIES]))]
    if kind == "odd":
        return draw(
            st.lists(
                st.builds(
                    Observation,
                    st.just(0),
                    st.sampled_from(ODD),
                    st.sampled_from((None, *ODD)),
                    st.sampled_from((None, *ODD)),
                    applied=st.sampled_from([True, True, False]),
                    loss_scaling=st.sampled_from([False, False, False, True]),
                    empty=st.sampled_from([False, False, False, True]),
                ),
                min_size=1,
                max_size=6,
            )
        )
    rng = random.Random(draw(st.integers(0, 999)))
    level, noise = draw(st.sampled_from([0.3, 0.7, 1.0, 1.0, 1.3, 2.5])), draw(st.sampled_from([0.0, 0.02, 0.3]))
    norm = draw(st.sampled_from([None, 0.0, 1.0, 1.0, 2.0, 9.0]))
    growth = draw(st.sampled_from([0.9, 0.98, 1.02, 1.2])) if kind == "drift" else 1.0
    losses = [level * growth**i * rng.lognormvariate(0.0, noise) for i in range(draw(st.integers(1, 50)))]
    return [Observation(0, x, 3.0 * x, norm and norm * rng.lognormvariate(0.0, noise)) for x in losses]


@st.composite
def histories(draw):
    """Turns of a controller with arbitrary settings over an arbitrary stream at an arbitrary scale."""
    config = draw(configs())
    scale = draw(st.sampled_from([1.0, 1.0, 1.0, 1e-6, 40.0, 1e30, 1e-300, 1e300]))
    script = [item for part in draw(st.lists(segments(), min_size=1, max_size=8)) for item in part]
    script = [item if isinstance(item, str) else item._replace(loss=item.loss * scale) for item in script]
    base = draw(st.sampled_from([config.min_weight, 2.5, config.max_weight]))
    return History(config, play(config, base, script, draw(st.sampled_from([1, 1, 1, 2, 7]))))


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
    assert min(actions[action] for action in ACTIONS) >= 5
    assert len(reasons) >= len(Reason) - len(UNREACHABLE | OF_A_BALANCE) - 4


@holds
def the_weight_is_always_finite_and_within_its_bounds(history):
    config, turns = history.config, history.turns
    for turn in turns:
        assert config.min_weight <= turn.after.weight <= config.max_weight
        assert turn.after.weight == turn.decision.new_weight
        assert turn.before.weight == turn.decision.old_weight


@holds
def each_change_is_within_the_limit_and_a_rollback_undoes_exactly_the_last_one(history):
    """The one exemption is DISABLE, which goes to the base weight at once."""
    config, turns = history.config, history.turns
    undo = None
    for turn in turns:
        d, factor = turn.decision, 1.0 + config.max_change_percent
        match d.action:
            case Action.INCREASE:
                assert d.old_weight < d.new_weight <= d.old_weight * factor
                undo = d.old_weight
            case Action.DECREASE:
                assert d.old_weight / factor <= d.new_weight < d.old_weight
                undo = d.old_weight
            case Action.ROLLBACK:
                assert d.new_weight == undo
                assert 1.0 / factor / (1 + 1e-12) <= d.new_weight / d.old_weight <= factor * (1 + 1e-12)
                undo = None
            case Action.DISABLE:
                assert d.new_weight == turn.before.base_weight
                undo = None
            case _:
                assert d.new_weight == d.old_weight
                undo = None if d.action is Action.RESET else undo


@holds
def no_change_in_the_warmup_nor_within_the_cooling(history):
    """Changes are INCREASE and DECREASE; harm is undone and an emergency answered at any time."""
    config, turns = history.config, history.turns
    taken, since = 0, None
    for turn in turns:
        if turn.given in ("reset", *RECOVERIES):
            taken = 0
        elif turn.given == "enable":
            since = 0
        elif not isinstance(turn.given, str):
            taken += sum(o.finite and not o.loss_scaling for o in turn.given)
            since = None if since is None else since + len(turn.given)
        if turn.decision.action in (Action.INCREASE, Action.DECREASE):
            assert taken > config.warmup_steps
            assert since is None or since > config.cooling_period
        if turn.after.weight != turn.before.weight:
            since = 0


@holds
def a_non_finite_step_never_raises_the_weight(history):
    """Unless that undoes a decrease which was on trial, or ends at the base weight."""
    turns = history.turns
    before_change = None
    for turn in turns:
        d = turn.decision
        if d.action is Action.DECREASE:
            before_change = d.old_weight
        if isinstance(turn.given, str) or turn.given[-1].finite:
            continue
        assert d.action in (Action.HOLD, Action.ROLLBACK, Action.DISABLE)
        if d.new_weight > d.old_weight:
            undoing = d.action is Action.ROLLBACK and turn.before.trial and d.new_weight == before_change
            disabling = d.action is Action.DISABLE and d.new_weight == turn.before.base_weight
            assert undoing or disabling


@holds
def while_disabled_or_switched_off_only_a_person_moves_anything(history):
    config, turns = history.config, history.turns
    for turn in turns:
        if (turn.before.disabled or not config.enabled) and not isinstance(turn.given, str):
            assert turn.decision.action is Action.HOLD
        if turn.before.disabled and turn.given != "enable":
            assert turn.after.disabled
            assert turn.after.weight == turn.before.base_weight


@holds
def the_state_survives_json_and_goes_on_the_same(history):
    config, turns = history.config, history.turns
    for turn in turns[::4]:
        restored = ControllerState.from_dict(json.loads(json.dumps(turn.before.to_dict())))
        assert repr(restored) == repr(turn.before), "repr: NaN is not equal to itself"
        if isinstance(turn.given, str):
            after, decision = by_hand(config, restored, turn.given)
        else:
            after, decision = guide_rule.step(config, restored, turn.given)
        assert repr(after) == repr(turn.after)
        assert repr(decision) == repr(turn.decision)


def leaves(value):
    """Number of plain values in a structure."""
    if isinstance(value, dict):
        return sum(map(leaves, value.values()))
    return sum(map(leaves, value)) if isinstance(value, (list, tuple)) else 1


@holds
def memory_is_bounded(history):
    config, turns = history.config, history.turns
    scalars = leaves(initial_state(config, 2.5).to_dict()) + 12  # a trial's fields
    for turn in turns:
        for series in (turn.after.losses, turn.after.gradient_norms):
            assert len(series.recent) <= config.smoothing_steps
            assert len(series.reference) <= config.reference_steps
        assert leaves(turn.after.to_dict()) <= scalars + 2 * (config.smoothing_steps + config.reference_steps)


@holds
def every_decision_can_be_explained_and_written_down(history):
    """The advice puts in no number that is not there, and steps never rewind."""
    turns = history.turns
    step = 0
    for turn in turns:
        d = turn.decision
        assert "nan" not in d.advice
        assert type(d.advice) is str
        assert all(isinstance(value, (int, float)) for value in d.evidence.values())
        assert repr(type(d).from_dict(json.loads(json.dumps(d.to_dict())))) == repr(d)
        assert d.step >= step
        step = d.step


@holds
def metrics_can_always_be_read(history):
    config, turns = history.config, history.turns
    for turn in turns[::10]:
        stability = stability_metrics(turn.after)
        assert 0.0 <= stability["loss_stability_score"] <= 1.0
        assert stability["step_count"] == turn.after.step
        metrics = adaptive_weight_metrics(config, turn.after)
        assert metrics["current_mel_weight"] == turn.after.weight
        assert metrics["weight_adjustment_enabled"] is (config.enabled and not turn.after.disabled)
