"""What may go wrong around the training: interrupts, threads, signals, disks, observers, data."""

from __future__ import annotations

import errno
import functools
import inspect
import itertools
import json
import math
import os
import pathlib
import signal
import sys
import textwrap
import threading
import time
import warnings
from collections import deque
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from given_losses import QUICK, RISING, error_to_target, fit, make_model
from processes import Program
from small_training import batches, make_loss, values_of
from small_training import fit as fit_batches
from small_training import make_model as make_training_model

import keras_adaptive_weights as kaw
from keras_adaptive_weights.journal import writer as journal_room
from keras_adaptive_weights.training.recovery import ModelRecovery

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "traced_models")

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Bomb(keras.callbacks.Callback):
    """Raises after the step of that number."""

    def __init__(self, step, error):
        super().__init__()
        self.step, self.error, self.count = step, error, 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == self.step:
            raise self.error


def file_of(log_dir):
    return pathlib.Path(log_dir) / "adaptive_weights" / "journal.jsonl"


def steps_of(log_dir):
    journal = kaw.read_journal(file_of(log_dir))
    assert journal.problems == []
    return [o.step for o in journal.observations]


def outcome(decisions):
    return [(d.step, d.action, d.reason, d.new_weight) for d in decisions]


class Outcome(NamedTuple):
    """What came of a run; the callback itself tells of a model that goes to the next test."""

    decisions: list
    stability: dict
    adaptive_weight: dict


@functools.cache
def undisturbed():
    callback = kaw.AdaptiveMelWeightCallback()
    fit(make_model(), RISING, [callback])
    return Outcome(callback.decisions, callback.get_stability_metrics(), callback.get_adaptive_weight_metrics())


# --- interrupts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("user code"), KeyboardInterrupt()], ids=["exception", "ctrl-c"])
@pytest.mark.parametrize("ours_first", [True, False])
def test_after_an_interrupt_the_record_is_whole_and_training_goes_on(error, ours_first, tmp_path):
    """Wherever ours is in the list: the step that was taken before the interrupt is in the record of the next fit."""
    callback, model, bomb = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path), make_model(), Bomb(30, error)
    callbacks = [callback, bomb] if ours_first else [bomb, callback]
    with pytest.raises(type(error)):
        fit(model, RISING, callbacks)
    fit(model, RISING[30:], [callback])
    assert steps_of(tmp_path) == list(range(1, 81))
    assert outcome(callback.decisions) == outcome(undisturbed().decisions)
    assert outcome(kaw.read_journal(file_of(tmp_path)).events) == outcome(callback.decisions)


@pytest.mark.parametrize("error", [RuntimeError("user code"), KeyboardInterrupt()], ids=["exception", "ctrl-c"])
@pytest.mark.parametrize("how", ["list", "callback list", "by position"])
def test_after_an_interrupt_the_record_is_closed_at_once(error, how, tmp_path):
    """It must not look alive for as long as the process, a notebook perhaps, goes on."""
    callback, model = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path), make_model()
    callbacks, before = [callback, Bomb(30, error)], set(threading.enumerate())
    if how == "callback list":
        callbacks = keras.callbacks.CallbackList(callbacks, model=model)
    arguments = (4, 1, 0, callbacks) if how == "by position" else ()
    named = {} if arguments else {"batch_size": 4, "verbose": 0, "callbacks": callbacks}
    with pytest.raises(type(error)) as caught:
        model.fit(np.ones((200, 2), "float32"), np.ones((200, 1), "float32"), *arguments, **named)
    assert caught.value is error
    last = json.loads(file_of(tmp_path).read_text().splitlines()[-1])
    assert last["kind"] == "end"
    assert steps_of(tmp_path) == list(range(1, 31))
    assert not [thread for thread in set(threading.enumerate()) - before if "_flush_regularly" in thread.name]
    callback.emergency_disable("too late for the record")  # and harmless
    assert json.loads(file_of(tmp_path).read_text().splitlines()[-1]) == last


