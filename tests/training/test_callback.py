"""The callbacks: wiring between model, weight and record, and what they refuse."""

from __future__ import annotations

import threading
import time

import keras
import numpy as np
import pytest
from given_losses import QUICK, RISING, error_to_target, fit, make_model

import keras_adaptive_weights as kaw
from keras_adaptive_weights.operating.control import CONTROL, Switch

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "traced_models")


def test_the_variable_the_loss_reads_is_the_one_that_was_decided():
    callback = kaw.AdaptiveMelWeightCallback()
    model = make_model()
    history = fit(model, RISING, [callback]).history
    (decision,) = callback.decisions
    assert (decision.action, decision.reason) == (kaw.Action.INCREASE, kaw.Reason.LOSS_HIGH)
    assert 40 < decision.step < 60
    weight = model.loss.terms["mel_loss"].weight
    assert float(weight.variable) == pytest.approx(2.5 * 1.05)
    total_after = (2.5 * 1.05 + 1.0) * 1.5
    logs = model.train_on_batch(np.ones((4, 2), "float32"), np.full((4, 1), 1.5, "float32"), return_dict=True)
    assert logs["loss"] == pytest.approx(total_after, rel=1e-5)
    assert history["mel_weight"][0] == pytest.approx(2.5 * 1.05)


@pytest.mark.parametrize("mode", [{}, {"run_eagerly": True}, {"jit_compile": True}])
def test_decisions_are_the_same_in_every_mode_and_in_a_replay(mode, tmp_path):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)
    fit(make_model(**mode), RISING, [callback])
    observations = [kaw.Observation(i, value, gradient_norm=0.0) for i, value in enumerate(RISING, 1)]
    expected = [d for d in kaw.replay(observations, QUICK, 2.5) if d.is_event]
    assert [(d.step, d.action, d.reason) for d in callback.decisions] == [
        (d.step, d.action, d.reason) for d in expected
    ]


def test_one_decision_per_execution():
    callback = kaw.AdaptiveMelWeightCallback()
    seen = []

    class Count:
        def observe(self, observations, decision):
            seen.append((len(observations), decision.step))

    callback = kaw.AdaptiveMelWeightCallback(observers=[Count()])
    fit(make_model(steps_per_execution=8), RISING[:20], [callback])
    assert seen == [(8, 8), (8, 16), (4, 20)]


def test_a_second_fit_goes_on_where_the_first_ended(tmp_path):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)
    model = make_model()
    fit(model, RISING[:30], [callback])
    fit(model, RISING[30:], [callback])
    assert [d.action for d in callback.decisions] == [kaw.Action.INCREASE]
    journal = kaw.read_journal(tmp_path / "adaptive_weights" / "journal.jsonl")
    assert [o.step for o in journal.observations] == list(range(1, 81))
    assert len(journal.headers) == 2
    assert journal.problems == []


@pytest.mark.parametrize("terms", [(None, None), ("mel_loss", None), ("mel_loss", "stop_loss")])
def test_two_callbacks_in_one_fit_are_refused_at_once(terms, tmp_path):
    weights = {
        n: kaw.LossTerm(error_to_target, weight=kaw.AdaptiveWeight(2.0, QUICK)) for n in ("mel_loss", "stop_loss")
    }
    callbacks = [kaw.AdaptiveWeightCallback(term, log_dir=tmp_path / str(i)) for i, term in enumerate(terms)]
    message = r"takes one callback of this kind.*Write `callbacks=\[AdaptiveWeightCallback\(log_dir='.*0'\)\]` for all"
    with pytest.raises(ValueError, match=message):
        fit(make_model(loss=kaw.CompositeLoss(weights)), RISING[:5], callbacks)
    assert not list(tmp_path.iterdir())


def test_emergency_disable_takes_effect_from_the_next_execution_on(tmp_path):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)

    class Operator(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 70:
                callback.emergency_disable("operator saw clipping")

    model = make_model()
    fit(model, RISING, [Operator(), callback])
    assert [d.action for d in callback.decisions] == [kaw.Action.INCREASE, kaw.Action.DISABLE]
    disable = callback.decisions[-1]
    assert (disable.step, disable.note, disable.new_weight) == (70, "operator saw clipping", 2.5)
    assert float(model.loss.terms["mel_loss"].weight.variable) == 2.5
    journal = kaw.read_journal(tmp_path / "adaptive_weights" / "journal.jsonl")
    assert journal.weights[69:71] == [pytest.approx(2.625), 2.5]
    assert journal.events[-1] == disable
    assert callback.get_adaptive_weight_metrics()["weight_adjustment_enabled"] is False
    callback.enable("checked")
    callback.reset()
    assert [d.action for d in callback.decisions][-2:] == [kaw.Action.ENABLE, kaw.Action.RESET]


def test_what_is_asked_before_fit_is_done_at_its_start():
    callback = kaw.AdaptiveMelWeightCallback()
    callback.emergency_disable("not yet")
    assert callback.decisions == []
    assert callback.get_adaptive_weight_metrics() == callback.get_stability_metrics() == {}
    fit(make_model(), RISING, [callback])
    assert [(d.action, d.step) for d in callback.decisions] == [(kaw.Action.DISABLE, 0)]


def test_rollback_by_hand_undoes_the_last_change_exactly():
    callback = kaw.AdaptiveMelWeightCallback()
    model = make_model()
    fit(model, RISING, [callback])
    callback.rollback("too early")
    assert callback.decisions[-1].action is kaw.Action.ROLLBACK
    assert float(model.loss.terms["mel_loss"].weight.variable) == 2.5
    callback.rollback()
    assert callback.decisions[-1].reason is kaw.Reason.NOTHING_TO_ROLL_BACK


def test_a_note_that_is_no_text_is_refused_before_anything_is_done():
    callback = kaw.AdaptiveMelWeightCallback()
    for method in ("emergency_disable", "enable", "rollback", "reset"):
        for note in (ValueError("x"), None, 3, b"bytes"):
            message = r"AdaptiveMelWeightCallback: argument `note` must be text. .*`note=str\("
            with pytest.raises(TypeError, match=message):
                getattr(callback, method)(note)
    fit(make_model(), RISING[:3], [callback])
    assert callback.decisions == []


def test_an_observer_that_raises_is_left_out_and_training_goes_on(tmp_path):
    class Broken:
        def observe(self, observations, decision):
            raise RuntimeError("disk on fire")

    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path, observers=[Broken()])
    with pytest.warns(RuntimeWarning, match="Broken failed and is left out from step 1 on.*disk on fire"):
        fit(make_model(), RISING, [callback])
    assert len(kaw.read_journal(tmp_path / "adaptive_weights" / "journal.jsonl").observations) == 80


