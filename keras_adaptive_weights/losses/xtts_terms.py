"""The terms of a text-to-speech model's loss: a value per sample, with padding masked by the lengths.

Each is a function of the whole targets and outputs, under the keys of the table in `XTTSLoss`. Whatever is not linear
comes after the masks: a NaN in the padding reaches neither loss nor gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_adaptive_weights.losses.per_sample import is_number

_GUIDED_ATTENTION_WIDTH = 0.2  # Tachibana, Uenoyama & Aihara 2017 (arXiv:1710.08969), section 4.1
_SMALLEST_PROBABILITY = 1e-7  # Keras's own: the cross-entropy of a certainty that is wrong is finite


def mel_error(y_true: Any, y_pred: Any, delta: float | None) -> Any:
    """Per-sample mean Huber error (`delta` None: absolute error) over valid frames and all bands, shape `[batch]`."""
    target, output = _pair(y_true, "mel_target", y_pred, "mel_output", "frames", "bands")
    if any(mel.shape[1] is not None and mel.shape[2] is None for mel in (target, output)):
        raise ValueError(
            f"XTTSLoss: 'mel_target' and 'mel_output' must have shape [batch, frames, bands]. Received: "
            f"{target.shape} and {output.shape}. Write `keras.ops.swapaxes(mel, 1, 2)` where the bands come first."
        )
    lengths = _target(y_true, "mel_lengths")
    error = tf.abs(_masked(target - output, lengths))
    if delta is not None:
        error = tf.where(error <= delta, 0.5 * tf.square(error), delta * error - 0.5 * delta**2)
    return _masked_mean(tf.reduce_mean(error, axis=-1), lengths)


def stop_loss(y_true: Any, y_pred: Any, positive_weight: float, *, from_logits: bool = True) -> Any:
    """Per-sample mean positive-weighted binary cross-entropy of stop tokens over valid frames, shape `[batch]`."""
    labels, tokens = _pair(y_true, "stop_target", y_pred, "stop_tokens", "frames")
    lengths = _frame_lengths(y_true, labels, 1)
    labels, tokens = _masked(labels, lengths), _masked(tokens, lengths)
    if from_logits:
        return _masked_mean(tf.nn.weighted_cross_entropy_with_logits(labels, tokens, positive_weight), lengths)
    tokens = tf.clip_by_value(tokens, _SMALLEST_PROBABILITY, 1.0 - _SMALLEST_PROBABILITY)
    entropy = -positive_weight * labels * tf.math.log(tokens) - (1.0 - labels) * tf.math.log1p(-tokens)
    return _masked_mean(entropy, lengths)


def attention_loss(y_true: Any, y_pred: Any) -> Any:
    """Per-sample penalty on attention that is far from the diagonal or moves backwards, shape `[batch]`.

    The sum of two means over decoder steps. Guided attention (Tachibana et al. 2017): each weight times
    `1 - exp(-(n/N - d/D)^2 / (2 * 0.2^2))`. Backward movement: by how much the expected position in the text, as a
    fraction of its length, is behind that of the step before. With lengths given, D and N are each sample's own;
    `mel_lengths` counts mel frames, and is scaled where a decoder step stands for several. Of several heads the mean
    counts.
    """
    weights = y_pred["attention_weights"]
    if not tf.is_tensor(weights) or weights.shape.rank not in (3, 4):
        received = weights.shape if tf.is_tensor(weights) else f"a {type(weights).__name__}"
        raise ValueError(
            "XTTSLoss: 'attention_weights' must have shape [batch, decoder steps, tokens] or [batch, heads, decoder "
            f"steps, tokens]. Received: {received}. Of several layers write the mean, `keras.ops.mean(..., axis=0)`."
        )
    if weights.shape.rank == 4:
        weights = tf.reduce_mean(weights, axis=1)
    steps, tokens = tf.shape(weights)[1], tf.shape(weights)[2]
    decoder_lengths = _lengths(_frame_lengths(y_true, weights, 1), weights, 1)
    text_lengths = _lengths(_target(y_true, "text_lengths"), weights, 2)
    step = tf.range(steps, dtype=weights.dtype)[None, :, None] / decoder_lengths[:, None, None]
    token = tf.range(tokens, dtype=weights.dtype)[None, None, :] / text_lengths[:, None, None]
    weights = tf.where(token < 1.0, weights, tf.zeros_like(weights))
    distant = 1.0 - tf.exp(-tf.square(token - step) / (2.0 * _GUIDED_ATTENTION_WIDTH**2))
    guided = tf.reduce_sum(weights * distant, axis=-1)
    position = tf.reduce_sum(weights * token, axis=-1)
    backward = tf.pad(tf.nn.relu(position[:, :-1] - position[:, 1:]), [[0, 0], [1, 0]])
    return _masked_mean(guided + backward, decoder_lengths)


def duration_loss(y_true: Any, y_pred: Any) -> Any:
    """Per-sample mean squared error of log(1 + frames) over valid tokens, shape `[batch]`."""
    frames, predicted = _pair(y_true, "duration_target", y_pred, "duration_pred", "tokens")
    lengths = _target(y_true, "text_lengths")
    return _masked_mean(tf.square(_masked(tf.math.log1p(frames) - predicted, lengths)), lengths)


def pitch_loss(y_true: Any, y_pred: Any) -> Any:
    """Per-sample mean squared error of the pitch over valid frames (or tokens), shape `[batch]`."""
    return _squared_error(y_true, "pitch_target", y_pred, "pitch_output")


def energy_loss(y_true: Any, y_pred: Any) -> Any:
    """Per-sample mean squared error of the energy over valid frames (or tokens), shape `[batch]`."""
    return _squared_error(y_true, "energy_target", y_pred, "energy_output")


def _squared_error(y_true: Any, target_key: str, y_pred: Any, output_key: str) -> Any:
    target, output = _pair(y_true, target_key, y_pred, output_key, "frames")
    lengths = _frame_or_token_lengths(y_true, y_pred, target)
    return _masked_mean(tf.square(_masked(target - output, lengths)), lengths)


def _target(y_true: Any, key: str) -> Any:
    """Return what `y_true` has under a key, or None."""
    return y_true.get(key) if isinstance(y_true, Mapping) else None


def _pair(y_true: Any, target_key: str, y_pred: Any, output_key: str, *axes: str) -> tuple[Any, Any]:
    """Return target and output in the dtype of the output, without a last axis of one, after a look at their shapes.

    Raises:
        ValueError: A key in the wrong structure, or shapes that differ: TensorFlow would broadcast them.
    """
    for key, structure, name in ((target_key, y_true, "y_true"), (output_key, y_pred, "y_pred")):
        if key not in structure:
            raise ValueError(f"XTTSLoss: key {key!r} belongs in {name}. Received: {name} with {sorted(structure)}.")
    given = y_true[target_key], y_pred[output_key]
    rank = 1 + len(axes)
    if all(tf.is_tensor(values) for values in given):
        target, output = (
            tf.squeeze(values, -1) if values.shape.rank == rank + 1 and values.shape[-1] == 1 else values
            for values in given
        )
        fit = target.shape.rank == output.shape.rank == rank and target.shape.is_compatible_with(output.shape)
        if fit and is_number(target.dtype) and output.dtype.is_floating:
            return tf.cast(target, output.dtype), output
    received = [
        f"{values.dtype.name} {values.shape}" if tf.is_tensor(values) else f"a {type(values).__name__}"
        for values in given
    ]
    remedy = " Write `keras.ops.swapaxes(mel, 1, 2)` where the bands come first." if rank == 3 else ""
    raise ValueError(
        f"XTTSLoss: {target_key!r} and {output_key!r} must be numbers of shape [batch, {', '.join(axes)}]. Received: "
        f"{received[0]} and {received[1]}.{remedy}"
    )


def _frame_lengths(y_true: Any, values: Any, axis: int) -> Any:
    """Return `mel_lengths` in positions along an axis of `values`, which may stand for several frames each, or None."""
    lengths, mel = _target(y_true, "mel_lengths"), _target(y_true, "mel_target")
    if lengths is None or not tf.is_tensor(mel) or (mel.shape[1] is not None and mel.shape[1] == values.shape[axis]):
        return lengths
    lengths, positions, frames = (
        tf.cast(number, tf.int64) for number in (tf.reshape(lengths, [-1]), tf.shape(values)[axis], tf.shape(mel)[1])
    )
    return -(-lengths * positions // frames)


def _frame_or_token_lengths(y_true: Any, y_pred: Any, values: Any) -> Any:
    """Return how many positions along axis 1 of `values` are valid: `text_lengths` where these are as many as tokens.

    Where they are as many as frames, too, they are taken for frames.
    """
    lengths, text_lengths = _frame_lengths(y_true, values, 1), _target(y_true, "text_lengths")
    frames, tokens = _size(_target(y_true, "mel_target"), 1), _tokens(y_true, y_pred)
    if text_lengths is None or frames is None or tokens is None:
        return lengths
    positions = tf.shape(values)[1]
    of_tokens = tf.logical_and(tf.equal(positions, tokens), tf.not_equal(positions, frames))
    text_lengths = tf.reshape(tf.cast(text_lengths, tf.int32), [-1])
    if lengths is None:
        return tf.where(of_tokens, text_lengths, positions)
    return tf.where(of_tokens, text_lengths, tf.reshape(tf.cast(lengths, tf.int32), [-1]))


def _tokens(y_true: Any, y_pred: Any) -> Any:
    """Return the number of text tokens, padding included, from whatever has an axis of them; None: nothing has."""
    attention = y_pred.get("attention_weights")
    durations = _size(_target(y_true, "duration_target"), 1)
    return durations if durations is not None else _size(attention, -1)


def _size(values: Any, axis: int) -> Any:
    """Return the length of an axis; None where there is no such tensor."""
    return tf.shape(values)[axis] if tf.is_tensor(values) and values.shape.rank else None


def _measured_by(*keys: str) -> Callable[[Any, Any], Any]:
    """Return the function that says which samples have a length above 0."""

    def measures(y_true: Any, y_pred: Any) -> Any:
        del y_pred
        lengths = [_target(y_true, key) for key in keys]
        there = [tf.reshape(tf.cast(length, tf.int32), [-1]) > 0 for length in lengths if length is not None]
        return tf.reduce_all(tf.stack(there), axis=0) if there else None

    return measures


has_frames, has_tokens = _measured_by("mel_lengths"), _measured_by("text_lengths")
has_frames_and_tokens = _measured_by("mel_lengths", "text_lengths")


def _lengths(lengths: Any, values: Any, axis: int) -> Any:
    """Return the lengths as floats of shape `[batch]`, at least 1; without any, the whole axis."""
    if lengths is None:
        return tf.fill(tf.shape(values)[:1], tf.cast(tf.shape(values)[axis], values.dtype))
    return tf.maximum(tf.reshape(tf.cast(lengths, values.dtype), [-1]), 1.0)


def _masked(values: Any, lengths: Any) -> Any:
    """Return `values` [batch, positions, ...] with zeros in the padding."""
    if lengths is None:
        return values
    valid = tf.sequence_mask(tf.reshape(tf.cast(lengths, tf.int32), [-1]), tf.shape(values)[1])
    valid = tf.reshape(valid, tf.concat([tf.shape(valid), tf.ones([len(values.shape) - 2], tf.int32)], axis=0))
    return tf.where(valid, values, tf.zeros_like(values))


def _masked_mean(values: Any, lengths: Any) -> Any:
    """Return the mean of `values` [batch, positions] over the valid positions, shape `[batch]`."""
    if lengths is None:
        return tf.reduce_mean(values, axis=1)
    count = tf.clip_by_value(
        tf.reshape(tf.cast(lengths, values.dtype), [-1]), 1.0, tf.cast(tf.shape(values)[1], values.dtype)
    )
    return tf.reduce_sum(_masked(values, lengths), axis=1) / count
