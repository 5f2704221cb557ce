"""GradientShare: what it takes, what it proposes and when."""

import math

import pytest
from joint_streams import ADAPTIVE, BESIDE, seen

from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.joint import Term

FOUR = (Term.adaptive("a", 1.0), Term.adaptive("b", 2.0), Term("f", 1.0), Term("g", 3.0))
NORMS = {"a": 2.0, "b": 0.5, "f": 3.0, "g": 1.0}


@pytest.mark.parametrize(
    ("shares", "kind", "message"),
    [
        (0.6, TypeError, "`shares` must be a dictionary"),
        ({}, TypeError, "`shares` must be a dictionary"),
        ({"a": "0.6"}, TypeError, r"`shares\['a'\]` must be a number"),
        ({1: 0.6}, TypeError, "`shares` must have names of terms"),
        ({"a": 0.0}, ValueError, r"`shares\['a'\]` must be a number in \(0, 1\)"),
        ({"a": 1.0}, ValueError, r"`shares\['a'\]` must be a number in \(0, 1\)"),
        ({"a": math.nan}, ValueError, r"`shares\['a'\]`"),
        ({"a": 0.6, "b": 0.5}, ValueError, "`shares` must add up to 1 at most"),
    ],
)
def test_shares_that_cannot_be(shares, kind, message):
    with pytest.raises(kind, match=f"^GradientShare: argument {message}"):
        GradientShare(shares)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"measure_every": 0}, ValueError),
        ({"measure_every": 10_001}, ValueError),
        ({"measure_every": 2.5}, TypeError),
        ({"calibrate_steps": 4}, ValueError),
        ({"calibrate_steps": 1001}, ValueError),
        ({"calibrate_steps": "x"}, TypeError),
    ],
)
def test_steps_that_cannot_be(arguments, kind):
    (name,) = arguments
    with pytest.raises(kind, match=rf"GradientShare: argument `{name}` must be an integer"):
        GradientShare(**arguments)


@pytest.mark.parametrize("arguments", [{"measure_every": 1}, {"calibrate_steps": 5}, {"calibrate_steps": None}])
def test_steps_at_their_bounds(arguments):
    GradientShare(**arguments)


def test_the_shares_are_copied():
    shares = {"a": 0.6}
    strategy = GradientShare(shares)
    shares["a"] = 0.1
    assert strategy.shares == {"a": 0.6}
    assert GradientShare().shares is None


@pytest.mark.parametrize(
    ("shares", "terms", "message"),
    [
        (None, (Term.adaptive("a", 1.0),), "needs two or more terms"),
        (None, (Term("f", 1.0), Term("g", 1.0)), "at least one of them with an adaptive weight"),
        ({"z": 0.5}, FOUR, r"names \['z'\]"),
        ({"f": 0.5}, FOUR, r"names \['f'\]"),
        ({"a": 0.5, "b": 0.5}, FOUR, "must leave a part"),
        ({"a": 0.5, "b": 0.4}, ADAPTIVE, "which leave 0.1"),
    ],
)
def test_terms_that_cannot_be_balanced(shares, terms, message):
    with pytest.raises(ValueError, match=f"^GradientShare: .*{message}"):
        GradientShare(shares).initial(terms)


@pytest.mark.parametrize(
    ("shares", "terms"), [({"a": 0.5}, ADAPTIVE), ({"a": 0.7, "b": 0.3}, ADAPTIVE), (None, BESIDE)]
)
def test_terms_that_can_be_balanced(shares, terms):
    assert GradientShare(shares).initial(terms).measured.taken == 0


def proposals(strategy, terms, steps, norms=NORMS):
    """What is proposed step by step, with norms on each."""
    state, found = strategy.initial(terms), []
    weights = {term.name: term.weight for term in terms}
    for _ in range(steps):
        known = {name: norms[name] for name in weights if name in norms}
        state, proposal = strategy.step(state, (seen({}, known, weights=weights),))
        found.append(proposal)
    return found


