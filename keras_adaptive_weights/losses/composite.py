"""A loss of several named, weighted terms over whole structures of targets and predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_adaptive_weights.deciding.config import check_number
from keras_adaptive_weights.deciding.term_names import check_names
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.balance import (
    balance_config,
    balance_from_config,
    checked_balance,
    norm_schedule,
    terms_of,
)
from keras_adaptive_weights.losses.balanced import BalancedWeights
from keras_adaptive_weights.losses.controlled import Saved
from keras_adaptive_weights.losses.loss_term import LossTerm
from keras_adaptive_weights.losses.per_sample import all_masked, as_tensors, counts, function_of, weights_of_samples
from keras_adaptive_weights.losses.saved_state import (
    BALANCE,
    OURS,
    SCHEDULE,
    key_of,
    saved_average,
    saved_balance,
    saved_schedule,
    saved_weight,
    say_not_restored,
    stored_keys,
)
from keras_adaptive_weights.runtime.distribution import divide_by_replicas

_PACKAGE = "keras_adaptive_weights"


class Evaluation(NamedTuple):
    """What a `CompositeLoss` comes to on one batch.

    Attributes:
        total: Weighted sum of the terms, a scalar (shape `[batch]` under reduction "none").
        terms: Raw, unweighted value of each term that took part, of the same shape.
        measured: Of each term, whether there was anything to measure: True, or a scalar bool tensor. Where there was
            not, its value is 0 and means nothing.
    """

    total: Any
    terms: dict[str, Any]
    measured: dict[str, Any]


@keras.saving.register_keras_serializable(package=_PACKAGE)
class CompositeLoss(keras.losses.Loss):
    """Sum of weighted terms, each a function of the whole `y_true` and `y_pred`.

    Compile a `StableModel` with it: Keras itself would hand a single loss one output at a time.

    Args:
        terms: Name -> `LossTerm`. The names are those of the metrics. The name of an adaptive weight is that of its
            term, with "_weight" in place of "_loss".
        max_loss_spike_threshold: A total above this many times its recent mean is scaled down to that, and its
            gradients with it; `dampened_steps` in the logs counts such steps. Totals around or below zero have no
            scale: for 1,000 steps after one below zero none is scaled down. `None`: never.
        loss_smoothing_factor: Weight of the newest total in its recent mean. Default: the guide's 0.1.
        balance: What decides the adaptive weights together: `GradientShare`, `Constraint`, `SqrtLoss`, or a strategy of
            your own. `None`: the guide's rule, each weight by its own term.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`; where it is half precision, losses are computed in float32.

    Attributes:
        terms: The terms by name.
        adaptive_weights: The adaptive weights among theirs, by the name of the term.
        total_average: `tf.Variable` of shape `[2]`: recent mean of the total, and the number of steps in it; below zero
            as long as the mean is no scale, because one of the last 1,000 totals was below zero.
        balanced: What decides on the adaptive weights together, with its state; `None` without a `balance`.
        norm_schedule: When the gradient norm of each term is measured; `None` where the balance needs none.

    Raises:
        TypeError: `terms` is no mapping of names to `LossTerm`s, or `balance` no strategy.
        ValueError: No terms, a bad number, a name that the logs or a checkpoint cannot hold or that stands for two
            things in the logs, or terms that `balance` cannot balance.

    Example:

    >>> def distance(y_true, y_pred):
    ...     return keras.ops.mean(keras.ops.abs(y_true["mel"] - y_pred["mel"]), axis=-1)
    >>> loss = CompositeLoss({
    ...     "mel_loss": LossTerm(distance, weight=AdaptiveWeight(2.5)),
    ...     "kl_loss": LossTerm(lambda y_true, y_pred: y_pred["kl"], weight=0.5),
    ... })
    >>> float(loss({"mel": np.zeros((2, 3))}, {"mel": np.ones((2, 3)), "kl": np.ones(2)}))
    3.0
    """

    balance: Any = None  # losses that older versions pickled have none
    norm_schedule: Any = None
    balanced: BalancedWeights | None = None

    def __init__(
        self,
        terms: Mapping[str, LossTerm],
        *,
        max_loss_spike_threshold: float | None = None,
        loss_smoothing_factor: float = 0.1,
        balance: Any = None,
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
        check_names(owner, {name: isinstance(term.weight, AdaptiveWeight) for name, term in terms.items()})
        self.terms = dict(terms)
        self.balance = checked_balance(owner, balance, self.terms)
        self.norm_schedule = norm_schedule(self.balance)
        if self.balance is not None:
            forgot = self.norm_schedule and self.norm_schedule.begin_again
            self.balanced = BalancedWeights(self.balance, terms_of(self.terms), self.adaptive_weights, forgot)
        self._refused: tuple[Any, ValueError] | None = None
        self.max_loss_spike_threshold = check_number(
            owner, "max_loss_spike_threshold", max_loss_spike_threshold, low=1.0, open_low=True, optional=True
        )
        self.loss_smoothing_factor = check_number(
            owner, "loss_smoothing_factor", loss_smoothing_factor, low=0.0, high=1.0, open_low=True
        )
        with tf.init_scope():
            self.total_average = tf.Variable([0.0, 0.0], trainable=False, name="total_average")

    @classmethod
    def of_outputs(cls, **weights: float | AdaptiveWeight) -> CompositeLoss:
        """Return a loss for a model that computes its terms itself: each is an output, per sample, and needs no target.

        Hand `measure_losses` or `compute_loss` these outputs as a dictionary, in place of the predictions.

        Args:
            **weights: Name of the output -> number or `AdaptiveWeight`. The term is named `<output>_loss`.

        Example:

        >>> loss = CompositeLoss.of_outputs(reconstruction=AdaptiveWeight(2.5), kl=1.0)
        >>> list(loss.terms)
        ['reconstruction_loss', 'kl_loss']
        """
        terms = {f"{name}_loss": LossTerm(_Output(name), weight, (name,)) for name, weight in weights.items()}
        return CompositeLoss(terms)

    @property
    def adaptive_weights(self) -> dict[str, AdaptiveWeight]:
        """The adaptive weights by the name of their term."""
        return {name: term.weight for name, term in self.terms.items() if isinstance(term.weight, AdaptiveWeight)}

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the weighted sum of all terms; see `evaluate`."""
        return divide_by_replicas(self.evaluate(y_true, y_pred, sample_weight).total)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the weighted per-sample sum of all terms, shape `[batch]`."""
        values = self._per_sample(as_tensors(y_true, self._compute_dtype), as_tensors(y_pred, self._compute_dtype))
        return sum(self._weigh(name, value) for name, (value, _) in values.items())

    @tf.autograph.experimental.do_not_convert  # as of Keras's losses: in a function of one's own it would take seconds
    def evaluate(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Evaluation:
        """Compute the terms and their weighted sum on one batch.

        Args:
            y_true: Structure of targets.
            y_pred: Structure of predictions.
            sample_weight: `None`, numbers of shape `[batch]` or `[batch, 1]`, or a structure of them, as Keras makes it
                of those for one or several targets. In a dictionary each term finds its own, see `LossTerm`; a term
                without any gets the mean of all weights of a sample.

        Returns:
            An `Evaluation`.

        Raises:
            ValueError: No term takes part, or a term returns something of another shape than `[batch]`.
        """
        y_true, y_pred = as_tensors(y_true, self._compute_dtype), as_tensors(y_pred, self._compute_dtype)
        masked, any_sample = all_masked(y_pred), None
        terms: dict[str, Any] = {}
        measured: dict[str, Any] = {}
        for name, (values, valid) in self._per_sample(y_true, y_pred).items():
            keys = (name, name.removesuffix("_loss"), *self.terms[name].requires)
            weights = weights_of_samples(sample_weight, keys, values)
            terms[name] = self._reduce(values, weights, valid)
            if weights is not None or valid is not None:
                measured[name] = counts(values, weights, valid, masked)
                continue
            if any_sample is None:  # the same of all such terms
                any_sample = counts(values, masked=masked)
            measured[name] = any_sample
        return Evaluation(sum(self._weigh(name, value) for name, value in terms.items()), terms, measured)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {
            "terms": {name: term.get_config() for name, term in self.terms.items()},
            "max_loss_spike_threshold": self.max_loss_spike_threshold,
            "loss_smoothing_factor": self.loss_smoothing_factor,
            "balance": balance_config(self.balance),
            **super().get_config(),
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CompositeLoss:
        """Build from what `get_config` returned."""
        terms = {name: LossTerm.from_config(values) for name, values in config["terms"].items()}
        return cls(**{**config, "balance": balance_from_config(config.get("balance")), "terms": terms})

    def save_own_variables(self, store: Any) -> None:
        """Put weights, controller states and the recent mean of the total into the model's own checkpoint."""
        if self.balanced is not None:  # first: it may have to catch up
            store[BALANCE] = np.frombuffer(json.dumps(self.balanced.to_dict()).encode(), dtype=np.uint8)
        for name, weight in self.adaptive_weights.items():
            store[key_of(name)] = np.frombuffer(json.dumps(weight.to_dict()).encode(), dtype=np.uint8)
        store["total_average"] = self.total_average.numpy()
        if self.norm_schedule is not None:
            store[SCHEDULE] = self.norm_schedule.variable.numpy()

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
        keys = stored_keys(self.adaptive_weights, stored)
        try:
            together = saved_balance(self.balanced, store) if self.balanced is not None and BALANCE in stored else None
            saved = {n: saved_weight(n, self.adaptive_weights[n], key, store) for n, key in keys.items()}
            average = saved_average(self.total_average, store) if "total_average" in stored else None
            schedule = saved_schedule(store) if self.norm_schedule is not None and SCHEDULE in stored else None
        except ValueError as error:
            self._refused = store, error.with_traceback(None)
            raise
        self._restore(saved, together)
        for name, weight in self.adaptive_weights.items():
            if name not in saved:
                say_not_restored(name, weight, sorted(stored - {*keys.values(), *OURS}))
        if average is not None:
            self.total_average.assign(average)
        if self.norm_schedule is not None and schedule is not None:
            self.norm_schedule.variable.assign(schedule)

    def _restore(self, saved: Mapping[str, Saved], together: Saved | None) -> None:
        """Go on from the states of the weights, or from that of all of them together."""
        if self.balanced is None:
            for name, state in saved.items():
                self.adaptive_weights[name].restore(state)
        elif together is not None:
            self.balanced.restore(together)
        elif saved:
            self.balanced.go_on_from_each(saved)

    def _weigh(self, name: str, value: Any) -> Any:
        weight = self.terms[name].weight_tensor
        return value * (tf.cast(weight, value.dtype) if tf.is_tensor(weight) else weight)

    @property
    def _compute_dtype(self) -> str:
        """Half precision is for layers: a length of 301 is 300 in bfloat16."""
        return "float32" if self.dtype in ("float16", "bfloat16") else str(self.dtype)

    def _per_sample(self, y_true: Any, y_pred: Any) -> dict[str, tuple[Any, Any]]:
        """Return the values of each term that takes part, and which of them measure something, None for all."""
        active = {name: term for name, term in self.terms.items() if term.takes_part(y_true, y_pred)}
        if not active:
            needed = {name: term.requires for name, term in self.terms.items()}
            raise ValueError(
                f"{type(self).__name__}: no term takes part. Each needs its keys in y_true or y_pred: {needed}. "
                f"Received: y_true with {_keys(y_true)}, y_pred with {_keys(y_pred)}. A keras.Model hands a loss one "
                "output at a time: compile a StableModel to hand on all of them."
            )
        values = {name: self._checked(name, self._called(name, y_true, y_pred)) for name in active}
        return {name: (value, self._valid(name, y_true, y_pred, value)) for name, value in values.items()}

    def _called(self, name: str, y_true: Any, y_pred: Any) -> Any:
        try:
            return function_of(self.terms[name].fn)(y_true, y_pred)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            tensors = [leaf for leaf in keras.tree.flatten(y_true) if tf.is_tensor(leaf)]
            if as_they_came := sorted({leaf.dtype.name for leaf in tensors if not leaf.dtype.is_floating}):
                error.add_note(
                    f"{type(self).__name__}: from the function of term {name!r}. It gets targets as they come, here "
                    f"some of {', '.join(as_they_came)}: to compute with them, write `tf.cast(y_true, y_pred.dtype)`."
                )
            raise

    def _checked(self, name: str, values: Any) -> Any:
        values = keras.ops.convert_to_tensor(values)
        if len(values.shape) != 1 or not keras.backend.is_float_dtype(values.dtype):
            received = f"shape {tuple(values.shape)}, dtype {keras.backend.standardize_dtype(values.dtype)}"
            remedy = "Take the mean over the other axes" if len(values.shape) else "Do not reduce over the batch"
            raise ValueError(
                f"{type(self).__name__}: term {name!r} must return one float per sample, shape [batch]. Received: "
                f"{received}. {remedy}; a loss of Keras's within it needs `reduction=None`."
            )
        return keras.ops.cast(values, self._compute_dtype)

    def _valid(self, name: str, y_true: Any, y_pred: Any, values: Any) -> Any:
        measures = self.terms[name].measures
        valid = None if measures is None else measures(y_true, y_pred)
        if valid is None:
            return None
        valid = tf.convert_to_tensor(valid)
        if valid.dtype != tf.bool or not valid.shape.is_compatible_with(values.shape):
            raise ValueError(
                f"{type(self).__name__}: `measures` of term {name!r} must return one bool per sample, shape [batch], "
                f"or None. Received: shape {tuple(valid.shape)}, dtype {valid.dtype.name}."
            )
        return valid

    def _reduce(self, values: Any, sample_weight: Any, valid: Any) -> Any:
        count = tf.cast(tf.shape(values)[0], values.dtype)
        if valid is not None:
            values = tf.where(valid, values, tf.zeros_like(values))
            count = tf.reduce_sum(tf.cast(valid, values.dtype))
        if sample_weight is not None:
            if valid is not None:
                sample_weight = tf.where(valid, sample_weight, tf.zeros_like(sample_weight))
            values = values * sample_weight
        if self.reduction in ("none", None):
            return values
        total = tf.reduce_sum(values)
        if self.reduction == "sum":
            return total
        if self.reduction == "mean_with_sample_weight" and sample_weight is not None:
            return tf.math.divide_no_nan(total, tf.reduce_sum(sample_weight))
        return tf.math.divide_no_nan(total, count)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class _Output:
    """A term that the model computes itself.

    Args:
        name: The output that it is.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, y_true: Any, y_pred: Any) -> Any:
        del y_true
        return y_pred[self._name]

    def get_config(self) -> dict[str, Any]:
        return {"name": self._name}


def _keys(structure: Any) -> list[str] | str:
    return sorted(structure) if isinstance(structure, Mapping) else type(structure).__name__
