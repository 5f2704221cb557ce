"""The losses of `keras.Model.compile`, one per output, as the terms of a `CompositeLoss`.

Keras itself computes and reduces them: targets, outputs, masks and sample weights find their losses by its rules, and
the values are bit for bit its own. Only the weights are ours, where Keras takes numbers alone (keras-team/keras#20294).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.composite import CompositeLoss, Evaluation
from keras_adaptive_weights.losses.loss_places import arranged, is_structure, mapped, places
from keras_adaptive_weights.losses.loss_term import LossTerm, checked_weight
from keras_adaptive_weights.losses.per_sample import all_masked, anything_counts
from keras_adaptive_weights.runtime.distribution import replicas

_PACKAGE = "keras_adaptive_weights"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class OutputLosses(CompositeLoss):
    """Losses of a model's outputs, as `compile(loss=...)` takes them, each with a weight. Made by `from_compile`.

    Terms are named as Keras names its logs: `<output>_loss`.

    Args:
        loss: A loss, or a list, tuple or (nested) dictionary of losses: names, functions or `keras.losses.Loss`; `None`
            for an output without one.
        weights: Term -> `None` (1), number or `AdaptiveWeight`.
        output_names: Names of the model's outputs in their structure, where it knows them.
        max_loss_spike_threshold: As in `CompositeLoss`.
        loss_smoothing_factor: As in `CompositeLoss`.
        reduction: Of no effect: each loss has its own.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Raises:
        TypeError: A weight of another type.
        ValueError: A weight below 0, NaN or infinite; a term without a loss; two losses of one name; no loss at all.
    """

    def __init__(
        self,
        loss: Any,
        weights: Mapping[str, float | AdaptiveWeight | None],
        output_names: Any = None,
        *,
        max_loss_spike_threshold: float | None = None,
        loss_smoothing_factor: float = 0.1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "output_losses",
        dtype: Any = None,
    ) -> None:
        losses = places(loss, output_names)
        names = [f"{place.name}_loss" for place in losses]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"{type(self).__name__}: each loss needs a name of its own in the logs. Received: {twice} more than "
                "once. Give the model named outputs, and the losses as a dictionary with these names."
            )
        if unknown := sorted(set(weights) - set(names)):
            raise ValueError(f"{type(self).__name__}: no loss has the names {unknown}; there are {names}.")
        super().__init__(
            {
                n: LossTerm(_as_callable(p.loss), _weight_or_one(weights.get(n)))
                for n, p in zip(names, losses, strict=True)
            },
            max_loss_spike_threshold=max_loss_spike_threshold,
            loss_smoothing_factor=loss_smoothing_factor,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )
        self._loss = loss
        self._weights = dict(weights)
        self._output_names = output_names
        self._keras = _AsKerasDoes(loss, dict(zip((p.path for p in losses), names, strict=True)), self)

    def evaluate(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Evaluation:
        """Compute the terms and their weighted sum on one batch, as Keras does.

        Args:
            y_true: Targets, in any structure that Keras takes for these losses.
            y_pred: Outputs of the model.
            sample_weight: As Keras hands them on: `None`, one for all outputs, or one for each.

        Returns:
            An `Evaluation`; each term is reduced as its loss says.
        """
        return self._keras.evaluate(y_true, y_pred, sample_weight)

    @property
    def unread_variables(self) -> Sequence[Any]:
        """The means that Keras keeps of several losses, here for nobody."""
        return self._keras.metrics_variables

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the weighted sum of all terms."""
        return self.evaluate(y_true, y_pred).total

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        config = super().get_config()
        del config["terms"], config["balance"]
        weights = {n: w.get_config() if isinstance(w, AdaptiveWeight) else w for n, w in self._weights.items()}
        loss = keras.saving.serialize_keras_object(self._loss)
        return {**config, "loss": loss, "weights": weights, "output_names": self._output_names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OutputLosses:
        """Build from what `get_config` returned."""
        weights = {n: AdaptiveWeight.from_config(w) if isinstance(w, dict) else w for n, w in config["weights"].items()}
        loss = keras.saving.deserialize_keras_object(config["loss"])
        return cls(**{**config, "loss": loss, "weights": weights})


def has_adaptive_weights(loss_weights: Any) -> bool:
    """Whether an argument `loss_weights` of `compile` holds an `AdaptiveWeight`, or its class in place of one."""
    leaves = keras.tree.flatten(loss_weights)
    return any(isinstance(leaf, AdaptiveWeight) or leaf is AdaptiveWeight for leaf in leaves)


def from_compile(loss: Any, loss_weights: Any, outputs: Any) -> OutputLosses:
    """Return the arguments `loss` and `loss_weights` of `compile` as one loss.

    Args:
        loss: As `keras.Model.compile` takes it.
        loss_weights: As there, with `AdaptiveWeight`s among the numbers. In a dictionary, what is left out counts 1.
        outputs: Names of the model's outputs in their structure, where it knows them.

    Raises:
        TypeError: A weight of another type.
        ValueError: Weights that do not fit the losses, one weight for the losses of several outputs, or no loss.
    """
    if all(leaf is None for leaf in keras.tree.flatten(loss)):
        raise ValueError(
            f"compile: argument `loss` must hold a loss for each of `loss_weights`. Received: loss={loss!r}, "
            f"loss_weights={loss_weights!r}. Write `loss={{'price': 'mse'}}, loss_weights={{'price': "
            "AdaptiveWeight(2.5)}`, with the names of outputs."
        )
    names = [] if outputs is None else keras.tree.flatten(outputs)
    arranged_loss, weights = arranged(loss, loss_weights, outputs)
    losses = places(arranged_loss, outputs)
    if weights is None or (len(names) > 1 and not is_structure(loss)):
        names = [place.name for place in losses] if is_structure(loss) else names or ["..."]
        raise ValueError(
            "compile: argument `loss_weights` must have a weight for each loss. Received: "
            f"loss_weights={loss_weights!r} for loss={loss!r}. Write both as dictionaries with the outputs' names, "
            f"as in `loss_weights={{{names[0]!r}: AdaptiveWeight(1.0)}}`; there are {names}."
        )
    return OutputLosses(arranged_loss, {f"{place.name}_loss": weights.get(place.path) for place in losses}, outputs)


class _AsKerasDoes:
    """Hands targets and outputs to their losses by Keras's own rules: those of a model that is nothing but compiled.

    A plain object, in which neither checkpoints nor copies look for variables.
    """

    def __init__(self, loss: Any, names: Mapping[tuple[Any, ...], str], owner: OutputLosses) -> None:
        self._terms = owner.terms
        self._values: dict[str, Any] = {}
        self._measured: dict[str, Any] = {}
        self._any_sample: Any = True
        self._given = (loss, names, owner)
        self._model: keras.Model | None = None

    def evaluate(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Evaluation:
        if self._model is None:
            self._model = self._compiled()
        self._values, self._measured, self._any_sample = {}, {}, anything_counts(y_pred, None)
        total = self._model.compute_loss(y=y_true, y_pred=y_pred, sample_weight=sample_weight)
        terms, measured = self._values, self._measured  # in Keras's order
        self._values, self._measured = {}, {}  # tensors of a graph
        count = replicas()
        if count == 1:
            return Evaluation(total, terms, measured)
        return Evaluation(total * count, {n: v * count for n, v in terms.items()}, measured)

    @property
    def metrics_variables(self) -> Sequence[Any]:
        return [] if self._model is None else self._model.metrics_variables

    def note(self, term: str, value: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Keep the raw value of a term, and whether there was anything of it to measure; return it weighted."""
        self._values[term] = value
        there = self._any_sample if sample_weight is None else anything_counts(y_pred, sample_weight)
        masked = all_masked(y_pred)
        self._measured[term] = there if masked is None else tf.logical_and(there, tf.logical_not(masked))
        weight = self._terms[term].weight_tensor
        return keras.ops.multiply(value, tf.cast(weight, value.dtype) if tf.is_tensor(weight) else weight)

    def _compiled(self) -> keras.Model:
        loss, names, owner = self._given
        model = keras.Model()
        if owner._output_names is not None:  # noqa: SLF001 - of this file
            model.output_names = keras.tree.flatten(owner._output_names)  # noqa: SLF001
        model.compile(None, loss=mapped(loss, lambda path, leaf: _Noted(leaf, names[path], self)))
        return model

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle without the model, which is made anew."""
        return type(self), self._given


class _Noted(keras.losses.Loss):
    """A loss whose raw value is noted, and which returns it weighted."""

    def __init__(self, loss: Any, term: str, noting: _AsKerasDoes) -> None:
        super().__init__(name=term.removesuffix("_loss"), reduction=None)
        self._loss = loss if isinstance(loss, keras.losses.Loss) else _single(loss)
        self._term = term
        self._noting = noting

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        value = self._loss(y_true, y_pred, sample_weight)
        return self._noting.note(self._term, keras.ops.cast(value, self.dtype), y_pred, sample_weight)


def _single(loss: Any) -> Any:
    """Return the function that computes one loss given by a name or function, as Keras does: by a compiled model."""
    model = keras.Model()
    model.compile(None, loss=loss)  # an optimizer would want variables, which there may not be in a replica
    return lambda y_true, y_pred, sample_weight: model.compute_loss(None, y_true, y_pred, sample_weight)


def _as_callable(loss: Any) -> Any:
    """Return the loss as the function of a term: a name as the loss that Keras has under it."""
    if not isinstance(loss, str):
        return loss() if isinstance(loss, type) else loss
    return _crossentropy if loss.lower() in ("crossentropy", "ce") else keras.losses.get(loss)


def _crossentropy(y_true: Any, y_pred: Any) -> Any:
    """Compute the crossentropy that Keras chooses by the shapes."""
    return _single("crossentropy")(y_true, y_pred, None)


def _weight_or_one(weight: Any) -> Any:
    return 1.0 if weight is None else checked_weight("compile", "loss_weights", weight)
