"""What a train step leaves behind: a ring of rows for the callback, and one Keras metric for the logs.

The ring is a small float64 variable with a row per step of an execution, since callbacks run once per execution and
would see its last step only. Float64 holds float32 values and step counts exactly.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_adaptive_weights.deciding.config import FLOAT32_MAX
from keras_adaptive_weights.deciding.term_names import REGULARIZATION, weight_name
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.losses.keras_losses import OutputLosses
from keras_adaptive_weights.runtime.conditional_writes import in_xla
from keras_adaptive_weights.runtime.distribution import replicas, within_replica
from keras_adaptive_weights.runtime.plain import plain
from keras_adaptive_weights.runtime.written_variables import FoundVariable

REQUESTS = ("disable", "enable", "rollback", "reset")
"""What may be asked for by hand for each adaptive weight, in the order of its columns."""
_FIXED_COLUMNS = 6  # count, total, gradient norm, dampening, number of the outcome, skipped by loss scaling only
_SMALLEST_SQUARE = 1e-30
"""Of a smaller sum of squares a float32 may have lost the most."""
_SHORT = 2**12
"""Elements up to which XLA takes a product of a gradient with itself: one operation in place of four."""
_ROW = 256
"""Elements of a row of a longer gradient's squares, which XLA sums by a product with ones: up to fifteen times as fast
as its sum of all of them, and exact to 2e-6 for 40 million, which one long product is not (17 %)."""


class StepRow(NamedTuple):
    """One train step as it was measured: numbers, not tensors.

    Attributes:
        number: Number of the step since the telemetry began.
        terms: Raw value of each term that took part; NaN where there was nothing of it to measure.
        total: Total loss, undampened and unscaled.
        gradient_norm: Global norm of the unscaled gradients.
        dampening: Factor on the total and its gradients.
        non_finite: Name of the first non-finite thing: a term, "total_loss", a variable's gradient. `None`: applied,
            or empty.
        empty: There was nothing to measure, so the step was left out whole.
        loss_scaling: The step was skipped only because the loss scale overflowed.
        requests: What any worker passed on with this step: term and one of `REQUESTS`, in the order to carry it out in.
        term_norms: Norm of the gradient of each raw term, without loss scale and dampening; infinite where it was not
            finite. A term that took no part, or had nothing to measure, is left out. `None`: not measured on this step.
    """

    number: int
    terms: dict[str, float]
    total: float
    gradient_norm: float
    dampening: float
    non_finite: str | None
    loss_scaling: bool
    requests: tuple[tuple[str, str], ...]
    empty: bool = False
    term_norms: dict[str, float] | None = None


class Outcome(NamedTuple):
    """What came of a step, for which one number stands in the telemetry: each trace of the step has its own numbers.

    Attributes:
        terms: Names of the terms that took part.
        non_finite: As in `StepRow`.
        empty: As in `StepRow`.
    """

    terms: tuple[str, ...]
    non_finite: str | None = None
    empty: bool = False


class Telemetry:
    """Ring buffer and metric of one model.

    Args:
        loss: The compiled loss; its terms are the columns.
        steps_per_execution: Rows of the ring.
        carries_requests: Whether what is asked for by hand travels with the steps: over several workers.

    Attributes:
        metrics: The metric that shows the terms in the logs.
        shown: Whether it is among the model's metrics. With a loss of Keras's own the logs are Keras's own.
        tells_skips: Whether the logs hold `skipped_steps`. Those of Keras's losses do not.
        names: Names of the terms, the last for what the model adds by itself: `add_loss` and regularizers.
        requests: Variable with an element per adaptive weight and request: 1 where this worker passes it on. `None`
            where none travels.
        terms: Terms of the batch whose loss was computed last: how `compute_loss`, which returns the total only, hands
            them to the step around it.
        measured: Of each of these, whether there was anything to measure; see `Evaluation`.
        logs_so_far: Logs of the step that was traced last, if they only show what the metrics hold after it: they can
            as well be made later.
        named: Whether the names in the logs were seen to stand for one thing each.
        built: Whether the model's variables were created before its first step, as far as that is possible.
        writes: Whether a train step was seen to leave rows.
        found: Variables that a step writes and the model does not tell of.
        results: What the metrics held when they were asked last.
        handed_out: Returns the ring, one row after the other, as it came along with the logs of the execution that just
            ended. `None` where it did not. Looking into the variable instead takes 50 microseconds.
    """

    def __init__(self, loss: Any, steps_per_execution: int, *, carries_requests: bool = True) -> None:
        self._loss = loss
        self._rows = int(steps_per_execution)
        terms = tuple(loss.terms) if isinstance(loss, CompositeLoss) else ()
        self.names = tuple(dict.fromkeys((*terms, REGULARIZATION))) if terms else ()
        self._columns = {name: column for column, name in enumerate(self.names, _FIXED_COLUMNS)}
        self.terms: dict[str, Any] = {}
        self.measured: dict[str, Any] = {}
        self._outcomes: list[Outcome] = []
        self._first_outcome: dict[tuple[Any, ...], int] = {}
        self.logs_so_far: dict[str, Any] = {}
        self.results: dict[str, Any] = {}
        self.found: list[FoundVariable] = []
        self.named = False
        self.built = False
        self.writes = False
        self.handed_out: Callable[[], list[float]] | None = None
        self.metrics = StepMetrics(loss)
        self.shown = isinstance(loss, CompositeLoss)
        self.tells_skips = self.shown and not isinstance(loss, OutputLosses)
        carries_requests = carries_requests and bool(self.names)
        self._slots = [(n, r) for n in loss.adaptive_weights for r in REQUESTS] if carries_requests else []
        self._asked = np.zeros(len(self._slots), "float32")
        measures_norms = isinstance(loss, CompositeLoss) and loss.norm_schedule is not None
        self._norms_of = tuple(loss.terms) if measures_norms else ()
        columns = _FIXED_COLUMNS + len(self.names) + len(self._slots) + len(self._norms_of)
        self._ring = tf.Variable(tf.zeros([self._rows, columns], tf.float64), trainable=False, name="telemetry")
        self.requests = tf.Variable(self._asked, trainable=False, name="requests") if self._slots else None
        # for whoever is shown no `skipped_steps`: how many since somebody asked, and the culprit of the first
        self._skips = None if self.tells_skips else tf.Variable([0, 0], trainable=False, name="skips")

    def fits(self, loss: Any, steps_per_execution: int) -> bool:
        """Whether this telemetry is for that loss and that many steps."""
        return self._loss is loss and self._rows == int(steps_per_execution)

    def check_terms(self, y_true: Any, y_pred: Any) -> None:
        """Refuse a batch in which the term of an adaptive weight takes no part.

        Raises:
            ValueError: Such a batch.
        """
        if not isinstance(self._loss, CompositeLoss):
            return
        for name in self._loss.adaptive_weights:
            if name not in self.terms:
                needed = self._loss.terms[name].requires
                keys = [sorted(part) if isinstance(part, dict) else type(part).__name__ for part in (y_true, y_pred)]
                raise ValueError(
                    f"The weight of term {name!r} is adaptive, but the term takes no part: it needs the keys "
                    f"{list(needed)}. Received: targets {keys[0]}, outputs {keys[1]}. Provide the keys, or give the "
                    "term a fixed weight."
                )

    def ask(self, term: str, request: str | None) -> None:
        """Pass a request for the weight of `term` on with the next steps; `None`: nothing any more."""
        asked = np.where([name == term for name, _ in self._slots], np.float32(0.0), self._asked)
        if request is not None:
            asked[self._slots.index((term, request))] = 1.0
        if self.requests is not None and not np.array_equal(asked, self._asked):
            self._asked = asked
            self.requests.assign(asked)

    def outcome(self, terms: Iterable[str], gradients_of: Iterable[str], bad: Any, present: Any) -> Any:
        """Return the number that stands for what came of a step, in the graph.

        Args:
            terms: Names of the terms that took part.
            gradients_of: Names of the variables that have gradients.
            bad: Index of what is not finite, among terms, total and gradients; -1: nothing.
            present: Whether there was anything to measure: True, or a scalar bool tensor.
        """
        terms = tuple(terms)
        culprits = (*terms, "total_loss", *(f"gradient of {name}" for name in gradients_of))
        first = self._first_outcome.setdefault((terms, culprits), len(self._outcomes))
        if first == len(self._outcomes):
            self._outcomes += [Outcome(terms), *(Outcome(terms, culprit) for culprit in culprits)]
            self._outcomes.append(Outcome(terms, empty=True))
        number = bad + (first + 1)
        return number if present is True else tf.where(present, number, first + 1 + len(culprits))

    def write(
        self,
        terms: dict[str, Any],
        total: Any,
        norm: Any,
        dampening: Any,
        outcome: Any,
        bad: Any,
        requests: Any,
        term_norms: Any = None,
    ) -> None:
        """Add the row of one step, in the graph.

        Args:
            terms: Values of the terms that took part.
            total: Total loss.
            norm: Gradient norm.
            dampening: Factor on the total.
            outcome: What `outcome` returned.
            bad: Two scalar bools: whether the step was skipped as not finite, and whether by loss scaling only.
            requests: See `requests`. `None`: there are none.
            term_norms: A vector with a norm per term of the loss, NaN where it was not measured. `None`: never is one.
        """
        skipped, routine = bad
        self.writes = True
        dtype = tf.float64 if total.dtype == tf.float64 else tf.float32
        values = [total, norm, dampening, outcome, routine, *(terms.get(name, np.nan) for name in self.names)]
        row = tf.cast(tf.stack([tf.cast(value, dtype) for value in values]), tf.float64)  # as few casts
        parts = [row, *(tf.cast(more, tf.float64) for more in (requests, term_norms) if more is not None)]
        ring = self._ring.read_value()
        newest = tf.concat([ring[-1, :1] + 1.0, *parts], axis=0)[None]
        self._ring.assign(newest if self._rows == 1 else tf.concat([ring[1:], newest], axis=0))
        if self._skips is not None:
            skips, _ = tf.unstack(self._skips)
            one_more = tf.stack([1, tf.where(skips == 0, outcome, 0)])
            self._skips.assign_add(tf.where(tf.logical_and(skipped, tf.logical_not(routine)), one_more, [0, 0]))

    def read(self, after: int = 0) -> list[StepRow]:
        """Return the steps whose number is above `after`, oldest first, at most as many as an execution has."""
        handed_out, self.handed_out = self.handed_out, None
        held = self._held() if handed_out is None else self._in_rows(handed_out())
        return [self._row(row) for row in held if row[0] > after]

    def take_skips(self) -> tuple[int, str]:
        """Return how many steps were skipped since this was asked last, and what was not finite in the first of them.

        Those that only loss scaling skipped do not count; nor does any where the logs say it, see `tells_skips`.
        """
        if self._skips is None or not (taken := self._skips.value().numpy())[0]:
            return 0, ""
        self._skips.assign([0, 0])
        return int(taken[0]), str(self._outcomes[int(taken[1])].non_finite)

    def ring_to_hand_out(self) -> Any:
        """Return the ring as a vector, for `handed_out`; in the graph."""
        return tf.reshape(self._ring, [-1])

    @property
    def count(self) -> int:
        """Steps measured so far."""
        return int(self._held()[-1][0])

    def _held(self) -> list[list[float]]:
        """Return the rows, oldest first; `value()`, since `Variable.numpy()` takes three times as long."""
        return self._ring.value().numpy().tolist()

    def _in_rows(self, numbers: list[float]) -> list[list[float]]:
        columns = len(numbers) // self._rows
        return [numbers[start : start + columns] for start in range(0, len(numbers), columns)]

    def _row(self, row: list[float]) -> StepRow:
        count, total, norm, dampening, number, routine = row[:_FIXED_COLUMNS]
        terms, non_finite, empty = self._outcomes[int(number)]
        return StepRow(
            int(count),
            {name: row[self._columns[name]] for name in terms},
            total,
            norm,
            dampening,
            non_finite,
            bool(routine) and non_finite is not None,
            self._requests_in(row) if self._slots else (),
            empty,
            self._norms_in(row) if self._norms_of else None,
        )

    def _requests_in(self, row: list[float]) -> tuple[tuple[str, str], ...]:
        first = _FIXED_COLUMNS + len(self.names)
        shares = row[first : first + len(self._slots)]
        return tuple(slot for slot, share in zip(self._slots, shares, strict=True) if share > 0)

    def _norms_in(self, row: list[float]) -> dict[str, float] | None:
        norms = zip(self._norms_of, row[-len(self._norms_of) :], strict=True)
        return {name: norm for name, norm in norms if not math.isnan(norm)} or None


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
            size = tf.cast(tf.shape(keras.tree.flatten(y_pred)[0])[0], tf.float32)
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
        checks = [tf.zeros((), dtype) if value is None else _zero_if_finite(value) for value in values]
        good = tf.math.is_finite(tf.stack([*losses, *checks]))
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
    squared = tf.add_n([2.0 * _half_squared_norm(tf.math.divide_no_nan(gradient, largest)) for gradient in gradients])
    return tf.minimum(largest / scale * tf.sqrt(squared), FLOAT32_MAX)


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
