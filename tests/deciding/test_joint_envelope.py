"""The joint envelope: sequence -> decisions, and what a person, a fault, or a resume does to all weights at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
from joint_streams import ADAPTIVE, BESIDE, QUICK, bad, changes, play, seen, steady, through_json

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action, Reason
from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.joint import Term
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.deciding.statistics import Series
from keras_adaptive_weights.deciding.strategy import Proposal, Target

STEP = math.log(1.05)


class Nothing(NamedTuple):
    """No state."""

    steps: int = 0


@dataclass(frozen=True)
class Wanted:
    """A strategy that always wants the same."""

    targets: Mapping[str, Target]
    calibrate: bool = False
    after: int = 0

    def initial(self, terms):
        return Nothing()

    def step(self, state, observations):
        steps = state.steps + len(observations)
        if steps <= self.after:
            return Nothing(steps), None
        return Nothing(steps), Proposal(self.targets, self.calibrate, {"share.a": 0.5})


def wanted(a=1.0, b=1.0, error=0.0, freedom=math.inf, **values):
    targets = {"a": Target(a, error, freedom), "b": Target(b, error, freedom)}
    return JointEnvelope(Wanted(targets, **values), ADAPTIVE, QUICK)


def flat(steps, level=1.0):
    return [seen({"a": level * (1.0 + 0.01 * (-1) ** i), "b": level}, gradient_norm=1.0) for i in range(steps)]


MOVED = flat(21)  # the last of these is the first step after the warmup
RISE = [seen({"a": 1.8, "b": 1.8})]


def test_all_weights_go_the_same_part_of_their_way():
    envelope = JointEnvelope(
        Wanted({"a": Target(8.0), "b": Target(0.25), "c": Target(0.5)}),
        (*ADAPTIVE, Term.adaptive("c", 1.0)),
        QUICK,
    )
    turn = play(envelope, [seen({"a": 1.0, "b": 1.0, "c": 1.0})] * 21)[-1]
    assert (turn.decision.action, turn.decision.reason) == (Action.BALANCE, Reason.OFF_TARGET)
    assert turn.decision.old_weights == {"a": 1.0, "b": 1.0, "c": 1.0}
    logs = {name: math.log(weight) for name, weight in turn.decision.new_weights.items()}
    assert logs == pytest.approx({"a": STEP, "b": -STEP * 2 / 3, "c": -STEP / 3})
    assert turn.decision.evidence["distance"] == pytest.approx(math.log(8.0))
    assert turn.decision.evidence["distance_needed"] == pytest.approx(STEP)
    assert turn.decision.evidence["target.b"] == 0.25
    assert turn.decision.evidence["share.a"] == 0.5


def test_it_arrives_and_rests():
    turns = play(wanted(1.2, 1 / 1.2), flat(200))
    assert [step for step, _, _ in changes(turns)] == [21, 34, 47]
    assert turns[-1].after.core.weight == pytest.approx({"a": 1.05**3, "b": 1.05**-3})
    assert turns[-1].decision.reason is Reason.ON_TARGET


@pytest.mark.parametrize(
    ("envelope", "reason"),
    [
        (wanted(1.04, 1.0), "on_target"),
        (wanted(1.05 - 1e-9, 1.0), "on_target"),
        (wanted(1.05 + 1e-9, 1.0), "off_target"),
        (wanted(1.5, 1.0, error=0.1), "off_target"),
        (wanted(1.3, 1.0, error=0.1), "within_noise"),
        (wanted(1.5, 1.0, error=0.1, freedom=4.0), "within_noise"),
        (wanted(1.5, 1.0, error=math.nan), "within_noise"),
        (wanted(1e9, 1e-9), "off_target"),
        (JointEnvelope(Wanted({"a": Target(1e9)}), (Term("a", 2.0, 1.0, 2.0), Term("b", 1.0)), QUICK),
         "targets_out_of_reach"),
        (JointEnvelope(Wanted({}), ADAPTIVE, QUICK), "measuring"),
        (wanted(1.5, 1.0, after=30), "measuring"),
        (wanted(0.0, 1.0), "weight_not_finite"),
        (wanted(math.nan, 1.0), "weight_not_finite"),
        (wanted(1e39, 1.0), "weight_not_finite"),
    ],
)  # fmt: skip
def test_the_dead_band_and_what_is_refused(envelope, reason):
    """At 3 standard errors (two thirds of the settings' 4.5), widened for few degrees of freedom."""
    turn = play(envelope, MOVED)[-1]
    assert turn.decision.reason == reason
    moved = turn.after.core.weight != turn.before.core.weight
    assert moved is (reason == "off_target")
    assert (turn.decision.action is Action.REJECT) is (reason == "weight_not_finite")
    assert (turn.decision.action is Action.HOLD) is (reason not in ("off_target", "weight_not_finite"))
    assert turn.decision.evidence["observed_steps"] == 21.0


def test_what_is_refused_is_tried_again_after_a_cooling():
    turns = play(wanted(math.nan, 1.0), flat(60))
    assert [step for step, _, _ in changes(turns)] == [21, 34, 47, 60]


def test_a_batch_far_from_the_others_moves_nothing():
    config = replace(QUICK, absurd_loss_factor=1.5, max_loss_spike_threshold=9.0, variance_threshold=9.0)
    envelope = JointEnvelope(Wanted({"a": Target(2.0)}), ADAPTIVE, config)
    turns = play(envelope, [*flat(20), seen({"a": 4.0, "b": 4.0})])
    assert changes(turns) == [(21, "reject", "weighted_loss_absurd")]
    assert turns[-1].decision.evidence["weighted_loss_ratio"] > 1.5


def test_losses_below_zero_have_no_scale_and_balance_all_the_same():
    turns = play(wanted(1.2, 1 / 1.2), flat(100, -3.0))
    assert [action for _, action, _ in changes(turns)] == ["balance"] * 3
    assert turns[-1].after.core.losses.below_zero > 0


def test_losses_whose_weighted_sum_no_number_holds_leave_a_state_that_can_be_stored():
    envelope = JointEnvelope(Wanted({"a": Target(2.0)}), (Term.adaptive("a", 10.0), Term.adaptive("b", 10.0)), QUICK)
    state = play(envelope, [seen({"a": 1.7e308, "b": 1.7e308})] * 60 + ["disable", "enable"])[-1].after
    assert through_json(envelope, state) == state
    assert all(map(math.isfinite, state.core.losses.recent))


def test_a_weighted_loss_that_float32_cannot_hold():
    envelope = JointEnvelope(Wanted({"a": Target(2.0)}), ADAPTIVE, QUICK)
    assert changes(play(envelope, flat(21, 2e38)))[-1][1:] == ("reject", "weighted_loss_not_finite")


# --- gates ----------------------------------------------------------------------------------------------

FAR = wanted(8.0, 0.125)
SWITCHED_OFF = JointEnvelope(FAR.strategy, ADAPTIVE, replace(QUICK, enabled=False))


@pytest.mark.parametrize(
    ("envelope", "script", "action", "reason"),
    [
        (SWITCHED_OFF, MOVED, "hold", "switched_off"),
        (FAR, [*MOVED, "disable", *flat(1)], "hold", "disabled"),
        (FAR, flat(20), "hold", "warmup"),
        (FAR, [*MOVED, *flat(12)], "hold", "cooling"),
        (FAR, [*MOVED, *flat(13)], "balance", "off_target"),
        (FAR, [*flat(20), bad()], "hold", "non_finite"),
        (FAR, [*flat(20), bad(), *flat(4)], "hold", "unstable"),
        (FAR, [*flat(20), seen({"a": 1.0}, applied=False, loss_scaling=True)], "hold", "loss_scaling"),
        (FAR, [*flat(20), seen({})], "hold", "empty"),
        (JointEnvelope(FAR.strategy, ADAPTIVE, replace(QUICK, variance_threshold=1e-9)), MOVED, "hold",
         "high_variance"),
        (JointEnvelope(FAR.strategy, ADAPTIVE, replace(QUICK, warmup_steps=0)), flat(10), "hold", "collecting"),
        (FAR, [*MOVED, *RISE * 5], "rollback", "trial_loss_worse"),
        (FAR, [*MOVED, *RISE * 4], "hold", "cooling"),
        (FAR, [*MOVED, *flat(1, 3.0)], "rollback", "trial_loss_spike"),
        (FAR, [*MOVED, bad()], "rollback", "trial_non_finite"),
        (FAR, [*MOVED, *[bad()] * 5], "disable", "repeated_non_finite"),
        (FAR, [*MOVED, "rollback"], "rollback", "manual"),
        (FAR, [*MOVED, "rollback", "rollback"], "reject", "nothing_to_roll_back"),
        (FAR, [*MOVED, "disable", "rollback"], "reject", "nothing_to_roll_back"),
        (FAR, [*MOVED, "disable"], "disable", "manual"),
        (FAR, [*MOVED, "disable", "enable"], "enable", "manual"),
        (FAR, [*MOVED, "reset"], "reset", "manual"),
        (FAR, [*MOVED, "recover"], "reset", "recovered_from_skips"),
        (FAR, [*MOVED, "reset", *flat(20)], "hold", "warmup"),
    ],
)  # fmt: skip
def test_the_last_decision(envelope, script, action, reason):
    turn = play(envelope, script)[-1]
    assert (turn.decision.action, turn.decision.reason) == (action, reason), str(turn.decision)
    assert "nan" not in turn.decision.advice or script[-1] == "recover"


def test_the_trial_holds_the_new_objective_against_what_it_was_under_the_same_weights():
    """A calibration that makes the objective forty times as large does no harm by that."""
    envelope = wanted(90.0, 1.0, calibrate=True, after=19)
    turns = play(envelope, [*flat(20), *flat(30)])
    assert changes(turns) == [(20, "calibrate", "measured_at_start")]
    trial = turns[19].after.core.trial
    assert trial.baseline == pytest.approx(91.0, rel=0.02)
    assert turns[30].after.core.losses.average == pytest.approx(91.0, rel=0.02)


def test_a_rollback_takes_all_weights_back_together():
    turns = play(FAR, [*MOVED, *flat(13), bad()])
    first, second, back = [t.decision for t in turns if t.decision.is_event]
    assert back.action is Action.ROLLBACK
    assert (back.old_weights, back.new_weights) == (second.new_weights, first.new_weights)
    assert turns[-1].after.core.cooling == 24
    assert turns[-1].after.core.losses.average == pytest.approx(sum(first.new_weights.values()), rel=0.01)


def test_after_repeated_rollbacks_the_weights_stay_until_enabled():
    turns = play(FAR, [*MOVED, bad(), *flat(25), bad(), *flat(49), bad(), *flat(300), "enable", *flat(13)])
    events = changes(turns)
    assert [action for _, action, _ in events] == ["balance", "rollback"] * 3 + ["enable", "balance"]
    held = turns[-15]
    assert held.decision.reason is Reason.HOLDING
    assert held.decision.evidence["rollbacks"] == 3.0
    assert held.after.core.weight == FAR.initial().core.weight
    assert play(FAR, ["reset", *flat(60)], state=held.after)[-1].decision.reason is Reason.HOLDING, "no way around"


def test_disable_goes_to_the_base_and_misses_the_calibration():
    calibrating = wanted(50.0, 0.02, calibrate=True)
    turns = play(calibrating, ["disable", *flat(30), "enable", *flat(14)])
    assert [action for _, action, _ in changes(turns)] == ["disable", "enable", "balance"]
    turns = play(calibrating, [*flat(3), "disable"])
    assert changes(turns)[0] == (1, "calibrate", "measured_at_start")
    assert turns[-1].decision.new_weights == {"a": 1.0, "b": 1.0}
    assert turns[-1].after.core.losses.average == pytest.approx(2.0, rel=0.02)


# --- the one calibration --------------------------------------------------------------------------------


def test_calibration_goes_there_at_once_and_only_once():
    turns = play(wanted(50.0, 0.02, calibrate=True), flat(40))
    assert changes(turns) == [(1, "calibrate", "measured_at_start")]
    assert turns[-1].after.core.weight == {"a": 50.0, "b": 0.02}
    assert turns[-1].after.calibrated


@pytest.mark.parametrize(
    ("error", "target", "jumps"),
    [(0.0, 1.04, False), (0.0, 1.06, True), (0.5, 2.6, False), (0.5, 2.8, True), (0.5, 1 / 2.8, True)],
)
def test_calibration_has_a_dead_band_of_a_step_and_of_twice_the_error(error, target, jumps):
    turns = play(wanted(target, 1.0, error=error, freedom=1.0, calibrate=True), flat(2))
    assert [action for _, action, _ in changes(turns)] == ["calibrate"] * jumps
    assert turns[-1].after.calibrated, "or missed"
    assert turns[-1].decision.reason is Reason.WARMUP
    assert turns[0].decision.reason is (Reason.MEASURED_AT_START if jumps else Reason.WARMUP)


def test_calibration_stays_within_the_bounds():
    assert play(wanted(1e5, 1e-5, calibrate=True), flat(1))[-1].after.core.weight == {"a": 100.0, "b": 0.01}


def test_a_calibration_that_is_refused_is_made_later():
    config = replace(QUICK, absurd_loss_factor=1.5)
    envelope = JointEnvelope(wanted(50.0, 0.02, calibrate=True, after=15).strategy, ADAPTIVE, config)
    turns = play(envelope, [*flat(15), *flat(1, 3.0), *flat(30)])
    assert changes(turns)[0] == (16, "reject", "weighted_loss_absurd")
    assert changes(turns)[1] == (29, "calibrate", "measured_at_start")


def test_a_calibration_waits_for_a_finite_step():
    turns = play(wanted(50.0, 0.02, calibrate=True, after=2), [*flat(2), bad(), *flat(3)])
    assert changes(turns) == [(4, "calibrate", "measured_at_start")]


@pytest.mark.parametrize(
    ("config", "last", "reason"),
    [
        (replace(QUICK, enabled=False), flat(1)[0], Reason.SWITCHED_OFF),
        (QUICK, seen({}), Reason.EMPTY),
        (QUICK, bad(), Reason.NON_FINITE),
        (QUICK, bad()._replace(loss_scaling=True), Reason.LOSS_SCALING),
    ],
)
def test_no_calibration_after_a_step_that_shows_nothing_or_where_adaptation_is_off(config, last, reason):
    """Not even where steps before it, in the same execution, gave what it needs."""
    envelope = JointEnvelope(wanted(50.0, 0.02, calibrate=True).strategy, ADAPTIVE, config)
    (turn,) = play(envelope, [*flat(3), last], execution=4)
    assert (turn.decision.action, turn.decision.reason) == (Action.HOLD, reason)
    assert not turn.after.calibrated


def test_a_calibration_can_be_undone_and_is_not_made_again():
    turns = play(wanted(50.0, 0.02, calibrate=True), [*flat(5), "rollback", *flat(60)])
    assert [action for _, action, _ in changes(turns)][:3] == ["calibrate", "rollback", "balance"]
    assert turns[5].after.core.weight == {"a": 1.0, "b": 1.0}


def test_in_the_calibrations_trial_a_fault_undoes_it():
    turns = play(wanted(50.0, 0.02, calibrate=True), [*flat(5), bad()])
    assert changes(turns)[-1][1:] == ("rollback", "trial_non_finite")
    assert turns[-1].after.core.weight == {"a": 1.0, "b": 1.0}


# --- shadow, resume -------------------------------------------------------------------------------------


def test_in_shadow_weights_in_force_stay_and_proposals_go_on():
    state = FAR.set_shadow(FAR.initial(), shadow=True)
    turns = play(FAR, [*MOVED, *flat(13)], state=state)
    last = turns[-1]
    assert len(changes(turns)) == 2
    assert last.decision.weights_in_force == last.after.core.weight_in_force == {"a": 1.0, "b": 1.0}
    assert last.after.core.weight["a"] == pytest.approx(1.05**2)
    assert str(last.decision).startswith("step 34: balance a 1.05 -> 1.103 in shadow")
    effective = FAR.set_shadow(last.after, shadow=False)
    assert effective.core.weight == {"a": 1.0, "b": 1.0}
    assert effective.core.losses.average == pytest.approx(2.0, rel=0.02)
    assert FAR.set_shadow(effective, shadow=False) == effective


SHARE = JointEnvelope(GradientShare(measure_every=2), BESIDE, QUICK)
RUN = steady(150, {"a": 0.5, "f": 1.0}, losses={"a": 2.0, "f": 1.0}, noise=0.05)


@pytest.mark.parametrize("at", [0, 5, 19, 20, 21, 60])
def test_a_state_goes_on_the_same_after_json(at):
    state = play(SHARE, RUN[:at])[-1].after if at else SHARE.initial()
    restored = through_json(SHARE, state)
    assert restored == state
    rest = play(SHARE, RUN[at:], state=restored)
    assert repr([t.decision for t in rest]) == repr([t.decision for t in play(SHARE, RUN)][at:]), "NaN is not itself"


def test_after_a_resume_there_is_no_second_calibration():
    state = through_json(SHARE, play(SHARE, RUN[:30])[-1].after)
    assert state.calibrated
    away = state._replace(core=state.core._replace(weight={"a": 1.0}))
    assert "calibrate" not in [action for _, action, _ in changes(play(SHARE, RUN, state=away))]


def test_a_resume_within_other_bounds_goes_to_the_nearer_one():
    state = play(SHARE, RUN[:21])[-1].after
    tight = JointEnvelope(SHARE.strategy, (Term("a", 1.0, 0.5, 1.5), Term("f", 2.0)), QUICK)
    restored = tight.restored(SHARE.to_dict(state))
    assert state.core.weight["a"] > 3.0
    assert restored.core.weight == {"a": 1.5}
    assert restored.core.previous_weight == {"a": 1.0}


@pytest.mark.parametrize(
    "other",
    [
        JointEnvelope(GradientShare(), (Term.adaptive("z", 1.0), *BESIDE), QUICK),
        JointEnvelope(Wanted({"a": Target(50.0)}, calibrate=True), BESIDE, QUICK),
    ],
)
def test_a_resume_with_other_terms_or_another_strategy_keeps_the_weights_and_measures_afresh(other):
    state = play(SHARE, RUN[:40])[-1].after
    restored = other.restored(SHARE.to_dict(state))
    assert restored.core.weight["a"] == state.core.weight["a"]
    assert restored.core.step == 40
    assert (restored.core.observed_steps, restored.calibrated) == (0, True)
    assert restored.strategy == other.initial().strategy
    assert restored.core.weight.keys() == {term.name for term in other.terms if not term.fixed}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("core", "weight", "a"), math.nan),
        (("core", "weight", "a"), -1.0),
        (("core", "step"), "x"),
        (("calibrated",), 3),
        (("recent",), [1.0]),
        (("proposal", "targets", "a", "weight"), "much"),
        (("strategy", "GradientShare", "measured", "taken"), -1),
        (("strategy", "GradientShare", "of_tomorrow"), 1),
        (("of_tomorrow",), 1),
    ],
)
def test_a_damaged_state_is_refused(path, value):
    values = SHARE.to_dict(play(SHARE, RUN[:40])[-1].after)
    place = values
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=path[-1]):
        SHARE.restored(values)


