"""The global norm of the gradients, and the first thing of a step that is not finite: in one pass over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_adaptive_weights.deciding.config import FLOAT32_MAX
from keras_adaptive_weights.runtime.conditional_writes import in_xla
from keras_adaptive_weights.runtime.plain import plain

_SMALLEST_SQUARE = 1e-30
"""Of a smaller sum of squares a float32 may have lost the most."""
_SHORT = 2**12
"""Elements up to which XLA takes a product of a gradient with itself: one operation in place of four."""
_ROW = 256
"""Elements of a row of a longer gradient's squares, which XLA sums by a product with ones: up to fifteen times as fast
as its sum of all of them, and exact to 2e-6 for 40 million, which one long product is not (17 %)."""


def first_non_finite(
    terms: dict[str, Any], total: Any, gradients: list[Any], scale: Any, variables: Sequence[Any] = ()
) -> tuple[Any, Any, Any]:
    """Measure the gradients and find the first thing that is not finite.

    Args:
        terms: Loss terms, scalars by name.
        total: Total loss, a scalar.
        gradients: Gradients, scaled by `scale`; None where a variable has none.
        scale: Loss scale of mixed precision.
        variables: Those that the gradients belong to. Where one is to be overwritten with its gradient, as scales of
            float8 are, that is a value and no gradient: it must be finite, and is no part of the norm.

    Returns:
        The global norm of the unscaled gradients, each summed where it has an index several times, as a float32 (the
        largest there is for more than that, NaN where not everything is finite); whether everything is finite; and the
        index of the first non-finite value among terms, total and each gradient, -1 where there is none.
    """
    values = [None if g is None else _values(g) for g in gradients]
    others = [total, *terms.values(), *(v for v in values if v is not None)]
    dtype = tf.float64 if any(value.dtype == tf.float64 for value in others) else tf.float32
    values = [None if value is None else tf.cast(value, dtype) for value in values]
    whole = {i for i, v in enumerate(variables) if getattr(v, "overwrite_with_gradient", False)}
    proper = [value for i, value in enumerate(values) if value is not None and i not in whole]
    halves = [
        tf.zeros((), dtype) if value is None else _zero_if_finite(value) if i in whole else _half_squared_norm(value)
        for i, value in enumerate(values)
    ]
    losses = [tf.cast(value, dtype) for value in (*terms.values(), total)]
    squared = 2.0 * (tf.add_n(halves) if halves else tf.zeros((), dtype))
    exact = tf.logical_and(tf.reduce_all(tf.math.is_finite(tf.stack([*losses, squared]))), squared > _SMALLEST_SQUARE)

    def one_by_one() -> tuple[Any, Any]:
        """Tell what is not finite from a square that is too large or too small for its type."""
        found = [*losses, *(tf.zeros((), dtype) if value is None else value for value in values)]
        good = tf.stack([tf.reduce_all(tf.math.is_finite(value)) for value in found])
        index = tf.where(tf.reduce_all(good), -1, tf.argmin(tf.cast(good, tf.int32), output_type=tf.int32))
        return tf.where(index < 0, _norm_of_any_size(proper, scale), np.nan), index

    scale = tf.cast(scale, dtype)
    norm, index = tf.cond(exact, lambda: (tf.sqrt(squared) / scale, tf.constant(-1)), one_by_one)
    if dtype == tf.float64:
        norm = tf.where(norm > FLOAT32_MAX, tf.constant(FLOAT32_MAX, dtype), norm)
    return tf.cast(norm, tf.float32), index < 0, index


def _values(gradient: Any) -> Any:
    """Return a gradient as one real tensor, in which each index of slices is there once."""
    if isinstance(gradient, tf.IndexedSlices):
        indices, places = tf.unique(gradient.indices)
        gradient = tf.math.unsorted_segment_sum(gradient.values, places, tf.shape(indices)[0])
    return tf.abs(gradient) if gradient.dtype.is_complex else gradient


def _zero_if_finite(values: Any) -> Any:
    return tf.where(tf.reduce_all(tf.math.is_finite(values)), tf.zeros((), values.dtype), np.nan)


def _norm_of_any_size(gradients: Sequence[Any], scale: Any) -> Any:
    """Return the global norm of finite gradients whose squares are beyond their type."""
    if not gradients:
        return tf.zeros_like(scale)
    largest = tf.reduce_max(tf.stack([tf.reduce_max(tf.abs(gradient)) for gradient in gradients]))
    largest = tf.maximum(largest, 0.0)  # of an empty gradient it is -inf
    halves = tf.add_n([_half_squared_norm(tf.math.divide_no_nan(gradient, largest)) for gradient in gradients])
    return tf.minimum(largest / scale * tf.sqrt(2.0 * halves), FLOAT32_MAX)


def _half_squared_norm(values: Any) -> Any:
    size = values.shape.num_elements()
    if not size or not in_xla() or plain("xla_norms"):
        return tf.nn.l2_loss(values)
    flat, in_rows = tf.reshape(values, [-1]), size - size % _ROW if size > _SHORT else 0
    squared = []
    if in_rows:
        rows = tf.square(tf.reshape(flat[:in_rows], [-1, _ROW]))
        squared.append(tf.reduce_sum(tf.matmul(rows, tf.ones([_ROW, 1], rows.dtype))))
    if in_rows < size:
        rest = tf.reshape(flat[in_rows:], [1, -1])
        squared.append(tf.reshape(tf.matmul(rest, rest, transpose_b=True), []))
    return 0.5 * tf.add_n(squared)
