"""The losses of `keras.Model.compile`, one per output, as the terms of a `CompositeLoss`.

Keras itself computes and reduces them: targets, outputs, masks and sample weights find their losses by its rules, and
the values are bit for bit its own. Only the weights are ours, where Keras takes numbers alone (keras-team/keras#20294).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_adaptive_weights.deciding.config import check_number
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.composite import CompositeLoss, Evaluation, LossTerm
from keras_adaptive_weights.losses.per_sample import anything_counts
from keras_adaptive_weights.runtime.distribution import replicas

_PACKAGE = "keras_adaptive_weights"


class _Place(NamedTuple):
    """Where a loss stands in what was given: the keys and indices that lead to it, its name, and itself."""

    path: tuple[Any, ...]
    name: str
    loss: Any


@keras.saving.register_keras_serializable(package=_PACKAGE)
class OutputLosses(CompositeLoss):
    """Losses of a model's outputs, as `compile(loss=...)` takes them, each with a weight. Made by `from_compile`.

    Terms are named as Keras names its logs: `<output>_loss`.

    Args:
        loss: A loss, or a list, tuple or (nested) dictionary of losses: names, functions or `keras.losses.Loss`; `None`
            for an output without one.
        weights: Term -> `None` (1), number or `AdaptiveWeight`.
        output_names: Names of the model's outputs in their order, where it knows them.
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
        output_names: Sequence[str] | None = None,
        *,
        max_loss_spike_threshold: float | None = None,
        loss_smoothing_factor: float = 0.1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "output_losses",
        dtype: Any = None,
    ) -> None:
        places = list(_places(loss, output_names))
        names = [f"{place.name}_loss" for place in places]
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
                for n, p in zip(names, places, strict=True)
            },
            max_loss_spike_threshold=max_loss_spike_threshold,
            loss_smoothing_factor=loss_smoothing_factor,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )
        self._loss = loss
        self._weights = dict(weights)
        self._output_names = None if output_names is None else list(output_names)
        self._keras = _AsKerasDoes(loss, dict(zip((p.path for p in places), names, strict=True)), self)

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
    """Whether an argument `loss_weights` of `compile` holds an `AdaptiveWeight`."""
    return any(isinstance(leaf, AdaptiveWeight) for leaf in keras.tree.flatten(loss_weights))


def from_compile(loss: Any, loss_weights: Any, output_names: Sequence[str] | None) -> OutputLosses:
    """Return the arguments `loss` and `loss_weights` of `compile` as one loss.

    Args:
        loss: As `keras.Model.compile` takes it.
        loss_weights: As there, with `AdaptiveWeight`s among the numbers. In a dictionary, what is left out counts 1.
        output_names: Names of the model's outputs in their order, where it knows them.

    Raises:
        ValueError: Weights that do not fit the losses, or one weight for the losses of several outputs.
    """
    places = list(_places(loss, output_names))
    if isinstance(loss_weights, Mapping) and isinstance(loss, Mapping):
        found = dict(_weights_by_path(loss_weights, loss, ()))
        weights = [found.get(place.path) for place in places]
    elif isinstance(loss_weights, Mapping) and set(loss_weights) <= {place.name for place in places}:
        weights = [loss_weights.get(place.name) for place in places]
    else:
        weights = list(keras.tree.flatten(loss_weights))
        with_loss = [leaf is not None for leaf in _flat(loss)]
        if len(weights) == len(with_loss):
            weights = [weight for weight, there in zip(weights, with_loss, strict=True) if there]
    if len(weights) != len(places) or (output_names and len(output_names) > 1 and not _is_structure(loss)):
        names = [place.name for place in places] if _is_structure(loss) else list(output_names or ["..."])
        raise ValueError(
            "compile: argument `loss_weights` must have a weight for each loss. Received: "
            f"loss_weights={loss_weights!r} for loss={loss!r}. Write both as dictionaries with the outputs' names, "
            f"as in `loss_weights={{{names[0]!r}: AdaptiveWeight(1.0)}}`; there are {names}."
        )
    return OutputLosses(loss, {f"{p.name}_loss": w for p, w in zip(places, weights, strict=True)}, output_names)