class Once(Wanted):
    """Proposes at the first step and never again."""

    def step(self, state, observations):
        return Nothing(state.steps + len(observations)), None if state.steps else Proposal(self.targets)


def test_a_proposal_that_was_refused_is_refused_again_after_a_resume():
    envelope = JointEnvelope(Once({"a": Target(math.nan), "b": Target(2.0)}), ADAPTIVE, QUICK)
    state = play(envelope, MOVED)[-1].after
    rest = changes(play(envelope, flat(30), state=state))
    assert changes(play(envelope, flat(30), state=through_json(envelope, state))) == rest
    assert {reason for _, _, reason in rest} == {"weight_not_finite"}


# --- terms and steps ------------------------------------------------------------------------------------


def test_a_term_that_a_batch_lacks_counts_as_its_mean():
    script = [seen({"a": 1.0, "b": 3.0}), seen({"a": 1.0})] * 10
    turns = play(FAR, script)
    assert turns[-1].after.recent == {"a": (1.0,) * 6, "b": (3.0,) * 6}
    assert turns[-1].after.core.losses.average == pytest.approx(4.0)
    assert play(FAR, [seen({"a": 1.0})] * 3)[-1].after.recent["b"] == (0.0,) * 3, "not seen yet"


def test_a_strategy_sees_finite_steps_and_the_weights_as_decided():
    got = []

    class Watching(Wanted):
        def step(self, state, observations):
            got.append(observations)
            return super().step(state, observations)

    envelope = JointEnvelope(Watching({}), BESIDE, QUICK)
    play(envelope, [seen({"a": 1.0, "f": 1.0}), bad(("a",)), seen({}), seen({"f": 1.0})], execution=4)
    play(envelope, [bad(("a",))])
    (observations,) = got
    assert [o.losses for o in observations] == [{"a": 1.0, "f": 1.0}, {"f": 1.0}]
    assert observations[0].weights == {"a": 1.0, "f": 2.0}