def made(terms, targets):
    """The shares under the targets."""
    parts = {t.name: (targets[t.name].weight if t.name in targets else t.weight) * NORMS[t.name] for t in terms}
    return {name: part / sum(parts.values()) for name, part in parts.items()}


@pytest.mark.parametrize(
    ("shares", "terms", "wanted"),
    [
        (None, FOUR, {"a": 0.25, "b": 0.25, "f": 0.25, "g": 0.25}),
        (None, ADAPTIVE, {"a": 0.5, "b": 0.5}),
        ({"a": 0.6}, FOUR, {"a": 0.6}),
        ({"a": 0.6, "b": 0.1}, FOUR, {"a": 0.6, "b": 0.1}),
        ({"a": 0.6}, ADAPTIVE, {"a": 0.6}),
    ],
)
def test_the_targets_make_the_shares_come_true(shares, terms, wanted):
    last = proposals(GradientShare(shares), terms, 20)[-1]
    shared = made(terms, last.targets)
    if shares is None and len(terms) == 4:
        assert shared["a"] == pytest.approx(0.25)
        assert shared["b"] == pytest.approx(0.25)
    else:
        assert {name: shared[name] for name in wanted} == pytest.approx(wanted)
    assert set(last.targets) == (set(shares) if shares else {t.name for t in terms if not t.fixed})


def test_nothing_is_proposed_before_the_start_is_measured_and_then_at_once():
    found = proposals(GradientShare(calibrate_steps=8), ADAPTIVE, 20)
    assert [bool(p.targets) for p in found] == [False] * 7 + [True] + [False] * 4 + [True] * 8
    assert found[7].calibrate
    assert [p.evidence["measurements"] for p in found] == list(range(1, 21))


def test_without_calibration_a_few_measurements_are_enough_and_no_jump_is_asked_for():
    found = proposals(GradientShare(calibrate_steps=None), ADAPTIVE, 7)
    assert [bool(p.targets) for p in found] == [False] * 4 + [True] * 3
    assert not any(p.calibrate for p in found)


def test_a_step_without_norms_and_norms_that_are_none_bring_nothing_new():
    strategy = GradientShare()
    state = strategy.initial(ADAPTIVE)
    for norms in ({}, {"a": math.inf, "b": math.nan}, {"a": 0.0, "b": -1.0}):
        assert strategy.step(state, (seen({"a": 1.0}, norms),)) == (state, None)


def test_the_evidence_tells_shares_and_intents():
    evidence = proposals(GradientShare({"a": 0.6}), BESIDE, 20)[-1].evidence
    assert evidence == pytest.approx({"measurements": 20.0, "share.a": 0.25, "share.f": 0.75, "intent.a": 0.6})
    assert proposals(GradientShare(), FOUR, 20)[-1].evidence["intent.b"] == 0.25


def test_a_term_that_reaches_no_variable_stays_and_the_others_share_without_it():
    last = proposals(GradientShare(), FOUR, 20, {**NORMS, "b": 0.0})[-1]
    assert set(last.targets) == {"a"}
    assert last.evidence["intent.a"] == pytest.approx(1 / 3)


def test_all_steps_of_an_execution_are_taken_in():
    strategy = GradientShare()
    weights = {"a": 1.0, "b": 1.0}
    steps = [seen({}, {"a": 2.0, "b": 0.5}, weights=weights), seen({}, weights=weights)] * 10
    state, proposal = strategy.step(strategy.initial(ADAPTIVE), steps)
    assert state.measured.taken == 10
    assert proposal.evidence["measurements"] == 10.0


def test_rounding_is_no_share_left_over():
    thirds = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3 + 5e-10}
    terms = [Term.adaptive(name, 1.0) for name in thirds]
    assert GradientShare(thirds).initial(terms).adaptive == dict.fromkeys(thirds, 1.0)
    with pytest.raises(ValueError, match="must leave a part"):
        GradientShare(thirds).initial([*terms, Term("f", 1.0)])
