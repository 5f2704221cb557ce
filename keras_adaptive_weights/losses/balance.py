"""What a loss knows of its balance: the strategy, its terms, how both are saved, and when gradients are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_adaptive_weights.deciding.constraint import Constraint
from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.joint import Term
from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight

_OURS = {strategy.__name__: strategy for strategy in (GradientShare, Constraint, SqrtLoss)}


def checked_balance(owner: str, balance: Any, terms: Mapping[str, Any]) -> Any:
    """Return a strategy that can balance these `LossTerm`s, or None.

    Raises:
        TypeError: No strategy.
        ValueError: Terms that it cannot balance.
    """
    if balance is None:
        return None
    if isinstance(balance, type) or not all(callable(getattr(balance, name, None)) for name in ("initial", "step")):
        raise TypeError(
            f"{owner}: argument `balance` must be a strategy, with `initial` and `step`, or None. Received: "
            f"balance={balance!r}. Write `balance=GradientShare()`, for one."
        )
    balance.initial(terms_of(terms))
    return balance


def terms_of(terms: Mapping[str, Any]) -> tuple[Term, ...]:
    """Return the terms of a loss as a strategy sees them; those with a fixed weight of 0 take part in nothing."""
    seen = []
    for name, term in terms.items():
        if isinstance(weight := term.weight, AdaptiveWeight):
            reach = weight.reach
            seen.append(Term(name, weight.base_weight, reach["min_weight"], reach["max_weight"]))
        elif weight:
            seen.append(Term(name, float(weight)))
    return tuple(seen)


def balance_config(balance: Any) -> Any:
    """Return a strategy as plain values; None as it is.

    One of your own is saved by Keras: as a layer, it needs `get_config`, `from_config` and a registered class.
    """
    if balance is None or type(balance) not in _OURS.values():
        return keras.saving.serialize_keras_object(balance)
    config = {field.name: getattr(balance, field.name) for field in dataclasses.fields(balance)}
    if (places := config.get("variables")) is not None:
        several = isinstance(places, (list, tuple))
        named = [_plain_place(place) for place in (places if several else [places])]
        config["variables"] = named if several else named[0]
    return {"strategy": type(balance).__name__, "config": config}


def balance_from_config(values: Any) -> Any:
    """Build the strategy that `balance_config` told of."""
    if not isinstance(values, Mapping) or "strategy" not in values:
        return keras.saving.deserialize_keras_object(values)
    config = dict(values["config"])
    if isinstance(config.get("variables"), Mapping):
        config["variables"] = keras.saving.deserialize_keras_object(config["variables"])
    return _OURS[values["strategy"]](**config)


def _plain_place(place: Any) -> Any:
    """Return where gradients are measured, a layer or variable by its name, as a plain value."""
    if isinstance(place, str):
        return place
    if isinstance(place, keras.layers.Layer):
        return place.name
    return place.path if isinstance(place, keras.Variable) else keras.saving.serialize_keras_object(place)


class NormSchedule:
    """Says in which steps the gradient norm of each term is measured, in the graph.

    These are the first steps, until as many as the strategy's calibration needs were applied and told something; then
    every so many. One that is due is put off where the step is skipped.

    Args:
        every: Steps from one measurement to the next.
        at_start: Measurements in a row at the start.

    Attributes:
        variable: `tf.Variable` of shape `[2]`: measurements left to be made in a row, and steps since the last one. It
            travels in the checkpoint of the loss.
    """

    def __init__(self, every: int, at_start: int) -> None:
        self._every, self._at_start = every, at_start
        with tf.init_scope():
            self.variable = tf.Variable([at_start, 0], trainable=False, dtype=tf.int32, name="norm_schedule")

    def due(self) -> Any:
        """Return whether this step is to measure, a scalar bool tensor."""
        left, since = tf.unstack(self.variable.value())
        return tf.logical_or(left > 0, since + 1 >= self._every)

    def note(self, due: Any, taken: Any, told: Any) -> None:
        """Count a step, once per worker.

        Args:
            due: What `due` returned.
            taken: Whether the step was applied.
            told: Whether the norm of any term was positive and finite.
        """
        left, since = tf.unstack(self.variable.value())
        measured = tf.logical_and(due, taken)
        fewer = tf.cast(tf.logical_and(measured, told), tf.int32)
        self.variable.assign(tf.stack([tf.maximum(0, left - fewer), tf.where(measured, 0, since + 1)]))

    def begin_again(self) -> None:
        """Measure in a row once more, for a strategy that forgot what it knew."""
        self.variable.assign([self._at_start, 0])


def norm_schedule(balance: Any) -> NormSchedule | None:
    """Return when a strategy wants the norms of the terms' gradients; `None`: never."""
    if not hasattr(balance, "variables"):
        return None
    return NormSchedule(int(balance.measure_every), int(getattr(balance, "calibrate_steps", None) or 0))