@pytest.mark.parametrize("execution", [2, 7])
def test_one_decision_for_an_execution(execution):
    turns = play(FAR, flat(42), execution)
    assert len(turns) == 42 // execution
    assert turns[-1].after.core.step == 42
    assert turns[-1].after.core.observed_steps == 42


def test_no_observations_are_refused():
    with pytest.raises(ValueError, match="`observations` must hold at least one JointObservation"):
        FAR.step(FAR.initial(), ())


def test_a_target_for_something_else_is_a_mistake_of_the_strategy():
    envelope = JointEnvelope(Wanted({"f": Target(1.0), "y": Target(1.0)}), BESIDE, QUICK)
    with pytest.raises(ValueError, match=r"Wanted.step: proposes targets for \['f', 'y'\]. .*\['a'\]"):
        play(envelope, flat(1))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ((Term.adaptive("a", 1.0), Term("a", 1.0)), "names of their own"),
        ((Term("a", 1.0, 2.0, 3.0), Term("b", 1.0)), "within their bounds"),
        ((Term("a", 4.0, 2.0, 3.0), Term("b", 1.0)), "within their bounds"),
        ((Term("a", 0.0, 0.0, 3.0), Term("b", 1.0)), "above 0"),
        ((Term("a", 1.0, 0.5, math.inf), Term("b", 1.0)), "finite"),
        ((Term.adaptive("a", 1.0), Term("b", -1.0)), "above 0"),
        ((Term.adaptive("a", 1.0),), "two or more terms"),
    ],
)
def test_terms_that_cannot_be(terms, message):
    with pytest.raises(ValueError, match=rf"^(JointEnvelope: argument `terms` must|GradientShare:) .*{message}"):
        JointEnvelope(GradientShare(), terms)


