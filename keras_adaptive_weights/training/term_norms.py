"""The norm of each raw term's gradient, from the forward pass of the step: what a balance by shares is decided on.

Where it is measured is the strategy's `variables`: by default all variables of the step that two or more of the batch's
terms reach, since only there is anything to share. Penalties of layers (`add_loss`, regularizers) are no terms.

Each term takes a backward pass, but for one where the gradient of the weighted sum is known: its gradient is what the
others leave of that, as a backward pass is linear. Where they leave little, that is rounding, and the term is
differentiated like the others; so are all terms of many variables, as what is left of those takes memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.runtime.distribution import divide_by_replicas, sum_gradients
from keras_adaptive_weights.training.finiteness import each_index_once, first_non_finite

_SHOWN = 5
_MANY = 2**22
"""Elements of all gradients: of more, what the others leave takes five times the memory of the gradients."""
_LITTLE = 0.1**2
"""Of the others' squared norms: in what is left above that, float32 has lost one of seven digits."""


def norms_of_terms(
    loss: CompositeLoss,
    tape: tf.GradientTape,
    parts: Mapping[str, Any],
    measured: Mapping[str, Any],
    scale: Any,
    variables: Sequence[Any],
    whole: Sequence[Any] | None = None,
    dampening: Any = 1.0,
) -> Any:
    """Measure, on every replica.

    A term is differentiated with its weight and the loss scale, as it is in the total, so that half precision holds its
    gradient; both are taken out of the norm. Gradients are summed over replicas before it, slices of one index, too.

    Args:
        loss: The loss, with a balance.
        tape: Persistent; has seen how the terms come from the variables.
        parts: Each term of this replica that takes part in the batch, as the total has it.
        measured: Of each, whether there was anything to measure: True, or a scalar bool tensor.
        scale: Loss scale of mixed precision.
        variables: Variables of the step.
        whole: Gradients of the weighted sum of the parts by `variables`, scaled and dampened; in a graph, on one
            replica. `None`: not known.
        dampening: Factor in `whole`.

    Returns:
        A float32 vector with an element per term of the loss: infinite where the gradient is not finite, NaN where the
        term takes no part or had nothing to measure.

    Raises:
        TypeError, ValueError: `variables` of the strategy pick none, the terms share no variable, or an adaptive term
            reaches none of those that are measured.
    """
    picked = picked_variables(loss.balance, variables)
    if len(parts) < 2:
        return tf.fill([len(loss.terms)], tf.constant(np.nan))
    few = sum(math.prod(variable.shape) for variable in picked) <= _MANY
    left_over = next((name for name in loss.adaptive_weights if name in parts and few), None)
    if whole is None or left_over is None:
        terms = _Terms(loss, tape, parts, measured, scale, picked)
        for name in parts:
            terms.differentiate(name)
        norms = {}
    else:
        terms = _Terms(loss, tape, parts, measured, tf.cast(scale, tf.float32) * tf.cast(dampening, tf.float32), picked)
        own = {id(variable): gradient for variable, gradient in zip(variables, whole, strict=True)}
        norms = {left_over: _norm_left_over(terms, left_over, [own[id(variable)] for variable in picked])}
    norms |= {name: terms.norm(name, terms.gradients[name]) for name in parts if name not in norms}
    return tf.stack([norms.get(name, tf.constant(np.nan)) for name in loss.terms])


class _Terms:
    """The terms of a step, and the gradients of those that were differentiated, by the variables `picked`."""

    def __init__(
        self,
        loss: CompositeLoss,
        tape: tf.GradientTape,
        parts: Mapping[str, Any],
        measured: Mapping[str, Any],
        scale: Any,
        picked: Sequence[Any],
    ) -> None:
        self.loss, self._tape, self.parts, self._measured, self._picked = loss, tape, parts, measured, picked
        self._factors = {
            name: _factor(loss, name, value.dtype) * tf.cast(scale, value.dtype) for name, value in parts.items()
        }
        self.gradients: dict[str, Sequence[Any]] = {}

    def differentiate(self, name: str, sign: float = 1.0) -> Sequence[Any]:
        """Return the gradients of a term, with its weight and the scale."""
        part = self.parts[name]
        seed = sign * divide_by_replicas(self._factors[name]) * tf.ones_like(part)
        gradients = self._tape.gradient(part, self._picked, output_gradients=seed)
        self.gradients[name] = sum_gradients(gradients)
        return self.gradients[name]

    def norm(self, name: str, gradients: Sequence[Any]) -> Any:
        """Return the norm of a term's gradients, once all terms were differentiated."""
        where = _measured_in(self.loss, {name: self.gradients[name] for name in self.parts}, self._picked)
        norm, finite, _ = first_non_finite({}, self.parts[name], [gradients[i] for i in where], self._factors[name])
        norm = tf.where(finite, norm, np.inf)
        there = self._measured[name]
        return norm if there is True else tf.where(there, norm, np.nan)


def _norm_left_over(terms: _Terms, name: str, whole: Sequence[Any]) -> Any:
    """Differentiate all terms, this one only where it must be, and return its norm."""
    for other in terms.parts:
        if other != name:
            terms.differentiate(other, -1.0)
    # what has a weight of 0 is not in the whole
    others = [gradients for other, gradients in terms.gradients.items() if terms.loss.terms[other].weight]
    left = [_sum(of_one) for of_one in zip(whole, *others, strict=True)]
    # the other way round it would not be known what the term reaches: that shows when it is differentiated
    return tf.cond(
        _is_little(left, others),
        lambda: terms.norm(name, terms.differentiate(name)),
        lambda: terms.norm(name, left),
    )


