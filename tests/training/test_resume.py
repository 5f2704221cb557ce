"""Killed and resumed: what comes back, and records without a step that is in them twice or goes back."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import keras
import kill_and_resume
import numpy as np
import pytest
import verify
from given_losses import QUICK, RISING, fit, make_model
from journal_rows import texts
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding import envelope, guide_rule
from keras_adaptive_weights.deciding.joint import JointObservation
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.appended_file import let_go
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.writer import JournalWriter
from keras_adaptive_weights.recording import event_files
from keras_adaptive_weights.recording.lost_disable import AGAIN, LostDisable, lost_disables
from keras_adaptive_weights.recording.summaries import TensorBoardObserver
from keras_adaptive_weights.training import callback as callback_room
from keras_adaptive_weights.training import step_pieces as step_pieces_room
from keras_adaptive_weights.training.telemetry import Telemetry

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "traced_models")


@pytest.fixture(scope="module")
def launcher():
    return kill_and_resume.Launcher()


@pytest.fixture(scope="module")
def reference(launcher, tmp_path_factory):
    """What was so after each step of a run that nobody killed, by what decides on its weights."""

    @functools.cache
    def of(balance):
        folder = tmp_path_factory.mktemp("reference")
        assert launcher.run(folder, None, balance=balance) == 0
        return verify.lineage(verify.processes(folder))

    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "executions", "balance", "kills", "restored", "disabled"),
    [
        ("epoch", 1, "guide", [31, 59, 55], [0, 0, 40, 80], [False, False, False, True]),
        ("batches", 4, "guide", [31, 59, 55], [0, 24, 80, 128], [False, False, True, False]),
        ("model", 1, "guide", [95], [0, 80], [False, True]),
        ("weights", 1, "guide", [95], [0, 80], [False, True]),
        ("epoch", 1, "share", [95], [0, 80], [False, True]),
        ("batches", 4, "constraint", [31], [0, 24], [False, False]),
    ],
)
def test_kills_in_a_row_leave_no_trace(
    mode, executions, balance, kills, restored, disabled, launcher, reference, tmp_path
):
    """The first kill comes before anything was saved, or within an epoch; one restores a disable by hand."""
    known = reference(balance) if mode != "batches" else {}
    chain = kill_and_resume.Chain(launcher, tmp_path, mode, executions, known, balance)
    began = []
    for number, kill_in in enumerate([*kills, None]):
        plan = {"ours_first": number % 2 == 0} | ({} if kill_in is None else {"kill_in": kill_in})
        began.append(chain.start(**plan)[0])
        if number:
            wrong, same = chain.compare()
            assert wrong == []
            assert (same is None) == (mode == "batches")
        chain.records()
    assert [process["restored"] for process in began] == restored
    assert [process["disabled"] for process in began] == disabled
    check_replay(tmp_path)


def check_replay(folder):
    """The controllers, given what the journal recorded, take the decisions that the journal recorded."""
    journal = kaw.read_journal(folder / "adaptive_weights" / "journal.jsonl")
    assert len(journal.terms) == 3
    assert texts(event for event in kaw.replay(journal) if event.is_event) == texts(journal.events)
    if journal.joint:
        actions = [event.action for event in journal.events]
        assert actions.count(kaw.Action.CALIBRATE) <= 1
        assert kaw.Action.BALANCE in actions
    else:
        moved = (event for event in journal.events if event.action is not kaw.Action.DISABLE)
        assert {event.term for event in moved} == set(journal.terms)


class DiedError(Exception):
    """Stands for the end of a process."""


class Mortal(keras.callbacks.Callback):
    """Ends the fit in the middle of a step."""

    def __init__(self, step):
        super().__init__()
        self._left = step

    def on_train_batch_begin(self, batch, logs=None):
        self._left -= 1
        if self._left == 0:
            raise DiedError


@pytest.mark.parametrize("ours_first", [True, False])
def test_the_order_of_the_callbacks_does_not_matter(ours_first, tmp_path):
    """A backup within an epoch holds the state after its last step, and is restored before ours looks at it."""
    saved = {}

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            state = self.model.loss.adaptive_weights["mel_loss"].state
            saved[state.step] = state

    def train(*more):
        model = make_model()
        ours = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path / "run")
        ours.emergency_disable("before fit")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=7, delete_checkpoint=False)
        fit(model, RISING, [*([ours, backup] if ours_first else [backup, ours]), *more])
        return model, ours

    with pytest.raises(DiedError):
        train(Look(), Mortal(40))
    began = []

    class First(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            began.append(self.model.loss.adaptive_weights["mel_loss"].state)

    _, ours = train(First())
    assert began[0].step == 35
    assert began[0]._replace(disabled=True) == saved[35]._replace(disabled=True)
    assert began[0].disabled  # what was asked for before fit was done after the restore
    assert [(event.step, event.note) for event in ours.decisions] == [(35, "before fit")]
    journal = kaw.read_journal(tmp_path / "run" / "adaptive_weights" / "journal.jsonl")
    assert [seen.step for seen in journal.observations] == list(range(1, 35 + 80 + 1))
    assert journal.headers[1].state["step"] == 35


def test_a_checkpoint_is_never_ahead_of_the_record(tmp_path):
    """Saving writes out what the journal and the event file have in their buffers, and says so."""
    seen = []

    class Save(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                self.model.save_weights(tmp_path / "model.weights.h5")
                lines = (tmp_path / "adaptive_weights" / "journal.jsonl").read_text().splitlines()
                seen.extend(json.loads(line) for line in lines)
                seen.append(verify.check_event_files(tmp_path)[f"{MEL}/weight"])

    ours = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path, update_freq=1)
    fit(make_model(), RISING[:5], [Save(), ours])
    *lines, in_event_file = seen
    assert [line["step"] for line in lines if line["kind"] == "step"] == [1, 2, 3]
    assert (lines[-1]["kind"], lines[-1]["step"]) == ("saved", 3)
    assert in_event_file == [1, 2, 3]


# the journal by itself


MEL = "adaptive_weights/mel_loss"


class Run:
    """Writes a journal step by step; `die` leaves it as SIGKILL does."""

    def __init__(self, folder, run="run-a", state=None, config=QUICK):
        self.path = folder / "adaptive_weights" / "journal.jsonl"
        self.state = initial_state(config, 2.5) if state is None else state
        self.config = config
        header = Header.of(run, "mel_loss", 2.5, config, json.loads(json.dumps(self.state.to_dict())))
        self.writer = JournalWriter(self.path, header, flush_seconds=60.0)

    def train(self, *losses):
        for loss in losses:
            seen = (kaw.Observation(self.state.step + 1, loss, 2.5 * loss, 1.0),)
            self.state, decision = guide_rule.step(self.config, self.state, seen)
            self.writer.observe(seen, decision)
        return self

    def ask(self, request, note=""):
        self.state, decision = request(self.state, note)
        self.writer.observe((), decision)
        return self

    def save(self):
        self.writer.note_save(self.state.step)
        return self.state

    def die(self, *, in_the_middle_of_a_line=False):
        self.writer._backlog.flush()
        if in_the_middle_of_a_line:
            self.writer._file.write('{"kind": "step", "step": 9')
        self.writer._backlog._closed = True
        self.writer._file.close()
        let_go(self.path, self.writer)

    @property
    def steps(self):
        return verify.check_journal(self.path.parent.parent)


def test_what_came_after_the_restore_point_is_moved_and_can_be_read(tmp_path):
    first = Run(tmp_path).train(*RISING[:50])
    saved = first.save()
    first.train(*RISING[50:70]).die(in_the_middle_of_a_line=True)
    bytes_before = first.path.read_bytes()
    second = Run(tmp_path, state=saved)
    assert second.steps == 50
    second.train(*RISING[50:60])
    second.writer.close()
    assert second.steps == 60
    journal = kaw.read_journal(second.path)
    assert journal.problems == []
    assert [header.state["step"] for header in journal.headers] == [0, 50]
    (aside,) = (tmp_path / "adaptive_weights" / "abandoned").iterdir()
    abandoned = kaw.read_journal(aside)
    assert [seen.step for seen in abandoned.observations] == list(range(51, 71))
    assert abandoned.headers[0].state == journal.headers[1].state
    head, tail = second.path.read_bytes(), aside.read_bytes().split(b"\n", 1)[1]
    assert head.startswith(bytes_before[: -len(tail)])
    assert bytes_before.endswith(tail)
    assert not list(tmp_path.rglob("abandoned/journal.jsonl"))


def test_a_second_kill_at_the_same_restore_point_keeps_both(tmp_path):
    first = Run(tmp_path).train(*RISING[:20])
    saved = first.save()
    for _ in range(2):
        first.train(*RISING[20:30]).die()
        first = Run(tmp_path, state=saved)
    assert first.steps == 20
    assert verify.check_abandoned(tmp_path) == 2


@pytest.mark.parametrize("asked_after_the_save", [True, False])
def test_a_request_at_the_restore_point_counts_if_it_came_before_the_save(asked_after_the_save, tmp_path, caplog):
    first = Run(tmp_path).train(*RISING[:20])
    saved = first.state
    first.ask(envelope.disable, "operator heard clipping")
    if not asked_after_the_save:
        saved = first.save()
    first.train(1.0).die()
    Run(tmp_path, state=saved).die()
    events = kaw.read_journal(first.path).events
    assert [event.note for event in events] == ([] if asked_after_the_save else ["operator heard clipping"])
    with caplog.at_level(logging.WARNING, "keras_adaptive_weights"):
        lost = lost_disables(first.path, saved.step)
    expected = {"mel_loss": LostDisable(20, f"operator heard clipping{AGAIN}")}
    assert lost == (expected if asked_after_the_save else {})
    assert ("disabled by hand at step 20 (operator heard clipping)" in caplog.text) == asked_after_the_save


def disable(run, note="operator"):
    return run.ask(envelope.disable, note)


def enable(run, note="operator"):
    return run.ask(lambda state, note: envelope.enable(QUICK, state, note), note)


@pytest.mark.parametrize(
    ("lives", "expected"),
    [
        ([lambda run: disable(run.train(*[1.0] * 5))], 25),
        ([lambda run: enable(disable(run.train(*[1.0] * 5)).train(1.0))], None),
        ([lambda run: disable(enable(disable(run.train(1.0)).train(1.0)).train(1.0))], 23),
        ([lambda run: disable(run.train(*[1.0] * 5)), lambda run: run.train(1.0)], 25),
        ([lambda run: disable(run.train(*[1.0] * 5)), lambda run: enable(run.train(1.0))], None),
        ([lambda run: disable(run.train(*[1.0] * 5)), lambda run: enable(run.train(1.0)).save()], None),
        ([lambda run: disable(run.train(*[1.0] * 5)), lambda run: run.train(*[1.0] * 2).save()], 25),
        ([lambda run: disable(run.train(*[1.0] * 5)), lambda run: disable(run.train(*[1.0] * 5)).save()], None),
        ([lambda run: disable(run.train(*[1.0] * 5)), lambda run: run.train(*[1.0] * 9).save()], None),
        ([lambda run: run.ask(envelope.reset).train(1.0)], None),
    ],
)
def test_the_last_word_of_the_operator_counts_over_any_number_of_kills(lives, expected, tmp_path):
    """Each life begins at the last state that was saved, first at step 20, and ends with a kill."""
    run = Run(tmp_path).train(*RISING[:20])
    saved = run.save()
    for number, live in enumerate(lives):
        if number:
            run = Run(tmp_path, state=saved)
        done = live(run)
        saved = saved if done is run else done
        run.die()
    run = Run(tmp_path, state=saved)
    lost = lost_disables(run.path, saved.step)
    run.die()
    assert {term: disable.step for term, disable in lost.items()} == (
        {} if expected is None else {"mel_loss": expected}
    )


class Operator(keras.callbacks.Callback):
    """Disables after one step, and dies after another, before the epoch is saved."""

    def __init__(self, ours, asks, dies):
        super().__init__()
        self._ours, self._asks, self._dies = ours, asks, dies

    def on_train_batch_end(self, batch, logs=None):
        step = self.model.loss.adaptive_weights["mel_loss"].step_count
        if step == self._asks:
            self._ours.emergency_disable("operator heard clipping")
        if step == self._dies:
            raise DiedError


@pytest.mark.parametrize(("asks", "dies"), [(60, 70), (41, 41), (80, 80)], ids=["within", "at once", "at the end"])
def test_a_disable_that_a_kill_swallowed_is_carried_out_when_its_step_comes_again(asks, dies, tmp_path):
    """So the resumed run equals one that was never killed."""

    def train(*, again):
        model = make_model()
        ours = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path / "run")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        fit(model, RISING[:40], [ours, backup, *([] if again else [Operator(ours, asks, dies)])], epochs=2)
        return model, ours

    with pytest.raises(DiedError):
        train(again=False)
    model, ours = train(again=True)
    (event,) = [event for event in ours.decisions if event.action is kaw.Action.DISABLE]
    assert (event.step, event.note) == (asks, f"operator heard clipping{AGAIN}")
    weight = model.loss.adaptive_weights["mel_loss"]
    assert (weight.step_count, weight.enabled, float(weight.variable)) == (80, False, 2.5)
    journal = kaw.read_journal(tmp_path / "run" / "adaptive_weights" / "journal.jsonl")
    assert journal.headers[-1].state["step"] == 40
    assert journal.events[-1] == event


def test_with_several_workers_a_swallowed_disable_travels_with_the_same_execution(tmp_path, monkeypatch, shelf):
    """Asked for after step 60 it was passed on with step 61, and carried out on all workers after that."""
    shelf.open = False  # the telemetry of several workers is no other's
    monkeypatch.setattr(callback_room, "several_workers", lambda strategy: True)
    monkeypatch.setattr(step_pieces_room, "Telemetry", lambda loss, steps, **_: Telemetry(loss, steps))
    for again in (False, True):
        model = make_model()
        ours = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path / "run")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        with contextlib.suppress(DiedError):
            fit(model, RISING[:40], [ours, backup, *([] if again else [Operator(ours, 60, 70)])], epochs=2)
        (event,) = [event for event in ours.decisions if event.action is kaw.Action.DISABLE]
        assert event.step == 61
    assert model.loss.adaptive_weights["mel_loss"].step_count == 80


def test_a_disable_that_the_script_repeats_itself_is_in_the_record_once(tmp_path):
    def train(dies):
        model = make_model()
        ours = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path / "run")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
        fit(model, RISING[:40], [ours, backup, Operator(ours, 60, dies)], epochs=2)
        return ours

    with pytest.raises(DiedError):
        train(70)
    (event,) = train(0).decisions
    assert (event.step, event.note) == (60, "operator heard clipping")


def test_going_on_in_the_same_process_takes_nothing_back(tmp_path):
    """A disable that was asked for last, and one undone between two fits, where no journal was open."""
    first = Run(tmp_path).train(*RISING[:20]).ask(envelope.disable, "by hand")
    first.writer.close()
    enabled = envelope.enable(QUICK, first.state)[0]
    second = Run(tmp_path, state=enabled).train(1.0)
    second.writer.close()
    assert [event.note for event in kaw.read_journal(second.path).events] == ["by hand"]
    assert not (tmp_path / "adaptive_weights" / "abandoned").exists()


def test_a_run_that_died_before_its_first_checkpoint_is_moved_aside(tmp_path):
    Run(tmp_path).train(*RISING[:20]).die()
    second = Run(tmp_path, run="run-b").train(1.0, 1.0)
    second.writer.close()
    assert second.steps == 2
    assert verify.check_abandoned(tmp_path) == 1


def test_a_start_that_died_in_its_first_line_is_moved_aside(tmp_path):
    (tmp_path / "adaptive_weights").mkdir()
    (tmp_path / "adaptive_weights" / "journal.jsonl").write_text('{"kind": "header", "format"')
    run = Run(tmp_path).train(1.0)
    run.writer.close()
    assert run.steps == 1


@pytest.mark.parametrize("error", [RuntimeError("user code"), KeyboardInterrupt()], ids=["exception", "ctrl-c"])
def test_a_run_that_an_exception_ended_before_its_first_checkpoint_may_be_started_again(error, tmp_path):
    """By the same script, as after a kill; one that came to its end is refused, as before."""

    class Bomb(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 29:
                raise error

    def train(*more):
        fit(make_model(), RISING, [kaw.AdaptiveMelWeightCallback(log_dir=tmp_path), *more])

    with pytest.raises(type(error)):
        train(Bomb())
    train()
    assert verify.check_journal(tmp_path) == 80
    assert verify.check_abandoned(tmp_path) == 1
    assert verify.check_event_files(tmp_path)[f"{MEL}/weight"][0] == 1
    with pytest.raises(ValueError, match="belongs to another run"):
        train()


@pytest.mark.parametrize("why", ["saved", "ended", "resumed", "not ours"])
def test_a_run_that_may_be_resumed_is_not_moved_aside(why, tmp_path):
    first = Run(tmp_path).train(*RISING[:20])
    if why == "saved":
        first.save()
    elif why == "resumed":
        first.die()
        first.path.unlink()
        first = Run(tmp_path, state=first.state)
    first.writer.close() if why == "ended" else first.die()
    if why == "not ours":
        first.path.write_text("a diary\n")
    before = first.path.read_bytes()
    with pytest.raises(ValueError, match="belongs to another run"):
        Run(tmp_path, run="run-b")
    assert first.path.read_bytes() == before


def test_an_open_journal_of_another_run_in_this_process_is_refused(tmp_path):
    first = Run(tmp_path)
    with pytest.raises(ValueError, match="belongs to another run"):
        Run(tmp_path, run="run-b")
    first.train(1.0).writer.close()
    assert first.steps == 1


def test_a_writer_left_open_by_an_exception_is_taken_over(tmp_path):
    first = Run(tmp_path).train(*RISING[:20])
    second = Run(tmp_path, state=first.state).train(1.0)
    first.train(1.0).ask(envelope.disable)  # still subscribed somewhere, and harmless
    second.writer.close()
    assert second.steps == 21


OPEN_ELSEWHERE = """
import sys
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.writer import JournalWriter
from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.state import initial_state
config = AdaptiveWeightConfig()
try:
    state = initial_state(config, 2.5).to_dict()
    JournalWriter(sys.argv[1], Header.of("run-a", "mel_loss", 2.5, config, state)).close()