def test_the_objective_is_made_of_all_terms_and_what_a_step_tells_is_taken_in():
    envelope = JointEnvelope(Wanted({}), BESIDE, QUICK)
    step = {"total_loss": 6.0, "gradient_norm": 4.0, "dampening": 0.5}
    turns = play(envelope, [seen({"a": 3.0, "f": 1.0}, **step), seen({"a": 4.0, "f": 1.0}, **step)])
    core, evidence = turns[-1].after.core, turns[-1].decision.evidence
    assert core.losses.recent == (5.0, 6.0), "a weight of 1 and one of 2"
    assert core.gradient_norms.recent == (4.0, 4.0)
    assert (core.running_total_loss, core.dampened_steps, core.step) == (6.0, 2, 2)
    assert (evidence["loss"], evidence["smoothed_loss"], evidence["gradient_norm"]) == (6.0, 5.5, 4.0)
    assert evidence["share.a"] == 0.5, "what the strategy says"
    assert (evidence["loss_variance"], evidence["stable_steps"]) == (core.losses.variance, 2.0)


def test_an_objective_is_taken_under_the_weights_there_are():
    after = play(FAR, MOVED)[-1].after
    turn = play(FAR, [seen({"a": 1.0, "b": 1.0})], state=after)[-1]
    assert turn.decision.evidence["loss"] == pytest.approx(1.05 + 1 / 1.05)
    assert turn.decision.evidence["variance_threshold"] == 0.5


