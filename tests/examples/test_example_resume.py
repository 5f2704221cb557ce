"""The main example, killed and resumed: it goes on, and its journal is decided again exactly."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import small_speech
import train_xtts
import verify
from journal_rows import rows_of
from processes import Program
from xtts_demo.clips import DataError
from xtts_demo.options import Plan
from xtts_demo.resume import CHECKPOINT, Checkpoint, resume

import keras_adaptive_weights as kaw
from keras_adaptive_weights.journal.lines import encode, outcome_values

EXECUTION, EPOCH, EPOCHS = 2, 16, 3
KILL_AFTER, SECONDS = EPOCH + 6, 0.05  # for an execution: time enough to be killed in
SMALL = f"""
import functools, sys, time
sys.path[:0] = {[str(Path(module.__file__).parent) for module in (train_xtts, small_speech)]!r}
import tensorflow as tf, train_xtts
import keras_adaptive_weights as kaw
from small_speech import SmallSpeech
from xtts_demo import model
tf.config.optimizer.set_experimental_options({{"disable_meta_optimizer": True}})  # as `graphs_as_traced`
model.XTTSModel = SmallSpeech
quick = kaw.AdaptiveWeightConfig(warmup_steps=10, cooling_period=6, min_stable_steps=3, loss_smoothing_factor=0.4,
                                 variance_threshold=5.0, significance=1.0, reference_steps=20)
kaw.XTTSLoss = functools.partial(kaw.XTTSLoss, config=quick)
train_xtts.speak = lambda *_: None

class Slow(kaw.AdaptiveMelWeightCallback):
    def on_train_batch_end(self, *given, **named):
        time.sleep({SECONDS})
        super().on_train_batch_end(*given, **named)

kaw.AdaptiveMelWeightCallback = Slow
sys.exit(train_xtts.main(sys.argv[1:]))
"""


def start(folder, cache_dir, *more):
    """Start the example with a small model, not too fast, and a controller that soon has something to decide."""
    arguments = ["--log-dir", folder / "run", "--cache-dir", cache_dir, "--max-clips", "40", "--batch-size", "4"]
    arguments += ["--steps", EPOCH * EPOCHS, "--epochs", EPOCHS, "--steps-per-execution", EXECUTION, "--quiet", *more]
    command = [sys.executable, "-c", SMALL, *map(str, arguments)]
    return Program(command)


def lines_of(folder):
    """The whole lines of the journal; none where there is no journal yet."""
    path = folder / "run" / "adaptive_weights" / "journal.jsonl"
    text = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def kill_after(step, process, folder, seconds=120.0):
    """End a process with SIGKILL as soon as its journal tells of a step."""
    end = time.monotonic() + seconds
    while not any(line["kind"] == "step" and line["step"] >= step for line in lines_of(folder)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def check_replay(folder):
    """Decide again, and compare with every outcome and event in the file; return the decisions."""
    decisions = kaw.replay(folder / "run" / "adaptive_weights" / "journal.jsonl")
    lines = lines_of(folder)
    outcomes = [row for row in rows_of(folder / "run" / "adaptive_weights" / "journal.jsonl") if "reason" in row]
    assert len(decisions) == len(outcomes)
    for decision, row in zip(decisions, outcomes, strict=True):
        assert json.loads(encode(outcome_values([decision])))["decided"] == row["decided"]
        assert (decision.step, decision.old_weight) == (row["step"], row["weight"])
    events = [kaw.Decision.from_dict(line) for line in lines if line["kind"] == "event"]
    assert [str(event) for event in events] == [str(decision) for decision in decisions if decision.is_event]
    assert [repr(sorted(event.evidence.items())) for event in events] == [
        repr(sorted(decision.evidence.items())) for decision in decisions if decision.is_event
    ]
    return decisions


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_is_decided_again_exactly(tmp_path, cache_dir):
    """`kill -9` in the second epoch: the same command goes on from the end of the first, in the same journal."""
    fault = ("--inject", f"nan@{2 * EPOCH + 5}")
    with start(tmp_path, cache_dir, *fault) as process:
        kill_after(KILL_AFTER, process, tmp_path)
        assert process.returncode == -signal.SIGKILL
    check_replay(tmp_path)
    reached = max(line["step"] for line in lines_of(tmp_path) if line["kind"] == "step")

    with start(tmp_path, cache_dir, *fault, "--resume") as process:
        out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    resumed = int(out.partition("resumed after step ")[2].split()[0])
    assert resumed in (EPOCH, 2 * EPOCH)
    assert resumed <= reached
    assert f"after step {resumed}, where it resumed" in out

    assert verify.check_journal(tmp_path / "run") == EPOCH * EPOCHS
    assert verify.check_abandoned(tmp_path / "run") == 1
    decisions = check_replay(tmp_path)
    assert len(decisions) == EPOCH * EPOCHS // EXECUTION
    assert "hold" in {decision.action for decision in decisions}  # whether it decreases hangs on the dropout after it
    journal = kaw.read_journal(tmp_path / "run" / "adaptive_weights" / "journal.jsonl")
    assert [header.state["step"] for header in journal.headers] == [0, resumed]
    assert [seen.step for seen in journal.observations if not seen.applied] == [2 * EPOCH + 5], "the same batches"


class Restored:
    """Stands for a model whose checkpoint is of some step."""

    def __init__(self, step):
        self.optimizer, self.loss = self, self
        self.trainable_variables, self.mel_weight, self.step_count = [], self, step

    def build(self, variables):
        """As the optimizer."""

    def load_weights(self, path):
        """As the model."""


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (80, 80),
        (90, r"checkpoint.weights.h5 is of step 90, where no epoch of 40 steps ends: resume with the same options"),
        (120, r"the run in .* is over: all of its 120 steps are done"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(step, expected, tmp_path):
    """One of a run of another length, or at its end; where there is none yet, the run begins."""
    path, plan = tmp_path / CHECKPOINT, Plan(3, 40)
    assert resume(Restored(step), path, plan) == 0
    path.write_bytes(b"")
    if isinstance(expected, int):
        assert resume(Restored(step), path, plan) == expected
    else:
        with pytest.raises(DataError, match=expected):
            resume(Restored(step), path, plan)


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path):
    """The one before it stays until the new one is complete."""
    path = tmp_path / CHECKPOINT
    path.write_text("before")
    callback = Checkpoint(path)

    class Model:
        def save_weights(self, to):
            assert path.read_text() == "before"
            to.write_text("after")

    callback.set_model(Model())
    callback.on_epoch_end(0)
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]
