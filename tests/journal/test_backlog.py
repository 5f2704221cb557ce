"""What a writer has still to write: when it is written, by whom, and what becomes of a failure."""

from __future__ import annotations

import errno
import threading
import time

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action, Decision, Reason
from keras_adaptive_weights.deciding.joint import JointObservation
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.backlog import Backlog
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.recording.summaries import TensorBoardObserver

FULL = OSError(errno.ENOSPC, "No space left on device")
NEVER = 3600.0
CONFIG = AdaptiveWeightConfig()
HEADER = Header.of("run-a", "mel_loss", 2.5, CONFIG, initial_state(CONFIG, 2.5).to_dict())


def note(step, action=Action.HOLD, reason=Reason.WARMUP):
    return [JointObservation(step, {"mel_loss": 1.0})], [Decision(step, action, reason, 2.5, 2.5, term="mel_loss")]


def by_hand(step):
    return note(step, Action.DISABLE, Reason.MANUAL)


class Writer:
    """Keeps what it is given, and the thread that gave it; fails while it is told to."""

    def __init__(self, **kwargs):
        self.written, self.threads, self.failing = [], [], False
        self.wrote = threading.Event()
        self.backlog = Backlog(self.write, **{"flush_seconds": NEVER, **kwargs})

    def write(self, notes, last):
        if self.failing:
            raise FULL
        for taken in notes:
            self.written.append(taken.decisions[0].step)
            self.threads.append(threading.get_ident())
        if last is not None:
            self.written.append(last)
        if self.written:
            self.wrote.set()


@pytest.fixture
def writer():
    made = Writer()
    yield made
    made.failing = False
    made.backlog.close()


def test_what_is_asked_for_by_hand_is_written_before_the_training_goes_on(writer):
    writer.backlog.add(*note(1))
    assert writer.written == []
    writer.backlog.add(*by_hand(2))
    assert writer.written == [1, 2]
    assert set(writer.threads) == {threading.get_ident()}


def test_an_event_is_written_at_once_and_the_training_does_not_wait(writer):
    writer.backlog.add(*note(1))
    writer.backlog.add(*note(2, Action.INCREASE))
    assert writer.wrote.wait(30.0)
    writer.backlog.close()
    assert writer.written == [1, 2]
    assert threading.get_ident() not in writer.threads


def test_what_waits_is_written_by_another_thread():
    writer = Writer(flush_seconds=0.01)
    writer.backlog.add(*note(1))
    assert writer.wrote.wait(30.0)
    assert writer.written == [1]
    assert writer.threads != [threading.get_ident()]
    writer.backlog.close()


def test_no_more_waits_than_memory_bears(writer):
    for step in range(1, 1001):
        writer.backlog.add(*note(step))
    assert len(writer.written) >= 1000 - 256
    writer.backlog.flush()
    assert writer.written == list(range(1, 1001))


def test_each_note_has_its_own_time():
    taken, times = [], iter([10.0, 11.0, 12.0])
    backlog = Backlog(lambda notes, _: taken.extend(notes), flush_seconds=NEVER, clock=lambda: next(times))
    for step in (1, 2, 3):
        backlog.add(*note(step))
    backlog.close()
    assert [given.wall_time for given in taken] == [10.0, 11.0, 12.0]


def test_closing_writes_everything_and_the_last_word_and_then_no_more(writer):
    writer.backlog.add(*note(1))
    writer.backlog.close("end")
    writer.backlog.close("end")
    writer.backlog.add(*by_hand(2))
    writer.backlog.flush_or_fail_later("saved")
    assert writer.written == [1, "end"]


def test_a_failure_of_the_thread_is_told_by_the_next_step():
    writer = Writer(flush_seconds=0.01)
    writer.failing = True
    writer.backlog.add(*note(1))
    writer.backlog._thread.join(30.0)
    with pytest.raises(OSError, match="No space left"):
        writer.backlog.add(*note(2))


@pytest.mark.parametrize("how", ["thread", "save"])
def test_a_failure_that_was_not_told_is_told_at_the_end(how):
    writer = Writer(flush_seconds=0.01 if how == "thread" else NEVER)
    writer.failing = True
    writer.backlog.add(*note(1))
    if how == "save":
        writer.backlog.flush_or_fail_later("saved")
    else:
        writer.backlog._thread.join(30.0)
    writer.failing = False
    with pytest.raises(OSError, match="No space left"):
        writer.backlog.close()


def test_what_a_signal_handler_asks_for_while_something_is_written_is_written_after_it():
    """A handler runs in the thread that it interrupts, which holds the lock already."""
    written = []

    def write(notes, _):
        for taken in notes:
            step = taken.decisions[0].step
            written.append(f"begin {step}")
            if step == 1:
                backlog.add(*by_hand(2))
            written.append(f"end {step}")

    backlog = Backlog(write, flush_seconds=NEVER)
    asking = threading.Thread(target=backlog.add, args=by_hand(1), daemon=True)
    asking.start()
    asking.join(30.0)
    assert not asking.is_alive()
    assert written == ["begin 1", "end 1", "begin 2", "end 2"]


def test_tensorboard_sees_a_step_soon_even_if_no_other_follows(tmp_path):
    observer = TensorBoardObserver(tmp_path, HEADER)
    observer.note(*note(7))
    (path,) = tmp_path.glob("events*")
    until = time.monotonic() + 30.0
    while not (seen := {e.step for e in EventFileLoader(str(path)).Load() if e.step}) and time.monotonic() < until:
        time.sleep(0.1)
    assert seen == {7}
    observer.close()
