"""The file that one process writes at its end: its lock, its forked children, and its disappearance."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
import time
import warnings

import pytest
from event_records import read
from given_losses import RISING, fit, make_model

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding.decision import Action, Decision, Reason
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.appended_file import AppendedFile
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.writer import JournalWriter
from keras_adaptive_weights.recording.run_folder import JOURNAL
from keras_adaptive_weights.showing.report import make_report

CONFIG = kaw.AdaptiveWeightConfig()
OPEN_ELSEWHERE = """
import sys
from pathlib import Path
from keras_adaptive_weights.journal.appended_file import AppendedFile
try:
    AppendedFile(Path(sys.argv[1])).close()
except ValueError as error:
    print(error)
"""


def elsewhere(path):
    """Return what another process is told that wants to write to the file; nothing where it may."""
    command = [sys.executable, "-c", OPEN_ELSEWHERE, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def header(step=0):
    return Header.of("run-a", "mel_loss", 2.5, CONFIG, initial_state(CONFIG, 2.5)._replace(step=step).to_dict())


def disable(step):
    return (), Decision(step, Action.DISABLE, Reason.MANUAL, 2.5, 2.5, note="operator")


needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="no locks of this kind there")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked there")


@needs_locks
def test_the_lock_of_a_live_journal_survives_any_reading_in_the_same_process(tmp_path):
    path = tmp_path / JOURNAL
    writer = JournalWriter(path, header())
    writer.observe(*disable(0))
    kaw.read_journal(path)
    kaw.replay(path)
    JournalIndex(path).refresh()
    make_report(path)
    path.read_bytes()
    os.close(os.open(path, os.O_RDWR))
    assert "is being written by another process" in elsewhere(path)
    writer.close()
    assert elsewhere(path) == ""


@needs_locks
def test_no_second_run_gets_into_a_folder_whose_journal_is_read_within_fit(tmp_path):
    told = []

    class Reader(kaw.DecisionLogger):
        def observe(self, observations, decision):
            if decision.step == 20:
                kaw.read_journal(tmp_path / "adaptive_weights" / JOURNAL)
                told.append(elsewhere(tmp_path / "adaptive_weights" / JOURNAL))

    fit(make_model(), RISING[:30], [kaw.AdaptiveMelWeightCallback(log_dir=tmp_path, observers=[Reader()])])
    assert "is being written by another process" in told[0]


@needs_fork
@needs_locks
def test_a_lock_is_gone_with_the_process_that_took_it_whoever_it_forked(tmp_path):
    """As a training that was killed while a worker that loads its data lives on."""
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from keras_adaptive_weights.journal.appended_file import AppendedFile\n"
        "file = AppendedFile(Path(sys.argv[1]))\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.close(1); os.close(2); time.sleep(60)\n"
        "print(child, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "file")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    child = int(done.stdout)
    try:
        time.sleep(0.2)
        assert elsewhere(tmp_path / "file") == ""
    finally:
        os.kill(child, 9)


FORK = """
import os, sys
import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding.decision import Action, Decision, Reason
from keras_adaptive_weights.deciding.joint import JointObservation
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.recording.record import open_record

config = kaw.AdaptiveWeightConfig()
header = Header.of("run-a", "mel_loss", 2.5, config, initial_state(config, 2.5).to_dict())
record = open_record(sys.argv[1], header, update_freq=1)
def hold(step):
    decision = Decision(step, Action.HOLD, Reason.WARMUP, 2.5, 2.5, term="mel_loss")
    record.note([JointObservation(step, {"mel_loss": 1.0})], [decision])
hold(1)
child = os.fork()
if child == 0:
    hold(2)
    record.note((), [Decision(2, Action.DISABLE, Reason.MANUAL, 2.5, 2.5, term="mel_loss")])
    record.note_save(2)
    if sys.argv[2] == "close":
        record.close()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
hold(2)
if sys.argv[2] == "close":
    record.close()
"""


@needs_fork
@pytest.mark.parametrize("end", ["close", "exit"])
def test_a_forked_child_writes_nothing(end, tmp_path):
    """Nor what waits to be written, nor at its end, when Python closes what is open. The parent's end is its own."""
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", FORK, str(tmp_path), end]
    subprocess.run(command, check=True, timeout=120)
    journal = kaw.read_journal(tmp_path / JOURNAL)
    assert [seen.step for seen in journal.observations] == [1, 2]
    assert (journal.events, journal.problems) == ([], [])
    assert (tmp_path / JOURNAL).read_text().count('"kind": "end"') == 1
    assert sorted(read(tmp_path)["adaptive_weights/mel_loss/weight"]) == [1, 2]


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_run_folder_that_is_deleted_while_training_is_one_warning(how, tmp_path):
    class Spoil(kaw.DecisionLogger):
        def observe(self, observations, decision):
            if decision.step == 30:
                shutil.rmtree(tmp_path / "run")
                if how == "replaced":
                    (tmp_path / "run" / "adaptive_weights").mkdir(parents=True)
                    (tmp_path / "run" / "adaptive_weights" / JOURNAL).write_text("another\n")

    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path / "run", observers=[Spoil()])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(make_model(), RISING, [callback])
    (warning,) = [w for w in caught if w.category is RuntimeWarning]
    assert "training goes on" in str(warning.message)
    assert "was deleted or replaced while it was written" in str(warning.message)
    assert [decision.action for decision in callback.decisions] == [Action.INCREASE]
    if how == "replaced":
        assert (tmp_path / "run" / "adaptive_weights" / JOURNAL).read_text() == "another\n"
    else:
        fit(make_model(), RISING[:5], [kaw.AdaptiveMelWeightCallback(log_dir=tmp_path / "run")])
        assert len(kaw.read_journal(tmp_path / "run" / "adaptive_weights" / JOURNAL).observations) == 5


def test_it_is_appended_to_in_one_piece_and_cut(tmp_path):
    file = AppendedFile(tmp_path / "file")
    file.write("one\n")
    file.write(b"two\n")
    assert (file.size, file.read(4, 100)) == (8, b"two\n")
    file.cut(4)
    file.write("three\n")
    file.close()
    file.close()
    assert (tmp_path / "file").read_bytes() == b"one\nthree\n"
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        file.write("four\n")


def test_a_limit_on_the_size_of_files_is_an_error(tmp_path):
    """A real refusal in the middle of a file, as a full disk's."""
    file = AppendedFile(tmp_path / "file")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            file.write("x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    file.close()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/null")], ids=["pipe", "device"])
def test_what_keeps_nothing_is_an_error_at_the_first_write(make, tmp_path):
    make(path := tmp_path / "file")
    file = AppendedFile(path)
    with pytest.raises(OSError, match="keeps nothing of what is written to it"):
        file.write("x")
    file.close()