class _AsKerasDoes:
    """Hands targets and outputs to their losses by Keras's own rules: those of a model that is nothing but compiled.

    A plain object, in which neither checkpoints nor copies look for variables.
    """

    def __init__(self, loss: Any, names: Mapping[tuple[Any, ...], str], owner: OutputLosses) -> None:
        self._terms = owner.terms
        self._values: dict[str, Any] = {}
        self._given = (loss, names, owner)
        self._model: keras.Model | None = None

    def evaluate(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Evaluation:
        if self._model is None:
            self._model = self._compiled()
        self._values.clear()
        total = self._model.compute_loss(y=y_true, y_pred=y_pred, sample_weight=sample_weight)
        terms = dict(self._values)  # in Keras's order
        self._values.clear()  # tensors of a graph
        measured = dict.fromkeys(terms, anything_counts(y_pred, sample_weight))
        count = replicas()
        if count == 1:
            return Evaluation(total, terms, measured)
        return Evaluation(total * count, {n: v * count for n, v in terms.items()}, measured)

    def note(self, term: str, value: Any) -> Any:
        """Keep the raw value of a term, and return it weighted."""
        self._values[term] = value
        weight = self._terms[term].weight_tensor
        return keras.ops.multiply(value, tf.cast(weight, value.dtype) if tf.is_tensor(weight) else weight)

    def _compiled(self) -> keras.Model:
        loss, names, owner = self._given
        model = keras.Model()
        if owner._output_names is not None:  # noqa: SLF001 - of this file
            model.output_names = owner._output_names  # noqa: SLF001
        model.compile(None, loss=_mapped(loss, lambda path, leaf: _Noted(leaf, names[path], self), ()))
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
        return self._noting.note(self._term, keras.ops.cast(value, self.dtype))


def _single(loss: Any) -> Any:
    """Return the function that computes one loss given by a name or function, as Keras does: by a compiled model."""
    model = keras.Model()
    model.compile(None, loss=loss)  # an optimizer would want variables, which there may not be in a replica
    return lambda y_true, y_pred, sample_weight: model.compute_loss(None, y_true, y_pred, sample_weight)


def _places(loss: Any, output_names: Sequence[str] | None) -> Iterator[_Place]:
    """Yield where the losses are, in the order in which Keras goes through them, with Keras's names for them."""
    names = list(output_names) if output_names else None
    if not _is_structure(loss):
        name = names[0] if names and len(names) == 1 else _loss_name(loss)
        yield _Place((), name, loss)
        return
    for path, leaf in _leaves(loss, ()):
        keys = [str(key) for key in path]
        if names and isinstance(path[-1], int):
            keys[-1] = names[path[-1]] if len(path) == 1 and path[-1] < len(names) else _loss_name(leaf)
        elif isinstance(path[-1], int):
            keys[-1] = _loss_name(leaf)
        yield _Place(path, "/".join(keys), leaf)


def _leaves(structure: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = structure.items() if isinstance(structure, Mapping) else enumerate(structure)
    for key, value in items:
        if _is_structure(value):
            yield from _leaves(value, (*path, key))
        elif value is not None:
            yield (*path, key), value


def _mapped(structure: Any, change: Any, path: tuple[Any, ...]) -> Any:
    """Return the same structure with each loss changed."""
    if isinstance(structure, Mapping):
        return {key: _mapped(value, change, (*path, key)) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        return [_mapped(value, change, (*path, i)) for i, value in enumerate(structure)]
    return None if structure is None else change(path, structure)


def _weights_by_path(weights: Any, losses: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the weights of a dictionary by the path of their loss.

    Raises:
        ValueError: One that no loss belongs to.
    """
    keys = set(losses) if isinstance(losses, Mapping) else set(range(len(losses)))
    items = weights.items() if isinstance(weights, Mapping) else enumerate(weights)
    for key, weight in items:
        if key not in keys:
            raise ValueError(
                f"compile: argument `loss_weights` must name outputs that have a loss. Received: {key!r}; there are "
                f"{sorted(map(str, keys))}."
            )
        if _is_structure(losses[key]) and _is_structure(weight):
            yield from _weights_by_path(weight, losses[key], (*path, key))
        else:
            yield (*path, key), weight


def _is_structure(value: Any) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _flat(loss: Any) -> list[Any]:
    return list(keras.tree.flatten(loss))


def _loss_name(loss: Any) -> str:
    """Return Keras's name for a loss whose output has none."""
    if isinstance(loss, str):
        return loss
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__))


def _as_callable(loss: Any) -> Any:
    """Return the loss as the function of a term: a name as the loss that Keras has under it."""
    if not isinstance(loss, str):
        return loss
    return _crossentropy if loss.lower() in ("crossentropy", "ce") else keras.losses.get(loss)


def _crossentropy(y_true: Any, y_pred: Any) -> Any:
    """Compute the crossentropy that Keras chooses by the shapes."""
    return _single("crossentropy")(y_true, y_pred, None)


def _weight_or_one(weight: Any) -> Any:
    if weight is None or isinstance(weight, AdaptiveWeight):
        return 1.0 if weight is None else weight
    return check_number("compile", "loss_weights", weight, low=0.0)
