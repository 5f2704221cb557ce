"""Deliberate faults: batches corrupted at given training steps, to see what the training makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from .faults import NAN, SPIKE

SPIKE_FACTOR = 20.0


def corrupt(
    faults: Mapping[int, str], step: tf.Tensor, targets: dict[str, Any], spike_factor: float = SPIKE_FACTOR
) -> dict[str, Any]:
    """Return the targets of one batch, corrupted where its step has a fault.

    `nan` puts NaN into the first frame of the first utterance; `spike` multiplies the mel targets, so that the mel
    loss is many times its mean. Works inside `tf.data`.

    Args:
        faults: Step -> kind.
        step: Number of the training step, counted from 1 over all epochs, a scalar integer tensor.
        targets: The batch's targets, with `mel_target` [batch, frames, bands].
        spike_factor: What a spike multiplies by.

    Returns:
        The targets; the same object where there are no faults at all.
    """
    if not faults:
        return targets
    mel = targets["mel_target"]
    first = tf.reshape(tf.range(tf.shape(mel)[0] * tf.shape(mel)[1]), tf.shape(mel)[:2])[..., None] == 0
    spoilt = tf.where(first, tf.constant(float("nan"), mel.dtype), mel)
    mel = tf.where(_is_due(faults, NAN, step), spoilt, mel)
    mel = tf.where(_is_due(faults, SPIKE, step), mel * spike_factor, mel)
    return {**targets, "mel_target": mel}


def _is_due(faults: Mapping[int, str], kind: str, step: tf.Tensor) -> tf.Tensor:
    """Return whether the step has a fault of this kind."""
    steps = tf.constant([number for number, fault in faults.items() if fault == kind], tf.int64)
    return tf.reduce_any(tf.equal(steps, tf.cast(step, tf.int64)))
