"""The train step: measure the losses, apply the gradients only if everything is finite, and leave a row of telemetry.

In this order: forward pass; loss terms; total; spike dampening; gradients; their global norm, unscaled; all finite?;
apply, or skip; telemetry. A skipped step is transactional: parameters, optimizer, batch-norm statistics, random seeds
and the epoch's means are bit-identical to before it.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_adaptive_weights.deciding.term_names import REGULARIZATION
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.losses.keras_losses import from_compile, has_adaptive_weights
from keras_adaptive_weights.runtime.compiled import ListsSomeLast
from keras_adaptive_weights.runtime.distribution import (
    BuildsFromLocalBatch,
    check_replicas,
    divide_by_replicas,
    logs_for_reduction,
)
from keras_adaptive_weights.runtime.train_function import (
    can_make_train_function,
    keras_train_function,
    make_train_function,
)
from keras_adaptive_weights.runtime.written_variables import build_if_not_traced_again
from keras_adaptive_weights.training.argument_checks import (
    checked_loss,
    output_names_of,
    refuse_shared_names,
)
from keras_adaptive_weights.training.model_classes import (
    functional_class,
    is_functional_call,
    refuse_keras_first,
    refuse_no_model,
    refuse_shadowed,
)
from keras_adaptive_weights.training.model_parts import batch_size, keras_metrics, with_training_if_taken
from keras_adaptive_weights.training.skip_watch import watching_skips
from keras_adaptive_weights.training.step_pieces import StepPieces, as_it_is
from keras_adaptive_weights.training.telemetry import Telemetry


class StableTrainStepMixin(StepPieces, BuildsFromLocalBatch, ListsSomeLast):
    """Put before `keras.Model`: a train step that skips bad batches whole and tells what it saw.

    Works in eager mode, in a graph, with `jit_compile=True`, with `steps_per_execution`, gradient accumulation and
    mixed precision. Compile with a `CompositeLoss` (`XTTSLoss` is one) for named terms, spike dampening and adaptive
    weights. The logs that its train function returns are numbers, fetched when `float()` or NumPy looks at one.

    A train step of your own uses the same pieces:

    ```python
    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        before = self.remember_state()
        with self.gradient_tape() as tape:
            y_pred = self(x, training=True)                      # ... whatever you do
            measured = self.measure_losses(x, y, y_pred, sample_weight)
        gradients = tape.gradient(measured.objective, self.trainable_variables)
        return self.apply_if_finite(measured, gradients, before, tape=tape)
    ```

    One of two passes measures twice, here for sharpness-aware minimization: the gradients are those of a place nearby.

    ```python
    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        before, variables = self.remember_state(), self.trainable_variables
        here = [tf.convert_to_tensor(variable) for variable in variables]
        with self.gradient_tape() as tape:
            measured = self.measure_losses(x, y, self(x, training=True), sample_weight)
        uphill = tape.gradient(measured.objective, variables)
        length = 0.05 / tf.linalg.global_norm(uphill)
        for variable, value, direction in zip(variables, here, uphill):
            variable.assign(value + length * direction)
        with tf.GradientTape() as tape_there:
            there = self.measure_losses(x, y, self(x, training=True), sample_weight)
        gradients = tape_there.gradient(there.objective, variables)
        for variable, value in zip(variables, here):             # back to where it was, also from a NaN
            variable.assign(value)
        return self.apply_if_finite(measured, gradients, before, tape=tape)  # decided on the losses here
    ```

    Not undone are effects outside variables (files, prints, tables); in eager mode and over several replicas also
    variables that the model does not tell of: what is neither its weight or metric nor a seed generator of its layers.

    `keras.callbacks.TerminateOnNaN` looks at the mean loss of the epoch so far. That is NaN, and training ends, where
    an epoch begins with a skipped step; a skipped step after a good one does not end it. To end training after so many
    skipped steps in a row, use `AdaptiveWeightCallback(max_consecutive_skips=...)`.

    Example:

    >>> class Doubling(StableTrainStepMixin, keras.Model):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.dense = keras.layers.Dense(1)
    ...
    ...     def call(self, inputs):
    ...         return self.dense(2.0 * inputs)
    >>> model = Doubling()
    >>> terms = {"price_loss": LossTerm(keras.losses.MeanSquaredError())}
    >>> model.compile("sgd", CompositeLoss(terms), run_eagerly=True)
    >>> x, y = np.array([[1.0], [np.nan], [3.0]]), np.ones((3, 1))
    >>> model.fit(x, y, batch_size=1, verbose=0).history["skipped_steps"]
    [1.0]
    """

    train_function: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class whose train step would be Keras's."""
        super().__init_subclass__(**kwargs)
        refuse_keras_first(cls, StableTrainStepMixin)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model`: with inputs and outputs a functional model, else one with a `call` of its own."""
        refuse_no_model(self, StableTrainStepMixin)
        if is_functional_call(type(self), args, kwargs):
            object.__setattr__(self, "__class__", functional_class(type(self)))
        super().__init__(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as Keras does; the class of a functional model is not to be found by its name."""
        reduced: Any = super().__reduce__()
        make, saved = reduced
        return _made_by_keras, (make.__name__, *saved)

    @functools.wraps(keras.Model.fit, assigned=())  # the signature, for whoever asks
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """As Keras's. Where an exception ends it, callbacks with `on_train_interrupted` are told: Keras tells none."""
        try:
            bound = inspect.signature(super().fit).bind(*args, **kwargs)
        except TypeError:  # Keras says what is wrong
            return super().fit(*args, **kwargs)
        with watching_skips(self, bound.arguments.get("callbacks")) as callbacks:
            bound.arguments["callbacks"] = callbacks
            try:
                return super().fit(*bound.args, **bound.kwargs)
            except BaseException:
                for callback in getattr(callbacks, "callbacks", callbacks):
                    if callable(tell := getattr(callback, "on_train_interrupted", None)):
                        tell()
                raise
            finally:
                if (telemetry := getattr(self, "_telemetry", None)) is not None:
                    telemetry.handed_out = None

    @functools.wraps(keras.Model.compile, assigned=())
    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As Keras's, and `loss_weights` may hold `AdaptiveWeight`s: then the losses become one `OutputLosses`.

        Raises:
            TypeError: Something of ours that is no loss.
            ValueError: Weights that do not fit the losses.
        """
        try:
            given = inspect.signature(super().compile).bind(*args, **kwargs).arguments
        except TypeError:  # Keras says what is wrong
            super().compile(*args, **kwargs)
            return
        if "loss" in given:
            given["loss"] = checked_loss(given["loss"], given.get("loss_weights"))
        if has_adaptive_weights(given.get("loss_weights")):  # else it is Keras that says what is wrong
            names = output_names_of(self, given.get("loss"))
            given["loss"] = from_compile(given.get("loss"), given.pop("loss_weights"), names)
        super().compile(**given)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """As Keras's, which wants its own `compile`."""
        if type(self).compile is not StableTrainStepMixin.compile:
            super().compile_from_config(config)
            return
        given = keras.saving.deserialize_keras_object(config)
        if isinstance(given.get("loss"), CompositeLoss):
            given["loss_weights"] = None  # earlier versions took and saved what they did not heed
        self.compile(**given)
        if self.built:
            self.optimizer.build(self.trainable_variables)

    @as_it_is
    def train_step(self, data: Any) -> dict[str, Any]:
        """Train on one batch and return the logs."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._prepare_telemetry()
        if not self._telemetry.built:
            self._telemetry.built = True
            build_if_not_traced_again(self, (x, y, sample_weight))
        before = self.remember_state()
        with self.gradient_tape() as tape:
            y_pred = forward(self, x, training=True)
            measured = self.measure_losses(x, y, y_pred, sample_weight)
        if not self.trainable_variables:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)  # as Keras says it
        gradients = tape.gradient(measured.objective, self.trainable_variables)
        return self.apply_if_finite(measured, gradients, before, tape=tape)

    @as_it_is
    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluate one batch and return the logs; weights and statistics stay as they are."""
        self._prepare_telemetry()
        if not self._telemetry.shown:
            return logs_for_reduction(self.distribute_strategy, super().test_step(data))
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = forward(self, x, training=False)
        total, terms, present, measured = self._evaluate_losses(x, y, y_pred, sample_weight, training=False)
        size = batch_size(x)
        keras_metrics(self)[0].update_state(
            total, sample_weight=size if present is True else tf.where(present, size, 0.0)
        )
        self._telemetry.metrics.count(terms, self._size_for_terms(y_pred, size), present=present, measured=measured)
        logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        shown = {name: value for name, value in logs.items() if name not in self._telemetry.metrics.train_only}
        return logs_for_reduction(self.distribute_strategy, shown)

    @as_it_is
    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the weighted sum of the terms and of the model's own additional losses, divided by replicas."""
        if not isinstance(self.loss, CompositeLoss):
            return with_training_if_taken(super().compute_loss, x, y, y_pred, sample_weight, training)
        total, terms, measured = self.loss.evaluate(y, y_pred, sample_weight)
        if self.losses:
            more = [tf.cast(tf.reduce_sum(loss), total.dtype) for loss in self.losses]
            total, regularization = keras.ops.sum([total, *more]), keras.ops.sum(more)
            terms = {
                **terms,
                REGULARIZATION: terms.get(REGULARIZATION, regularization),
            }  # one of that name is the loss's
        if (telemetry := getattr(self, "_telemetry", None)) is not None:
            telemetry.terms, telemetry.measured = terms, measured
        return divide_by_replicas(total)

    def make_train_function(self, force: bool = False) -> Any:
        """Prepare the telemetry and build the train function: on one replica our own, which costs less than Keras's."""
        check_replicas(self)
        refuse_shadowed(type(self), StableTrainStepMixin, "train_step")
        self._prepare_telemetry()
        if self._telemetry.shown:
            refuse_shadowed(type(self), StableTrainStepMixin, "compute_loss")
        if self.train_function is None or force:
            if can_make_train_function(self):
                self.train_function = make_train_function(self, self._telemetry)
            else:
                self.train_function = keras_train_function(self, self._keras_train_function)
        return self.train_function

    def _keras_train_function(self) -> Any:
        """Return what Keras would train with, and leave what there is."""
        kept = self.train_function
        super().make_train_function(force=True)
        made, self.train_function = self.train_function, kept
        return made

    def make_test_function(self, force: bool = False) -> Any:
        """Prepare the telemetry and build the test function."""
        self._prepare_telemetry()
        if self._telemetry.shown:
            refuse_shadowed(type(self), StableTrainStepMixin, "test_step", "compute_loss")
        return super().make_test_function(force)

    @property
    def metrics(self) -> list[Any]:
        """Keras's metrics; with a `CompositeLoss` also ours, one object for terms, weights, norm and skipped steps."""
        telemetry = getattr(self, "_telemetry", None)
        if telemetry is None or not telemetry.shown or not telemetry.fits(self.loss, self.steps_per_execution):
            return super().metrics
        return telemetry.metrics.among(super().metrics)

    @property
    def metrics_names(self) -> list[str]:
        """Keras's names of its metrics; with Keras's losses then those of the weights."""
        names, last = [metric.name for metric in self.metrics], self.names_shown_last()
        return [*names[:-1], *last] if last else names

    def names_shown_last(self) -> tuple[str, ...]:
        """Return the names in the logs that come after all of Keras's."""
        telemetry = getattr(self, "_telemetry", None)
        return telemetry.metrics.last if telemetry is not None and telemetry.metrics in self.metrics else ()

    @as_it_is
    def get_metrics_result(self) -> dict[str, Any]:
        """Return the values of all metrics by name: NaN, where all steps were skipped and Keras would say 0."""
        if (telemetry := getattr(self, "_telemetry", None)) is None:
            return super().get_metrics_result()
        if telemetry.shown and not telemetry.named:
            refuse_shared_names(keras_metrics(self), telemetry.metrics.names)
            telemetry.named = True
        with telemetry.metrics.computed_once():
            logs = super().get_metrics_result()
        telemetry.results = telemetry.metrics.nan_without_steps(logs)
        return dict(telemetry.results)

    def reset_metrics(self) -> None:
        """Begin an epoch: reset all metrics, also those that nobody is shown."""
        super().reset_metrics()
        if (telemetry := getattr(self, "_telemetry", None)) is not None:
            telemetry.metrics.reset_state()

    @property
    def telemetry(self) -> Telemetry:
        """What the train step saw, step by step.

        Raises:
            AttributeError: Before `fit`.
        """
        return self._telemetry


@keras.saving.register_keras_serializable(package="keras_adaptive_weights")
class StableModel(StableTrainStepMixin, keras.Model):
    """A `keras.Model` with the stable train step; functional or subclassed.

    Example:

    >>> inputs = keras.Input((4,))
    >>> model = StableModel(inputs, keras.layers.Dense(1)(inputs))
    """


def _made_by_keras(name: str, *saved: Any) -> Any:
    """Return the model that Keras saved in order to copy or pickle it."""
    return getattr(keras.Model, name)(*saved)


def forward(model: keras.Model, x: Any, *, training: bool) -> Any:
    """Call a model, with `training` where it takes that."""
    return model(x, training=training) if "training" in inspect.signature(model.call).parameters else model(x)
