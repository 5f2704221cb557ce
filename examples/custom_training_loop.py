"""An adaptive mel weight in a training loop of your own: `tf.GradientTape`, no `fit`, no callback.

    python examples/custom_training_loop.py

A small convolutional model learns to turn characters into mel frames. After every step one line,
`loss.mel_weight.update(...)`, tells the weight what the step was like and returns its decision; the compiled step reads
the new weight from the shared variable. Decisions are printed with their advice. Step 150 has a broken target, to show
how such a step is skipped. Takes a few seconds.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive_weights as kaw

BATCH, FRAMES, CHARACTERS, BANDS = 16, 40, 30, 80


def build_model() -> keras.Model:
    """Return a model from characters [B, 40] to `mel_output` [B, 40, 80] and `stop_tokens` [B, 40], logits."""
    text = keras.Input((FRAMES,), dtype="int32")
    x = keras.layers.Embedding(CHARACTERS, 64)(text)
    x = keras.layers.Conv1D(64, 5, padding="same", activation="relu")(x)
    outputs = {
        "mel_output": keras.layers.Dense(BANDS)(x),
        "stop_tokens": keras.layers.Reshape((FRAMES,))(keras.layers.Dense(1)(x)),
    }
    return keras.Model(text, outputs)


class Speech:
    """Makes batches: each character sounds like its row of a fixed table, blurred by its neighbours, with some noise.

    Args:
        seed: Seed of the table and the batches.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._sounds = self._random.normal(size=(CHARACTERS, BANDS))

    def batch(self) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Return texts and targets; the last character of a text is character 0."""
        lengths = self._random.integers(FRAMES // 2, FRAMES + 1, BATCH)
        text = self._random.integers(1, CHARACTERS, (BATCH, FRAMES))
        text[np.arange(FRAMES) >= lengths[:, None] - 1] = 0
        mel = self._sounds[text]
        mel = 0.7 * mel + 0.3 * np.roll(mel, 1, axis=1) + 0.1 * self._random.normal(size=mel.shape)
        targets = {
            "mel_target": tf.constant(mel, tf.float32),
            "mel_lengths": tf.constant(lengths),
            "stop_target": tf.constant(text == 0, tf.float32),
        }
        return tf.constant(text), targets


def make_train_step(
    model: keras.Model, loss: kaw.XTTSLoss, optimizer: keras.optimizers.Optimizer
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Return the compiled step: `(text, targets) -> (mel loss, total loss, gradient norm, whether it was applied)`."""
    optimizer.build(model.trainable_variables)

    @tf.function
    def train_step(text: tf.Tensor, targets: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            evaluation = loss.evaluate(targets, model(text, training=True))
        gradients = tape.gradient(evaluation.total, model.trainable_variables)
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(evaluation.total) & tf.math.is_finite(norm)
        # A step that is not finite leaves the model and the optimizer as they are.
        tf.cond(finite, lambda: optimizer.apply(gradients, model.trainable_variables), lambda: None)
        return evaluation.terms["mel_loss"], evaluation.total, norm, finite

    return train_step


def main(argv: list[str] | None = None) -> list[kaw.Decision]:
    """Train, and print every decision that is not a HOLD.

    Args:
        argv: Command line without the program's name; `None`: the program's own.

    Returns:
        The decisions printed.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400, help="training steps (400)")
    parser.add_argument("--seed", type=int, default=0, help="of model and data (0)")
    options = parser.parse_args(argv)
    if options.steps < 1:
        parser.error(f"argument --steps: expected at least 1; received {options.steps}")

    keras.utils.set_random_seed(options.seed)
    model, loss, speech = build_model(), kaw.XTTSLoss(mel_loss_weight=2.5), Speech(options.seed)
    train_step = make_train_step(model, loss, keras.optimizers.Adam(1e-3))
    decisions = []
    for step in range(1, options.steps + 1):
        text, targets = speech.batch()
        if step == 150:
            targets["mel_target"] *= float("nan")
        mel_loss, total_loss, norm, applied = train_step(text, targets)
        decision = loss.mel_weight.update(mel_loss, gradient_norm=norm, total_loss=total_loss, applied=bool(applied))
        if not applied:
            print(f"step {step}: not finite, so the batch was skipped")
        if decision.is_event:
            print(decision)
            decisions.append(decision)
        if step % 100 == 0:
            print(f"step {step}: mel loss {float(mel_loss):.4f}, mel weight {loss.mel_weight.weight:.4g}")
    for name, value in loss.get_stability_metrics().items():
        print(f"{name}: {value:.4g}")
    return decisions


if __name__ == "__main__":
    main()
