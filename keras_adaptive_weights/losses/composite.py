"""A loss of several named, weighted terms over whole structures of targets and predictions."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_adaptive_weights.deciding.config import check_number
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight, SavedWeight
from keras_adaptive_weights.runtime.distribution import divide_by_replicas

_PACKAGE = "keras_adaptive_weights"
_REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None)
_MOST_STATE_BYTES = 1 << 24
_logger = logging.getLogger(_PACKAGE)


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One term of a `CompositeLoss`.

    Args:
        fn: `fn(y_true, y_pred) -> per-sample losses`, a float tensor of shape `[batch]`. It gets the whole structures,
            cast to the loss's dtype. Register it with `keras.saving.register_keras_serializable` to save models.
        weight: A finite number of at least 0, or an `AdaptiveWeight`.
        requires: Keys that must be in `y_true` or `y_pred`; where one is missing the term takes no part.

    Raises:
        TypeError: `fn` cannot be called, or the weight is of another type.
        ValueError: A weight below 0, NaN or infinite.
    """

    fn: Callable[[Any, Any], Any]
    weight: float | AdaptiveWeight = 1.0
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate the arguments."""
        if not callable(self.fn):
            raise TypeError(f"LossTerm: argument `fn` must be callable. Received: fn={self.fn!r}.")
        if not isinstance(self.weight, AdaptiveWeight):
            check_number("LossTerm", "weight", self.weight, low=0.0)
        if not isinstance(self.requires, tuple) or not all(isinstance(key, str) for key in self.requires):
            raise TypeError(
                f"LossTerm: argument `requires` must be a tuple of keys, as in ('mel_target',). Received: "
                f"requires={self.requires!r}."
            )

    @property
    def weight_tensor(self) -> Any:
        """The weight in force: a number, or a scalar tensor read from the shared variable."""
        return self.weight.variable.value() if isinstance(self.weight, AdaptiveWeight) else self.weight

    def takes_part(self, y_true: Any, y_pred: Any) -> bool:
        """Whether all required keys are there."""
        return all(_has(y_true, key) or _has(y_pred, key) for key in self.requires)


class Evaluation(NamedTuple):
    """What a `CompositeLoss` comes to on one batch.

    Attributes:
        total: Weighted sum of the terms, a scalar (shape `[batch]` under reduction "none").
        terms: Raw, unweighted value of each term that took part, of the same shape.
    """

    total: Any
    terms: dict[str, Any]


@keras.saving.register_keras_serializable(package=_PACKAGE)
class CompositeLoss(keras.losses.Loss):
    """Sum of weighted terms, each a function of the whole `y_true` and `y_pred`.

    Compile a `StableModel` with it: Keras itself would hand a single loss one output at a time.

    Args:
        terms: Name -> `LossTerm`. The names are those of the metrics.
        max_loss_spike_threshold: A total above this many times its recent mean is scaled down to that, and its
            gradients with it. `None`: never. Default: the guide's 2.0.
        loss_smoothing_factor: Weight of the newest total in its recent mean. Default: the guide's 0.1.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`; where it is half precision, losses are computed in float32.

    Attributes:
        terms: The terms by name.
        adaptive_weights: The adaptive weights among theirs, by the name of the term.
        total_average: `tf.Variable` of shape `[2]`: recent mean of the total, and the number of steps in it.

    Raises:
        TypeError: `terms` is no mapping of names to `LossTerm`s.
        ValueError: No terms, or a bad number.
    """

    def __init__(
        self,
        terms: Mapping[str, LossTerm],
        *,
        max_loss_spike_threshold: float | None = 2.0,
        loss_smoothing_factor: float = 0.1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "composite_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        owner = type(self).__name__
        if not isinstance(terms, Mapping) or not all(
            isinstance(key, str) and isinstance(term, LossTerm) for key, term in terms.items()
        ):
            raise TypeError(f"{owner}: argument `terms` must map names to LossTerm objects. Received: terms={terms!r}.")
        if not terms:
            raise ValueError(f"{owner}: argument `terms` must hold at least one term. Received: terms={terms!r}.")
        if taken := sorted({"loss", "gradient_norm", "skipped_steps"} & set(terms)):
            raise ValueError(f"{owner}: the names {taken} are taken by other metrics: name these terms otherwise.")
        check_number(owner, "max_loss_spike_threshold", max_loss_spike_threshold, low=1.0, open_low=True, optional=True)
        check_number(owner, "loss_smoothing_factor", loss_smoothing_factor, low=0.0, high=1.0, open_low=True)
        self.terms = dict(terms)
        self.max_loss_spike_threshold = max_loss_spike_threshold
        self.loss_smoothing_factor = loss_smoothing_factor
        self._refused: tuple[Any, ValueError] | None = None
        with tf.init_scope():
            self.total_average = tf.Variable([0.0, 0.0], trainable=False, name="total_average")

    @property
    def adaptive_weights(self) -> dict[str, AdaptiveWeight]:
        """The adaptive weights by the name of their term."""
        return {name: term.weight for name, term in self.terms.items() if isinstance(term.weight, AdaptiveWeight)}

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the weighted sum of all terms; see `evaluate`."""
        return divide_by_replicas(self.evaluate(y_true, y_pred, sample_weight).total)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the weighted per-sample sum of all terms, shape `[batch]`."""
        values = self._per_sample(y_true, y_pred)
        return sum(self._weigh(name, value) for name, value in values.items())

    def evaluate(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Evaluation:
        """Compute the terms and their weighted sum on one batch.

        Args:
            y_true: Structure of targets.
            y_pred: Structure of predictions.
            sample_weight: `None`, or a tensor of shape `[batch]` or `[batch, 1]`.

        Returns:
            An `Evaluation`.

        Raises:
            ValueError: No term takes part, or a term returns something of another shape than `[batch]`.
        """
        y_true, y_pred = self._cast(y_true), self._cast(y_pred)
        terms = {name: self._reduce(v, sample_weight) for name, v in self._per_sample(y_true, y_pred).items()}
        return Evaluation(sum(self._weigh(name, value) for name, value in terms.items()), terms)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {
            "terms": {name: _term_config(term) for name, term in self.terms.items()},
            "max_loss_spike_threshold": self.max_loss_spike_threshold,
            "loss_smoothing_factor": self.loss_smoothing_factor,
            **super().get_config(),
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CompositeLoss:
        """Build from what `get_config` returned."""
        terms = {name: _term_from_config(values) for name, values in config["terms"].items()}
        return cls(**{**config, "terms": terms})

    def save_own_variables(self, store: Any) -> None:
        """Put weights, controller states and the recent mean of the total into the model's own checkpoint."""
        for name, weight in self.adaptive_weights.items():
            store[name] = np.frombuffer(json.dumps(weight.to_dict()).encode(), dtype=np.uint8)
        store["total_average"] = self.total_average.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Go on from a checkpoint; one without our state leaves weights and statistics as they are.

        Raises:
            ValueError: What it holds cannot be read, is of a newer version, or is no state that may be. Then nothing is
                taken over.
        """
        stored = set(store.keys())
        if not stored and self._refused is not None and self._refused[0] is store:
            raise self._refused[1]  # Keras comes twice, the second time with nothing, and would forget the failure
        self._refused = None
        try:
            saved = {name: _saved_weight(name, store) for name in self.adaptive_weights if name in stored}
            average = _saved_average(self.total_average, store) if "total_average" in stored else None
        except ValueError as error:
            self._refused = store, error.with_traceback(None)
            raise
        for name, weight in self.adaptive_weights.items():
            if name in saved:
                weight.restore(saved[name])
            else:
                _say_not_restored(name, weight, sorted(stored - {*self.adaptive_weights, "total_average"}))
        if average is not None:
            self.total_average.assign(average)

    def _weigh(self, name: str, value: Any) -> Any:
        weight = self.terms[name].weight_tensor
        return value * (tf.cast(weight, value.dtype) if tf.is_tensor(weight) else weight)

    @property
    def _compute_dtype(self) -> str:
        """Half precision is for layers: a length of 301 is 300 in bfloat16."""
        return "float32" if self.dtype in ("float16", "bfloat16") else str(self.dtype)

    def _cast(self, structure: Any) -> Any:
        dtype = self._compute_dtype
        return keras.tree.map_structure(lambda leaf: keras.ops.convert_to_tensor(leaf, dtype=dtype), structure)

    def _per_sample(self, y_true: Any, y_pred: Any) -> dict[str, Any]:
        active = {name: term for name, term in self.terms.items() if term.takes_part(y_true, y_pred)}
        if not active:
            needed = {name: term.requires for name, term in self.terms.items()}
            raise ValueError(
                f"{type(self).__name__}: no term takes part. Each needs its keys in y_true or y_pred: {needed}. "
                f"Received: y_true with {_keys(y_true)}, y_pred with {_keys(y_pred)}."
            )
        return {name: self._checked(name, term.fn(y_true, y_pred)) for name, term in active.items()}

    def _checked(self, name: str, values: Any) -> Any:
        values = keras.ops.convert_to_tensor(values)
        if len(values.shape) != 1 or not keras.backend.is_float_dtype(values.dtype):
            received = f"shape {tuple(values.shape)}, dtype {keras.backend.standardize_dtype(values.dtype)}"
            raise ValueError(
                f"{type(self).__name__}: term {name!r} must return one float per sample, shape [batch]. Received: "
                f"{received}. Take the mean over the other axes."
            )
        return keras.ops.cast(values, self._compute_dtype)

    def _reduce(self, values: Any, sample_weight: Any) -> Any:
        count = tf.cast(tf.shape(values)[0], values.dtype)
        if sample_weight is not None:
            sample_weight = _per_sample_weight(sample_weight, values)
            values = values * sample_weight
        if self.reduction in ("none", None):
            return values
        total = tf.reduce_sum(values)
        if self.reduction == "sum":
            return total
        if self.reduction == "mean_with_sample_weight" and sample_weight is not None:
            return tf.math.divide_no_nan(total, tf.reduce_sum(sample_weight))
        return tf.math.divide_no_nan(total, count)


def _saved_weight(term: str, store: Any) -> SavedWeight:
    """Read the state of a term's weight from a checkpoint.

    Raises:
        ValueError: It cannot be read, with the names of term, field and file.
    """
    try:
        data = np.asarray(store[term])
        if data.dtype != np.uint8 or data.ndim != 1 or data.size > _MOST_STATE_BYTES:
            raise ValueError(f"expected bytes, found {data.dtype} of shape {data.shape}.")  # noqa: TRY301
        return SavedWeight.from_dict(json.loads(data.tobytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"The state of the adaptive weight of {term!r} in the checkpoint{_file_of(store)} cannot be used: {error} "
            "Nothing of it is taken over: load another checkpoint, or one that this version wrote."
        ) from error


def _saved_average(variable: Any, store: Any) -> Any:
    """Read the recent mean of the total from a checkpoint.

    Raises:
        ValueError: It cannot be read.
    """
    average = np.asarray(store["total_average"])
    if average.dtype.kind != "f" or average.shape != variable.shape or not np.isfinite(average).all():
        raise ValueError(
            f"The field `total_average` of the loss in the checkpoint{_file_of(store)} cannot be used: expected finite "
            f"numbers of shape {tuple(variable.shape)}. Received: {average!r:.200}. Nothing of it is taken over."
        )
    return average


def _file_of(store: Any) -> str:
    """Return where a checkpoint is, for a message, if it says so."""
    file = getattr(getattr(store, "archive", None), "filename", None) or getattr(store, "path_or_io", None)
    return f" {os.fspath(file)!r}" if isinstance(file, (str, os.PathLike)) else ""


def _say_not_restored(term: str, weight: AdaptiveWeight, others: Sequence[str]) -> None:
    """Log that a weight's state did not come back: at warning level where it may be there under another name."""
    level, instead = logging.INFO, ""
    if others:
        level, instead = logging.WARNING, f" It holds those of {', '.join(others)}, which this loss does not have."
    held = "The checkpoint holds no state of the weight of %r: it goes on from %g.%s"
    _logger.log(level, held, term, weight.weight, instead)


