"""One tensor for all that a train function hands out: each further one costs every execution ten microseconds or more.

In the graph a step's logs and the telemetry of the step are put into one vector; outside it the logs are made of it
again. They are numbers that are fetched when one is looked at, so that a train function returns as early as Keras's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import tensorflow as tf


class Ring(Protocol):
    """Telemetry whose rows travel with the logs; see `Telemetry` for the attributes."""

    logs_so_far: dict[str, Any]
    handed_out: Callable[[], list[float]] | None

    def ring_to_hand_out(self) -> Any:
        """Return the rows as a vector, in the graph."""


class PackedLogs:
    """Packs what a step returns, and unpacks it from what the train function returns.

    A pack is a dictionary with one vector, whose key is the names of the logs: a function that was traced for another
    batch may return others. Logs that hold anything but scalars of a floating-point type stay as they are.

    Args:
        telemetry: Of the model; its ring is packed along.
        once: Whether logs that can be made later are left to be made once, after the last step of an execution.
    """

    def __init__(self, telemetry: Ring, *, once: bool = False) -> None:
        self._telemetry = telemetry
        self._once = once

    def packing(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return the step function with packed logs, for use in a graph; None are those that can be made later."""

        @functools.wraps(step)
        def packed(*data: Any) -> Any:
            self._telemetry.logs_so_far = {}
            logs = step(*data)
            if not isinstance(logs, dict) or not logs or not all(_is_scalar(value) for value in logs.values()):
                return {} if logs is None else logs
            if self._once and _same(logs, self._telemetry.logs_so_far):
                return None
            dtype = tf.float64 if any(value.dtype == tf.float64 for value in logs.values()) else tf.float32
            values = tf.cast(tf.stack([tf.cast(value, dtype) for value in logs.values()]), tf.float64)  # as few casts
            return {tuple(logs): tf.concat([values, self._telemetry.ring_to_hand_out()], axis=0)}

        return packed

    def unpacking(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return the train function with the logs unpacked."""

        def unpacked(iterator: Any) -> Any:
            self._telemetry.handed_out = None
            returned = function(iterator)
            names = next(iter(returned), None) if isinstance(returned, dict) else None
            if not isinstance(names, tuple):
                return returned
            values = _Values(returned[names])
            self._telemetry.handed_out = functools.partial(values.after, len(names))
            return {name: LoggedScalar(values, index) for index, name in enumerate(names)}

        return unpacked


class LoggedScalar:
    """A scalar of the logs, as float32. For `float()` and NumPy; fetched when asked for.

    No tensor: making one of a vector's elements takes longer than all the rest.
    """

    __slots__ = ("_index", "_values")

    def __init__(self, values: _Values, index: int) -> None:
        self._values = values
        self._index = index

    def __float__(self) -> float:
        return self._values.all()[self._index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return np.array(float(self), dtype or np.float32)

    def numpy(self) -> np.ndarray:
        """Return it as a NumPy array without dimensions, as a tensor does."""
        return self.__array__()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle as a number."""
        return float, (float(self),)

    def __repr__(self) -> str:
        return f"LoggedScalar({float(self)!r})"


# Keras asks `tf.is_tensor` about each log of each batch, which takes seven microseconds to say no, except to a type of
# this name (wrapt's, which wraps values as this one does): that it knows at once.
LoggedScalar.__name__ = "ObjectProxy"


class _Values:
    """The numbers of a vector, fetched once."""

    __slots__ = ("_numbers", "_vector")

    def __init__(self, vector: Any) -> None:
        self._vector = vector
        self._numbers: list[float] | None = None

    def all(self) -> list[float]:
        """Return all of them."""
        if self._numbers is None:
            self._numbers = self._vector.numpy().tolist()
        return self._numbers

    def after(self, start: int) -> list[float]:
        """Return those from a place on."""
        return self.all()[start:]


def _same(logs: dict[str, Any], others: dict[str, Any]) -> bool:
    """Whether these are the same tensors."""
    return logs.keys() == others.keys() and all(value is others[name] for name, value in logs.items())


def _is_scalar(value: Any) -> bool:
    return bool(tf.is_tensor(value) and value.shape.rank == 0 and value.dtype.is_floating)
