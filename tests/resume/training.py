"""The script that is killed and started again: it saves in one of four ways, and writes down every step it took.

    python tests/resume/training.py FOLDER --mode epoch --kill-in 57 --kill-after-ms 3.5

`trace.jsonl` in the folder gets a line when a process goes on from what it restored, and a line per execution, each
with the digests of the controllers of three weights, of spike average, parameters and optimizer. Every epoch has the
same batches: a shift of the losses that the controllers answer, a batch of NaN, and a spike. With `--balance` a
strategy decides on all three weights together.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive_weights as kaw

STEPS = 40
EPOCHS = 7
BATCH = 4
SAVE_EVERY = 7
MODES = ("epoch", "batches", "model", "weights")
PARTS = ("controller", "average", "parameters", "optimizer")
BALANCES = {
    "guide": None,
    "share": kaw.GradientShare({"mel_loss": 0.3, "stop_loss": 0.3}, measure_every=6, calibrate_steps=8),
    "constraint": kaw.Constraint("mel_loss", at_most=0.8, cooling_period=6),
}
DISABLED_AT, ENABLED_AT = 72, 96
CONFIG = kaw.AdaptiveWeightConfig(
    warmup_steps=15,
    cooling_period=6,
    min_stable_steps=5,
    loss_smoothing_factor=0.4,
    variance_threshold=2.0,
    reference_steps=20,
    gradient_norm_threshold=None,
    cooling_backoff=1.0,
    max_rollbacks=9,
)


@keras.saving.register_keras_serializable(package="resume")
def level(y_true, y_pred):
    """The level that the data set, and a little of what the model makes of them."""
    return tf.reduce_mean(tf.abs(y_true), axis=-1) + 0.01 * tf.reduce_mean(tf.square(y_pred - 1.0), axis=-1)


@keras.saving.register_keras_serializable(package="resume")
def inverse_level(y_true, y_pred):
    """Falls where the level rises."""
    return 1.0 / level(y_true, y_pred)


@keras.saving.register_keras_serializable(package="resume")
def error(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)


def data():
    """One epoch: shape [STEPS * BATCH, 3] of inputs, [STEPS * BATCH, 2] of targets."""
    draw = np.random.default_rng(5)
    x = draw.standard_normal((STEPS * BATCH, 3)).astype("float32")
    levels = np.where(np.arange(STEPS) < STEPS // 2, 1.0, 2.2) * draw.lognormal(0.0, 0.01, STEPS)
    levels[37] *= 40.0
    y = np.repeat(levels, BATCH)[:, None] * np.ones((1, 2))
    y[9 * BATCH + 1] = np.nan
    return x, y.astype("float32")


def new_model(steps_per_execution=1, balance="guide"):
    keras.utils.set_random_seed(7)
    inputs = keras.Input((3,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(5, activation="tanh")(inputs))
    model = kaw.StableModel(inputs, keras.layers.Dense(2)(hidden))
    config = CONFIG if balance == "guide" else dataclasses.replace(CONFIG, variance_threshold=1e9)
    terms = {
        "mel_loss": kaw.LossTerm(level, weight=kaw.AdaptiveWeight(2.5, config)),
        "stop_loss": kaw.LossTerm(error, weight=kaw.AdaptiveWeight(1.5, config)),
        "pitch_loss": kaw.LossTerm(inverse_level, weight=kaw.AdaptiveWeight(2.0, config)),
        "energy_loss": kaw.LossTerm(error, weight=0.5),
    }
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=kaw.CompositeLoss(terms, balance=BALANCES[balance]),
        steps_per_execution=steps_per_execution,
    )
    return model


def digests(model):
    """What a checkpoint must bring back, each part as a short hash."""
    weights = model.loss.adaptive_weights.values()
    controller = json.dumps([[weight.state.to_dict(), float(weight.variable)] for weight in weights])
    if model.loss.balanced is not None:
        schedule = model.loss.norm_schedule
        measured = [] if schedule is None else schedule.variable.numpy().tolist()
        controller += json.dumps([model.loss.balanced.state_values, measured])
    parts = (
        controller.encode(),
        model.loss.total_average.numpy().tobytes(),
        b"".join(np.asarray(value).tobytes() for value in model.get_weights()),
        b"".join(np.asarray(variable).tobytes() for variable in model.optimizer.variables),
    )
    return {name: hashlib.sha256(part).hexdigest()[:12] for name, part in zip(PARTS, parts, strict=True)}


class Trace(keras.callbacks.Callback):
    """Writes a line after each execution; last in the list, so that it sees what all others did."""

    def __init__(self, path):
        super().__init__()
        self._path = path

    def on_train_batch_end(self, batch, logs=None):
        self._note(step=self._weight.step_count)

    @property
    def _weight(self):
        return self.model.loss.adaptive_weights["mel_loss"]

    def _note(self, **values):
        weight = self._weight
        values |= {"run": weight.run, "weight": weight.weight, "disabled": weight.state.disabled}
        with self._path.open("a") as file:
            file.write(json.dumps(values | digests(self.model)) + "\n")


class Beginning(Trace):
    """Writes what a process goes on from; first in the list."""

    _begun = False

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if not self._begun:
            self._begun = True
            self._note(restored=self._weight.step_count, epoch=self._epoch)

    def on_train_batch_end(self, batch, logs=None):
        pass


class Operator(keras.callbacks.Callback):
    """Disables and enables by hand at fixed steps; a resumed run has no other operator."""

    def __init__(self, callback):
        super().__init__()
        self._callback = callback

    def on_train_batch_begin(self, batch, logs=None):
        state = self.model.loss.adaptive_weights["mel_loss"].state
        if state.step == DISABLED_AT and not state.disabled:
            self._callback.emergency_disable("by plan")
        if state.step == ENABLED_AT and state.disabled:
            self._callback.enable("by plan")


class Killer(keras.callbacks.Callback):
    """Sends SIGKILL to its own process so many milliseconds after its n-th step began."""

    def __init__(self, step, milliseconds):
        super().__init__()
        self._left, self._seconds = step, milliseconds / 1000.0

    def on_train_batch_begin(self, batch, logs=None):
        if 0 < self._left <= self.model.steps_per_execution:
            if not self._seconds:
                self._kill()
            threading.Thread(target=self._kill, daemon=True).start()
        self._left -= self.model.steps_per_execution

    def _kill(self):
        time.sleep(self._seconds)
        os.kill(os.getpid(), signal.SIGKILL)


def saver(mode, folder):
    """The callback that saves."""
    if mode in ("epoch", "batches"):
        save_freq = "epoch" if mode == "epoch" else SAVE_EVERY
        return keras.callbacks.BackupAndRestore(
            str(folder / "backup"), save_freq=save_freq, double_checkpoint=True, delete_checkpoint=False
        )
    if mode == "model":
        return keras.callbacks.ModelCheckpoint(str(folder / "model-{epoch:02d}.keras"))
    return keras.callbacks.ModelCheckpoint(str(folder / "epoch-{epoch:02d}.weights.h5"), save_weights_only=True)


def start(mode, folder, steps_per_execution=1, balance="guide"):
    """Return the model and the epoch to go on with; a file that was cut short by the kill is passed over."""
    for path in sorted(folder.glob("model-*.keras" if mode == "model" else "epoch-*.weights.h5"), reverse=True):
        try:
            if mode == "model":
                model = keras.models.load_model(path)
            else:
                model = new_model(steps_per_execution, balance)
                model.optimizer.build(model.trainable_variables)
                model.load_weights(path)
            return model, int(path.name[6:8])
        except (OSError, ValueError, KeyError) as cut_short:
            print(f"{path.name} cannot be read: {cut_short}")
    return new_model(steps_per_execution, balance), 0


def train(
    folder,
    mode,
    *,
    ours_first=True,
    steps_per_execution=1,
    kill_in=None,
    kill_after_ms=0.0,
    epochs=EPOCHS,
    balance="guide",
):
    """Train to the end, or until killed."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind = steps_per_execution, balance
    model, epoch = start(mode, folder, *kind) if mode else (new_model(*kind), 0)
    ours = kaw.AdaptiveWeightCallback(log_dir=folder, update_freq=3)
    pair = [ours, *([saver(mode, folder)] if mode else [])]
    trace = folder / "trace.jsonl"
    killers = [] if kill_in is None else [Killer(kill_in, kill_after_ms)]
    callbacks = [Beginning(trace), *killers, *(pair if ours_first else pair[::-1]), Operator(ours), Trace(trace)]
    x, y = data()
    model.fit(x, y, batch_size=BATCH, shuffle=False, epochs=epochs, initial_epoch=epoch, verbose=0, callbacks=callbacks)


def main():
    parser = argparse.ArgumentParser(description="Train a small model that may be killed; see the docstring.")
    parser.add_argument("folder")
    parser.add_argument("--mode", choices=MODES, help="how to save; without it, not at all")
    parser.add_argument("--ours-last", action="store_true", help="our callback after the one that saves")
    parser.add_argument("--steps-per-execution", type=int, default=1)
    parser.add_argument("--balance", choices=tuple(BALANCES), default="guide", help="what decides on the weights")
    parser.add_argument("--kill-in", type=int, help="step of this process in which to end it with SIGKILL")
    parser.add_argument("--kill-after-ms", type=float, default=0.0, help="that long after the step began")
    args = parser.parse_args()
    train(
        args.folder,
        args.mode,
        ours_first=not args.ours_last,
        steps_per_execution=args.steps_per_execution,
        kill_in=args.kill_in,
        kill_after_ms=args.kill_after_ms,
        balance=args.balance,
    )


if __name__ == "__main__":
    main()