def test_an_error_while_the_record_is_closed_does_not_hide_the_first(tmp_path, monkeypatch):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)

    class Spoil(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            monkeypatch.setattr(callback, "_catch_up", lambda: 1 / 0)

    with pytest.raises(RuntimeError, match="user code"):
        fit(make_model(), [1.0] * 3, [callback, Spoil(), Bomb(1, RuntimeError("user code"))])


def test_fit_looks_like_keras_s(tmp_path):
    """The signature is Keras's, and a model that was loaded fits as before."""
    assert inspect.signature(kaw.StableModel.fit) == inspect.signature(keras.Model.fit)
    model = make_model()
    fit(model, RISING[:3], [])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"error_to_target": error_to_target})
    assert fit(loaded, RISING[:3], []).history["skipped_steps"] == [0.0]


SCRIPT = """
    import os, signal, sys
    import numpy as np
    sys.path.insert(0, {support!r})
    import keras
    import keras_adaptive_weights as kaw
    from given_losses import RISING, fit, make_model

    class Parent(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 59:
                print("ready", flush=True)
            {action}

    callback = kaw.AdaptiveMelWeightCallback(log_dir={folder!r})
    {setup}
    fit(make_model(), RISING + [1.5] * {more}, [callback, Parent()])
    print("done", *(d.action.value for d in callback.decisions), flush=True)
"""


def run_and_signal(number, folder, setup="", action="pass", more=0):
    """Start a training, send it a signal after step 60, and return how it ended."""
    script = SCRIPT.format(
        support=str(pathlib.Path(__file__).parents[1] / "support"),
        folder=str(folder),
        setup=setup,
        action=action,
        more=more,
    )
    with Program([sys.executable, "-c", textwrap.dedent(script)]) as process:
        assert process.stdout.readline().strip() == "ready", process.stderr.read()
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_ctrl_c_leaves_a_whole_record(tmp_path):
    """A real SIGINT: the process ends at once, and what it saw is in the journal up to the last step, and closed."""
    slow = "import time; time.sleep(0.005)"
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs ignore it
    code, out, err = run_and_signal(signal.SIGINT, tmp_path, setup=heard, action=slow, more=20_000)
    assert code != 0
    assert "KeyboardInterrupt" in err
    assert out == ""
    steps = steps_of(tmp_path)
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 60
    assert json.loads(file_of(tmp_path).read_text().splitlines()[-1])["kind"] == "end"


def test_a_signal_handler_may_disable(tmp_path):
    setup = "signal.signal(signal.SIGUSR1, lambda *_: callback.emergency_disable('operator'))"
    code, out, err = run_and_signal(signal.SIGUSR1, tmp_path, setup=setup, action="import time; time.sleep(0.02)")
    assert code == 0, err
    assert out.split() == ["done", "increase", "disable"]
    journal = kaw.read_journal(file_of(tmp_path))
    (disable,) = [d for d in journal.events if d.action is kaw.Action.DISABLE]
    assert (disable.note, disable.new_weight) == ("operator", 2.5)
    assert set(journal.weights[disable.step :]) == {2.5}


# --- threads and signals -------------------------------------------------------------------------


@pytest.mark.parametrize("steps_per_execution", [1, 8])
def test_a_disable_from_a_thread_is_in_force_from_the_next_execution_on(steps_per_execution, tmp_path):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)
    asked, go = threading.Event(), threading.Event()

    def operate():
        go.wait(60)
        callback.emergency_disable("from a thread")
        asked.set()

    class Gate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 64:
                go.set()
                assert asked.wait(60)

    thread = threading.Thread(target=operate)
    thread.start()
    model = make_model(steps_per_execution=steps_per_execution)
    fit(model, RISING, [Gate(), callback])
    thread.join()
    assert [d.action for d in callback.decisions] == [kaw.Action.INCREASE, kaw.Action.DISABLE]
    journal = kaw.read_journal(file_of(tmp_path))
    assert journal.weights[63:65] == [pytest.approx(2.625), 2.5]
    assert steps_of(tmp_path) == list(range(1, 81))


