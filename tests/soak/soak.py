"""Soak: a small speech model trained through bad batches, spikes and learning-rate surges, and plain Keras beside it.

    python tests/soak/soak.py --epochs 300

Each batch is, with a chance of 1 %, poisoned with one NaN, and with a chance of 1 % scaled by 100; three times during
the run the learning rate is ten times as high for a thirtieth of it. After every step all parameters and statistics
must be finite, and the weight must be within its bounds and have moved by at most 5 %. The same batches then go through
the same model with a balance, which is to make the mel loss 60 % of the gradient and, where there are steps enough to
go there by 5 % at a time, to end within ten points of that (its one calibration, and what undoes it, may move the
weight further); and through `fit` of a plain `keras.Model` with the same layers, loss terms and weights, until its
parameters are NaN.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import math
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive_weights as kaw
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.showing.view import parts_of_the_gradient
from keras_adaptive_weights.training.recovery import ModelRecovery

BATCH, FRAMES, BANDS, TOKENS = 8, 24, 16, 12
LEARNING_RATE, SURGE_FACTOR, SURGES = 2e-3, 10.0, 3
NAN_CHANCE, SPIKE_CHANCE, SPIKE_FACTOR = 0.01, 0.01, 100.0
SHARE, NEAR, ARRIVED = 0.6, 0.1, 2000
BALANCES = {"stable": None, "balanced": kaw.GradientShare({"mel_loss": SHARE})}


@dataclasses.dataclass
class Result:
    """What one run came to."""

    name: str
    steps: int = 0
    seconds: float = 0.0
    nan_batches: int = 0
    spikes: int = 0
    skipped: int = 0
    dampened: int = 0
    decisions: int = 0
    recoveries: int = 0
    bad_steps: int = 0
    first_bad_step: int | None = None
    bounds: tuple[float, float] = (1.0, 5.0)
    weight_low: float = math.inf
    weight_high: float = -math.inf
    largest_change: float = 0.0
    calibrations: int = 0
    rollbacks: int = 0
    share: float = math.nan
    first_loss: float = math.nan
    last_loss: float = math.nan
    memory_growth: float = 0.0


def corpus(utterances, seed):
    """Return inputs and targets of made-up speech: each token has a spectrum, and the mel follows the text."""
    rng = np.random.default_rng(seed)
    spectra = rng.standard_normal((30, BANDS)).astype("float32")
    text = rng.integers(1, 30, (utterances, TOKENS))
    frames = np.repeat(text, FRAMES // TOKENS, axis=1)
    lengths = rng.integers(FRAMES // 2, FRAMES + 1, utterances)
    position = np.arange(FRAMES)
    targets = {
        "mel_target": spectra[frames] + 0.1 * rng.standard_normal((utterances, FRAMES, BANDS)).astype("float32"),
        "mel_lengths": lengths.astype("float32"),
        "stop_target": (position[None] >= lengths[:, None] - 1).astype("float32"),
        "pitch_target": np.sin(frames.astype("float32")),
    }
    return text.astype("int32"), targets


class Batches(keras.utils.PyDataset):
    """Batches in a fixed order for each epoch, some of them bad; the same for everyone with the same seed."""

    def __init__(self, utterances, seed):
        super().__init__()
        self.text, self.targets = corpus(utterances, seed)
        self.seed, self.epoch, self.nan_batches, self.spikes = seed, 0, 0, 0

    def __len__(self):
        """Return the number of batches in an epoch; the last is smaller."""
        return math.ceil(len(self.text) / BATCH)

    def __getitem__(self, index):
        """Return a batch, perhaps with a NaN or a hundred times too loud."""
        rng = np.random.default_rng((self.seed, self.epoch, index))
        part = slice(index * BATCH, (index + 1) * BATCH)
        targets = {name: values[part].copy() for name, values in self.targets.items()}
        fate = rng.random()
        if fate < NAN_CHANCE:
            targets["mel_target"][0, 0, 0] = np.nan
            self.nan_batches += 1
        elif fate < NAN_CHANCE + SPIKE_CHANCE:
            targets["mel_target"] *= SPIKE_FACTOR
            self.spikes += 1
        return self.text[part], targets

    def on_epoch_end(self):
        """Draw other batches to be bad."""
        self.epoch += 1


class Lost(Exception):  # noqa: N818 - an outcome, not an error
    """The parameters are not finite, and will never be again."""


class PlainModel(keras.Model):
    """Keras's own train step. Keras hands a single loss one output at a time, so the loss is called here."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the weighted sum of the loss terms."""
        return self.loss.evaluate(y, y_pred, sample_weight).total


