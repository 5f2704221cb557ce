"""The record of a run in a store: journal and event files together, and a store that fails them."""

from __future__ import annotations

import warnings

import pytest
from dashboard_runs import CONFIG
from event_records import read
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding.decision import Action, Decision, Reason
from keras_adaptive_weights.deciding.joint import JointObservation
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.places import Url
from keras_adaptive_weights.recording import event_files, stored_events
from keras_adaptive_weights.recording.record import open_record
from keras_adaptive_weights.recording.run_folder import find_journal, liveliness

FOLDER = Url("fake://bucket/run/adaptive_weights")
WEIGHT = "adaptive_weights/mel_loss/weight"


def record_from(step=0, disabled=False):
    state = initial_state(CONFIG, 2.5)._replace(step=step, disabled=disabled)
    return open_record(str(FOLDER), Header.of("run-a", "mel_loss", 2.5, CONFIG, state.to_dict()), update_freq=1)


def observe(record, first, last):
    for step in range(first, last + 1):
        decision = Decision(step, Action.HOLD, Reason.WARMUP, 2.5, 2.5, {"loss": 1.0}, term="mel_loss")
        record.note([JointObservation(step, {"mel_loss": 1.0}, 2.9, 3.0)], [decision])


def events_in(store, tmp_path):
    """Return what TensorBoard reads in the event files, and how many there are."""
    folder = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    names = [name for name in store.names(str(FOLDER)) if "tfevents" in name]
    for name in names:
        (folder / name).write_bytes(store.objects[f"{FOLDER}/{name}"])
        assert next(iter(EventFileLoader(str(folder / name)).Load())).file_version == "brain.Event:2"
    return read(folder), len(names)


def test_event_files_are_there_for_tensorboard_and_grow(store, tmp_path):
    record = record_from()
    observe(record, 1, 20)
    record._writers[1]._backlog.flush()
    record._writers[1]._events._file.flush()
    assert sorted(events_in(store, tmp_path)[0][WEIGHT]) == list(range(1, 21))
    observe(record, 21, 30)
    record.close()
    records, files = events_in(store, tmp_path)
    assert (sorted(records[WEIGHT]), files) == (list(range(1, 31)), 1)
    assert len(kaw.read_journal(FOLDER / "journal.jsonl").observations) == 30


def test_a_full_event_file_is_followed_by_another(store, tmp_path, monkeypatch):
    monkeypatch.setattr(stored_events, "_FULL_BYTES", 2000)
    record = record_from()
    for step in range(1, 41):
        observe(record, step, step)
        record._writers[1]._backlog.flush()
        record._writers[1]._events._file.flush()
    record.close()
    records, files = events_in(store, tmp_path)
    assert sorted(records[WEIGHT]) == list(range(1, 41))
    assert 3 <= files <= 20


@pytest.mark.parametrize("remembered", [True, False])
def test_a_resumed_run_writes_no_step_twice_and_none_that_goes_back(remembered, store, tmp_path, monkeypatch):
    record = record_from()
    observe(record, 1, 30)
    record.close()
    assert event_files._as_it_was_left(FOLDER, 30) is not None
    if not remembered:
        monkeypatch.setattr("keras_adaptive_weights.recording.event_files._left", {})
    record = record_from(30)
    observe(record, 31, 40)
    record.close()
    record = record_from(35)
    observe(record, 36, 50)
    record.close()
    records, files = events_in(store, tmp_path)
    assert (sorted(records[WEIGHT]), files) == (list(range(1, 51)), 3)
    assert [seen.step for seen in kaw.read_journal(FOLDER / "journal.jsonl").observations] == list(range(1, 51))
    abandoned = store.names(str(FOLDER / "abandoned"))
    assert len(abandoned) == 2
    assert not any("tfevents" in name for name in abandoned)


def test_a_disable_by_hand_that_a_kill_took_is_known_to_the_resumed_run(store):
    record = record_from()
    observe(record, 1, 10)
    record.note((), [Decision(10, Action.DISABLE, Reason.MANUAL, 2.5, 2.5, note="clipping", term="mel_loss")])
    record.close(interrupted=True)
    record = record_from(5)
    assert {term: (lost.step, lost.note[:8]) for term, lost in record.lost.items()} == {"mel_loss": (10, "clipping")}
    record.close()


def test_a_store_that_refuses_is_one_warning_and_training_goes_on(store):
    store.fail = PermissionError("403")
    with pytest.warns(RuntimeWarning, match=r"'fake://bucket/run/adaptive_weights' is incomplete from the start.*403"):
        record = record_from()
    observe(record, 1, 5)
    record.close()


def test_a_store_that_fails_for_a_while_is_no_warning_and_loses_nothing(store, tmp_path):
    record = record_from()
    store.fail = OSError("503")
    observe(record, 1, 100)
    for writer in record._writers:
        writer._backlog.flush()
    journal, events = record._writers[0]._file, record._writers[1]._events._file
    for file in (journal, events):
        file.hasten()
        file.tend()
    store.fail = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record.close()
    assert len(kaw.read_journal(FOLDER / "journal.jsonl").observations) == 100
    assert sorted(events_in(store, tmp_path)[0][WEIGHT]) == list(range(1, 101))


def test_the_journal_is_found_from_the_urls_of_run_folder_and_file(store):
    record_from().close()
    journal = FOLDER / "journal.jsonl"
    for given in (str(FOLDER.parent), FOLDER, journal, f"{FOLDER.parent}/"):
        assert find_journal(given) == journal
    with pytest.raises(FileNotFoundError, match=r"in 'fake://bucket'\. Runs below it: 'fake://bucket/run'\."):
        find_journal("fake://bucket")


@pytest.mark.parametrize(
    ("age", "ended", "expected"),
    [
        (5.0, False, ("alive", 5.0)),
        (59.0, False, ("alive", 59.0)),
        (61.0, False, ("silent", 61.0)),
        (61.0, True, ("ended", 61.0)),
        (None, False, ("", None)),
        (None, True, ("ended", None)),
    ],
)
def test_a_piece_is_a_sign_of_life_where_the_store_tells_its_time(age, ended, expected, store):
    store.now = lambda: 0.0 if age is None else 1000.0 - age
    store.write(str(FOLDER / "journal.jsonl"), b"{}\n")
    assert liveliness(FOLDER / "journal.jsonl", ended=ended, clock=lambda: 1000.0) == expected
