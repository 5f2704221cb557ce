"""What a term of a `CompositeLoss` is given, and what its values count for: casts, masks, Keras's losses, weights."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_adaptive_weights.runtime.masks import keras_mask, set_keras_mask

_MEANS = ("sum_over_batch_size", "mean", "mean_with_sample_weight")


def as_tensors(structure: Any, dtype: str) -> Any:
    """Return a structure of tensors, those of floating point in `dtype` and with their masks, others as they are."""
    return keras.tree.map_structure(lambda leaf: _as_tensor(leaf, dtype), structure)


def _as_tensor(leaf: Any, dtype: str) -> Any:
    if leaf is None:
        return None
    if isinstance(leaf, keras.Variable) or not tf.is_tensor(leaf):
        leaf = tf.convert_to_tensor(leaf)
    if not leaf.dtype.is_floating or leaf.dtype == tf.as_dtype(dtype):
        return leaf
    cast = tf.cast(leaf, dtype)
    if (mask := keras_mask(leaf)) is not None:
        set_keras_mask(cast, mask)
    return cast


def function_of(fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a term's function; one of Keras's losses as a function that returns a value per sample.

    The mean of these over the batch is what Keras itself makes of that loss: a mean over all that is not masked.

    Raises:
        ValueError: From the function: a loss that is reduced to a sum, or computes one number; a structure, where Keras
            would hand each output to a loss of its own.
    """
    if isinstance(fn, keras.losses.Loss):
        unreduced = copy.copy(fn)
        unreduced.reduction = None
        name, compute = f"keras.losses.{type(fn).__name__}", unreduced
    elif inspect.isfunction(fn) and (fn.__module__ or "").partition(".")[0] == "keras":
        name, compute = f"keras.losses.{fn.__name__}", fn
    else:
        return fn

    def per_sample(y_true: Any, y_pred: Any) -> Any:
        if not (tf.is_tensor(y_true) and tf.is_tensor(y_pred)):
            raise ValueError(
                f"LossTerm: {name} takes one target and one output. Received: {_kind(y_true)} and {_kind(y_pred)}. "
                "Write `fn=lambda y_true, y_pred: loss(y_true['...'], y_pred['...'])` with a loss of `reduction=None`."
            )
        if getattr(fn, "reduction", None) == "sum":
            raise ValueError(
                f"LossTerm: {name} must have a mean or no reduction, as the terms are reduced by the CompositeLoss. "
                "Received: reduction='sum'. Write `reduction=None` there, and `CompositeLoss(..., reduction='sum')`."
            )
        values = compute(y_true, y_pred)
        return values if values.shape.rank == 0 else _mean_of_samples(values, keras_mask(y_pred))

    return per_sample


def _mean_of_samples(values: Any, mask: Any) -> Any:
    """Return the mean of each sample, shape `[batch]`, over what is not masked.

    With a mask each sample counts as much as it has valid positions: the mean over the batch is that over all of them.
    """
    axes = list(range(1, values.shape.rank))
    if mask is None or mask.shape.rank != values.shape.rank:
        return tf.reduce_mean(values, axis=axes)
    valid = tf.cast(mask, values.dtype)
    samples = tf.cast(tf.shape(values)[0], values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(values * valid, axis=axes) * samples, tf.reduce_sum(valid))


def weights_of_samples(sample_weight: Any, keys: Iterable[str], values: Any) -> Any:
    """Return the weight of each sample for one term, in the shape and dtype of its values; None: all count 1.

    Args:
        sample_weight: As Keras hands it on: None, weights of shape `[batch]` or `[batch, 1]`, or a structure of these
            with one for each target, which Keras also makes of a single one.
        keys: Names by which the term's weights are found in a dictionary, the first of them that is there.
        values: Values of the term, shape `[batch]`.

    A term of which no key is there gets the mean of all weights of a sample.

    Raises:
        ValueError: Weights of another shape.
    """
    if isinstance(sample_weight, Mapping):
        found = next((key for key in keys if key in sample_weight), None)
        sample_weight = sample_weight if found is None else sample_weight[found]
    if isinstance(sample_weight, (list, tuple)) and not any(map(tf.is_tensor, keras.tree.flatten(sample_weight))):
        sample_weight = _array_or_list(sample_weight)
    weights = [_per_sample(leaf, values) for leaf in keras.tree.flatten(sample_weight) if leaf is not None]
    if len(weights) < 2:
        return weights[0] if weights else None
    return tf.add_n(weights) / len(weights)


