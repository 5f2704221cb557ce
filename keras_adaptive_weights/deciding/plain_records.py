"""Reading records of named fields back from plain values that may be damaged, forged, or of a newer version.

What a field may hold follows from its annotation: numbers are finite, counts are integers from 0 on, weights are above
0 and within float32, text and whatever has a length is bounded. So a field that is added is checked as well.

    class Example(NamedTuple):  # `read_record`; a `TypedDict`, whose values stay a dictionary: `read_fields`
        mean: Annotated[float, MAY_OVERFLOW]  # infinite or NaN where it was made of numbers near the end of a float
        added: Annotated[int, ADDED_LATER] = 0  # what older versions wrote lacks it
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

MAY_OVERFLOW, MAY_BE_MISSING = "may overflow", "may be missing"
ADDED_LATER = MAY_BE_MISSING
FLOAT32_MAX = 3.4028235e38
MOST_STEPS = 10**15 - 1
"""Beyond any training, and exact in a float."""
_MOST_VALUES = 1 << 20
_MOST_LETTERS = 10_000
_WORDS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # numbers that JSON has no word for
_BOUNDS = {  # of fields by the last word of their name: the highest value, whether 0 is too low, and both in words
    "weight": (FLOAT32_MAX, True, "a weight above 0 that float32 can hold"),
    "weights": (FLOAT32_MAX, True, "weights above 0 that float32 can hold"),
    "time": (1e12, False, "seconds since the epoch"),
}
_ABSENT = object()
_Read = Callable[[Any, str, str], Any]  # a value, what it belongs to and its name -> the value as it should be
Record = TypeVar("Record", bound=tuple[Any, ...])


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
    prefix = f"{name}." if name else ""
    keys = set(values) if isinstance(values, Mapping) else set()
    if unknown := sorted(prefix + str(key) for key in keys - set(_fields(cls))):
        raise ValueError(
            f"{owner}: unknown fields {_shortened(unknown)}: written by a newer version of keras-adaptive-weights, "
            "which is the one to read it with."
        )
    return cls(**read_fields(cls, values, owner, name))


def read_fields(cls: Any, values: Any, owner: str, name: str = "") -> dict[str, Any]:
    """Return those of the values that `cls` has fields for.

    Args:
        cls: A class made by `NamedTuple` or `TypedDict`.
        values: As in `read_record`, as the others are.
        owner: As there.
        name: As there.

    Raises:
        ValueError: No mapping, a field that is missing, or holds something else than it should.
    """
    if not isinstance(values, Mapping):
        raise _refused("a mapping of names to values", values, owner, name or "state")
    found, prefix = {}, f"{name}." if name else ""
    for key, (read, optional) in _fields(cls).items():
        value = values.get(key, _ABSENT)
        if value is not _ABSENT:
            found[key] = read(value, owner, prefix + key)
        elif not optional:
            raise ValueError(f"{owner}: field `{prefix}{key}` is missing.")
    return found


def _refused(expected: str, value: Any, owner: str, name: str) -> ValueError:
    """Return the error that says what was expected."""
    return ValueError(f"{owner}: field `{name}` must be {expected}. Received: {_shortened(value)}.")


@cache
def _fields(cls: Any) -> dict[str, tuple[_Read, bool]]:
    """Return how each field is read and whether it may be missing; of a generic record, of what it is a record."""
    record = get_origin(cls) or cls
    bound: dict[Any, Any] = {}
    for generic in (cls, *getattr(record, "__orig_bases__", ())):
        bound.update(zip(getattr(get_origin(generic), "__parameters__", ()), get_args(generic), strict=False))
    kinds = {name: _with(bound, kind) for name, kind in get_type_hints(record, include_extras=True).items()}
    return {
        name: (_reader(kind, name.rpartition("_")[2]), MAY_BE_MISSING in getattr(kind, "__metadata__", ()))
        for name, kind in kinds.items()
    }


def _with(bound: Mapping[Any, Any], kind: Any) -> Any:
    """Return an annotation with its type variables replaced."""
    if isinstance(kind, TypeVar):
        return bound.get(kind, kind)
    parameters = getattr(kind, "__parameters__", ())
    return kind[tuple(bound.get(parameter, parameter) for parameter in parameters)] if parameters else kind


def _reader(kind: Any, word: str) -> _Read:
    """Return what reads a value as the annotation `kind` has it; `word` is the last one of the field's name."""
    if kind in _PLAIN:
        return _bounded(word) if kind is float and word in _BOUNDS else _PLAIN[kind]
    options, origin = get_args(kind), get_origin(kind)
    if origin is Annotated:
        return _any_number if MAY_OVERFLOW in options else _reader(options[0], word)
    if NoneType in options:
        read = _reader(options[0], word)
        return lambda value, owner, name: None if value is None else read(value, owner, name)
    if origin in (tuple, list):
        return _sequence(options, word)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(_reader(options[1], word))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _member(kind)
    return lambda value, owner, name: read_record(kind, value, owner, name)


