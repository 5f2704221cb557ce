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
import processes
import pytest
from processes import Program

import keras_adaptive_weights as kaw

FOLDERS = [str(Path(module.__file__).parent) for module in (processes, multi_worker)]
BEGIN = f"""
import subprocess, sys
sys.path[:0] = {FOLDERS!r}
import multi_worker, processes
subprocess.Popen = processes.Program
sys.exit(multi_worker.main())
"""
SECONDS = 200.0
NOTICED_WITHIN = 60.0  # half a minute is what the example promises; the rest is for a machine with other things to do


class Run:
    """The script, whose workers are as quickly started as itself, and what it prints."""

    def __init__(self, *arguments):
        self.process = Program([sys.executable, "-c", BEGIN, *arguments], stderr=subprocess.STDOUT)
        self.lines, self._new = [], queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()  # and with it its workers
        self._reader.join()
        self.process.__exit__()

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

    def epochs(self, worker):
        """The epochs that a worker has done."""
        return [int(match[1]) for line in self.lines if (match := re.match(rf"worker {worker}: epoch (\d)", line))]


def kill_worker(victim, epoch, folder):
    """Kill a worker as soon as the other one has done an epoch; return the run, which then ends."""
    other = 1 - victim
    with Run("--log-dir", folder, "--epochs", "3", "--seconds-per-step", "0.02") as run:
        pids = [int(run.wait_for(rf"worker {index} is process (\d+)")[1]) for index in range(2)]
        run.wait_for(f"worker {other}: epoch {epoch} done")
        os.kill(pids[victim], signal.SIGKILL)
        killed = time.monotonic()
        pattern = rf"worker {other}: LOST worker {victim}.* Start all workers again\. \w+Error: .*task:{victim}"
        run.wait_for(pattern, NOTICED_WITHIN)
        assert run.end() == multi_worker.LOST, run.lines
        assert time.monotonic() - killed < NOTICED_WITHIN
    return run


@pytest.mark.slow
def test_workers_that_are_killed_are_named_and_a_restart_goes_on_with_the_same_decisions(tmp_path):
    """First another one, then the chief, when it is about to write the backup of the epoch, or does."""
    folder = str(tmp_path / "run")
    assert kill_worker(1, 1, folder).epochs(0) == [1]
    assert kill_worker(0, 2, folder).epochs(1) == [2]
    with Run("--log-dir", folder, "--epochs", "3") as run:
        assert run.end() == 0, "\n".join(run.lines)
    assert run.epochs(0) == run.epochs(1)
    assert run.epochs(1) in ([3], [2, 3])
    assert re.fullmatch(r"[1-9]\d* decisions, the same on all 2 workers", run.lines[-1])
    assert any(line.startswith("worker 1: done after 120 steps") for line in run.lines)
    journal = kaw.read_journal(Path(folder) / "adaptive_weights" / "journal.jsonl")
    assert [observation.step for observation in journal.observations] == list(range(1, 121))
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