def _array_or_list(sample_weight: Any) -> Any:
    """Return a list of numbers as an array, and one of arrays as it is."""
    leaves = [leaf for leaf in keras.tree.flatten(sample_weight) if leaf is not None]
    return np.asarray(sample_weight, "float32") if not any(map(np.ndim, leaves)) else sample_weight


def _per_sample(weights: Any, values: Any) -> Any:
    weights = weights if tf.is_tensor(weights) else tf.convert_to_tensor(weights)
    shape = weights.shape
    fits = shape.rank in (1, 2) and shape[:1].is_compatible_with(values.shape[:1])
    if not fits or (shape.rank == 2 and shape[1] != 1) or not is_number(weights.dtype):
        raise ValueError(
            "CompositeLoss: argument `sample_weight` must have shape [batch] or [batch, 1], and numbers. Received: "
            f"shape {tuple(shape)}, dtype {weights.dtype.name}, for values of shape {tuple(values.shape)}. Multiply by "
            "weights of frames or tokens within the term's own function."
        )
    return tf.reshape(tf.cast(weights, values.dtype), [-1])


def counts(values: Any, weights: Any = None, valid: Any = None, masked: Any = None) -> Any:
    """Return whether there is anything to measure: a sample, with a weight other than 0, that is not masked.

    Args:
        values: One value per sample.
        weights: One weight per sample. `None`: all count.
        valid: Whether a sample has anything that is not masked, shape `[batch]`. `None`: all have.
        masked: Whether all of the batch is masked, a scalar. `None`: it is not.

    Returns:
        True, or a scalar bool tensor where that depends on the batch.
    """
    if weights is not None:
        counted = tf.not_equal(weights, 0.0)
        valid = counted if valid is None else tf.logical_and(valid, counted)
    if valid is not None:
        there = tf.reduce_any(valid)
    else:
        there = bool(values.shape[0]) if values.shape[0] is not None else tf.shape(values)[0] > 0
    return there if masked is None else tf.logical_and(there, tf.logical_not(masked))


def anything_counts(y_pred: Any, sample_weight: Any) -> Any:
    """Return whether there is a sample with a weight other than 0, for losses whose samples are not known one by one.

    Args:
        y_pred: Outputs of the model.
        sample_weight: Weights of any shape and structure, or None.
    """
    there = [counts(leaf) for leaf in batched(y_pred)[:1]]
    weights = [leaf for leaf in keras.tree.flatten(sample_weight) if leaf is not None]
    if weights:
        there.append(tf.reduce_any([tf.reduce_any(tf.cast(weight, tf.float32) != 0.0) for weight in weights]))
    return True if all(known is True for known in there) else tf.reduce_all(there)


def batched(structure: Any) -> list[Any]:
    """Return the tensors of a structure that have an axis of samples: an output may be one number of the batch."""
    leaves = [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
    return [leaf for leaf in leaves if tf.TensorShape(leaf.shape).rank != 0]


def all_masked(y_pred: Any) -> Any:
    """Return whether Keras's masks leave nothing of any output; None where an output has none."""
    masks = [keras_mask(leaf) for leaf in keras.tree.flatten(y_pred)]
    if not masks or any(mask is None for mask in masks):
        return None
    return tf.logical_not(tf.reduce_any(tf.stack([tf.reduce_any(tf.cast(mask, tf.bool)) for mask in masks])))


def is_number(dtype: Any) -> bool:
    """Whether tensors of a dtype can be cast to floating point: integers and bools can, strings cannot."""
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_bool)


def _kind(structure: Any) -> str:
    return f"the keys {sorted(structure)}" if isinstance(structure, Mapping) else f"a {type(structure).__name__}"