def test_many_threads_may_ask_while_training_goes_on(tmp_path):
    callback, stop = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path), threading.Event()
    asked = deque()

    def operate(number):
        while not stop.is_set():
            callback.emergency_disable(f"{number}")
            callback.enable(f"{number}")
            asked.append(number)
            callback.get_adaptive_weight_metrics()
            time.sleep(0.002)

    threads = [threading.Thread(target=operate, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        fit(make_model(), RISING, [callback])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    journal = kaw.read_journal(file_of(tmp_path))
    assert steps_of(tmp_path) == list(range(1, 81))
    weights = [(event.old_weight, event.new_weight) for event in journal.events]
    assert all(after == before for (_, after), (before, _) in itertools.pairwise(weights))
    assert len(asked) > 10


def test_a_signal_in_the_last_moment_of_a_step_is_not_late():
    """Between the last look at the requests and the end of the step: it used to wait for the next step."""
    weight = kaw.AdaptiveWeight(2.5)

    class Interrupted(deque):
        """A queue that a signal comes upon once it was found empty."""

        done = False

        def __bool__(self):
            found = len(self) > 0
            if not found and weight._busy and not self.done:
                self.done = True
                weight.disable("signal")
            return found

    weight._requests = Interrupted()
    weight.observe([kaw.Observation(1, 1.0)])
    assert not weight.enabled
    assert [d.note for d in weight.decisions] == ["signal"]


# --- disks ---------------------------------------------------------------------------------------


def fails_from(monkeypatch, cls, name, call):
    """Let a method raise ENOSPC from its n-th call on."""
    calls, original = [], getattr(cls, name)

    def failing(self, *args, **kwargs):
        calls.append(name)
        if len(calls) >= call:
            raise FULL
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, name, failing)


def run_with_one_warning(log_dir, match):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=log_dir)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(make_model(), RISING, [callback])
    (warning,) = [w for w in caught if w.category is RuntimeWarning]
    assert match in str(warning.message)
    assert "training goes on" in str(warning.message)
    reference = undisturbed()
    assert outcome(callback.decisions) == outcome(reference.decisions)
    assert callback.get_stability_metrics() == reference.stability
    assert callback.get_adaptive_weight_metrics() == reference.adaptive_weight
    assert history.history["skipped_steps"] == [0.0]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer thread
@pytest.mark.parametrize("call", [1, 2])  # opening, and the first event; later ones come by the clock
@pytest.mark.parametrize("writer", ["journal", "summaries"])
def test_a_disk_that_fills_up_is_one_warning(writer, call, tmp_path, monkeypatch):
    if writer == "journal":
        fails_from(monkeypatch, journal_room.JournalWriter, "_write", call)
    else:
        from tensorboard.summary.writer.record_writer import RecordWriter

        fails_from(monkeypatch, RecordWriter, "flush", call)
    run_with_one_warning(tmp_path, "No space left on device")
    if writer == "summaries":
        assert steps_of(tmp_path) == list(range(1, 81)), "the journal is not to blame, and goes on"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_fills_up_for_both_is_one_warning(tmp_path, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter

    fails_from(monkeypatch, journal_room.JournalWriter, "_write", 2)
    fails_from(monkeypatch, RecordWriter, "flush", 2)
    run_with_one_warning(tmp_path, "No space left on device")


def test_a_journal_on_a_full_device_is_one_warning(tmp_path):
    """The real thing: /dev/full takes a file's opening, and refuses every write."""
    (tmp_path / "adaptive_weights").mkdir()
    file_of(tmp_path).symlink_to("/dev/full")
    run_with_one_warning(tmp_path, "No space left on device")


def test_a_folder_that_cannot_be_made_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    run_with_one_warning(tmp_path / "file" / "run", "is incomplete from the start")
    assert "control" not in caplog.text, "nobody can operate what nobody sees"


def test_a_read_only_folder_is_one_warning(tmp_path, monkeypatch):
    """Permissions do not bind root: the refusal is made here."""

    def refused(path, *arguments):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(journal_room, "open_journal", refused)
    run_with_one_warning(tmp_path, "Permission denied")


def test_the_next_fit_tries_again(tmp_path, monkeypatch):
    callback, model = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path), make_model()
    with monkeypatch.context() as patched:
        fails_from(patched, journal_room.JournalWriter, "_write", 1)
        with pytest.warns(RuntimeWarning, match="incomplete from the start"):
            fit(model, RISING[:40], [callback])
    fit(model, RISING[40:], [callback])
    assert steps_of(tmp_path) == list(range(41, 81))
    assert outcome(callback.decisions) == outcome(undisturbed().decisions)


# --- observers -----------------------------------------------------------------------------------


