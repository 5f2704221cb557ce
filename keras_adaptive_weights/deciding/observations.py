"""Observations as somebody gives them: looked through, with numbers of Python's own, which a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeVar

from keras_adaptive_weights.deciding.decision import Observation
from keras_adaptive_weights.deciding.joint import JointObservation

_FLOAT, _PLAIN = frozenset({float}), frozenset({float, type(None)})
S = TypeVar("S", Observation, JointObservation)


def all_observations(owner: str, name: str, given: Any) -> Sequence[Observation]:
    """Return observations that were given, if that is what they are.

    Args:
        owner: Function that they were given to, for the message.
        name: Its argument.
        given: A sequence or another iterable of `Observation`s.

    Raises:
        TypeError: Something else, a single one, or one whose fields are no numbers.
    """
    return [
        seen
        if type(seen.loss) is float and type(seen.total_loss) in _PLAIN and type(seen.gradient_norm) in _PLAIN
        else _with_numbers(owner, name, seen, {"loss": seen.loss}, {})
        for seen in _all(owner, name, given, Observation, "loss=0.8")
    ]


def all_joint_observations(owner: str, name: str, given: Any) -> Sequence[JointObservation]:
    """Return observations of several terms; all else is as in `all_observations`."""
    return [
        seen
        if {*map(type, (*seen.losses.values(), *seen.term_norms.values()))} <= _FLOAT
        and type(seen.total_loss) in _PLAIN
        and type(seen.gradient_norm) in _PLAIN
        else _with_numbers(owner, name, seen, {}, {"losses": seen.losses, "term_norms": seen.term_norms})
        for seen in _all(owner, name, given, JointObservation, 'losses={"mel_loss": 0.8}')
    ]


def _all(owner: str, name: str, given: Any, kind: type[S], example: str) -> Sequence[S]:
    if isinstance(given, Iterable) and not isinstance(given, kind):
        seen = given if isinstance(given, Sequence) else list(given)
        if all(isinstance(each, kind) for each in seen):
            return seen
    raise TypeError(
        f"{owner}: argument `{name}` must be a sequence of {kind.__name__}s. Received: {name}={given!r:.200}. Write "
        f"`{name}=[{kind.__name__}(step=1, {example}), ...]`, `[observation]` for a single one."
    )


def _with_numbers(
    owner: str, name: str, seen: S, required: Mapping[str, Any], by_term: Mapping[str, Mapping[str, Any]]
) -> S:
    """Return an observation whose numbers are of no class but Python's own."""

    def number(value: Any, field: str) -> float:
        if isinstance(value, Real):
            return float(value)
        raise TypeError(
            f"{owner}: argument `{name}` must hold observations of numbers. Received: {value!r:.200} for `{field}` at "
            f"step {seen.step!r}. Write `float(...)` for its value, and leave a batch out of which nothing is known."
        )

    there = {field: value for field in ("total_loss", "gradient_norm") if (value := getattr(seen, field)) is not None}
    fields: dict[str, Any] = {field: number(value, field) for field, value in {**required, **there}.items()}
    for field, values in by_term.items():
        fields[field] = {term: number(value, field) for term, value in values.items()}
    return seen._replace(**fields)