except ValueError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no record locks of this kind")
def test_a_journal_that_another_process_writes_is_refused_until_that_process_ends(tmp_path):
    run = Run(tmp_path).train(1.0)
    command = [sys.executable, "-c", OPEN_ELSEWHERE, str(run.path)]
    messages = []
    for let_go_first in (False, True):
        if let_go_first:
            run.die()
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        messages.append(result.stdout)
    assert "is being written by another process" in messages[0]
    assert messages[1] == ""


def test_whoever_follows_a_growing_journal_notices_that_it_went_back(tmp_path):
    first = Run(tmp_path).train(*RISING[:20])
    saved = first.save()
    first.train(*RISING[20:23]).die()
    index = JournalIndex(first.path)
    index.refresh()
    generation = index.generation
    second = Run(tmp_path, state=saved).train(*RISING[20:70])  # longer than before, by the time anybody looks
    second.writer.close()
    index.refresh()
    assert index.generation > generation
    assert sum(span.block["steps"] for span in index.spans) == 70


# the event files by themselves


def observer(folder, step=0):
    state = initial_state(QUICK, 2.5)._replace(step=step)
    header = Header.of("a", "mel_loss", 2.5, QUICK, state.to_dict())
    return TensorBoardObserver(folder / "adaptive_weights", header, update_freq=1)