@pytest.mark.parametrize(
    ("script", "name", "action"),
    [
        (MOVED, "disable", "disable"),
        (MOVED, "enable", "enable"),
        (MOVED, "reset", "reset"),
        (MOVED, "rollback", "rollback"),
        (MOVED[:-1], "rollback", "reject"),
    ],
)
def test_what_a_person_says_goes_with_the_decision(script, name, action):
    """And nothing is made up where a person says nothing."""
    state = play(FAR, script)[-1].after
    for note in ("so be it", ""):
        _, decision = getattr(FAR, name)(state, *[note][: len(note)])
        assert (decision.action, decision.reason.from_outside, decision.note) == (action, True, note)
        assert (decision.step, decision.evidence, decision.held_weights) == (len(script), {}, None)
        assert decision.old_weights == state.core.weight
    turns = play(FAR, [*MOVED, *flat(1, 3.0), *[bad()] * 5])
    assert {turn.decision.note for turn in turns} == {""}
    assert [turn.decision.action for turn in turns if turn.decision.is_event] == ["balance", "rollback", "disable"]


def test_the_numbers_of_a_rollback_a_refusal_and_a_disable():
    spiked = play(FAR, [*MOVED, *flat(1, 3.0)])[-1]
    assert spiked.decision.evidence["trial_ratio"] == pytest.approx(3.0, rel=0.02)
    refused = play(wanted(math.nan, 1.0), MOVED)[-1]
    assert refused.decision.evidence["loss"] == pytest.approx(2.0, rel=0.02)
    assert refused.decision.step == 21
    assert refused.after.core == refused.before.core._replace(
        **{
            name: getattr(refused.after.core, name)
            for name in (
                "step",
                "steps_since_change",
                "observed_steps",
                "stable_steps",
                "losses",
                "gradient_norms",
                "cooling",
            )
        }
    )
    assert play(FAR, [*MOVED, *[bad()] * 5])[-1].decision.evidence["skipped_steps"] == 5.0


