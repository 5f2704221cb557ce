"""Soak: a small speech model trained through bad batches, spikes and learning-rate surges, and plain Keras beside it.

    python tests/soak/soak.py --epochs 300

Each batch is, with a chance of 1 %, poisoned with one NaN, and with a chance of 1 % scaled by 100; three times during
the run the learning rate is ten times as high for a thirtieth of it. After every step all parameters and statistics
must be finite, and the weight must be within its bounds and have moved by at most 5 %. The same batches then go through
`fit` of a plain `keras.Model` with the same layers, loss terms and weights, until its parameters are NaN.
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
from keras_adaptive_weights.training.recovery import ModelRecovery

BATCH, FRAMES, BANDS, TOKENS = 8, 24, 16, 12
LEARNING_RATE, SURGE_FACTOR, SURGES = 2e-3, 10.0, 3
NAN_CHANCE, SPIKE_CHANCE, SPIKE_FACTOR = 0.01, 0.01, 100.0


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
    weight_low: float = math.inf
    weight_high: float = -math.inf
    largest_change: float = 0.0
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


def build(cls, seed):
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
    model.compile(optimizer=keras.optimizers.Adam(LEARNING_RATE), loss=kaw.XTTSLoss(mel_loss_weight=2.5))
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
        self.weight, self.memory, self.decided = None, [], 0

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
        self._look_at_the_weight(self.model.loss.mel_weight)
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

    def _look_at_the_weight(self, weight):
        result, now = self.result, float(weight.variable)
        result.weight_low, result.weight_high = min(result.weight_low, now), max(result.weight_high, now)
        fresh = weight.decisions[self.decided :]
        self.decided += len(fresh)
        if self.weight is not None and not any(decision.action is kaw.Action.DISABLE for decision in fresh):
            result.largest_change = max(result.largest_change, now / self.weight - 1.0, self.weight / now - 1.0)
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
    """Train once, "plain" or "stable", and return the `Result`."""
    result, data = Result(name), Batches(utterances, seed)
    model = build(kaw.StableModel if name == "stable" else PlainModel, seed)
    inspector = Inspector(result, stop_when_bad=name == "plain")
    callbacks = [Surges(epochs * len(data)), inspector]
    if name == "stable":
        ours = kaw.AdaptiveMelWeightCallback(log_dir=log_dir, recovery=ModelRecovery())
        callbacks.insert(0, ours)
    began = time.perf_counter()
    with contextlib.suppress(Lost):
        model.fit(data, epochs=epochs, shuffle=False, verbose=0, callbacks=callbacks)
    result.seconds = time.perf_counter() - began
    result.nan_batches, result.spikes = data.nan_batches, data.spikes
    result.memory_growth = growth(inspector.memory)
    if name == "stable":
        result.decisions = len(ours.decisions)
        result.recoveries = sum(decision.reason.value.startswith("recovered_") for decision in ours.decisions)
        if log_dir is not None:
            seen = kaw.read_journal(pathlib.Path(log_dir) / "adaptive_weights" / "journal.jsonl").observations
            assert [observation.step for observation in seen] == list(range(1, result.steps + 1)), "steps are missing"
            result.dampened = sum(observation.dampening < 1.0 for observation in seen)
    return result


def violations(stable, plain):
    """Return what did not hold, one sentence each."""
    checks = {
        f"{stable.bad_steps} steps left variables that are not finite": stable.bad_steps == 0,
        f"{stable.nan_batches} NaN batches, but {stable.skipped} skipped steps": stable.skipped >= stable.nan_batches,
        f"the weight was {stable.weight_low:g} to {stable.weight_high:g}": stable.weight_low >= 1.0
        and stable.weight_high <= 5.0,
        f"the weight changed by {stable.largest_change:.3%} at once": stable.largest_change <= 0.05 + 1e-6,
        f"memory grew by {stable.memory_growth:.1f} MB": stable.memory_growth < 20.0,
        f"the loss went from {stable.first_loss:.4g} to {stable.last_loss:.4g}": stable.last_loss < stable.first_loss,
        "plain Keras survived": plain.first_bad_step is not None,
    }
    return [sentence for sentence, holds in checks.items() if not holds]


def table(stable, plain):
    """Return both results as a Markdown table."""
    ended = "none" if plain.first_bad_step is None else f"from step {plain.first_bad_step:,} on, for ever"
    rows = [
        ("steps", f"{stable.steps:,}", f"{plain.steps:,}, then stopped"),
        (
            "batches with a NaN / scaled by 100",
            f"{stable.nan_batches} / {stable.spikes}",
            f"{plain.nan_batches} / {plain.spikes}",
        ),
        (
            "learning-rate surges of 10x",
            f"{SURGES}",
            "0 (it did not get that far)" if plain.steps < stable.steps / 4 else "1 or more",
        ),
        ("steps with non-finite parameters", f"**{stable.bad_steps}**", f"**{ended}**"),
        ("steps skipped / dampened", f"{stable.skipped} / {stable.dampened}", "-"),
        ("weight, lowest to highest", f"{stable.weight_low:.3f} to {stable.weight_high:.3f}", "-"),
        ("largest change of the weight at once", f"{stable.largest_change:.2%}", "-"),
        ("decisions / model recoveries", f"{stable.decisions} / {stable.recoveries}", "-"),
        ("loss, first to last epoch", f"{stable.first_loss:.3f} to {stable.last_loss:.3f}", "NaN"),
        ("memory gained over the second half", f"{stable.memory_growth:.1f} MB", "-"),
        ("time", f"{stable.seconds:.0f} s", "-"),
    ]
    head = ["| | StableModel | plain Keras fit |", "|---|---|---|"]
    return "\n".join(head + [f"| {name} | {ours} | {theirs} |" for name, ours, theirs in rows])


def main(arguments=None):
    """Run the soak, print the table, and return 1 if anything did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--utterances", type=int, default=188, help="in the made-up corpus; 8 to a batch")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of a table")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        stable = soak("stable", options.epochs, options.utterances, options.seed, folder)
    plain = soak("plain", options.epochs, options.utterances, options.seed)
    figures = [dataclasses.asdict(stable), dataclasses.asdict(plain)]
    sys.stdout.write((json.dumps(figures) if options.json else table(stable, plain)) + "\n")
    broken = violations(stable, plain)
    for sentence in broken:
        sys.stderr.write(f"NOT HELD: {sentence}\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
