"""What a train step shows in the logs: terms, weights, gradient norm and counts of steps, as metrics of Keras."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_adaptive_weights.deciding.term_names import weight_name
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.losses.keras_losses import OutputLosses
from keras_adaptive_weights.losses.per_sample import batched
from keras_adaptive_weights.runtime.distribution import replicas, within_replica


class StepMetrics(keras.metrics.Metric):
    """Epoch means of the raw terms (weighted by batch size) and of the gradient norm, weights, and counts of steps.

    A term's mean is over the batches in which there was something of it to measure. With `OutputLosses` the logs are
    Keras's own: the terms are metrics at the place of Keras's, see `among`, and of ours only the weights are shown.

    One metric with one variable for all of them: a result of several names costs a step less than several metrics.

    Args:
        loss: The compiled loss.
        name: Name of the metric.
    """

    def __init__(self, loss: Any, name: str = "stable_train_step") -> None:
        super().__init__(name=name, dtype="float32")
        composite = isinstance(loss, CompositeLoss)
        self._loss = loss
        self._terms = tuple(loss.terms) if composite else ()
        self._weights = {weight_name(n): w for n, w in loss.adaptive_weights.items()} if composite else {}
        self._dampens = composite and loss.max_loss_spike_threshold is not None
        self._as_keras = isinstance(loss, OutputLosses)
        self._outputs: dict[str, OutputMean] = {}
        if self._as_keras and len(self._terms) > 1:  # of a single loss Keras shows the total only
            self._outputs = {name: OutputMean(name, self.means) for name in self._terms}
        self._means: dict[str, Any] | None = None
        self._seen: dict[str, None] = {}  # in the order in which Keras computes them
        self._replicas = replicas()
        # one sum per term, the samples of each, then: samples, sum of gradient norms, steps applied, skipped, dampened
        self._sums = self.add_variable((2 * len(self._terms) + 5,), initializer="zeros", dtype="float32", name="sums")

    @property
    def train_only(self) -> frozenset[str]:
        """Names that mean nothing in an evaluation."""
        counts = () if self._as_keras else ("gradient_norm", "skipped_steps")
        return frozenset({*self._weights, "dampened_steps", *counts})

    @property
    def names(self) -> frozenset[str]:
        """Names of all that may be in the logs."""
        return self.train_only | frozenset(self._outputs if self._as_keras else (*self._terms, "empty_steps"))

    @property
    def last(self) -> tuple[str, ...]:
        """Names that come after all of Keras's, where the logs are Keras's own."""
        return (*self._weights, *(("dampened_steps",) if self._dampens else ())) if self._as_keras else ()

    def among(self, metrics: list[Any]) -> list[Any]:
        """Return Keras's metrics of a model with ours, in Keras's order: loss, those given, outputs, all others."""
        place = 2 if len(metrics) > 1 and metrics[1].name == "compile_metrics" else 1
        outputs = [self._outputs[name] for name in self._seen if name in self._outputs]
        return [*metrics[:place], *outputs, *metrics[place:], self]

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Count one batch as any metric of Keras does: for a step of one's own that goes through `self.metrics`."""
        if self._terms:
            size = tf.cast(tf.shape(batched(y_pred)[0])[0], tf.float32)
            _, terms, measured = self._loss.evaluate(y_true, y_pred, sample_weight)
            self.count({name: mean_of(value) for name, value in terms.items()}, size, measured=measured)

    def count(
        self,
        terms: dict[str, Any],
        size: Any,
        norm: Any = None,
        dampening: Any = None,
        applied: Any = True,
        counts: Any = None,
        present: Any = True,
        measured: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Count one batch; of a skipped one only that it was skipped, and nothing of one without anything to measure.

        Args:
            terms: Values of the terms that took part.
            size: Number of samples.
            norm: Gradient norm. `None`: not measured.
            dampening: Factor on the total. `None`: 1.
            applied: Whether the step was applied.
            counts: Whether its losses count nevertheless. `None`: as `applied`.
            present: Whether there was anything to measure: True, or a scalar bool tensor.
            measured: The same of each term; what is not in it is as `present`.
        """
        self._seen.update(dict.fromkeys(terms))
        one, zero = tf.constant(1.0), tf.constant(0.0)
        norm = zero if norm is None else tf.cast(norm, tf.float32)
        dampened = zero if dampening is None or not self._dampens else tf.cast(dampening < 1.0, tf.float32)
        size = size if present is True else tf.where(present, size, zero)
        if self._as_keras:
            measured = {}  # in Keras's means what was not measured is a 0 as any other
        sizes = [_size_of(measured.get(n, present), size, present) if n in terms else zero for n in self._terms]
        values = [tf.cast(terms[n], tf.float32) if n in terms else zero for n in self._terms]
        losses = [*(value * s for value, s in zip(values, sizes, strict=True)), *sizes, size]
        step = [norm, one, zero, dampened]
        skip = [zero, zero, one if present is True else tf.cast(present, tf.float32), zero]
        if counts is None or counts is applied:
            change = tf.where(applied, tf.stack(losses + step), tf.stack([zero] * len(losses) + skip))
        else:
            change = tf.concat([tf.where(counts, losses, zero), tf.where(applied, step, skip)], axis=0)
        self._sums.value.assign_add(change)  # Keras's reads, adds and assigns

    def nan_without_steps(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Return the logs of all metrics, those of others as NaN where there were steps and none of them counted."""
        samples, _, _, skipped, _ = tf.unstack(tf.convert_to_tensor(self._sums)[2 * len(self._terms) :])
        nothing = samples < tf.minimum(skipped, 1.0)
        return {name: value if name in self.names else _nan_where(nothing, value) for name, value in logs.items()}

    @contextlib.contextmanager
    def computed_once(self) -> Iterator[None]:
        """Compute `means` once for all who ask within."""
        self._means = self.means()
        try:
            yield
        finally:
            self._means = None

    def means(self) -> dict[str, Any]:
        """Return the means of the terms that were seen; that of nothing is NaN."""
        if self._means is not None:
            return self._means
        sums = tf.unstack(tf.convert_to_tensor(self._sums)[: 2 * len(self._terms)])
        pairs = zip(self._terms, sums[: len(self._terms)], sums[len(self._terms) :], strict=True)
        return {name: total / count for name, total, count in pairs if name in self._seen}

    def result(self) -> dict[str, Any]:
        """Return the values by name; a mean of nothing is NaN."""
        *_, norms, applied, skipped, dampened = tf.unstack(tf.convert_to_tensor(self._sums))
        weights = {name: tf.convert_to_tensor(weight.variable) for name, weight in self._weights.items()}
        counted = 1 if within_replica() else self._replicas  # outside, the sums are those of all replicas
        dampenings = {"dampened_steps": dampened / counted} if self._dampens else {}
        if self._as_keras:
            return {**weights, **dampenings}
        counts = {"gradient_norm": norms / applied, "skipped_steps": skipped / counted}
        return {**self.means(), **weights, **counts, **dampenings}


class OutputMean(keras.metrics.Metric):
    """Shows the epoch's mean of one term as the metric that Keras has for the loss of an output.

    Args:
        name: Name of the term.
        means: Returns the means of all terms.
    """

    def __init__(self, name: str, means: Callable[[], dict[str, Any]]) -> None:
        super().__init__(name=name)
        self._all_means = means

    def update_state(self, y_true: Any, y_pred: Any = None, sample_weight: Any = None) -> None:
        """Do nothing: the train step counts all terms at once."""

    def result(self) -> Any:
        """Return the mean."""
        return self._all_means()[self.name]


def _size_of(measured: Any, size: Any, present: Any) -> Any:
    """Return the number of samples that count for a term, of a batch of that size."""
    return size if measured is True or measured is present else tf.where(measured, size, tf.zeros_like(size))


def mean_of(loss: Any) -> Any:
    """Return the mean of a loss that is not reduced and has a value per sample: what Keras reports of it."""
    return loss if loss.shape.rank == 0 else tf.reduce_mean(loss)


def _nan_where(condition: Any, value: Any) -> Any:
    """Return NaN where the condition holds, and what cannot be NaN as it is."""
    dtype = tf.as_dtype(getattr(value, "dtype", None) or tf.int32)
    return tf.where(condition, tf.constant(np.nan, dtype), value) if dtype.is_floating else value