def test_a_calibration_waits_for_the_cooling_to_be_over():
    turns = play(wanted(50.0, 0.02, calibrate=True), ["enable", *flat(20)])
    assert changes(turns)[1] == (13, "calibrate", "measured_at_start")


def test_after_a_change_the_statistics_begin_from_the_newest_values():
    turns = play(FAR, [seen({"a": 1.0, "b": 1.0}, gradient_norm=float(i)) for i in range(1, 22)])
    core = turns[-1].after.core
    assert core.gradient_norms == Series(), "those of other weights"
    assert core.losses == Series((pytest.approx(1.05 + 1 / 1.05),) * 3)
    assert (core.steps_since_change, core.cooling, core.previous_weight) == (0, 12, {"a": 1.0, "b": 1.0})
    assert core.trial.baseline_steps == 3
    back = play(FAR, ["rollback"], state=turns[-1].after)[-1].after.core
    assert back.gradient_norms == Series()
    assert back.losses == Series((2.0,) * 6)


def test_losses_of_zero_are_no_losses_below_zero():
    turns = play(wanted(1.2, 1 / 1.2), flat(21, 0.0))
    assert turns[-1].decision.action is Action.BALANCE
    assert turns[-1].after.core.losses.below_zero == 0
    below = play(wanted(1.2, 1 / 1.2), flat(21, -1.0))[-1].after.core.losses
    assert below.below_zero == QUICK.smoothing_steps + QUICK.reference_steps