def test_after_an_exception_in_fit_the_next_fit_records_once(tmp_path):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)

    class Bomb(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 9:
                raise RuntimeError("user code")

    model = make_model()
    with pytest.raises(RuntimeError, match="user code"):
        fit(model, RISING, [callback, Bomb()])
    fit(model, RISING[:10], [callback])
    steps = [o.step for o in kaw.read_journal(tmp_path / "adaptive_weights" / "journal.jsonl").observations]
    assert steps == list(range(1, 21))


def test_validation_is_not_counted():
    callback = kaw.AdaptiveMelWeightCallback()
    validation = (np.ones((8, 2), "float32"), np.full((8, 1), 9.0, "float32"))
    model = make_model()
    fit(model, RISING, [callback], validation_data=validation)
    assert callback.get_stability_metrics()["step_count"] == 80
    assert [d.action for d in callback.decisions] == [kaw.Action.INCREASE]


def test_a_model_without_the_mixin_is_refused():
    model = make_model(cls=keras.Model)
    with pytest.raises(ValueError, match=r"needs a model with StableTrainStepMixin.*`model = kaw.stable\(model\)`"):
        fit(model, RISING, [kaw.AdaptiveMelWeightCallback()])


def test_a_loss_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"needs a model compiled with an adaptive weight.*'mse'"):
        fit(make_model(loss="mse"), RISING, [kaw.AdaptiveMelWeightCallback()])


def test_a_term_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"term='pitch_loss'; there are \['mel_loss', 'stop_loss'\]"):
        fit(make_model(), RISING, [kaw.AdaptiveWeightCallback(term="pitch_loss")])


def test_a_term_with_a_fixed_weight_is_refused():
    with pytest.raises(ValueError, match=r"weight of term 'stop_loss' is fixed \(1.0\)"):
        fit(make_model(), RISING, [kaw.AdaptiveWeightCallback(term="stop_loss")])


def test_a_folder_of_another_run_is_refused_and_kept(tmp_path):
    fit(make_model(), RISING, [kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)])
    file = tmp_path / "adaptive_weights" / "journal.jsonl"
    before = file.read_bytes()
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(make_model(), RISING, [kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)])
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"log_dir": 3}, TypeError, "log_dir"),
        ({"update_freq": 0}, ValueError, "update_freq"),
        ({"update_freq": 1.5}, TypeError, "update_freq"),
        ({"observers": [print]}, TypeError, "observe"),
        ({"term": 3}, TypeError, "term"),
    ],
)
def test_bad_arguments_are_refused_at_construction(kwargs, error, message):
    with pytest.raises(error, match=message):
        kaw.AdaptiveWeightCallback(**{"term": "mel_loss", **kwargs})


def test_verbose_prints_one_line_per_event(capsys):
    callback = kaw.AdaptiveMelWeightCallback(verbose=1)
    fit(make_model(), RISING, [callback])
    (event,) = callback.decisions
    assert capsys.readouterr().out.splitlines() == ["", str(event)]
    fit(make_model(), RISING, [kaw.AdaptiveMelWeightCallback()])
    assert capsys.readouterr().out == ""


class AskFromOutside(keras.callbacks.Callback):
    """An operator's command, from a thread of its own as from another process."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.taken, self.thread = folder, [], None

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 70:
            run = kaw.read_journal(self.folder / "journal.jsonl").headers[-1].run
            switch = Switch(self.folder, run)
            ask = threading.Thread(target=lambda: self.taken.append(switch.ask("disable", "clipping", timeout=2.0)))
            ask.start()
            self.thread = ask
            while not (self.folder / CONTROL).exists():
                time.sleep(0.01)
            time.sleep(1.1)  # the callback looks once a second

    def on_train_end(self, logs=None):
        self.thread.join()


@pytest.mark.parametrize("remote_control", [True, False])
def test_an_operator_s_command_reaches_the_training(tmp_path, remote_control):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path, remote_control=remote_control)
    operator = AskFromOutside(tmp_path / "adaptive_weights")
    fit(make_model(), RISING, [operator, callback])
    assert operator.taken == [remote_control]
    asked = [(d.action, d.note) for d in callback.decisions[1:]]
    assert asked == ([(kaw.Action.DISABLE, "clipping")] if remote_control else [])
