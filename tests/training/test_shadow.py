"""Shadow mode: decided and recorded, never put into force, and nobody who reads the record is misled."""

import copy
import itertools
import json
import logging

import keras
import numpy as np
import pytest
from event_records import read
from given_losses import QUICK, RISING, fit, make_model

import keras_adaptive_weights as kaw
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.operating.text import Style, status_lines, what_if_lines
from keras_adaptive_weights.recording.what_if import what_if
from keras_adaptive_weights.showing.dashboard.store import RunStore
from keras_adaptive_weights.showing.picture import draw_run
from keras_adaptive_weights.showing.report import make_report
from keras_adaptive_weights.showing.report_pages import to_text
from keras_adaptive_weights.showing.view import view

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "traced_models")

RAISED = 2.5 * 1.05
LOWERED = 2.5 / 1.05
LOSSES = [level for level in (1.0, 0.6, 0.36, 0.7) for _ in range(40)]  # lowered twice, then raised


def weight_of(model):
    return model.loss.terms["mel_loss"].weight


class Watch(keras.callbacks.Callback):
    """Notes the weight that the loss reads on every step, and does what a plan says before some of them."""

    def __init__(self, plan=None):
        super().__init__()
        self.plan, self.seen, self.step = plan or {}, [], 0

    def on_train_batch_begin(self, batch, logs=None):
        self.plan.get(self.step, lambda: None)()
        self.seen.append(float(weight_of(self.model).variable))
        self.step += 1


def train(losses=LOSSES, *, shadow=True, model=None, plan=None, **kwargs):
    """Return the callback, the model, the history and the weights that were in force."""
    callback = kaw.AdaptiveMelWeightCallback(shadow=shadow, **kwargs)
    model, watch = model or make_model(), Watch(plan)
    history = fit(model, losses, [watch, callback]).history
    return callback, model, history, watch.seen


def told(decisions):
    return [(d.step, d.action, d.reason, d.old_weight, d.new_weight, d.note) for d in decisions]


def journal_of(folder):
    return kaw.read_journal(folder / "adaptive_weights" / "journal.jsonl")


def lines_of(folder):
    return [json.loads(line) for line in (folder / "adaptive_weights" / "journal.jsonl").read_text().splitlines()]


# --- the weight ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [{}, {"jit_compile": True, "steps_per_execution": 4}])
def test_it_decides_as_if_and_writes_nothing(mode):
    """The losses here do not depend on the weight, so the decisions are those of a run in which they take effect."""
    shadow, model, history, in_force = train(model=make_model(**mode))
    real, _, real_history, _ = train(model=make_model(**mode), shadow=False)
    assert told(shadow.decisions) == told(real.decisions)
    assert [d.action for d in shadow.decisions] == ["decrease", "decrease", "increase"]
    assert set(in_force) == {2.5}
    assert float(weight_of(model).variable) == weight_of(model).weight == 2.5
    assert history["mel_weight"] == [2.5] != real_history["mel_weight"]


def test_the_general_callback_takes_it_too():
    model = make_model()
    callback = kaw.AdaptiveWeightCallback(term="mel_loss", shadow=True)
    fit(model, RISING, [callback])
    assert (callback.decisions[0].new_weight, float(weight_of(model).variable)) == (RAISED, 2.5)


def test_anything_but_true_or_false_is_refused():
    with pytest.raises(TypeError, match=r"argument `shadow` must be True or False\. Received: shadow='yes'"):
        kaw.AdaptiveMelWeightCallback(shadow="yes")


@pytest.mark.parametrize("request_", ["emergency_disable", "enable", "rollback", "reset"])
def test_requests_by_hand_are_recorded_and_leave_the_weight(request_):
    """A weight that had been raised for real before, so that a disable would move it."""
    _, model, _, _ = train(RISING, shadow=False)
    callback = kaw.AdaptiveMelWeightCallback(shadow=True)
    watch = Watch({40: lambda: getattr(callback, request_)("tried")})
    fit(model, [1.5] * 80, [watch, callback])
    (asked,) = [d for d in callback.decisions if d.note == "tried"]
    assert asked.action in request_
    assert asked.held_weight == RAISED
    assert set(watch.seen) == {np.float32(RAISED)}
    assert weight_of(model).weight == RAISED
    assert weight_of(model).enabled is (request_ != "emergency_disable")