def note(events, seen, decision):
    steps = [JointObservation.of_one("mel_loss", step) for step in seen]
    events.note(steps, [decision._replace(term="mel_loss")])


def write(events, state, steps):
    for _ in range(steps):
        seen = (kaw.Observation(state.step + 1, 1.0),)
        state, decision = guide_rule.step(QUICK, state, seen)
        note(events, seen, decision)
    return state


@pytest.mark.parametrize("lost", [7, 1])
def test_event_files_go_on_without_a_step_twice_after_a_torn_record(lost, tmp_path):
    events = observer(tmp_path)
    saved = write(events, initial_state(QUICK, 2.5), 10)
    write(events, saved, lost)
    events.close()
    (file,) = (tmp_path / "adaptive_weights").glob("*tfevents*")
    with file.open("r+b") as torn:
        torn.truncate(file.stat().st_size - 11)
    events = observer(tmp_path, step=10)
    write(events, saved, 4)
    events.close()
    steps = verify.check_event_files(tmp_path)
    assert steps[f"{MEL}/weight"] == list(range(1, 15))
    assert steps["custom_scalars__config__"] == [0]
    (aside,) = (tmp_path / "adaptive_weights" / "abandoned").iterdir()
    assert "tfevents" not in aside.name
    aside.rename(tmp_path / "adaptive_weights" / "abandoned" / "events.tfevents")
    (tmp_path / "again").mkdir()
    (tmp_path / "adaptive_weights" / "abandoned").rename(tmp_path / "again" / "adaptive_weights")
    assert verify.check_event_files(tmp_path / "again").get(f"{MEL}/weight", []) == list(range(11, 10 + lost))


