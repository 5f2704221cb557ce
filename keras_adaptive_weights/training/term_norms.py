"""The norm of each raw term's gradient, from the forward pass of the step: what a balance by shares is decided on.

Where it is measured is the strategy's `variables`: by default all variables of the step that two or more of the batch's
terms reach, since only there is anything to share. Penalties of layers (`add_loss`, regularizers) are no terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.runtime.distribution import divide_by_replicas, sum_gradients
from keras_adaptive_weights.training.finiteness import first_non_finite

_SHOWN = 5


def norms_of_terms(
    loss: CompositeLoss,
    tape: tf.GradientTape,
    parts: Mapping[str, Any],
    measured: Mapping[str, Any],
    scale: Any,
    variables: Sequence[Any],
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
    factors = {name: _factor(loss, name, value.dtype) * tf.cast(scale, value.dtype) for name, value in parts.items()}
    gradients = {
        name: tape.gradient(value, picked, output_gradients=divide_by_replicas(factors[name]) * tf.ones_like(value))
        for name, value in parts.items()
    }
    if loss.balance.variables is None:
        shared = [sum(g is not None for g in of_all) >= 2 for of_all in zip(*gradients.values(), strict=True)]
        picked = [variable for variable, several in zip(picked, shared, strict=True) if several]
        gradients = {n: [g for g, s in zip(of_one, shared, strict=True) if s] for n, of_one in gradients.items()}
    _refuse_out_of_reach(loss, gradients, picked)
    norms = {}
    for name, value in parts.items():
        norm, finite, _ = first_non_finite({}, value, sum_gradients(gradients[name]), factors[name], picked)
        norm = tf.where(finite, norm, np.inf)
        norms[name] = norm if measured[name] is True else tf.where(measured[name], norm, np.nan)
    return tf.stack([norms.get(name, tf.constant(np.nan)) for name in loss.terms])


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


def _refuse_out_of_reach(loss: CompositeLoss, gradients: Mapping[str, Sequence[Any]], picked: Sequence[Any]) -> None:
    """Refuse to balance what has nothing in common.

    Raises:
        ValueError: No variable is left, or none that an adaptive term reaches.
    """
    owner = type(loss.balance).__name__
    if not picked:
        raise ValueError(
            f"{owner}: no two of the terms {list(gradients)} reach a common variable that is trained, so there is no "
            f"gradient to share. Write `{owner}(..., variables=[...])` to measure elsewhere, or take `balance` out."
        )
    for name in loss.adaptive_weights:
        if name in gradients and all(gradient is None for gradient in gradients[name]):
            raise ValueError(
                f"{owner}: the term {name!r} has an adaptive weight, and reaches none of the variables in which "
                f"gradients are measured: {[v.path for v in picked][:_SHOWN]}. Write `{owner}(..., variables=[...])` "
                "with some that it shares with other terms, or give it a fixed weight."
            )