def test_within_other_bounds_each_weight_goes_to_the_nearer_one():
    tight = JointEnvelope(Wanted({}), (Term("a", 1.0, 0.5, 1.5), Term.adaptive("b", 1.0)), QUICK)
    far, near = {"a": 3.0, "b": 2.0}, {"a": 1.5, "b": 2.0}
    trial = play(FAR, MOVED)[-1].after.core.trial._replace(previous_weight=far)
    wide = tight.initial()
    core = wide.core._replace(weight=far, base_weight=far, previous_weight=far, held_weight=far, trial=trial)
    values = JointEnvelope(Wanted({}), ADAPTIVE, QUICK).to_dict(wide._replace(core=core))
    restored = tight.restored(values).core
    assert restored == core._replace(
        weight=near,
        base_weight=near,
        previous_weight=near,
        held_weight=near,
        trial=trial._replace(previous_weight=near),
    )
    fresh = tight.restored(tight.to_dict(wide)).core
    assert fresh == wide.core, "no other weights come about"


def test_a_stored_state_of_something_else_is_named():
    with pytest.raises(ValueError, match=r"^JointState: field `core` is missing"):
        FAR.restored({})
    values = FAR.to_dict(FAR.initial())
    with pytest.raises(ValueError, match=r"^Wanted: unknown fields"):
        FAR.restored({**values, "strategy": {"Wanted": {"moon": 1}}})


def test_what_a_reset_does_not_forget():
    state = play(wanted(50.0, 0.02, calibrate=True), [*flat(30), bad(), seen({})])[-1].after
    state = state._replace(core=state.core._replace(rollbacks=2))
    after, decision = FAR.reset(state, "back", Reason.RECOVERED_FROM_SKIPS, {"snapshot_step": 3.0})
    assert (after.calibrated, after.recent, after.proposal, after.strategy) == (True, {}, Proposal(), Nothing())
    assert (after.core.rollbacks, after.core.weight, after.core.step) == (2, state.core.weight, 32)
    assert (after.core.losses, after.core.trial, after.core.observed_steps) == (Series(), None, 0)
    assert (decision.note, decision.evidence, decision.reason) == (
        "back",
        {"snapshot_step": 3.0},
        Reason.RECOVERED_FROM_SKIPS,
    )


@pytest.mark.parametrize(
    ("settings", "values", "reason"),
    [
        ({}, {}, "holding"),
        ({}, {"rollbacks": 2}, "off_target"),
        ({}, {"disabled": True}, "disabled"),
        ({"enabled": False}, {}, "switched_off"),
        ({}, {"observed_steps": 0}, "holding"),
    ],
)
def test_after_too_many_rollbacks_it_holds_whatever_gate_is_closed(settings, values, reason):
    envelope = JointEnvelope(FAR.strategy, ADAPTIVE, replace(QUICK, **settings))
    state = play(envelope, flat(20))[-1].after
    state = state._replace(core=state.core._replace(**{"rollbacks": 3, **values}))
    decision = play(envelope, flat(1), state=state)[-1].decision
    assert decision.reason == reason
    assert decision.evidence.get("rollbacks") == (3.0 if reason == "holding" else None)


def test_terms_are_kept_as_they_were_given():
    terms = list(ADAPTIVE)
    envelope = JointEnvelope(Wanted({}), terms, QUICK)
    terms.clear()
    assert envelope.terms == ADAPTIVE


