"""One term of a loss: what computes it, its weight, and when it takes part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from keras_adaptive_weights.deciding.config import check_number
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight


@dataclass(frozen=True, slots=True)
class LossTerm:
    """One term of a `CompositeLoss`.

    Args:
        fn: `fn(y_true, y_pred) -> per-sample losses`, a float tensor of shape `[batch]`. It gets the whole structures,
            what is floating point in them cast to the loss's dtype and all else (labels, texts) as it came; None in
            place of targets where there are none. Register it with `keras.saving.register_keras_serializable` to save
            models. A loss of Keras's does, too, where target and output are one tensor each; its mean counts.
        weight: A finite number of at least 0, or an `AdaptiveWeight`.
        requires: Keys that must be in `y_true` or `y_pred`; where one is missing the term takes no part. By these keys,
            and by its own name with or without "_loss", a term finds its weights in a dictionary of sample weights.
        measures: `measures(y_true, y_pred)` says which samples there is anything to measure of: bools of shape
            `[batch]`, or None for all of them. The others are left out of the mean: no measurement is no loss of 0.

    Raises:
        TypeError: `fn` or `measures` cannot be called, or the weight is of another type.
        ValueError: A weight below 0, NaN or infinite.

    Example:

    >>> term = LossTerm(lambda y_true, y_pred: y_pred["kl"], weight=0.1, requires=("kl",))
    >>> term.takes_part({}, {"kl": np.ones(8)})
    True
    """

    fn: Callable[[Any, Any], Any]
    weight: float | AdaptiveWeight = 1.0
    requires: tuple[str, ...] = ()
    measures: Callable[[Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        """Validate the arguments."""
        if not callable(self.fn):
            named = f" Write `fn=keras.losses.get({self.fn!r})`." if isinstance(self.fn, str) else ""
            raise TypeError(f"LossTerm: argument `fn` must be callable. Received: fn={self.fn!r}.{named}")
        if isinstance(self.fn, type):
            name = self.fn.__name__
            raise TypeError(
                f"LossTerm: argument `fn` must be callable. Received: the class {name}. Write `{name}(...)`."
            )
        if isinstance(self.fn, keras.losses.Loss) and isinstance(getattr(self.fn, "terms", None), dict):
            raise TypeError(
                f"LossTerm: argument `fn` must be the loss of one term. Received: a {type(self.fn).__name__}. Write "
                "its terms into the outer one: `CompositeLoss({**loss.terms, ...})`."
            )
        if self.measures is not None and not callable(self.measures):
            raise TypeError(
                f"LossTerm: argument `measures` must be callable or None. Received: measures={self.measures!r}."
            )
        object.__setattr__(self, "weight", checked_weight("LossTerm", "weight", self.weight))
        if not isinstance(self.requires, tuple) or not all(isinstance(key, str) for key in self.requires):
            raise TypeError(
                f"LossTerm: argument `requires` must be a tuple of keys, as in ('mel_target',). Received: "
                f"requires={self.requires!r}."
            )

    @property
    def weight_tensor(self) -> Any:
        """The weight in force: a number, or a scalar tensor read from the shared variable."""
        return self.weight.variable.value() if isinstance(self.weight, AdaptiveWeight) else self.weight

    def takes_part(self, y_true: Any, y_pred: Any) -> bool:
        """Whether all required keys are there."""
        return all(_has(y_true, key) or _has(y_pred, key) for key in self.requires)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        weight = self.weight.get_config() if isinstance(self.weight, AdaptiveWeight) else self.weight
        measures = {} if self.measures is None else {"measures": keras.saving.serialize_keras_object(self.measures)}
        fn = keras.saving.serialize_keras_object(self.fn)
        return {"fn": fn, "weight": weight, "requires": list(self.requires), **measures}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LossTerm:
        """Build from what `get_config` returned."""
        weight = config["weight"]
        return cls(
            fn=keras.saving.deserialize_keras_object(config["fn"]),
            weight=AdaptiveWeight.from_config(weight) if isinstance(weight, dict) else weight,
            requires=tuple(config["requires"]),
            measures=keras.saving.deserialize_keras_object(config["measures"]) if "measures" in config else None,
        )


def checked_weight(owner: str, name: str, weight: Any) -> Any:
    """Return an `AdaptiveWeight` as it is, and a number of at least 0 as one of Python's own.

    Raises:
        TypeError: Something else.
        ValueError: A number below 0, NaN or infinite.
    """
    if isinstance(weight, AdaptiveWeight):
        return weight
    if tf.is_tensor(weight) or isinstance(weight, tf.Variable) or weight is AdaptiveWeight:
        raise TypeError(
            f"{owner}: argument `{name}` must be a number or an AdaptiveWeight. Received: {name}={weight!r} of type "
            f"{type(weight).__name__}. Write `AdaptiveWeight(2.5)` for a weight that moves in training, or "
            "`float(...)` for one that does not."
        )
    return check_number(owner, name, weight, low=0.0)


def _has(structure: Any, key: str) -> bool:
    return isinstance(structure, Mapping) and key in structure
