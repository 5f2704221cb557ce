"""The records of a balance."""

import json
import math

import pytest

from keras_adaptive_weights.deciding.decision import Action, Decision, Observation, Reason
from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation, Term, by_term


@pytest.mark.parametrize(
    ("changes", "finite"),
    [
        ({}, True),
        ({"losses": {}}, True),
        ({"losses": {"a": 1.0, "b": math.nan}}, False),
        ({"losses": {"a": -math.inf}}, False),
        ({"total_loss": math.inf}, False),
        ({"gradient_norm": math.nan}, False),
        ({"gradient_norm": 1.0, "total_loss": 1.0}, True),
        ({"term_norms": {"a": math.inf}}, True),
        ({"applied": False}, False),
    ],
)
def test_an_observation_is_finite_if_losses_total_and_gradient_are(changes, finite):
    assert JointObservation(**{"step": 1, "losses": {"a": 1.0}, **changes}).finite is finite


@pytest.mark.parametrize(
    ("observation", "values"),
    [
        (JointObservation(3, {"a": 1.0}), {"step": 3, "losses": {"a": 1.0}}),
        (JointObservation(3, {}), {"step": 3, "losses": {}}),
        (
            JointObservation(3, {"a": 1.0}, 2.0, 3.0, {"a": 4.0}, applied=False, loss_scaling=True, dampening=0.5),
            {
                "step": 3,
                "losses": {"a": 1.0},
                "total_loss": 2.0,
                "gradient_norm": 3.0,
                "term_norms": {"a": 4.0},
                "applied": False,
                "loss_scaling": True,
                "dampening": 0.5,
            },
        ),
        (
            JointObservation(3, {"a": 1.0}, non_finite="a", weights={"a": 9.0}),
            {"step": 3, "losses": {"a": 1.0}, "non_finite": "a"},
        ),
    ],
)
def test_an_observation_reads_as_json_without_what_is_as_usual(observation, values):
    assert observation.to_dict() == values
    read = JointObservation.from_dict({**json.loads(json.dumps(values)), "kind": "step"})
    assert read == observation._replace(weights={})


def decision(**values):
    base = {"step": 7, "action": Action.BALANCE, "reason": Reason.OFF_TARGET}
    return JointDecision(**{**base, "old_weights": {"a": 2.0, "b": 1.0}, "new_weights": {"a": 2.1, "b": 1.0}, **values})


@pytest.mark.parametrize("held", [None, {"a": 2.0, "b": 1.0}])
def test_a_decision_is_one_event_with_the_weights_of_each_term(held):
    before = decision(evidence={"share.a": 0.4}, note="n", held_weights=held)
    values = json.loads(json.dumps(before.to_dict()))
    assert values["old_weights"] == {"a": 2.0, "b": 1.0}
    assert values["new_weights"] == {"a": 2.1, "b": 1.0}
    assert ("held_weights" in values) is (held is not None)
    after = JointDecision.from_dict({**values, "kind": "event"})
    assert after == before
    assert (type(after.action), type(after.reason)) == (Action, Reason)
    assert after.weights_in_force == (before.new_weights if held is None else held)


def test_reading_a_decision_fills_in_what_may_be_missing():
    values = decision().to_dict()
    del values["evidence"], values["note"]
    assert JointDecision.from_dict(values) == decision()


def test_a_decision_reads_as_one_line_with_the_weights_that_move():
    numbers = {"distance": 0.31, "distance_needed": 0.05}
    line = str(decision(evidence=numbers, note="well"))
    assert line.startswith("step 7: balance a 2 -> 2.1, off_target (well): the weights were up to 0.310 from")
    held = str(decision(action=Action.CALIBRATE, reason=Reason.MEASURED_AT_START, held_weights={"a": 2.0, "b": 1.0}))
    assert held.startswith("step 7: calibrate a 2 -> 2.1 in shadow, measured_at_start: ")
    both = str(decision(new_weights={"a": 2.1, "b": 0.9}, evidence=numbers))
    assert both.startswith("step 7: balance a 2 -> 2.1, b 1 -> 0.9, off_target: ")
    still = str(decision(action=Action.ENABLE, reason=Reason.MANUAL, new_weights={"a": 2.0, "b": 1.0}))
    assert still == "step 7: enable manual: asked for by hand."


@pytest.mark.parametrize(("action", "is_event"), [(Action.HOLD, False), (Action.BALANCE, True), (Action.RESET, True)])
def test_an_event_is_anything_but_a_hold(action, is_event):
    assert decision(action=action).is_event is is_event


@pytest.mark.parametrize(("reason", "by_hand"), [(Reason.MANUAL, True), (Reason.OFF_TARGET, False)])
def test_by_hand(reason, by_hand):
    assert decision(reason=reason).by_hand is by_hand


def test_terms():
    assert Term("stop", 1.0).fixed
    assert Term.adaptive("mel", 2.5) == Term("mel", 2.5, 0.025, 250.0)
    assert not Term.adaptive("mel", 2.5).fixed


def test_what_is_written_down_is_a_copy():
    losses = {"a": 1.0}
    values = JointObservation(1, losses, term_norms=losses).to_dict()
    losses["a"] = 2.0
    assert values == {"step": 1, "losses": {"a": 1.0}, "term_norms": {"a": 1.0}}


@pytest.mark.parametrize(
    ("losses", "loss", "empty"), [({"a": 1.5, "b": 3.0}, 1.5, False), ({"b": 3.0}, math.nan, True)]
)
def test_what_was_seen_of_one_term(losses, loss, empty):
    joint = JointObservation(7, losses, 2.0, 3.0, {"a": 4.0}, False, True, 0.5, "b", {"a": 9.0})
    one = Observation(7, loss, 2.0, 3.0, False, True, 0.5, "b", empty)
    assert repr(joint.of("a")) == repr(one)
    kept = {name: value for name, value in losses.items() if name == "a"}
    assert JointObservation.of_one("a", one) == joint._replace(losses=kept, term_norms={}, weights={})


@pytest.mark.parametrize("held", [None, {"a": 2.0, "b": 1.0}])
def test_what_was_decided_on_each_weight(held):
    joint = decision(evidence={"distance": 0.3}, note="n", held_weights=held)
    about = (7, Action.BALANCE, Reason.OFF_TARGET)
    a, b = by_term(joint)
    assert a == Decision(*about, 2.0, 2.1, {"distance": 0.3}, "n", held and 2.0, "a")
    assert b == Decision(*about, 1.0, 1.0, {"distance": 0.3}, "n", held and 1.0, "b")
    assert by_term(a) == [a]
