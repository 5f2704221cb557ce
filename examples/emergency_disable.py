"""Switch the adaptation off, and on again, from another thread while `fit` runs in the main one.

    python examples/emergency_disable.py

An operator's thread watches the training. At step 160 it calls `callback.emergency_disable(...)`: the weight returns to
its base at once and stays there. At step 260 it calls `callback.enable()`, and after a cooling period the weight may
move again. What happened is printed with its step and reason. Takes a few seconds.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive_weights as kaw

STEPS, DISABLE_AT, ENABLE_AT = 400, 160, 260
BATCH, FRAMES, CHARACTERS, BANDS = 16, 40, 30, 80


class StepWatch:
    """An observer of the training that other threads can wait on until it has reached a step."""

    def __init__(self) -> None:
        self._reached = 0
        self._changed = threading.Condition()

    def observe(self, observations: Sequence[kaw.Observation], decision: kaw.Decision) -> None:
        """Take note of the last step."""
        del observations
        with self._changed:
            self._reached = decision.step
            self._changed.notify_all()

    def wait_for(self, step: int, timeout: float) -> bool:
        """Wait until a step has been taken; return whether it was, within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._reached >= step, timeout)


def operate(callback: kaw.AdaptiveMelWeightCallback, watch: StepWatch, patience: float) -> None:
    """Do what an operator does who sees something wrong, and has it put right later."""
    if watch.wait_for(DISABLE_AT, patience):
        callback.emergency_disable("operator saw clipping")
    if watch.wait_for(ENABLE_AT, patience):
        callback.enable("clipping dealt with")


def build_model() -> keras.Model:
    """Return a model from characters [B, 40] to `mel_output` [B, 40, 80]."""
    text = keras.Input((FRAMES,), dtype="int32")
    x = keras.layers.Embedding(CHARACTERS, 64)(text)
    x = keras.layers.Conv1D(64, 5, padding="same", activation="relu")(x)
    return kaw.StableModel(text, {"mel_output": keras.layers.Dense(BANDS)(x)})


def make_data(seed: int) -> tf.data.Dataset:
    """Return endless batches in which each character sounds like its row of a fixed table, with some noise."""
    random = np.random.default_rng(seed)
    sounds = random.normal(size=(CHARACTERS, BANDS))
    text = random.integers(0, CHARACTERS, (64 * BATCH, FRAMES))
    mel = sounds[text] + 0.1 * random.normal(size=(*text.shape, BANDS))
    data = tf.data.Dataset.from_tensor_slices((text, {"mel_target": mel.astype(np.float32)}))
    return data.shuffle(len(text), seed=seed).repeat().batch(BATCH)


def main(argv: list[str] | None = None) -> list[kaw.Decision]:
    """Train while the operator interferes, and print what happened.

    Args:
        argv: Command line without the program's name; `None`: the program's own.

    Returns:
        The decisions other than HOLD, oldest first.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log-dir", help="folder for TensorBoard and the journal (none)")
    parser.add_argument("--seed", type=int, default=0, help="of model and data (0)")
    options = parser.parse_args(argv)

    keras.utils.set_random_seed(options.seed)
    model = build_model()
    model.compile(optimizer=keras.optimizers.Adam(5e-4), loss=kaw.XTTSLoss(mel_loss_weight=2.5))
    watch = StepWatch()
    callback = kaw.AdaptiveMelWeightCallback(log_dir=options.log_dir, observers=[watch])
    operator = threading.Thread(target=operate, args=(callback, watch, 120.0), daemon=True)
    operator.start()
    model.fit(make_data(options.seed), steps_per_epoch=STEPS, shuffle=False, verbose=0, callbacks=[callback])
    operator.join()
    for decision in callback.decisions:
        print(decision)
    print(f"after step {STEPS} the mel weight is {model.loss.mel_weight.weight:.4g}")
    return callback.decisions


if __name__ == "__main__":
    main()