def test_an_observer_that_raises_now_and_then_is_left_out_alone(tmp_path):
    class Fickle:
        seen = 0

        def observe(self, observations, decision):
            self.seen += 1
            if decision.is_event:
                raise ValueError("I cannot stand events")

    class Patient:
        seen = 0

        def observe(self, observations, decision):
            self.seen += 1

    fickle, patient = Fickle(), Patient()
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path, observers=[fickle, patient])
    with pytest.warns(RuntimeWarning, match=r"Fickle failed and is left out.*I cannot stand events"):
        fit(make_model(), RISING, [callback])
    assert fickle.seen == callback.decisions[0].step
    assert patient.seen == 80
    assert steps_of(tmp_path) == list(range(1, 81))


# --- data and models -----------------------------------------------------------------------------


def test_numbers_as_text_are_refused_by_name():
    with pytest.raises(TypeError, match=r"argument `loss` must be a number or a scalar tensor. Received: loss='0.8'"):
        kaw.AdaptiveWeight().update("0.8")
    model = make_model()
    with pytest.raises((TypeError, ValueError), match=r"(?i)str|float"):
        model.fit(np.ones((4, 2), "float32"), np.array([["1"], ["2"], ["3"], ["4"]]), verbose=0)


def test_a_smaller_last_batch_counts_by_its_samples():
    model, callback = make_model(), kaw.AdaptiveMelWeightCallback()
    y = np.array([1.0] * 8 + [4.0], "float32")[:, None]
    history = model.fit(np.ones((9, 2), "float32"), y, batch_size=4, verbose=0, shuffle=False, callbacks=[callback])
    assert history.history["mel_loss"] == [pytest.approx(12.0 / 9.0)]
    assert history.history["loss"] == [pytest.approx(3.5 * 12.0 / 9.0)]
    assert callback.get_stability_metrics()["step_count"] == 3
    assert callback.get_stability_metrics()["running_mel_loss"] == pytest.approx(2.0)


@pytest.mark.parametrize("mode", [{}, {"jit_compile": True}], ids=str)
def test_a_bad_batch_leaves_the_measure_of_a_spike_as_it_was(mode):
    """Or a NaN would switch the dampening off for ever, and an overflow raise its threshold."""
    loss = (model := make_training_model(dampens=2.0, **mode)).loss
    data = batches(13)
    fit_batches(model, data[:12])
    before = loss.total_average.numpy()
    for bad in (math.nan, math.inf, 1e30):  # of the last the gradient overflows
        model.train_on_batch(data[12][0], np.full_like(data[12][1], bad))
        assert model.telemetry.read()[-1].non_finite is not None
        np.testing.assert_array_equal(loss.total_average.numpy(), before)
    model.train_on_batch(data[12][0], data[12][1] * 100.0)
    row = model.telemetry.read()[-1]
    assert row.dampening == pytest.approx(2.0 * before[0] / row.total, rel=1e-5)


