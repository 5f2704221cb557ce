"""The pieces that a train step is made of: what to remember, the losses measured, the gradients applied or nothing."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_adaptive_weights.deciding.health import SCALE_STEPS
from keras_adaptive_weights.losses.balance import NormSchedule
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.losses.keras_losses import OutputLosses
from keras_adaptive_weights.losses.per_sample import batched
from keras_adaptive_weights.losses.per_sample import counts as anything_to_measure
from keras_adaptive_weights.runtime.distribution import (
    divide_by_replicas,
    logs_for_reduction,
    mean_where_measured,
    on_every_replica,
    once,
    read_once,
    replicas,
    several_workers,
    sum_gradients,
    value_where,
)
from keras_adaptive_weights.runtime.written_variables import Remembered, global_seed_state
from keras_adaptive_weights.training.argument_checks import (
    refuse_no_tape,
    refuse_others_gradients,
)
from keras_adaptive_weights.training.finiteness import first_non_finite
from keras_adaptive_weights.training.model_parts import (
    batch_size,
    first_leaf,
    gradient_scale,
    is_overridden,
    keras_metrics,
    shared_by_all_variables,
    with_models_inside,
    with_training_if_taken,
)
from keras_adaptive_weights.training.step_metrics import mean_of
from keras_adaptive_weights.training.telemetry import Telemetry
from keras_adaptive_weights.training.term_norms import norms_of_terms

_MIN_STEPS_BEFORE_DAMPENING = 10
as_it_is = tf.autograph.experimental.do_not_convert  # where somebody calls it in a function of his own


class Measurement(NamedTuple):
    """One batch, measured.

    Attributes:
        objective: Scalar to differentiate: the dampened total, divided by replicas, scaled for mixed precision.
        total: Total loss of the batch, undampened and unscaled, a scalar.
        terms: Raw value of each term that took part, scalars by name.
        dampening: Factor in the objective, 1.0 where the total is no spike, a scalar.
        present: Whether there was anything to measure: True, or a scalar bool tensor, false for a batch without a
            sample, or with all sample weights 0, or all masked.
        measured: The same of each term.
        requests: Share of the replicas that pass on each request by hand; see `Telemetry.requests`. `None`: none can.
        batch: `(x, y, y_pred, sample_weight)`.
        parts: Each term of this replica as the total has it, neither reduced nor averaged.

    With several replicas, total and terms are means over those that had something to measure, and the objective is the
    replica's own.
    """

    objective: Any
    total: Any
    terms: dict[str, Any]
    dampening: Any
    present: Any
    measured: dict[str, Any]
    requests: Any
    batch: tuple[Any, Any, Any, Any]
    parts: Mapping[str, Any] = {}


class StepPieces:
    """The methods of `StableTrainStepMixin` for a train step of one's own, and what they have in common."""

    @as_it_is
    def remember_state(self) -> Remembered:
        """Remember what a skipped step is to leave as it was; call it before the forward pass.

        These are the variables of the model that are not trained, its metrics, and the state of Keras's global seed
        generator. Where `fit` or `train_on_batch` runs in a graph on one replica, it is all variables that are written
        from here to `apply_if_finite`, whoever owns them.
        """
        self._prepare_telemetry()
        tracker, *metrics = [metric for model in with_models_inside(self) for metric in keras_metrics(model)]
        own = {id(v) for v in (*tracker.variables, *self._telemetry.metrics.variables)}
        variables = [*self.non_trainable_variables, *(v for metric in metrics for v in metric.variables)]
        if replicas() == 1:
            variables += global_seed_state()
        if tf.executing_eagerly():
            variables += self.trainable_variables  # a graph shows whether one is written, as by spectral normalization
        return self._remembered({id(v): v for v in variables if id(v) not in own}.values())

    def _remembered(self, variables: Iterable[Any]) -> Remembered:
        loss = self.loss
        unread = (lambda: loss.unread_variables) if isinstance(loss, OutputLosses) else tuple
        return Remembered(variables, self._telemetry.found, unread)

    def gradient_tape(self) -> tf.GradientTape:
        """Return a `tf.GradientTape`: a persistent one where a balance measures the gradient norm of each term."""
        return tf.GradientTape(persistent=self._norm_schedule is not None)

    @as_it_is
    def measure_losses(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Measurement:
        """Compute the losses of a batch, for use within a `tf.GradientTape`.

        Args:
            x: Inputs.
            y: Targets.
            y_pred: Outputs of the model.
            sample_weight: `None` or shape `[batch]`.

        Returns:
            A `Measurement`; differentiate its `objective`.

        Raises:
            ValueError: The term of an adaptive weight takes no part in this batch.
        """
        self._prepare_telemetry()
        local_total, terms, present, measured = self._evaluate_losses(x, y, y_pred, sample_weight, training=True)
        parts = dict(self._telemetry.terms)  # before the replicas meet: after it they are those of the last of them
        self._build_optimizer()
        (total, *values), (present, *flags), requests = mean_where_measured(
            [mean_of(local_total), *terms.values()], [present, *measured.values()], self._telemetry.requests
        )
        dampening = self._dampening(total)
        objective = divide_by_replicas(local_total * dampening)
        if self.optimizer is not None:
            objective = self.optimizer.scale_loss(objective)
        batch = (x, y, y_pred, sample_weight)
        named, measured = dict(zip(terms, values, strict=True)), dict(zip(terms, flags, strict=True))
        return Measurement(objective, total, named, dampening, present, measured, requests, batch, parts)

    @as_it_is
    def apply_if_finite(
        self,
        measured: Measurement,
        gradients: Sequence[Any],
        before: Remembered,
        variables: Sequence[Any] | None = None,
        tape: tf.GradientTape | None = None,
    ) -> dict[str, Any]:
        """Apply the gradients, or undo the step where anything is not finite; record it and return the logs.

        A step on which there was nothing to measure is left out whole: parameters, optimizer and statistics stay.

        Args:
            measured: What `measure_losses` returned.
            gradients: Gradients of its objective by `variables`, scaled as they are.
            before: What `remember_state` returned before the forward pass.
            variables: The variables that the gradients belong to, all others stay. `None`: `trainable_variables`.
            tape: The `gradient_tape` that saw `measured`, for the gradient norms of its terms. It may be left out where
                the loss has no balance that looks at them.

        Returns:
            The logs of the step, by name.

        Raises:
            ValueError: Not one gradient for each variable, or of another shape; or no tape where the balance needs one,
                or one of which nothing more can be had.
        """
        to_restore = before.to_restore()
        variables = list(self.trainable_variables if variables is None else variables)
        refuse_others_gradients(gradients, variables)
        gradients = self._over_replicas(gradients, variables)
        norm, finite, bad = first_non_finite(
            measured.terms, measured.total, gradients, gradient_scale(self.optimizer), variables
        )
        due, term_norms = self._measure_term_norms(measured, variables, tape)
        taken, counts = self._verdict(measured, finite)
        # Without metrics of its own `compute_metrics` only reads, which would make all logs wait for the optimizer.
        own_logs = is_overridden(self, "compute_metrics")
        self._commit(
            gradients, variables, None if own_logs else measured.batch, measured.present, taken, counts, to_restore
        )
        self._count(measured, norm, taken, counts)
        outcome = self._telemetry.outcome(
            measured.terms, (variable.path for variable in variables), bad, measured.present
        )
        self._leave_row(measured, norm, taken, outcome, due, term_norms)
        logs = self._logs_of_own_metrics(measured, counts) if own_logs else self.get_metrics_result()
        logs = logs_for_reduction(self.distribute_strategy, logs)
        self._telemetry.logs_so_far = {} if own_logs else dict(logs)
        return logs

    def _logs_of_own_metrics(self, measured: Measurement, counts: Any) -> dict[str, Any]:
        """Return what a `compute_metrics` of the model's own returns, and leave the metrics unmoved by a skipped step.

        What it returns of a metric is what the metric holds after that; all else is of this batch.
        """
        x, y, y_pred, sample_weight = measured.batch
        before = self._remembered(self.metrics_variables)
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        of_metrics = self._telemetry.results
        on_every_replica(lambda: None, self.optimizer, finite=counts, otherwise=before.to_restore())
        after = self.get_metrics_result()
        return {name: after[name] if value is of_metrics.get(name) else value for name, value in logs.items()}

    def _over_replicas(self, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """Return gradients summed over replicas; of values to overwrite a variable with, the mean."""
        gradients = sum_gradients(gradients)
        if (count := self.distribute_strategy.num_replicas_in_sync) > 1:
            whole = [getattr(variable, "overwrite_with_gradient", False) for variable in variables]
            gradients = [g if g is None or not w else g / count for g, w in zip(gradients, whole, strict=True)]
        return gradients

    @property
    def _scales_losses(self) -> bool:
        return isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)

    def _verdict(self, measured: Measurement, finite: Any) -> tuple[Any, Any]:
        """Return whether the step is taken, and whether its losses count.

        The losses of a step that only loss scaling skipped are as good as any, and plain Keras counts them.
        """
        present = measured.present
        taken = finite if present is True else tf.logical_and(finite, present)
        if not self._scales_losses:
            return taken, taken
        counts = tf.math.is_finite(measured.total)
        return taken, counts if present is True else tf.logical_and(counts, present)

    def _commit(
        self,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        batch: tuple[Any, Any, Any, Any] | None,
        present: Any,
        taken: Any,
        counts: Any,
        to_restore: Any,
    ) -> None:
        """Apply the gradients and count `batch` in the metrics, or restore the state, on every replica."""
        optimizer, scaling = self.optimizer, self._scales_losses

        def apply() -> None:
            if variables:
                optimizer.apply(gradients, variables)

        def update_metrics() -> None:
            if batch is not None and len(keras_metrics(self)) > 1:
                x, y, y_pred, sample_weight = batch
                self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

        def commit() -> None:
            if not scaling:
                apply()
                update_metrics()

        if scaling:  # it has a condition of its own, and must see overflown gradients to lower its scale
            on_every_replica(apply, optimizer, finite=None if present is True else present)
        shared = [] if scaling or not tf.inside_function() else shared_by_all_variables(optimizer)
        with read_once(shared):
            on_every_replica(commit, optimizer, finite=taken, otherwise=to_restore)
        if scaling:  # after what a step that it skipped restores, which holds the metrics
            on_every_replica(update_metrics, optimizer, finite=counts)

    def _count(self, measured: Measurement, norm: Any, taken: Any, counts: Any) -> None:
        """Count the step in the epoch's means."""
        x, _, y_pred, _ = measured.batch
        size, tracker = batch_size(x), keras_metrics(self)[0]
        counted = tf.cast(tf.where(counts, size, 0.0), tracker.dtype)
        total = tf.where(counts, tf.cast(measured.total, tracker.dtype), 0.0)
        tracker.total.value.assign_add(total * counted)  # as `update_state`, in fewer operations
        tracker.count.value.assign_add(counted)
        self._telemetry.metrics.count(
            measured.terms,
            self._size_for_terms(y_pred, size),
            norm,
            measured.dampening,
            taken,
            counts,
            measured.present,
            measured.measured,
        )

    def _leave_row(self, measured: Measurement, norm: Any, taken: Any, outcome: Any, due: Any, term_norms: Any) -> None:
        """Record the step, once per worker."""
        present = measured.present
        skipped = tf.logical_not(taken) if present is True else tf.logical_and(tf.logical_not(taken), present)
        named = {name: _nan_unless(measured.measured[name], value, present) for name, value in measured.terms.items()}

        def leave(
            total: Any,
            norm: Any,
            dampening: Any,
            taken: Any,
            skipped: Any,
            outcome: Any,
            requests: Any,
            due: Any,
            term_norms: Any,
            *terms: Any,
        ) -> None:
            if self._norm_schedule is not None:
                term_norms = tf.where(taken, term_norms, np.nan)
                told = tf.reduce_any(tf.logical_and(term_norms > 0.0, tf.math.is_finite(term_norms)))
                self._norm_schedule.note(due, taken, told)
            self._track_total(total, dampening, taken)
            bad = (skipped, tf.math.is_finite(total) if self._scales_losses else False)
            self._telemetry.write(
                dict(zip(named, terms, strict=True)), total, norm, dampening, outcome, bad, requests, term_norms
            )

        row = (measured.total, norm, measured.dampening, taken, skipped, outcome, measured.requests, due, term_norms)
        once(leave, *row, *named.values())

    @property
    def _norm_schedule(self) -> NormSchedule | None:
        return self.loss.norm_schedule if isinstance(self.loss, CompositeLoss) else None

    def _measure_term_norms(
        self, measured: Measurement, variables: Sequence[Any], tape: tf.GradientTape | None
    ) -> tuple[Any, Any]:
        """Return whether this step is to measure the norm of each term's gradient, and a vector of them or of NaN."""
        if self._norm_schedule is None:
            return None, None
        refuse_no_tape(tape, self.loss.balance)
        parts = {name: value for name, value in measured.parts.items() if name in self.loss.terms}
        due, scale = self._norm_schedule.due(), gradient_scale(self.optimizer)
        measure = functools.partial(norms_of_terms, self.loss, tape, parts, measured.measured, scale, variables)
        return due, value_where(due, measure, tf.fill([len(self.loss.terms)], np.float32(np.nan)))

    def _build_optimizer(self) -> None:
        """Create the optimizer's variables before its scale is read: until then that is a constant."""
        if self.optimizer is not None and not self.optimizer.built:
            with tf.init_scope():
                self.optimizer.build(self.trainable_variables)

    def _prepare_telemetry(self) -> None:
        telemetry = getattr(self, "_telemetry", None)
        if telemetry is not None and telemetry.fits(self.loss, self.steps_per_execution):
            return
        with tf.init_scope(), self.distribute_strategy.scope():
            self._telemetry = Telemetry(
                self.loss, self.steps_per_execution, carries_requests=several_workers(self.distribute_strategy)
            )
        self.train_function = self.test_function = None

    def _evaluate_losses(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any, *, training: bool
    ) -> tuple[Any, dict[str, Any], Any, dict[str, Any]]:
        """Measure a batch on this replica.

        Returns:
            The total, not divided by replicas and reduced as the loss says; the terms that took part; whether there was
            anything to measure; and the same of each term.
        """
        self._telemetry.terms, self._telemetry.measured = {}, {}
        loss = with_training_if_taken(self.compute_loss, x, y, y_pred, sample_weight, training)
        terms = {name: mean_of(value) for name, value in self._telemetry.terms.items()}
        if training:
            self._telemetry.check_terms(y, y_pred)
        given = self._telemetry.measured
        flags = list({id(flag): flag for flag in given.values()}.values()) or [anything_to_measure(first_leaf(x))]
        present = any(flag is True for flag in flags) or (
            flags[0] if len(flags) == 1 else tf.reduce_any(tf.stack(flags))
        )
        measured = {name: given.get(name, present) for name in terms}
        return loss * self.distribute_strategy.num_replicas_in_sync, terms, present, measured

    def _size_for_terms(self, y_pred: Any, size: Any) -> Any:
        """Return what a batch of `size` samples counts in the means of the terms: with Keras's losses as in Keras's."""
        if self._telemetry.tells_skips:
            return size
        return tf.constant(float(next((output.shape[0] for output in batched(y_pred)), None) or 1))

    def _dampening(self, total: Any) -> Any:
        """Return the factor that takes a spike down to the threshold, and 1.0 for any other total."""
        if not isinstance(self.loss, CompositeLoss) or self.loss.max_loss_spike_threshold is None:
            return tf.ones_like(total)
        average, steps = tf.unstack(self.loss.total_average)
        known = tf.logical_and(steps >= _MIN_STEPS_BEFORE_DAMPENING, average > 0.0)
        limit = tf.cast(tf.where(known, self.loss.max_loss_spike_threshold * average, np.inf), total.dtype)
        spike = tf.logical_and(total > limit, tf.math.is_finite(total))
        return tf.stop_gradient(tf.where(spike, limit / total, tf.ones_like(total)))

    def _track_total(self, total: Any, dampening: Any, finite: Any) -> None:
        """Take a finite total into its recent mean, a spike as far as it counted."""
        if not isinstance(self.loss, CompositeLoss) or self.loss.max_loss_spike_threshold is None:
            return
        average, steps = tf.unstack(self.loss.total_average)
        rate = tf.maximum(self.loss.loss_smoothing_factor, 1.0 / (tf.maximum(steps, 0.0) + 1.0))
        more = tf.where(total < 0.0, -SCALE_STEPS - steps, 1.0)
        change = tf.stack([rate * (tf.cast(total * dampening, average.dtype) - average), more])
        self.loss.total_average.assign_add(tf.where(finite, change, tf.zeros_like(change)))


def _nan_unless(measured: Any, value: Any, present: Any) -> Any:
    """Return a term's value as it is left in the telemetry; where nothing at all was measured that says so itself."""
    if measured is True or measured is present:
        return value
    return tf.where(measured, value, tf.constant(np.nan, value.dtype))