def build(cls, seed, balance=None):
    """Return a compiled model: embedding, convolution, batch normalisation, and heads for mel, stop and pitch."""
    keras.utils.set_random_seed(seed)
    text = keras.Input((TOKENS,), dtype="int32")
    hidden = keras.layers.Embedding(30, 32)(text)
    hidden = keras.layers.UpSampling1D(FRAMES // TOKENS)(hidden)
    for _ in range(2):
        hidden = keras.layers.Conv1D(32, 3, padding="same", activation="gelu")(hidden)
        hidden = keras.layers.BatchNormalization()(hidden)
    outputs = {
        "mel_output": keras.layers.Dense(BANDS)(hidden),
        "stop_tokens": keras.layers.Dense(1)(hidden),
        "pitch_output": keras.layers.Dense(1)(hidden),
    }
    model = cls(text, outputs)
    loss = kaw.XTTSLoss(mel_loss_weight=2.5, balance=balance)
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=loss)
    return model


class Surges(keras.callbacks.Callback):
    """Three times the learning rate is ten times as high for a thirtieth of the run."""

    def __init__(self, steps):
        super().__init__()
        length = max(1, steps // 30)
        self.starts = [steps * (number + 1) // (SURGES + 1) for number in range(SURGES)]
        self.high = {start + i for start in self.starts for i in range(length)}
        self.step = 0

    def on_train_batch_begin(self, batch, logs=None):
        """Set the rate of this step, where it changes."""
        if (self.step in self.high) != (self.step - 1 in self.high):
            self.model.optimizer.learning_rate = LEARNING_RATE * (SURGE_FACTOR if self.step in self.high else 1.0)
        self.step += 1


class Inspector(keras.callbacks.Callback):
    """After every step: are all variables finite, and did the weight keep to its rules?"""

    def __init__(self, result, *, stop_when_bad):
        super().__init__()
        self.result, self.stop_when_bad = result, stop_when_bad
        self.weight, self.memory, self.decided, self.jumped = None, [], 0, False

    def on_train_begin(self, logs=None):
        """Prepare one graph that looks at all variables."""
        variables = [v for v in [*self.model.variables, *self.model.optimizer.variables] if "float" in v.dtype]
        self.all_finite = tf.function(lambda: tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in variables]))

    def on_train_batch_end(self, batch, logs=None):
        """Look."""
        result = self.result
        result.steps += 1
        if not self.all_finite():
            result.bad_steps += 1
            result.first_bad_step = result.first_bad_step or result.steps
            self.model.stop_training = self.stop_when_bad
        self._look_at_the_weight(self.model.loss)
        if self.stop_when_bad and self.model.stop_training:
            raise Lost

    def on_epoch_end(self, epoch, logs=None):
        """Note memory and losses."""
        gc.collect()
        self.memory.append(resident_megabytes())
        self.result.skipped += int(logs.get("skipped_steps", 0))
        if epoch == 0:
            self.result.first_loss = logs["loss"]
        self.result.last_loss = logs["loss"]

    def _look_at_the_weight(self, loss):
        result, weight = self.result, loss.mel_weight
        now, fresh = float(weight.variable), (loss.balanced or weight).decisions[self.decided :]
        result.weight_low, result.weight_high = min(result.weight_low, now), max(result.weight_high, now)
        result.bounds = weight.config.min_weight, weight.config.max_weight
        self.decided += len(fresh)
        actions = [decision.action for decision in fresh]
        undone = self.jumped and kaw.Action.ROLLBACK in actions
        if self.weight is not None and not undone and not {kaw.Action.DISABLE, kaw.Action.CALIBRATE} & set(actions):
            result.largest_change = max(result.largest_change, now / self.weight - 1.0, self.weight / now - 1.0)
        for action in actions:
            self.jumped = action is kaw.Action.CALIBRATE or (self.jumped and action is kaw.Action.REJECT)
        self.weight = now


def resident_megabytes():
    """Return the memory this process holds, in MB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def growth(memory):
    """Return MB gained over the second half of the epochs: a line fitted to them, times their number."""
    half = memory[len(memory) // 2 :]
    return 0.0 if len(half) < 3 else float(np.polyfit(range(len(half)), half, 1)[0] * len(half))


def soak(name, epochs, utterances, seed, log_dir=None):
    """Train once, "stable", "balanced" or "plain", and return the `Result`."""
    result, data = Result(name), Batches(utterances, seed)
    ours = name in BALANCES
    model = build(kaw.StableModel if ours else PlainModel, seed, BALANCES.get(name))
    inspector = Inspector(result, stop_when_bad=not ours)
    callbacks = [Surges(epochs * len(data)), inspector]
    if ours:
        callback = kaw.AdaptiveWeightCallback(log_dir=log_dir, recovery=ModelRecovery())
        callbacks.insert(0, callback)
    began = time.perf_counter()
    with contextlib.suppress(Lost):
        model.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    result.seconds = time.perf_counter() - began
    result.nan_batches, result.spikes = data.nan_batches, data.spikes
    result.memory_growth = growth(inspector.memory)
    if ours:
        look_at_the_record(result, callback.decisions, pathlib.Path(log_dir) / "adaptive_weights" / "journal.jsonl")
    return result


def look_at_the_record(result, decisions, path):
    """Add to a result what was decided and recorded; every step must be in the journal."""
    actions = [decision.action for decision in decisions]
    result.decisions = len(actions)
    result.calibrations, result.rollbacks = actions.count(kaw.Action.CALIBRATE), actions.count(kaw.Action.ROLLBACK)
    result.recoveries = sum(decision.reason.value.startswith("recovered_") for decision in decisions)
    journal = kaw.read_journal(path)
    seen = journal.observations
    assert [observation.step for observation in seen] == list(range(1, result.steps + 1)), "steps are missing"
    result.dampened = sum(observation.dampening < 1.0 for observation in seen)
    if journal.joint:
        replayed = [decision for decision in kaw.replay(path) if decision.is_event]
        assert [str(decision) for decision in replayed] == [str(event) for event in journal.events], "decided otherwise"
        result.share = share_at_the_end(path)


def share_at_the_end(path):
    """Return the mel loss's part of the gradient, by the last measurements of a run."""
    index = JournalIndex(path)
    index.refresh()
    return parts_of_the_gradient(index)["mel_loss"]


