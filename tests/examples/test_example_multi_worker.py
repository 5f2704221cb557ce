"""The example on several workers: it trains, a worker that is killed is named, and a restart goes on."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import multi_worker
import pytest

import keras_adaptive_weights as kaw

SCRIPT = Path(multi_worker.__file__)
SECONDS = 200.0
NOTICED_WITHIN = 60.0  # half a minute is what the example promises; the rest is for a machine with other things to do


class Run:
    """The script in a process group of its own, and what it prints."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-u", SCRIPT, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        )
        self.lines, self._new = [], queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()

    def _read(self):
        for line in self.process.stdout:
            self._new.put(line.rstrip())
        self._new.put(None)

    def wait_for(self, pattern, seconds=SECONDS):
        """Read until a line matches, or to the end where the pattern is None; return the match."""
        end = time.monotonic() + seconds
        while (line := self._new.get(timeout=max(0.1, end - time.monotonic()))) is not None:
            self.lines.append(line)
            if pattern and (match := re.search(pattern, line)):
                return match
        assert pattern is None, "\n".join(self.lines)
        return None

    def end(self):
        """Wait for the end and return the exit code."""
        self.wait_for(None)
        return self.process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0], ids=["another", "the chief"])
def test_a_worker_that_is_killed_is_named_and_a_restart_goes_on_with_the_same_decisions(victim, tmp_path):
    """The chief is killed when it is about to write the backup of the epoch, or does."""
    folder, other = str(tmp_path / "run"), 1 - victim
    with Run("--log-dir", folder, "--seconds-per-step", "0.05") as run:
        pids = [int(run.wait_for(rf"worker {index} is process (\d+)")[1]) for index in range(2)]
        run.wait_for(f"worker {other}: epoch 2 done")
        os.kill(pids[victim], signal.SIGKILL)
        killed = time.monotonic()
        pattern = rf"worker {other}: LOST worker {victim}.* Start all workers again\. \w+Error: .*task:{victim}"
        run.wait_for(pattern, NOTICED_WITHIN)
        assert run.end() == multi_worker.LOST, run.lines
        assert time.monotonic() - killed < NOTICED_WITHIN
    with Run("--log-dir", folder) as run:
        assert run.end() == 0, "\n".join(run.lines)
    epochs = [re.search(r"epoch (\d)", line)[1] for line in run.lines if "worker 1: epoch" in line]
    assert epochs in ([["3", "4"]] if victim == 1 else [["3", "4"], ["2", "3", "4"]])
    assert re.fullmatch(r"[1-9]\d* decisions, the same on all 2 workers", run.lines[-1])
    assert any(line.startswith("worker 1: done after 160 steps") for line in run.lines)
    journal = kaw.read_journal(Path(folder) / "adaptive_weights" / "journal.jsonl")
    assert [observation.step for observation in journal.observations] == list(range(1, 161))
    assert journal.problems == []
    assert not (Path(folder) / "backup").exists()


@pytest.mark.parametrize(
    ("message", "own", "expected"),
    [
        ("tasks are unhealthy:\n/job:worker/replica:0/task:1\n", 0, "worker 1"),
        ("Error reported from /job:worker/task:3: remote target /job:worker/replica:0/task:2", 3, "worker 2"),
        ("deadline exceeded", 1, "worker 0, which is silent"),
    ],
)
def test_the_worker_that_is_lost_is_read_from_the_error(message, own, expected):
    assert multi_worker.culprit(message, own) == expected


def test_on_slurm_the_addresses_come_from_the_environment(monkeypatch):
    environment = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "a[1-2]"}
    for name, value in {**environment, "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}.items():
        monkeypatch.setenv(name, value)
    found = multi_worker.resolver("slurm")
    assert found.cluster_spec().as_dict() == {"worker": ["a1:8888", "a2:8888"]}
    assert (found.task_type, found.task_id) == ("worker", 1)