def test_what_the_circuit_breaker_decides_leaves_the_weight_too():
    _, model, _, _ = train(RISING, shadow=False)
    callback, _, _, in_force = train([np.nan] * 6, model=model)
    assert callback.decisions[-1].reason is kaw.Reason.REPEATED_NON_FINITE
    assert (callback.decisions[-1].new_weight, set(in_force)) == (2.5, {np.float32(RAISED)})


# --- the record ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A shadow run with requests by hand, under `steps_per_execution=1`."""
    folder = tmp_path_factory.mktemp("shadow")
    callback = kaw.AdaptiveMelWeightCallback(shadow=True, log_dir=folder, update_freq=1)
    asked = {90: callback.rollback, 130: callback.emergency_disable, 135: callback.enable, 140: callback.reset}
    watch = Watch({step: lambda ask=ask: ask("by hand") for step, ask in asked.items()})
    fit(make_model(), [*LOSSES, *RISING], [watch, callback])
    (folder / "decisions.json").write_text(json.dumps([str(d) for d in callback.decisions]))
    return folder


def test_the_journal_tells_both_weights_apart(folder):
    header, *lines = lines_of(folder)
    assert header["shadow"] is True
    steps = [line for line in lines if line["kind"] == "step"]
    assert {weight for line in steps for weight in line.get("weights", {}).values()} == {2.5}
    events = [line for line in lines if line["kind"] == "event"]
    assert {line["held_weight"] for line in events} == {2.5}
    journal = journal_of(folder)
    assert journal.headers[0].shadow
    assert set(journal.weights) == {2.5}
    after = {event.step: event.new_weight for event in journal.events}
    index = JournalIndex(folder / "adaptive_weights" / "journal.jsonl")
    index.refresh()
    rows = [row for span in index.spans for row in index.rows(span)]
    assert len({row["proposed_weight"] for row in rows}) > 2
    for row, following in itertools.pairwise(rows):
        assert following["proposed_weight"] == after.get(row["step"], row["proposed_weight"])


def test_a_run_that_is_none_says_nothing_of_it(tmp_path):
    callback, _, _, _ = train(RISING, shadow=False, log_dir=tmp_path)
    header, *lines = lines_of(tmp_path)
    assert header["shadow"] is False
    assert not any({"proposed_weights", "held_weight"} & set(line) for line in lines)
    assert "adaptive_weights/mel_loss/proposed" not in read(tmp_path / "adaptive_weights")
    assert "proposed_mel_weight" not in callback.get_adaptive_weight_metrics()
    assert "shadow" not in to_text(make_report(tmp_path)) + str(callback.decisions[0])


def test_a_replay_takes_the_same_decisions(folder):
    """Those by hand at the same places, and each says that it was a proposal."""
    again = kaw.replay(folder / "adaptive_weights" / "journal.jsonl")
    assert [str(d) for d in again if d.is_event] == json.loads((folder / "decisions.json").read_text())
    assert [str(d) for d in journal_of(folder).events] == [str(d) for d in again if d.is_event]
    assert {d.held_weight for d in again} == {2.5}
    assert all("in shadow (2.5 stays in force)" in str(d) for d in again)


def test_tensorboard_shows_both_weights(folder):
    records = read(folder / "adaptive_weights")
    assert set(records["adaptive_weights/mel_loss/weight"].values()) == {2.5}
    assert np.float32(RAISED) in records["adaptive_weights/mel_loss/proposed"].values()
    assert all(
        b"(shadow run: 2.5 stays in force)" in text
        for text in records["adaptive_weights/mel_loss/decisions/increase"].values()
    )


