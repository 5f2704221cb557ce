"""The train step: measure the losses, apply the gradients only if everything is finite, and leave a row of telemetry.

In this order: forward pass; loss terms; total; spike dampening; gradients; their global norm, unscaled; all finite?;
apply, or skip; telemetry. A skipped step is transactional: parameters, optimizer, batch-norm statistics, random seeds
and the epoch's means are bit-identical to before it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_adaptive_weights.distribution import divide_by_replicas
from keras_adaptive_weights.losses import CompositeLoss
from keras_adaptive_weights.telemetry import Telemetry, first_non_finite

_MIN_STEPS_BEFORE_DAMPENING = 10


class Measurement(NamedTuple):
    """One batch, measured.

    Attributes:
        objective: Scalar to differentiate: the dampened total, divided by replicas, scaled for mixed precision.
        total: Total loss of the batch, undampened and unscaled, a scalar.
        terms: Raw value of each term that took part, scalars by name.
        dampening: Factor in the objective, 1.0 where the total is no spike, a scalar.
        batch: `(x, y, y_pred, sample_weight)`.
    """

    objective: Any
    total: Any
    terms: dict[str, Any]
    dampening: Any
    batch: tuple[Any, Any, Any, Any]


class StableTrainStepMixin:
    """Put before `keras.Model`: a train step that skips bad batches whole and tells what it saw.

    Works in eager mode, in a graph, with `jit_compile=True`, with `steps_per_execution`, gradient accumulation and
    mixed precision. Compile with a `CompositeLoss` (`XTTSLoss` is one) for named terms, spike dampening and adaptive
    weights.

    A train step of your own uses the same pieces:

    ```python
    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        before = self.remember_state()
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)                      # ... whatever you do
            measured = self.measure_losses(x, y, y_pred, sample_weight)
        gradients = tape.gradient(measured.objective, self.trainable_variables)
        return self.apply_if_finite(measured, gradients, before)
    ```
    """

    def train_step(self, data: Any) -> dict[str, Any]:
        """Train on one batch and return the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        before = self.remember_state()
        with tf.GradientTape() as tape:
            y_pred = self._forward(x, training=True)
            measured = self.measure_losses(x, y, y_pred, sample_weight)
        gradients = tape.gradient(measured.objective, self.trainable_variables)
        return self.apply_if_finite(measured, gradients, before)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate one batch and return the logs; weights and statistics stay as they are."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self._forward(x, training=False)
        total, terms = self._evaluate_losses(x, y, y_pred, sample_weight, training=False)
        size = _batch_size(x)
        self._loss_tracker.update_state(total, sample_weight=size)
        self._telemetry.metrics.update_state(terms, size)
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return {name: value for name, value in logs.items() if name not in self._telemetry.metrics.train_only}

    def remember_state(self) -> list[tuple[Any, Any]]:
        """Return the variables that a forward pass may change, with their present values."""
        own = {id(variable) for variable in self.metrics_variables}
        return [(v, tf.convert_to_tensor(v)) for v in self.non_trainable_variables if id(v) not in own]

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
        total, terms = self._evaluate_losses(x, y, y_pred, sample_weight, training=True)
        dampening = self._dampening(total)
        objective = self.optimizer.scale_loss(divide_by_replicas(total * dampening))
        return Measurement(objective, total, terms, dampening, (x, y, y_pred, sample_weight))

    def apply_if_finite(
        self, measured: Measurement, gradients: list[Any], before: list[tuple[Any, Any]]
    ) -> dict[str, Any]:
        """Apply the gradients, or undo the step where anything is not finite; record it and return the logs.

        Args:
            measured: What `measure_losses` returned.
            gradients: Gradients of its objective by `trainable_variables`, scaled as they are.
            before: What `remember_state` returned before the forward pass.

        Returns:
            The logs of the step, by name.
        """
        norm, bad = first_non_finite(measured.terms, measured.total, gradients, self._gradient_scale())
        finite = bad < 0
        scaling = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        variables = self.trainable_variables
        self._telemetry.variable_names = [variable.path for variable in variables]

        def apply() -> None:
            if variables:
                self.optimizer.apply(gradients, variables)

        def commit() -> Any:
            if not scaling:
                apply()
            self._track_total(measured.total)
            self.compute_metrics(*measured.batch[:3], sample_weight=measured.batch[3])
            return tf.constant(0)

        def undo() -> Any:
            for variable, value in before:
                variable.assign(value)
            return tf.constant(0)

        if scaling:  # it has a condition of its own, and must see overflown gradients to lower its scale
            apply()
        tf.cond(finite, commit, undo)
        size = _batch_size(measured.batch[0])
        zero = tf.zeros_like(measured.total)
        self._loss_tracker.update_state(
            tf.where(finite, measured.total, zero), sample_weight=tf.where(finite, size, tf.zeros_like(size))
        )
        self._telemetry.metrics.update_state(measured.terms, size, norm, finite)
        routine = tf.logical_and(scaling, tf.math.is_finite(measured.total))
        self._telemetry.write(measured.terms, measured.total, norm, measured.dampening, bad, routine)
        return self.get_metrics_result()

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the weighted sum of the terms and of the model's own additional losses, divided by replicas."""
        if not isinstance(self.loss, CompositeLoss):
            return super().compute_loss(x, y, y_pred, sample_weight, training=training)
        total, terms = self.loss.evaluate(y, y_pred, sample_weight)
        if (telemetry := getattr(self, "_telemetry", None)) is not None:
            telemetry.terms = terms
        if self.losses:
            total = tf.add_n([total, *(tf.cast(tf.reduce_sum(loss), total.dtype) for loss in self.losses)])
        return divide_by_replicas(total)

    def make_train_function(self, force: bool = False) -> Any:
        """Prepare the telemetry and build the train function."""
        self._prepare_telemetry()
        return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        """Prepare the telemetry and build the test function."""
        self._prepare_telemetry()
        return super().make_test_function(force)

    @property
    def metrics(self) -> list[Any]:
        """Keras's metrics, and ours: one object that holds the terms, weights, gradient norm and skipped steps."""
        telemetry = getattr(self, "_telemetry", None)
        return super().metrics if telemetry is None else [*super().metrics, telemetry.metrics]

    @property
    def telemetry(self) -> Telemetry:
        """What the train step saw, step by step.

        Raises:
            AttributeError: Before `fit`.
        """
        return self._telemetry

    def _forward(self, x: Any, *, training: bool) -> Any:
        return self(x, training=training) if self._call_has_training_arg else self(x)  # type: ignore[operator]

    def _prepare_telemetry(self) -> None:
        telemetry = getattr(self, "_telemetry", None)
        if telemetry is not None and telemetry.fits(self.loss, self.steps_per_execution):
            return
        with self.distribute_strategy.scope():
            self._telemetry = Telemetry(self.loss, self.steps_per_execution)
        self.train_function = self.test_function = None

    def _evaluate_losses(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, *, training: bool) -> tuple[Any, Any]:
        """Return the total, not divided by replicas, and the terms that took part."""
        self._telemetry.terms = {}
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=training)
        terms = self._telemetry.terms
        if training:
            self._telemetry.check_terms(y, y_pred)
        return loss * self.distribute_strategy.num_replicas_in_sync, terms

    def _gradient_scale(self) -> Any:
        """Return the factor on the gradients that mixed precision put there."""
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            return self.optimizer.scale_loss(tf.constant(1.0))
        return self.optimizer.loss_scale_factor or 1.0

    def _dampening(self, total: Any) -> Any:
        """Return the factor that takes a spike down to the threshold, and 1.0 for any other total."""
        one = tf.ones_like(total)
        if not isinstance(self.loss, CompositeLoss) or self.loss.max_loss_spike_threshold is None:
            return one
        average, steps = tf.unstack(tf.cast(self.loss.total_average, total.dtype))
        limit = self.loss.max_loss_spike_threshold * average
        spike = (steps >= _MIN_STEPS_BEFORE_DAMPENING) & (limit > 0.0) & (total > limit) & tf.math.is_finite(total)
        return tf.stop_gradient(tf.where(spike, limit / tf.where(spike, total, one), one))

    def _track_total(self, total: Any) -> None:
        """Take the total into its recent mean, a spike no further than the threshold."""
        if not isinstance(self.loss, CompositeLoss) or self.loss.max_loss_spike_threshold is None:
            return
        average, steps = tf.unstack(self.loss.total_average)
        total = tf.cast(total, average.dtype)
        limit = self.loss.max_loss_spike_threshold * average
        started = steps >= _MIN_STEPS_BEFORE_DAMPENING
        total = tf.where(started & (limit > 0.0), tf.minimum(total, limit), total)
        rate = tf.maximum(self.loss.loss_smoothing_factor, 1.0 / (steps + 1.0))
        self.loss.total_average.assign(tf.stack([average + rate * (total - average), steps + 1.0]))


class StableModel(StableTrainStepMixin, keras.Model):
    """A `keras.Model` with the stable train step; functional or subclassed.

    Example:

    >>> inputs = keras.Input((4,))
    >>> model = StableModel(inputs, keras.layers.Dense(1)(inputs))
    """


def _batch_size(x: Any) -> Any:
    """Return the number of samples in the batch, as a float."""
    first = next(leaf for leaf in keras.tree.flatten(x) if leaf is not None)
    return tf.cast(tf.shape(first)[0], tf.float32)