def _per_sample_weight(sample_weight: Any, values: Any) -> Any:
    """Return the sample weights in the shape and dtype of `values`."""
    sample_weight = tf.cast(keras.ops.convert_to_tensor(sample_weight), values.dtype)
    shape = tuple(sample_weight.shape)
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise ValueError(
            f"CompositeLoss: argument `sample_weight` must have shape [batch] or [batch, 1]. Received: shape {shape}."
        )
    return tf.reshape(sample_weight, [-1])


def _has(structure: Any, key: str) -> bool:
    return isinstance(structure, Mapping) and key in structure


def _keys(structure: Any) -> list[str] | str:
    return sorted(structure) if isinstance(structure, Mapping) else type(structure).__name__


def _term_config(term: LossTerm) -> dict[str, Any]:
    weight = term.weight.get_config() if isinstance(term.weight, AdaptiveWeight) else term.weight
    return {"fn": keras.saving.serialize_keras_object(term.fn), "weight": weight, "requires": list(term.requires)}


def _term_from_config(values: Mapping[str, Any]) -> LossTerm:
    weight = values["weight"]
    return LossTerm(
        fn=keras.saving.deserialize_keras_object(values["fn"]),
        weight=AdaptiveWeight.from_config(weight) if isinstance(weight, dict) else weight,
        requires=tuple(values["requires"]),
    )