def test_report_picture_command_line_and_dashboard_say_so(folder):
    report = make_report(folder)
    assert (report.shadow, report.weight, report.lowest, report.highest, report.largest_change) == (
        True, 2.5, 2.5, 2.5, 0.0
    )  # fmt: skip
    assert "decisions are recorded only, 2.5 stays in force" in to_text(report)
    assert "2.5 → 2.625 (shadow)" in to_text(report)
    assert "Why the weight would have moved" in to_text(report)
    status = "\n".join(status_lines(report, Style()))
    assert "shadow run  decisions are recorded only" in status
    assert "in shadow (2.5 stays in force)" in status
    journal = journal_of(folder)
    lines = what_if_lines(what_if(journal), journal.headers[0].config, Style())
    assert "they were proposals" in " ".join(lines)
    index = JournalIndex(folder / "adaptive_weights" / "journal.jsonl")
    index.refresh()
    assert (index.shadow, index.weight, index.proposed) == (True, 2.5, journal.events[-1].new_weight)
    store = RunStore({"": str(folder.parent)})
    (name,) = [name for name in store.names() if name.endswith(folder.name)]
    assert {"shadow": True, "weight": 2.5, "proposed": index.proposed}.items() <= store.summary(name).items()
    assert max(view(index, points=20).column("proposed_weight", "greatest")) > 2.5
    assert draw_run(index).startswith(b"\x89PNG")


def test_the_metrics_tell_what_is_in_force_and_what_is_proposed():
    callback, model, _, _ = train(RISING)
    metrics = callback.get_adaptive_weight_metrics()
    assert (metrics["current_mel_weight"], metrics["previous_mel_weight"]) == (2.5, 2.5)
    assert metrics["proposed_mel_weight"] == RAISED
    assert weight_of(model).shadow


# --- checkpoints, and what comes after a shadow run -------------------------------------------------------


def through_weights(model, folder):
    model.save_weights(folder / "model.weights.h5")
    other = make_model()
    other.build((None, 2))
    other.optimizer.build(other.trainable_variables)
    other.load_weights(folder / "model.weights.h5")
    return other


def through_state(model, folder):
    """As every checkpoint format does it: `to_dict`, JSON, `restore`."""
    other = make_model()
    weight_of(other).restore(json.loads(json.dumps(weight_of(model).to_dict())))
    return other


def through_a_trained_model(model, folder):
    """Into one that a real `fit` has trained before."""
    _, other, _, _ = train(RISING[:5], shadow=False)
    weight_of(other).restore(weight_of(model).to_dict())
    return other


WAYS = [through_weights, through_state, through_a_trained_model, lambda model, folder: model]
IDS = ["weights file", "state", "trained model", "same process"]


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_a_shadow_run_goes_on_in_shadow(way, tmp_path):
    """Proposals go on as if it had not been interrupted, and the weight stays; also before `fit` begins."""
    whole, _, _, _ = train()
    _, model, _, _ = train(LOSSES[:100])
    resumed = way(model, tmp_path)
    assert float(weight_of(resumed).variable) == weight_of(resumed).weight == 2.5
    assert weight_of(resumed).state == weight_of(model).state
    second, _, _, in_force = train(LOSSES[100:], model=resumed)
    assert told(d for d in second.decisions if d.step > 100) == told(d for d in whole.decisions if d.step > 100) != []
    assert set(in_force) == {2.5}


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_what_was_proposed_is_not_put_into_force_by_the_next_fit(way, tmp_path, caplog):
    """The weight goes on from where it is, with the statistics there are, after a full cooling period."""
    _, model, _, _ = train(LOSSES[:120])
    assert weight_of(model).state.weight == LOWERED / 1.05
    resumed = way(model, tmp_path)
    known = weight_of(resumed).state
    with caplog.at_level(logging.INFO, "keras_adaptive_weights"):
        real, _, _, in_force = train([0.36] * 4 + [0.7] * 60, model=resumed, shadow=False)
    assert "What is in force stays (2.5); what was proposed in shadow is dropped (2.268)" in caplog.text
    assert set(in_force[: QUICK.cooling_period + 1]) == {2.5}
    moved = [d for d in real.decisions if d.step > known.step]
    assert moved[0].old_weight == 2.5
    assert moved[0].step - known.step > QUICK.cooling_period
    assert float(weight_of(resumed).variable) == np.float32(weight_of(resumed).state.weight) != 2.5
    path = [*in_force, float(weight_of(resumed).variable)]
    assert max(abs(np.log(b / a)) for a, b in itertools.pairwise(path)) <= np.log(1.05) + 1e-6
    assert not weight_of(resumed).shadow