def _number(value: Any, owner: str, name: str) -> float:
    number = _any_number(value, owner, name)
    if not math.isfinite(number) or isinstance(value, str):
        raise _refused("a finite number", value, owner, name)
    return number


def _any_number(value: Any, owner: str, name: str) -> float:
    """Return a number, or the word for one that JSON has none for."""
    if type(value) is float:
        return value
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MOST_STEPS:
        raise _refused("a number", value, owner, name)
    return float(value)


def _bounded(word: str) -> _Read:
    high, above_zero, words = _BOUNDS[word]

    def read(value: Any, owner: str, name: str) -> float:
        number = _number(value, owner, name)
        if number < 0.0 or number > high or (above_zero and number == 0.0):
            raise _refused(words, value, owner, name)
        return number

    return read


def _count(value: Any, owner: str, name: str) -> int:
    if type(value) is not int or not 0 <= value <= MOST_STEPS:
        raise _refused(f"an integer from 0 to {MOST_STEPS:.0e}", value, owner, name)
    return value


def _flag(value: Any, owner: str, name: str) -> bool:
    if not isinstance(value, bool):
        raise _refused("true or false", value, owner, name)
    return value


def _text(value: Any, owner: str, name: str) -> str:
    if not isinstance(value, str) or len(value) > _MOST_LETTERS:
        raise _refused(f"text of up to {_MOST_LETTERS} letters", value, owner, name)
    return value


def _sequence(options: tuple[Any, ...], word: str) -> _Read:
    """Read a tuple of any length, a list, or, for a tuple of given length, the list that JSON makes of it."""
    reads = [_reader(option, word) for option in options if option is not Ellipsis]
    each, make = len(reads) == 1, tuple if Ellipsis in options else list

    def read(value: Any, owner: str, name: str) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) > _MOST_VALUES:
            raise _refused("a list", value, owner, name)
        if each:
            return make([reads[0](item, owner, name) for item in value])
        if len(value) != len(reads):
            raise _refused(f"{len(reads)} values", value, owner, name)
        return make([one(item, owner, name) for one, item in zip(reads, value, strict=True)])

    return read


def _mapping(each: _Read) -> _Read:
    def read(value: Any, owner: str, name: str) -> dict[str, Any]:
        named = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        if not named or len(value) > _MOST_VALUES:
            raise _refused("a mapping of names to values", value, owner, name)
        return {key: each(item, owner, name) for key, item in value.items()}

    return read


def _member(kind: type[Enum]) -> _Read:
    def read(value: Any, owner: str, name: str) -> Enum:
        try:
            return kind(value)
        except ValueError:
            raise _refused(f"the name of a {kind.__name__}", value, owner, name) from None

    return read


_PLAIN: dict[Any, _Read] = {float: _number, int: _count, bool: _flag, str: _text}


def _shortened(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nests too deeply, or has thousands of digits
        text = type(value).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"