def violations(result):
    """Return what did not hold of one of ours, one sentence each."""
    low, high = result.bounds
    checks = {
        f"{result.bad_steps} steps left variables that are not finite": result.bad_steps == 0,
        f"{result.nan_batches} NaN batches, but {result.skipped} skipped steps": result.skipped >= result.nan_batches,
        f"the weight was {result.weight_low:g} to {result.weight_high:g}": low <= result.weight_low
        and result.weight_high <= high,
        f"the weight changed by {result.largest_change:.3%} at once": result.largest_change <= 0.05 + 1e-6,
        f"memory grew by {result.memory_growth:.1f} MB": result.memory_growth < 20.0,
        f"the loss went from {result.first_loss:.4g} to {result.last_loss:.4g}": result.last_loss < result.first_loss,
    }
    if result.name == "balanced":
        checks[f"it was calibrated {result.calibrations} times"] = result.calibrations <= 1
        there = result.steps < ARRIVED or abs(result.share - SHARE) <= NEAR
        checks[f"the share of the mel loss ended at {result.share:.0%}"] = there
    return [f"{result.name}: {sentence}" for sentence, holds in checks.items() if not holds]


def table(stable, balanced, plain):
    """Return the results as a Markdown table."""
    ended = "none" if plain.first_bad_step is None else f"from step {plain.first_bad_step:,} on, for ever"
    surges = "0 (it did not get that far)" if plain.steps < stable.steps / 4 else "1 or more"
    rows = [
        ("steps", *(f"{one.steps:,}" for one in (stable, balanced)), f"{plain.steps:,}, then stopped"),
        (
            "batches with a NaN / scaled by 100",
            *(f"{one.nan_batches} / {one.spikes}" for one in (stable, balanced, plain)),
        ),
        ("learning-rate surges of 10x", f"{SURGES}", f"{SURGES}", surges),
        ("steps with non-finite parameters", f"**{stable.bad_steps}**", f"**{balanced.bad_steps}**", f"**{ended}**"),
        *zip(FIGURES, *map(figures, (stable, balanced)), ["-"] * len(FIGURES), strict=True),
        ("share of the mel loss at the end", "-", f"{balanced.share:.0%} of {SHARE:.0%}", "-"),
    ]
    head = ["| | StableModel | with `GradientShare` | plain Keras fit |", "|---|---|---|---|"]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


FIGURES = (
    "steps skipped / dampened",
    "weight, lowest to highest",
    "largest change of the weight at once",
    "decisions / rollbacks / model recoveries",
    "loss, first to last epoch",
    "memory gained over the second half",
    "time",
)


def figures(result):
    """Return those of one of ours."""
    return (
        f"{result.skipped} / {result.dampened}",
        f"{result.weight_low:.3f} to {result.weight_high:.3f}",
        f"{result.largest_change:.2%}" + (", but for one calibration" if result.calibrations else ""),
        f"{result.decisions} / {result.rollbacks} / {result.recoveries}",
        f"{result.first_loss:.3f} to {result.last_loss:.3f}",
        f"{result.memory_growth:.1f} MB",
        f"{result.seconds:.0f} s",
    )


def main(arguments=None):
    """Run the soak, print the table, and return 1 if anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--utterances", type=int, default=188, help="in the made-up corpus; 8 to a batch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    options = parser.parse_args(arguments)
    given = options.epochs, options.utterances, options.seed
    found = []
    for name in BALANCES:
        with tempfile.TemporaryDirectory() as folder:
            found.append(soak(name, *given, folder))
    plain = soak("plain", *given)
    as_json = [dataclasses.asdict(one) for one in (*found, plain)]
    sys.stdout.write((json.dumps(as_json) if options.json else table(*found, plain)) + "\n")
    broken = [sentence for one in found for sentence in violations(one)]
    broken += ["plain Keras survived"] if plain.first_bad_step is None else []
    for sentence in broken:
        sys.stderr.write(f"NOT HELD: {sentence}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