@pytest.mark.parametrize("mode", [{}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_a_layer_that_divides_by_zero_leaves_no_trace_and_is_in_the_journal(mode, tmp_path):
    """A layer divides by the mean of its inputs: a batch of zeros makes 0 / 0, and poisons the statistics after it."""
    found = {}
    for name in ("clean", "with zeros"):
        keras.utils.set_random_seed(5)
        inputs = keras.Input((4,))
        scaled = keras.layers.Lambda(lambda x: x / tf.reduce_mean(tf.abs(x), axis=-1, keepdims=True))(inputs)
        hidden = keras.layers.BatchNormalization()(scaled)
        model = kaw.StableModel(inputs, keras.layers.Dense(3)(hidden))
        model.compile(optimizer=keras.optimizers.Adam(0.01), loss=make_loss(), **mode)
        data = batches(5)
        if name == "with zeros":
            data.insert(3, (np.zeros_like(data[0][0]), data[0][1]))
        fit_batches(model, data, callbacks=[kaw.AdaptiveMelWeightCallback(log_dir=tmp_path / name)])
        found[name] = values_of(model)
    for one, other in zip(found["clean"].values(), found["with zeros"].values(), strict=True):
        np.testing.assert_array_equal(one, other)
    seen = kaw.read_journal(file_of(tmp_path / "with zeros")).observations
    assert [(o.step, o.non_finite) for o in seen if not o.applied] == [(4, "mel_loss")]


@pytest.mark.parametrize("mode", [{}, {"jit_compile": True}])
def test_a_model_with_nothing_to_train_is_observed(mode, tmp_path):
    inputs = keras.Input((2,))
    frozen = kaw.StableModel(inputs, keras.layers.Dense(1, trainable=False)(inputs))
    terms = {"mel_loss": kaw.LossTerm(error_to_target, weight=kaw.AdaptiveWeight(2.5, QUICK))}
    frozen.compile(optimizer="sgd", loss=kaw.CompositeLoss(terms, max_loss_spike_threshold=None), **mode)
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path, recovery=ModelRecovery(every=20))
    before = [np.array(value) for value in frozen.get_weights()]
    with pytest.warns(UserWarning, match="does not have any trainable weights"):  # as Keras says it
        fit(frozen, [*RISING[:20], math.nan, *RISING[20:]], [callback])
    assert steps_of(tmp_path) == list(range(1, 82))
    assert [d.action for d in callback.decisions] == [kaw.Action.INCREASE]
    for value, other in zip(frozen.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_a_checkpoint_within_an_epoch_holds_the_last_step_wherever_ours_is_in_the_list(steps_per_execution, tmp_path):
    found = {}
    for place in ("before", "after"):
        (tmp_path / place).mkdir()
        pattern = str(tmp_path / place / "{batch:02d}.weights.h5")
        checkpoint = keras.callbacks.ModelCheckpoint(pattern, save_weights_only=True, save_freq=16)
        ours = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path / f"log-{place}")
        model = make_model(steps_per_execution=steps_per_execution)
        fit(model, RISING, [checkpoint, ours] if place == "before" else [ours, checkpoint])
        for path in sorted((tmp_path / place).iterdir()):
            weight = make_model().loss
            other = make_model(loss=weight)
            other.optimizer.build(other.trainable_variables)
            other.load_weights(path)
            state = weight.terms["mel_loss"].weight.state
            found.setdefault(path.name, []).append(state)
        assert steps_of(tmp_path / f"log-{place}") == list(range(1, 81))
    assert len(found) == 5
    for name, (one, other) in found.items():
        assert one == other, name
        assert one.step == int(name[:2])


@pytest.mark.parametrize("ours_first", [True, False])
def test_the_order_of_callbacks_changes_no_decision(ours_first):
    ours, theirs = kaw.AdaptiveMelWeightCallback(), keras.callbacks.ReduceLROnPlateau("loss", patience=1)
    fit(make_model(), RISING[:40], [ours, theirs] if ours_first else [theirs, ours], epochs=2)
    reference = kaw.AdaptiveMelWeightCallback()
    fit(make_model(), RISING[:40] * 2, [reference])
    assert outcome(ours.decisions) == outcome(reference.decisions)


def test_two_fits_in_a_row_and_a_new_compilation_between(tmp_path):
    """A new compilation with the same loss: the weight, its steps and its record go on."""
    callback, model = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path), make_model()
    fit(model, RISING[:30], [callback])
    model.compile(optimizer=keras.optimizers.Adam(), loss=model.loss)
    fit(model, RISING[30:], [callback])
    assert steps_of(tmp_path) == list(range(1, 81))
    assert outcome(callback.decisions) == outcome(undisturbed().decisions)


def test_a_weight_torn_by_an_interrupt_is_whole_at_the_next_fit():
    """Ctrl-C between the decision and the variable: the loss would go on with the old weight."""
    model, callback = make_model(), kaw.AdaptiveMelWeightCallback()
    fit(model, RISING, [callback])
    variable = model.loss.terms["mel_loss"].weight.variable
    variable.assign(2.5)
    fit(model, [1.5], [callback])
    assert float(variable) == pytest.approx(2.625)


def test_a_batch_of_bad_data_in_training_leaves_the_rest_as_it_was():
    data = batches(20)
    bad = [*data[:10], (np.full_like(data[0][0], math.nan), data[0][1]), *data[10:]]
    clean, tried = make_training_model(), make_training_model()
    fit_batches(clean, data, callbacks=[kaw.AdaptiveMelWeightCallback()])
    fit_batches(tried, bad, callbacks=[kaw.AdaptiveMelWeightCallback(recovery=ModelRecovery(every=10))])
    for one, other in zip(values_of(clean).values(), values_of(tried).values(), strict=True):
        np.testing.assert_array_equal(one, other)
