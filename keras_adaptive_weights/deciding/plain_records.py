"""Reading a record of named fields back from plain values that may be damaged, forged, or of a newer version.

What a field may hold follows from its annotation: numbers are finite, counts are integers from 0 on, weights are above
0 and within float32, sequences and mappings are bounded. So a field that is added is checked as well.

    class Example(NamedTuple):
        mean: Annotated[float, MAY_OVERFLOW]  # infinite or NaN where it was made of numbers near the end of a float
        added: Annotated[int, ADDED_LATER] = 0  # what older versions wrote lacks it
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from functools import cache
from types import NoneType
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

MAY_OVERFLOW, ADDED_LATER = "may overflow", "added later"
FLOAT32_MAX = 3.4028235e38
MOST_STEPS = 10**15 - 1
"""Beyond any training, and exact in a float."""
_MOST_VALUES = 1 << 20
Record = TypeVar("Record", bound=tuple[Any, ...])


class Field(NamedTuple):
    """A value that is read: what it belongs to and its name, for the message, and whether it may have overflowed."""

    owner: str
    name: str
    may_overflow: bool = False

    def refuse(self, expected: str, value: Any) -> ValueError:
        """Return the error that says what was expected."""
        return ValueError(f"{self.owner}: field `{self.name}` must be {expected}. Received: {_shortened(value)}.")


def read_record(cls: type[Record], values: Any, owner: str, name: str = "") -> Record:
    """Read what `_asdict` wrote, also after JSON turned its tuples into lists.

    Args:
        cls: A class made by `NamedTuple`.
        values: Names to plain values.
        owner: What is read, for messages.
        name: Name of the field that holds the record; empty: none does.

    Raises:
        ValueError: No mapping, a field that is missing, unknown, or holds something else than it should.
    """
    if not isinstance(values, Mapping):
        raise Field(owner, name or "state").refuse("a mapping of names to values", values)
    kinds = _kinds(cls)
    prefix = f"{name}." if name else ""
    if unknown := sorted(prefix + str(key) for key in set(values) - set(kinds)):
        raise ValueError(
            f"{owner}: unknown fields {_shortened(unknown)}: written by a newer version of keras-adaptive-weights, "
            "which is the one to read it with."
        )
    missing = [prefix + key for key, kind in kinds.items() if key not in values and ADDED_LATER not in _marks(kind)]
    if missing:
        raise ValueError(f"{owner}: field `{missing[0]}` is missing.")
    return cls(**{key: _read(kinds[key], value, Field(owner, prefix + key)) for key, value in values.items()})


@cache
def _kinds(cls: Any) -> dict[str, Any]:
    """Return the fields' annotations; those of a generic record with what it is a record of."""
    record = get_origin(cls) or cls
    bound: dict[Any, Any] = {}
    for generic in (cls, *getattr(record, "__orig_bases__", ())):
        bound.update(zip(getattr(get_origin(generic), "__parameters__", ()), get_args(generic), strict=False))
    hints = get_type_hints(record, include_extras=True)
    return {name: _with(bound, hints[name]) for name in record._fields}


def _with(bound: Mapping[Any, Any], kind: Any) -> Any:
    """Return an annotation with its type variables replaced."""
    if isinstance(kind, TypeVar):
        return bound.get(kind, kind)
    parameters = getattr(kind, "__parameters__", ())
    return kind[tuple(bound.get(parameter, parameter) for parameter in parameters)] if parameters else kind


def _marks(kind: Any) -> tuple[str, ...]:
    return tuple(kind.__metadata__) if get_origin(kind) is Annotated else ()


def _read(kind: Any, value: Any, field: Field) -> Any:
    """Return a value as the annotation `kind` has it."""
    options, origin = get_args(kind), get_origin(kind)
    if origin is Annotated:
        return _read(options[0], value, field._replace(may_overflow=MAY_OVERFLOW in options))
    if NoneType in options:
        return None if value is None else _read(options[0], value, field)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) > _MOST_VALUES:
            raise field.refuse("a list of numbers", value)
        return tuple(read_number(item, field) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if (
            not isinstance(value, Mapping)
            or len(value) > _MOST_VALUES
            or not all(isinstance(key, str) for key in value)
        ):
            raise field.refuse("a mapping of names to values", value)
        return {key: _read(options[1], item, field) for key, item in value.items()}
    if kind is float:
        return read_number(value, field)
    if kind is int:
        return read_count(value, field)
    if kind is bool:
        if not isinstance(value, bool):
            raise field.refuse("true or false", value)
        return value
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise field.refuse(f"the name of a {kind.__name__}", value) from None
    return read_record(kind, value, field.owner, field.name)


def read_number(value: Any, field: Field) -> float:
    """Return a number as a float; a weight is above 0 and within float32.

    Raises:
        ValueError: It is none, or NaN or infinite where it may not be.
    """
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MOST_STEPS
    if not (whole or isinstance(value, float)):
        raise field.refuse("a number", value)
    number = float(value)
    if not (field.may_overflow or math.isfinite(number)):
        raise field.refuse("a finite number", value)
    if field.name.endswith("weight") and not 0.0 < number <= FLOAT32_MAX:
        raise field.refuse("a weight above 0 that float32 can hold", value)
    return number


def read_count(value: Any, field: Field) -> int:
    """Return a count.

    Raises:
        ValueError: It is no integer, or below 0, or beyond any training.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_STEPS:
        raise field.refuse(f"an integer from 0 to {MOST_STEPS:.0e}", value)
    return value


def _shortened(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nests too deeply, or has thousands of digits
        text = type(value).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"
