"""The plain records: actions, reasons, observations, decisions."""

import json
import math
import re

import pytest

from keras_adaptive_weights import Action, Decision, Observation, Reason
from keras_adaptive_weights.deciding.decision import checked_note

ACTION_CODES = {
    "hold": 0,
    "increase": 1,
    "decrease": 2,
    "rollback": 3,
    "reject": 4,
    "disable": 5,
    "enable": 6,
    "reset": 7,
    "balance": 8,
    "calibrate": 9,
}


def decision(reason=Reason.LOSS_HIGH, action=Action.INCREASE, **values):
    return Decision(**{"step": 7, "action": action, "reason": reason, "old_weight": 2.5, "new_weight": 2.625, **values})


def test_actions_and_their_codes_are_those_of_the_contract():
    """Dashboards that were saved read the codes: a new action goes to the end."""
    assert {action.value: action.code for action in Action} == ACTION_CODES


def test_reason_codes_are_distinct_and_count_from_zero():
    assert [reason.code for reason in Reason] == list(range(len(Reason)))


@pytest.mark.parametrize("member", [*Action, *Reason])
def test_members_are_strings(member):
    assert isinstance(member, str)
    assert json.loads(json.dumps(member)) == member.value == str(member)
    assert type(member)(member.value) is member


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_one_sentence_of_advice(reason):
    """Also without evidence: an old journal may lack a number."""
    advice = decision(reason).advice
    assert advice.endswith(".")
    assert "{" not in advice
    assert len(advice) > 15


def test_advice_puts_in_the_numbers_of_the_evidence_and_the_weights():
    variance = decision(Reason.HIGH_VARIANCE, evidence={"loss_variance": 0.81, "variance_threshold": 0.5})
    assert variance.advice.startswith("loss variance 0.81 is above 0.5: lower the learning rate")
    assert "5 is the maximum" in decision(Reason.AT_MAX, old_weight=5.0).advice


@pytest.mark.parametrize(
    ("changes", "finite"),
    [
        ({}, True),
        ({"total_loss": 3.0, "gradient_norm": 2.0}, True),
        ({"loss": 0.0}, True),
        ({"loss": -1.0}, True),
        ({"loss": math.nan}, False),
        ({"loss": math.inf}, False),
        ({"loss": -math.inf}, False),
        ({"total_loss": math.nan}, False),
        ({"total_loss": math.inf}, False),
        ({"gradient_norm": math.nan}, False),
        ({"gradient_norm": math.inf}, False),
        ({"applied": False}, False),
    ],
)
def test_an_observation_is_finite_if_all_of_it_is(changes, finite):
    assert Observation(**{"step": 1, "loss": 1.0, **changes}).finite is finite


@pytest.mark.parametrize(("record", "name"), [(Observation(1, 1.0), "loss"), (decision(), "new_weight")])
def test_records_are_frozen(record, name):
    with pytest.raises(AttributeError):
        setattr(record, name, 3.0)


@pytest.mark.parametrize("action", Action)
def test_an_event_is_anything_but_a_hold(action):
    assert decision(action=action).is_event is (action != "hold")


@pytest.mark.parametrize("reason", Reason)
def test_by_hand_are_requests_refused_requests_and_recoveries(reason):
    """Everything that did not come from the controller: a journal does not count it as the decision on a step."""
    from_outside = reason.value in ("manual", "nothing_to_roll_back") or reason.value.startswith("recovered_from_")
    assert decision(reason).by_hand is from_outside


def test_a_decision_reads_as_one_line():
    line = str(decision(Reason.MANUAL, Action.DISABLE, note="operator saw clipping"))
    assert line == "step 7: disable 2.5 -> 2.625, manual (operator saw clipping): asked for by hand."
    assert "()" not in str(decision())


def test_a_decision_survives_json():
    before = decision(evidence={"loss": 0.8, "gradient_norm": math.inf}, note="n")
    after = Decision.from_dict(json.loads(json.dumps(before.to_dict())))
    assert after == before
    assert type(after.action) is Action
    assert type(after.reason) is Reason


def test_reading_a_decision_ignores_other_keys_and_fills_in_what_may_be_missing():
    values = {**decision().to_dict(), "kind": "event", "advice": "...", "wall_time": 1.0}
    del values["evidence"], values["note"]
    assert Decision.from_dict(values) == decision()


@pytest.mark.parametrize("key", ["step", "action", "reason", "old_weight", "new_weight"])
def test_reading_a_decision_needs_its_essentials(key):
    values = decision().to_dict()
    del values[key]
    with pytest.raises(KeyError, match=key):
        Decision.from_dict(values)


def test_in_a_shadow_run_a_decision_says_what_stays_in_force():
    shadow = decision(Reason.MANUAL, Action.DISABLE, held_weight=2.0)
    assert (shadow.weight_in_force, decision().weight_in_force) == (2.0, 2.625)
    assert str(shadow) == "step 7: disable 2.5 -> 2.625 in shadow (2 stays in force), manual: asked for by hand."
    assert str(shadow._replace(held_weight=None)) == "step 7: disable 2.5 -> 2.625, manual: asked for by hand."
    values = json.loads(json.dumps(shadow.to_dict()))
    assert values["held_weight"] == 2.0
    assert Decision.from_dict(values) == shadow
    assert Decision.from_dict({**values, "held_weight": None}).held_weight is None
    assert "held_weight" not in decision().to_dict()


def test_numbers_of_a_decision_are_read_as_such():
    values = {**decision().to_dict(), "step": "7", "old_weight": "2.5", "new_weight": 3, "held_weight": 2}
    read = Decision.from_dict({**values, "evidence": {"loss": 1}, "note": 5})
    assert repr(read[3:8]) == "(2.5, 3.0, {'loss': 1.0}, '5', 2.0)"


@pytest.mark.parametrize(("note", "kept"), [("x" * 1000, "x" * 1000), ("x" * 1001, "x" * 999 + "…"), ("", "")])
def test_a_note_is_cut_where_it_is_long(note, kept):
    assert checked_note("owner", note) == kept


def test_a_note_is_text():
    said = "Switch: argument `note` must be text. Received: note=3 of type int. Write `note=str(...)`."
    with pytest.raises(TypeError, match=f"^{re.escape(said)}$"):
        checked_note("Switch", 3)


def test_a_decision_names_its_term_where_somebody_said_it():
    named = decision(Reason.MANUAL, Action.DISABLE, term="mel\nloss")
    assert str(named) == r"step 7: mel\nloss, disable 2.5 -> 2.625, manual: asked for by hand."
    assert named.to_dict()["term"] == "mel\nloss"
    assert Decision.from_dict(named.to_dict()) == named
    assert "term" not in decision().to_dict()