def test_what_is_asked_for_at_a_step_already_written_comes_with_the_next(tmp_path):
    events = observer(tmp_path)
    state = write(events, initial_state(QUICK, 2.5), 5)
    for _ in range(2):
        state, decision = envelope.disable(state, "by hand")
        note(events, (), decision)
    state = write(events, state, 1)
    events.close()
    steps = verify.check_event_files(tmp_path)
    assert steps[f"{MEL}/weight"] == [1, 2, 3, 4, 5, 6]
    assert steps[f"{MEL}/decisions/disable"] == [5]
    events = observer(tmp_path, step=6)
    state, decision = envelope.enable(QUICK, state, "by hand")
    note(events, (), decision)
    write(events, state, 1)
    events.close()
    steps = verify.check_event_files(tmp_path)
    assert (steps[f"{MEL}/weight"][-2:], steps[f"{MEL}/decisions/enable"]) == ([6, 7], [6])


@pytest.fixture
def no_waiting(monkeypatch):
    """Whatever sleeps fails."""
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"slept {seconds} s"))


@pytest.mark.parametrize("remembered", [True, False], ids=["same process", "new process"])
def test_fits_within_a_second_go_on_in_one_file(remembered, tmp_path, no_waiting, monkeypatch):
    state = initial_state(QUICK, 2.5)
    for _ in range(5):
        if not remembered:
            monkeypatch.setattr(event_files, "_left", {})
        events = observer(tmp_path, step=state.step)
        state = write(events, state, 2)
        events.close()
    assert len(list((tmp_path / "adaptive_weights").glob("*tfevents*"))) == 1
    assert verify.check_event_files(tmp_path)[f"{MEL}/weight"] == list(range(1, 11))
    assert verify.check_event_files(tmp_path)["custom_scalars__config__"] == [0]
    assert read_as_tensorboard_does(tmp_path) == list(range(1, 11))


