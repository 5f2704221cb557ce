"""One callback for all adaptive weights of a loss: decisions, record, checkpoint, requests by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from event_records import read
from given_losses import QUICK, RISING, error_to_target, fit, make_model
from journal_rows import rows_of, texts

import keras_adaptive_weights as kaw
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.operating.control import Request

pytestmark = pytest.mark.usefixtures("graphs_as_traced")

TERMS = ("mel_loss", "stop_loss", "pitch_loss")


@keras.saving.register_keras_serializable(package="tests")
def falling(y_true, y_pred):
    """The more the other terms rise, the less it is."""
    return 2.0 / error_to_target(y_true, y_pred)


def make(**kwargs):
    terms = {name: kaw.LossTerm(error_to_target, weight=kaw.AdaptiveWeight(2.0, QUICK)) for name in TERMS[:2]}
    terms |= {"pitch_loss": kaw.LossTerm(falling, weight=kaw.AdaptiveWeight(3.0, QUICK))}
    terms |= {"energy_loss": kaw.LossTerm(error_to_target, weight=0.5)}
    return make_model(loss=kaw.CompositeLoss(terms), **kwargs)


def journal_of(folder):
    return kaw.read_journal(folder / "adaptive_weights" / "journal.jsonl")


def replayed(folder):
    return texts(d for d in kaw.replay(folder / "adaptive_weights" / "journal.jsonl") if d.is_event)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    callback = kaw.AdaptiveWeightCallback(log_dir=folder)
    model = make()
    history = fit(model, RISING, [callback]).history
    return folder, callback, model, history


def test_every_weight_moves_by_itself(run):
    _, callback, model, history = run
    assert {(d.term, d.action) for d in callback.decisions} == {
        ("mel_loss", "increase"),
        ("stop_loss", "increase"),
        ("pitch_loss", "decrease"),
    }
    assert [d.step for d in callback.decisions] == sorted(d.step for d in callback.decisions)
    for name, weight in model.loss.adaptive_weights.items():
        (decision,) = (d for d in callback.decisions if d.term == name)
        assert float(weight.variable) == pytest.approx(decision.new_weight)
        assert history[name.replace("_loss", "_weight")][-1] == pytest.approx(decision.new_weight)


def test_one_journal_holds_all_of_it_and_is_decided_again(run):
    folder, callback, model, _ = run
    path = folder / "adaptive_weights" / "journal.jsonl"
    journal = journal_of(folder)
    assert texts(journal.events) == texts(callback.decisions) == replayed(folder)
    rows = {name: rows_of(path, name) for name in (*TERMS, "energy_loss")}
    for name in (*TERMS[:2], "energy_loss"):
        assert [row["loss"] for row in rows[name]] == pytest.approx(RISING)
    total = sum(rows[name][-1]["loss"] * (rows[name][-1]["weight"] or 0.5) for name in TERMS)
    assert rows["mel_loss"][-1]["total_loss"] == pytest.approx(total + 0.5 * RISING[-1], rel=1e-5)
    index = JournalIndex(path)
    index.refresh()
    assert (index.terms, index.fixed) == (list(TERMS), {"energy_loss": 0.5})
    for name, weight in model.loss.adaptive_weights.items():
        assert index.of(name).weight == weight.weight


def test_tensorboard_gets_every_term_and_nothing_without_the_prefix(run):
    folder, callback, _, _ = run
    records = read(folder / "adaptive_weights")
    assert {tag for tag in records if not tag.startswith("adaptive_weights/")} == {"custom_scalars__config__"}
    for decision in callback.decisions:
        assert records[f"adaptive_weights/{decision.term}/weight"][decision.step] == pytest.approx(decision.new_weight)
        assert decision.step in records[f"adaptive_weights/{decision.term}/decisions/{decision.action}"]


def test_one_term_of_several_moves_alone_and_the_others_are_recorded_as_fixed(tmp_path):
    callback = kaw.AdaptiveWeightCallback("stop_loss", log_dir=tmp_path)
    model = make()
    fit(model, RISING, [callback])
    assert [d.term for d in callback.decisions] == ["stop_loss"]
    assert [w.step_count for w in model.loss.adaptive_weights.values()] == [0, 80, 0]
    header = journal_of(tmp_path).headers[0]
    assert header.adaptive == ("stop_loss",)
    assert {name: start.weight for name, start in header.terms.items()} == {
        "mel_loss": 2.0, "stop_loss": 2.0, "pitch_loss": 3.0, "energy_loss": 0.5, "regularization_loss": 1.0,
    }  # fmt: skip
    everything = kaw.AdaptiveWeightCallback(log_dir=tmp_path)
    fit(model, RISING[:20], [everything])
    assert [w.step_count for w in model.loss.adaptive_weights.values()] == [100] * 3, "those that join count on"
    assert replayed(tmp_path) == texts(everything.decisions)


class Asks(keras.callbacks.Callback):
    """Asks for something before one batch."""

    def __init__(self, batch, ask):
        super().__init__()
        self.batch, self.ask = batch, ask

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch:
            self.ask()


def test_what_is_asked_for_by_hand_is_asked_of_all_or_of_one(tmp_path):
    callback = kaw.AdaptiveWeightCallback(log_dir=tmp_path)
    callback.reset("before fit", term="pitch_loss")
    model = make()
    asks = [
        Asks(70, lambda: callback.emergency_disable("all of them")),
        Asks(72, lambda: callback.enable("only this", term="stop_loss")),
        Asks(75, lambda: callback.rollback("none to undo", term="mel_loss")),
    ]
    fit(model, RISING, [*asks, callback])
    by_hand = [(d.step, d.term, str(d.action), d.note) for d in callback.decisions if d.by_hand]
    assert by_hand == [
        (0, "pitch_loss", "reset", "before fit"),
        *((70, name, "disable", "all of them") for name in TERMS),
        (72, "stop_loss", "enable", "only this"),
        (75, "mel_loss", "reject", "none to undo"),
    ]
    assert replayed(tmp_path) == texts(callback.decisions)
    metrics = callback.get_adaptive_weight_metrics()
    assert {name: of["weight_adjustment_enabled"] for name, of in metrics.items()} == {
        "mel_loss": False, "stop_loss": True, "pitch_loss": False,
    }  # fmt: skip
    assert callback.get_adaptive_weight_metrics("stop_loss") == metrics["stop_loss"]
    assert callback.get_stability_metrics("stop_loss")["step_count"] == 80
    for ask in (callback.enable, callback.reset):
        with pytest.raises(ValueError, match=r"Received: term='pich_loss'; there are \['mel_loss', 'stop_loss'"):
            ask("x", term="pich_loss")
    with pytest.raises(ValueError, match=r"there are \['mel_loss'"):
        callback.get_stability_metrics("pich_loss")


def test_an_unknown_term_that_was_asked_for_before_fit_is_refused_by_it():
    callback = kaw.AdaptiveWeightCallback()
    callback.emergency_disable("x", term="pich_loss")
    with pytest.raises(ValueError, match="term='pich_loss'"):
        fit(make(), RISING[:3], [callback])


def test_an_operator_s_command_for_one_term_and_for_a_term_that_there_is_not(tmp_path, caplog):
    callback = kaw.AdaptiveWeightCallback(log_dir=tmp_path)

    class Control:
        def poll(self):
            requests, self.poll = [Request("1", "disable", "one", 9e9, "stop_loss")], list
            return [*requests, Request("2", "disable", "none", 9e9, "pich_loss")]

    fit(make(), RISING[:5], [Asks(3, lambda: setattr(callback, "_control", Control())), callback])
    assert [(d.term, d.note) for d in callback.decisions] == [("stop_loss", "one")]
    assert "A request is ignored" in caplog.text
    assert "pich_loss" in caplog.text


def test_a_checkpoint_holds_all_states_and_the_record_goes_on(tmp_path):
    whole = kaw.AdaptiveWeightCallback(log_dir=tmp_path / "whole")
    fit(make(), RISING, [whole])
    model, callback = make(), kaw.AdaptiveWeightCallback(log_dir=tmp_path / "parts")
    fit(model, RISING[:45], [callback])
    model.save_weights(tmp_path / "half.weights.h5")
    fit(model, RISING[:10], [callback])  # lost
    model = make()
    model.load_weights(tmp_path / "half.weights.h5")
    resumed = kaw.AdaptiveWeightCallback(log_dir=tmp_path / "parts")
    fit(model, RISING[45:], [resumed])
    assert replayed(tmp_path / "parts") == texts(whole.decisions)
    assert journal_of(tmp_path / "parts").problems == []


@pytest.mark.parametrize("steps_per_execution", [1, 8])
def test_a_bad_batch_is_seen_by_all_and_an_execution_is_decided_on_once(steps_per_execution, tmp_path):
    losses = [*RISING[:30], np.nan, *RISING[30:]]
    callback = kaw.AdaptiveWeightCallback(log_dir=tmp_path)
    model = make(steps_per_execution=steps_per_execution)
    fit(model, losses, [callback])
    journal = journal_of(tmp_path)
    for name, weight in model.loss.adaptive_weights.items():
        assert [o.step for o in journal.of(name).observations if not o.applied] == [31]
        assert weight.state.skipped_steps == 1
    decisions = kaw.replay(journal)
    assert len(decisions) == 3 * -(-81 // steps_per_execution)
    assert replayed(tmp_path) == texts(callback.decisions)


def test_a_shadow_run_holds_all_weights(tmp_path):
    callback = kaw.AdaptiveWeightCallback(log_dir=tmp_path, shadow=True)
    model = make()
    fit(model, RISING, [callback])
    assert {d.held_weight for d in callback.decisions} == {2.0, 3.0}
    assert [float(w.variable) for w in model.loss.adaptive_weights.values()] == [2.0, 2.0, 3.0]
    index = JournalIndex(tmp_path / "adaptive_weights" / "journal.jsonl", term="pitch_loss")
    index.refresh()
    assert (index.shadow, index.weight, index.proposed) == (True, 3.0, pytest.approx(3.0 / 1.05))
    assert kaw.replay(index.path)[-1].held_weight == 3.0


def test_the_recovery_of_the_model_is_told_to_all(tmp_path):
    losses = [*RISING[:30], *[np.nan] * 6, *RISING[:10]]
    callback = kaw.AdaptiveWeightCallback(log_dir=tmp_path, recovery=kaw.ModelRecovery(every=5, after=5))
    fit(make(), losses, [callback])
    told = [d.term for d in callback.decisions if d.reason is kaw.Reason.RECOVERED_FROM_SKIPS]
    assert told == list(TERMS)
    assert replayed(tmp_path) == texts(callback.decisions)


def test_one_weight_for_two_terms_is_refused():
    weight = kaw.AdaptiveWeight(2.0, QUICK)
    loss = kaw.CompositeLoss({name: kaw.LossTerm(error_to_target, weight=weight) for name in TERMS[:2]})
    with pytest.raises(ValueError, match=r"an adaptive weight of its own.*`kaw.AdaptiveWeight\(...\)` once for each"):
        fit(make_model(loss=loss), RISING[:3], [kaw.AdaptiveWeightCallback()])


def test_a_loss_without_an_adaptive_weight_is_refused_with_the_line_to_change():
    loss = kaw.CompositeLoss({"mel_loss": kaw.LossTerm(error_to_target, weight=12.0)})
    with pytest.raises(
        ValueError, match=r"no weight of the loss is adaptive. Write `LossTerm\(fn, weight=Adapt.*12.0, "
    ):
        fit(make_model(loss=loss), RISING[:3], [kaw.AdaptiveWeightCallback()])
    with pytest.raises(
        ValueError, match=r"Write `model.compile\(..., loss_weights=\{'.*': kaw.AdaptiveWeight\(1.0\)\}\)`"
    ):
        fit(make_model(loss="mse"), RISING[:3], [kaw.AdaptiveWeightCallback()])


def test_an_observer_of_one_weight_may_ask_for_something_of_all_from_another_thread():
    """Nobody waits for anybody for ever."""
    import threading

    callback = kaw.AdaptiveWeightCallback()

    class Panics:
        def observe(self, observations, decision):
            if decision.note == "first":
                callback.emergency_disable("second")

    callback = kaw.AdaptiveWeightCallback(observers=[Panics()])
    threads = []

    def ask():
        threads.append(threading.Thread(target=lambda: callback.reset("first", term="pitch_loss")))
        threads[-1].start()

    fit(make(), RISING[:40], [*(Asks(batch, ask) for batch in range(2, 40)), callback])
    for thread in threads:
        thread.join(30.0)
        assert not thread.is_alive()
    assert {d.term for d in callback.decisions if d.note == "second"} == set(TERMS)