def test_a_state_without_a_strategy_measures_afresh():
    values = SHARE.to_dict(play(SHARE, RUN[:40])[-1].after)
    del values["strategy"]
    restored = SHARE.restored(values)
    assert (restored.core.observed_steps, restored.calibrated, restored.strategy) == (0, True, SHARE.initial().strategy)
    assert restored.core.weight != SHARE.initial().core.weight
    after, decision = SHARE.disable(restored)
    assert after.core.weight == {"a": 1.0}, "also where no loss is known"
    assert (decision.action, after.core.losses) == (Action.DISABLE, Series())


def test_a_manual_rollback_is_no_failure_of_the_strategy():
    core = play(FAR, [*MOVED, "rollback"])[-1].after.core
    assert (core.rollbacks, core.cooling, core.trial) == (0, 12, None)
    assert play(FAR, [*MOVED, bad()])[-1].after.core.rollbacks == 1


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"a": 1.0, "b": 100.1}, "weight_out_of_range"),
        ({"a": 0.009, "b": 1.0}, "weight_out_of_range"),
        ({"a": math.nan, "b": 1.0}, "weight_not_finite"),
        ({"a": 1.0, "b": 100.0}, "weighted_loss_absurd"),
        ({"a": 1.0, "b": 1.0}, None),
    ],
)
def test_validation_refuses_weights_that_must_not_be_used(weights, reason):
    """Called directly: weights outside the bounds are never proposed."""
    state = FAR.initial()._replace(recent={"a": (1.0, 1.0), "b": (1e-9, 1.0)})
    envelope = JointEnvelope(FAR.strategy, ADAPTIVE, replace(QUICK, absurd_loss_factor=1.5))
    assert envelope._refusal(state, weights, {}) == reason


@pytest.mark.parametrize("strategy", [SqrtLoss(measure_every=5, calibrate_steps=5), GradientShare(measure_every=5)])
def test_what_is_no_term_of_the_balance_teaches_nothing(strategy):
    """A penalty of the model, say, which is among the losses of a step."""
    envelope = JointEnvelope(strategy, (Term.adaptive("a", 1.0), Term.adaptive("b", 1.0)), QUICK)
    script = steady(60, {"a": 1.0, "b": 5.0}, losses={"a": 1.0, "b": 100.0}, noise=0.1)
    more = [step._replace(losses={**step.losses, "regularization_loss": 7.0}) for step in script]
    alone, beside = play(envelope, script), play(envelope, more)
    assert [turn.decision for turn in beside][-1].new_weights == [turn.decision for turn in alone][-1].new_weights
    assert beside[-1].after.strategy == alone[-1].after.strategy


def test_the_state_of_one_term_is_that_of_one_weight():
    core = play(wanted(1.5, 0.5), flat(30))[-1].after.core
    assert core.trial is not None
    one = core.of("b")
    assert (one.weight, one.base_weight, one.previous_weight) == (core.weight["b"], 1.0, core.previous_weight["b"])
    assert one.trial == core.trial._replace(previous_weight=core.trial.previous_weight["b"])
    assert one.held_weight is None
    assert (one.step, one.losses, one.cooling) == (core.step, core.losses, core.cooling)
    fresh = wanted().initial().core
    assert (fresh.of("a").previous_weight, fresh.of("a").trial) == (None, None)
    assert fresh._replace(held_weight={"a": 3.0, "b": 2.0}).of("a").held_weight == 3.0


def test_a_run_that_decided_on_each_weight_goes_on_from_these():
    """Without a calibration, disabled if any was, and within today's bounds."""
    config = AdaptiveWeightConfig(min_weight=0.01, max_weight=1e6)
    states = {name: initial_state(config, weight) for name, weight in (("a", 1.5), ("b", 500.0))}
    states["a"] = states["a"]._replace(step=70, held_weight=1.2)
    envelope = wanted(2.0, 1.0, calibrate=True)
    on = envelope.going_on(states)
    assert on.core.weight == {"a": 1.2, "b": 100.0}
    assert (on.core.step, on.core.disabled, on.calibrated) == (70, False, True)
    assert envelope.going_on({**states, "b": states["b"]._replace(disabled=True)}).core.disabled
    assert envelope.going_on({}) == envelope.initial()._replace(calibrated=True)
    assert {t.decision.action for t in play(envelope, flat(60), state=on)} <= {Action.HOLD, Action.BALANCE}