def test_many_files_within_a_second_are_read_in_the_order_they_were_written(tmp_path, no_waiting):
    """Steps are taken back each time, so each goes on in a file of its own, beside one that another program named."""
    state, folder = initial_state(QUICK, 2.5), tmp_path / "adaptive_weights"
    for number in range(12):
        events = observer(tmp_path, step=state.step)
        kept = state = write(events, state, 2)
        write(events, kept, 1)
        events.close()
        if number == 3:
            (newest,) = sorted(folder.glob("*tfevents*"))[-1:]
            newest.rename(folder / f"events.out.tfevents.{int(newest.name.split('.')[3]):010d}.~zebra.9.9")
    events = observer(tmp_path, step=state.step)
    events.close()
    files = sorted(folder.glob("*tfevents*"))
    assert len(files) == len({file.name.split(".")[3] for file in files}) == 13
    assert verify.check_event_files(tmp_path)[f"{MEL}/weight"] == list(range(1, 25))
    assert read_as_tensorboard_does(tmp_path) == list(range(1, 25))


def read_as_tensorboard_does(folder):
    """Return the steps of the weight, which TensorBoard drops where a step goes back."""
    accumulator = EventAccumulator(str(folder / "adaptive_weights"), size_guidance={"tensors": 0})
    accumulator.Reload()
    return [event.step for event in accumulator.Tensors(f"{MEL}/weight")]