def test_a_disable_of_the_shadow_run_stays_and_moves_nothing():
    """Also where the weight in force is not the base weight."""
    _, model, _, _ = train(RISING, shadow=False)
    train([1.5] * 5, model=model)
    weight_of(model).disable("between two fits")
    assert float(weight_of(model).variable) == np.float32(RAISED)
    callback, _, _, in_force = train([1.5] * 40, model=model, shadow=False)
    assert set(in_force) == {np.float32(RAISED)}
    assert not weight_of(model).enabled
    assert callback.get_adaptive_weight_metrics()["current_mel_weight"] == RAISED


def test_a_real_run_may_be_followed_by_a_shadow_run(tmp_path):
    """Shadow holds what was in force; one journal tells the two apart, and so does its replay."""
    _, model, _, _ = train(RISING, shadow=False, log_dir=tmp_path)
    second, _, _, in_force = train([0.9] * 60, model=model, log_dir=tmp_path)
    assert set(in_force) == {np.float32(RAISED)}
    third, _, _, _ = train([1.4] * 60, model=model, shadow=False, log_dir=tmp_path)
    journal = journal_of(tmp_path)
    assert [header.shadow for header in journal.headers] == [False, True, False]
    assert journal.headers[2].state["weight"] == RAISED
    again = [d for d in kaw.replay(journal) if d.is_event]
    assert [str(d) for d in again] == [str(d) for d in journal.events] == [str(d) for d in third.decisions]
    assert {d.held_weight for d in second.decisions} == {None, RAISED}
    assert told(what_if(journal, QUICK).decided) == told(again), "a what-if knows where the shadow began and ended"


# --- nothing else writes the weight -----------------------------------------------------------------------


def test_a_checkpoint_of_a_real_run_that_is_loaded_while_in_shadow_does_not_end_it():
    """It brings its own weight in force, as it always does, and that stays."""
    other = make_model()
    train(RISING, model=other, shadow=False)
    saved, model = weight_of(other).to_dict(), make_model()
    callback, _, _, in_force = train(model=model, plan={45: lambda: weight_of(model).restore(saved)})
    assert in_force[44:47] == [2.5, np.float32(RAISED), np.float32(RAISED)]
    assert set(in_force[45:]) == {np.float32(RAISED)}
    assert [d.action for d in callback.decisions if d.step > 80]


def test_a_checkpoint_of_a_shadow_run_that_is_loaded_in_a_real_fit_does_not_begin_one():
    other = make_model()
    train(RISING, model=other)
    saved, model = weight_of(other).to_dict(), make_model()
    plan = {5: lambda: weight_of(model).restore(saved)}
    _, _, _, in_force = train([1.5] * 40 + [0.9] * 20, model=model, shadow=False, plan=plan)
    assert in_force[6] == 2.5
    assert in_force[-1] == np.float32(LOWERED)
    assert not weight_of(model).shadow


def test_a_snapshot_that_is_restored_within_and_a_copy_leave_the_weight():
    _, model, _, _ = train(RISING)
    weight = weight_of(model)
    with weight.unchanged():
        weight.restore(kaw.AdaptiveWeight(4.0, QUICK).to_dict())
    other = copy.deepcopy(weight)
    for one in (weight, other):
        assert (float(one.variable), one.weight, one.state.weight) == (2.5, 2.5, RAISED)
