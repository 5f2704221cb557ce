"""SqrtLoss: equal shares by the square roots of the losses."""

import math

import pytest
from joint_streams import ADAPTIVE, seen

from keras_adaptive_weights.deciding.joint import Term
from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss

WEIGHTS = {"a": 1.0, "b": 1.0}


def run(strategy, losses):
    state, found = strategy.initial(ADAPTIVE), []
    for row in losses:
        state, proposal = strategy.step(state, (seen(row, weights=WEIGHTS),))
        found.append(proposal)
    return state, found


def test_weights_go_as_one_over_the_square_root_of_the_loss():
    _, found = run(SqrtLoss(), [{"a": 4.0, "b": 0.25}] * 20)
    assert [p is None or not p.targets for p in found] == [True] * 19 + [False]
    assert {name: target.weight for name, target in found[-1].targets.items()} == pytest.approx({"a": 0.5, "b": 2.0})
    assert found[-1].calibrate


def test_after_the_start_a_measurement_is_the_root_of_a_mean_over_steps():
    state, found = run(SqrtLoss(measure_every=4, calibrate_steps=None), [{"a": 1.0, "b": 1.0}, {"a": 7.0}] * 4)
    assert [proposal is not None for proposal in found] == [False, False, False, True] * 2
    assert state.shares.measured.logs == {"a": (math.log(2.0),) * 2, "b": (0.0,) * 2}
    assert (state.steps, state.sums, state.counts) == (0, {}, {})


def test_each_step_of_the_start_is_a_measurement():
    state, found = run(SqrtLoss(calibrate_steps=5, measure_every=3), [{"a": 1.0, "b": 1.0}] * 8)
    assert [proposal is not None for proposal in found] == [True] * 5 + [False, False, True]
    assert state.shares.measured.taken == 6


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_a_loss_that_is_not_positive_teaches_nothing(loss):
    state, _ = run(SqrtLoss(), [{"a": 1.0, "b": loss}] * 20)
    assert set(state.shares.measured.logs) == {"a"}


def test_what_it_takes():
    with pytest.raises(ValueError, match=r"SqrtLoss: argument `measure_every` must be an integer in \[1, 10000\]"):
        SqrtLoss(measure_every=0)
    with pytest.raises(ValueError, match=r"SqrtLoss: needs two or more terms"):
        SqrtLoss().initial([Term.adaptive("a", 1.0)])


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [({"calibrate_steps": 4}, ValueError), ({"calibrate_steps": 2.5}, TypeError), ({"measure_every": None}, TypeError)],
)
def test_steps_that_cannot_be(arguments, kind):
    (name,) = arguments
    with pytest.raises(kind, match=rf"^SqrtLoss: argument `{name}` must be an integer"):
        SqrtLoss(**arguments)


def test_after_the_start_measurements_begin_afresh():
    state, _ = run(
        SqrtLoss(calibrate_steps=5, measure_every=2), [{"a": 4.0, "b": 1.0}] * 5 + [{"a": 9.0, "b": 1.0}] * 4
    )
    assert state.shares.measured.taken == 7
    assert state.shares.measured.logs["a"] == pytest.approx((math.log(3.0),) * 2)


def test_shares_are_told_under_the_weights_there_are():
    strategy, weights = SqrtLoss(calibrate_steps=5), {"a": 3.0, "b": 1.0}
    state = strategy.initial(ADAPTIVE)
    for _ in range(5):
        state, proposal = strategy.step(state, (seen({"a": 4.0, "b": 4.0}, weights=weights),))
    assert proposal.evidence == pytest.approx(
        {"measurements": 5.0, "share.a": 0.75, "share.b": 0.25, "intent.a": 0.5, "intent.b": 0.5}
    )


def test_all_steps_of_an_execution_are_taken_in():
    strategy = SqrtLoss(calibrate_steps=None, measure_every=2)
    state, proposal = strategy.step(strategy.initial(ADAPTIVE), [seen({"a": 1.0, "b": 1.0}, weights=WEIGHTS)] * 11)
    assert (state.steps, state.shares.measured.taken, proposal.evidence["measurements"]) == (1, 5, 5.0)