def test_what_was_changed_behind_its_back_is_read_anew(tmp_path):
    """The file that was left is gone, or longer than it was left: the memory of it does not count."""
    for change in (Path.unlink, lambda path: path.write_bytes(path.read_bytes() + b"torn")):
        events = observer(tmp_path, step=0)
        state = write(events, initial_state(QUICK, 2.5), 3)
        events.close()
        (file,) = (tmp_path / "adaptive_weights").glob("*tfevents*")
        change(file)
        events = observer(tmp_path, step=3)
        write(events, state, 2)
        events.close()
        steps = verify.check_event_files(tmp_path)[f"{MEL}/weight"]
        assert steps == ([4, 5] if change is Path.unlink else [1, 2, 3, 4, 5])
        shutil.rmtree(tmp_path / "adaptive_weights")


def test_event_files_of_nonsense_are_moved_aside_or_left_alone(tmp_path):
    folder = tmp_path / "adaptive_weights"
    folder.mkdir()
    length = struct.pack("<Q", 1 << 60)
    (folder / "a.tfevents.1").write_bytes(length + struct.pack("<I", masked_crc32c(length)) + b"x")
    head = struct.pack("<Q", 4)
    (folder / "b.tfevents.1").write_bytes(head + struct.pack("<I", masked_crc32c(head)) + b"\xff" * 8 + b"more")
    (folder / "c.tfevents.1").mkdir()
    os.mkfifo(folder / "d.tfevents.1")
    events = observer(tmp_path, step=5)
    write(events, initial_state(QUICK, 2.5)._replace(step=5), 2)
    events.close()
    steps = {}
    for path in folder.glob("events.out*"):
        for event in EventFileLoader(str(path)).Load():
            steps.setdefault(event.step, 0)
    assert sorted(steps) == [0, 5, 6, 7]
    assert sorted(path.name[:8] for path in (folder / "abandoned").iterdir()) == ["a.events", "b.events"]


def test_a_model_file_of_the_killed_run_is_all_there_is_to_resume_from(tmp_path):
    """No file beside the checkpoint is needed: the record may be gone."""
    model = make_model()
    at_first = model.get_weights()
    fit(model, RISING[:50], [kaw.AdaptiveMelWeightCallback()])
    model.save_weights(tmp_path / "model.weights.h5")
    resumed = make_model()
    resumed.load_weights(tmp_path / "model.weights.h5")
    ours = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)
    fit(resumed, RISING[50:], [ours])
    journal = kaw.read_journal(tmp_path / "adaptive_weights" / "journal.jsonl")
    assert [seen.step for seen in journal.observations] == list(range(51, 81))
    reference = make_model()
    reference.set_weights(at_first)
    fit(reference, RISING, [kaw.AdaptiveMelWeightCallback()])
    np.testing.assert_array_equal(resumed.get_weights()[0], reference.get_weights()[0])
    assert resumed.loss.terms["mel_loss"].weight.state == reference.loss.terms["mel_loss"].weight.state
