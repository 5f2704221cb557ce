"""One tensor for all that a train function hands out: each further one costs every execution ten microseconds or more.

In the graph a step's logs and the telemetry of the step are put into one vector; outside it the logs are made of it
again. They are numbers that are fetched when one is looked at, so that a train function returns as early as Keras's.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from keras_adaptive_weights.runtime.plain import plain


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
            if not isinstance(logs, dict) or not logs:
                return {} if logs is None else logs
            if self._once and _same(logs, self._telemetry.logs_so_far):
                return None
            values = [tf.convert_to_tensor(v) if isinstance(v, keras.Variable) else v for v in logs.values()]
            if not all(_is_scalar(value) for value in values):
                return logs
            dtype = tf.float64 if any(value.dtype == tf.float64 for value in values) else tf.float32
            vector = tf.cast(tf.stack([tf.cast(value, dtype) for value in values]), tf.float64)  # as few casts
            return {tuple(logs): tf.concat([vector, self._telemetry.ring_to_hand_out()], axis=0)}

        return packed

    def unpacking(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return the train function with the logs unpacked."""
        scalar = LoggedScalar if plain("known_scalars") else ObjectProxy

        def unpacked(iterator: Any) -> Any:
            self._telemetry.handed_out = None
            returned = function(iterator)
            names = next(iter(returned), None) if isinstance(returned, dict) else None
            if not isinstance(names, tuple):
                return returned
            values = _Values(returned[names])
            self._telemetry.handed_out = functools.partial(values.after, len(names))
            return {name: scalar(values, index) for index, name in enumerate(names)}

        return unpacked


class LoggedScalar:
    """A scalar of the logs: a real number, with the value of a float32, that is fetched when asked for.

    It is compared, added, rounded, formatted and hashed as the `float` of the same value, and NumPy takes it as an
    array without dimensions. No tensor: making one of a vector's elements takes longer than all the rest.
    """

    __slots__ = ("_index", "_values")

    def __init__(self, values: _Values, index: int) -> None:
        self._values = values
        self._index = index

    def __float__(self) -> float:
        return self._values.all()[self._index]

    real = property(__float__)
    imag = 0.0

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


class ObjectProxy(LoggedScalar):
    """The same, under a name at which TensorFlow knows at once that it is no tensor.

    Keras asks `tf.is_tensor` about each log of each batch, which takes seven microseconds to say no, except to a type
    of this name (wrapt's, which wraps values as this one does).
    """

    __slots__ = ()


def _as_float(name: str) -> Callable[..., Any]:
    """Return a method that does what that method of a float does."""
    method = getattr(float, name)

    @functools.wraps(method)
    def of_float(self: LoggedScalar, *others: Any) -> Any:
        return method(float(self), *(float(other) if isinstance(other, LoggedScalar) else other for other in others))

    return of_float


# fmt: off
for _name in (
    *(f"__{name}__" for name in (
        "eq", "ne", "lt", "le", "gt", "ge", "hash", "bool", "int", "str", "format", "round", "trunc", "floor", "ceil",
        "neg", "pos", "abs", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "floordiv",
        "rfloordiv", "mod", "rmod", "divmod", "rdivmod", "pow", "rpow",
    )),
    "conjugate", "is_integer", "as_integer_ratio",
):
    setattr(LoggedScalar, _name, _as_float(_name))
# fmt: on
numbers.Real.register(LoggedScalar)


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