def _sum(gradients: Sequence[Any]) -> Any:
    """Return the sum of gradients of one variable, of which some are None; slices stay slices."""
    there = [gradient for gradient in gradients if gradient is not None]
    if not there or not all(isinstance(gradient, tf.IndexedSlices) for gradient in there):
        return tf.add_n([tf.convert_to_tensor(gradient) for gradient in there]) if there else None
    values, indices = tf.concat([g.values for g in there], axis=0), tf.concat([g.indices for g in there], axis=0)
    return tf.IndexedSlices(values, indices, there[0].dense_shape)


def _is_little(left: Sequence[Any], others: Sequence[Sequence[Any]]) -> Any:
    """Return whether gradients are little beside others, where several of these reach, or the only one."""
    several = min(2, len(others))
    where = [i for i, of_all in enumerate(zip(*others, strict=True)) if sum(g is not None for g in of_all) >= several]

    def squared(gradients: Sequence[Any]) -> Any:
        there = [gradients[i] for i in where if gradients[i] is not None]
        return tf.add_n([tf.zeros([]), *(tf.cast(tf.nn.l2_loss(each_index_once(g)), tf.float32) for g in there)])

    return tf.logical_not(squared(left) > _LITTLE * sum(squared(of_one) for of_one in others))


def picked_variables(balance: Any, variables: Sequence[Any]) -> list[Any]:
    """Return those of the variables in which a strategy wants gradients measured.

    Args:
        balance: The strategy; its `variables` are `None` for all, a function that returns some of them, or one or
            several of: names of variables or layers (any part of a path), layers, variables.
        variables: Variables that are trained.

    Raises:
        TypeError: `variables` is something else.
        ValueError: One of them is none of those that are trained.
    """
    wanted = balance.variables
    variables = [v for v in variables if not getattr(v, "overwrite_with_gradient", False)]  # scales of float8
    if wanted is None:
        return variables
    if callable(wanted) and not isinstance(wanted, keras.layers.Layer):
        places = wanted(list(variables))
        if not isinstance(places, (list, tuple)):
            raise TypeError(
                f"{type(balance).__name__}: argument `variables`, a function, must return a list of variables. "
                f"Received: {places!r:.200} of type {type(places).__name__}. Write `return [...]`."
            )
    else:
        places = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    if not places:
        raise ValueError(_none_picked(balance, wanted, variables))
    picked: set[int] = set()
    for place in places:
        found = {id(v) for v in variables if _is_at(v, place, balance)}
        if not found:
            raise ValueError(_none_picked(balance, place, variables))
        picked |= found
    return [variable for variable in variables if id(variable) in picked]


def _is_at(variable: Any, place: Any, balance: Any) -> bool:
    if isinstance(place, str):
        return f"/{place}/" in f"/{variable.path}/"
    if isinstance(place, keras.layers.Layer):
        return any(variable is own for own in place.variables)
    if isinstance(place, keras.Variable):
        return variable is place
    raise TypeError(
        f"{type(balance).__name__}: argument `variables` must hold names, layers or variables. Received: {place!r} of "
        f"type {type(place).__name__}."
    )


def _none_picked(balance: Any, place: Any, variables: Sequence[Any]) -> str:
    names = [variable.path for variable in variables]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (
        f"{type(balance).__name__}: argument `variables` must pick variables that are trained. Received: {place!r}, "
        f"which picks none of {names[:_SHOWN]}{more}. Write the name of a layer that is not frozen."
    )


def _factor(loss: CompositeLoss, name: str, dtype: Any) -> Any:
    """Return the weight of a term, which may be 0 where it is fixed: then 1."""
    weight = loss.terms[name].weight_tensor
    return tf.cast(weight, dtype) if tf.is_tensor(weight) else tf.constant(weight or 1.0, dtype)


def _measured_in(loss: CompositeLoss, gradients: Mapping[str, Sequence[Any]], picked: Sequence[Any]) -> list[int]:
    """Return the places of the variables that are measured: all that were asked for, or what several terms reach.

    Raises:
        ValueError: No variable is left, or none that an adaptive term reaches.
    """
    several = 2 if loss.balance.variables is None else 0
    where = [
        i
        for i, of_all in enumerate(zip(*gradients.values(), strict=True))
        if sum(g is not None for g in of_all) >= several
    ]
    owner = type(loss.balance).__name__
    if not where:
        raise ValueError(
            f"{owner}: no two of the terms {list(gradients)} reach a common variable that is trained, so there is no "
            f"gradient to share. Write `{owner}(..., variables=[...])` to measure elsewhere, or take `balance` out."
        )
    for name in loss.adaptive_weights:
        if name in gradients and all(gradients[name][i] is None for i in where):
            raise ValueError(
                f"{owner}: the term {name!r} has an adaptive weight, and reaches none of the variables in which "
                f"gradients are measured: {[picked[i].path for i in where][:_SHOWN]}. Write "
                f"`{owner}(..., variables=[...])` with some that it shares with other terms, or give it a fixed weight."
            )
    return where
