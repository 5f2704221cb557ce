"""Strategies as plain values, for a record, and back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any

from keras_adaptive_weights.deciding.constraint import Constraint
from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.shares import equal_shares
from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss
from keras_adaptive_weights.deciding.strategy import Strategy

_OURS: dict[str, Any] = {strategy.__name__: strategy for strategy in (GradientShare, Constraint, SqrtLoss)}
_NOT_DECIDING = "variables"  # where norms are measured, not what follows from them; no plain value either


def describe(strategy: Strategy[Any]) -> dict[str, Any]:
    """Return the name of a strategy and, of one of ours, its arguments."""
    kind: Any = type(strategy)
    if kind not in _OURS.values():
        return {"strategy": kind.__name__}
    config = {field.name: getattr(strategy, field.name) for field in fields(kind) if field.name != _NOT_DECIDING}
    return {"strategy": kind.__name__, "config": config}


def intents_of(
    values: Mapping[str, Any], adaptive: Iterable[str], measured: Collection[str]
) -> Mapping[str, float] | None:
    """Return the part of the gradient that terms are to make by a strategy that `describe` told of; None: unknown.

    Args:
        values: What `describe` returned.
        adaptive: Names of the terms with an adaptive weight.
        measured: Names of the terms whose norms are measured.
    """
    try:
        strategy = described(values)
    except ValueError:  # one of a user's own, or of a newer version
        return None
    if not isinstance(strategy, GradientShare):
        return {}
    return equal_shares(adaptive, measured) if strategy.shares is None else strategy.shares


def loss_limits_of(values: Mapping[str, Any]) -> Mapping[str, float]:
    """Return the limit of each loss that has one by a strategy that `describe` told of."""
    try:
        strategy = described(values)
    except ValueError:
        return {}
    return {strategy.term: strategy.at_most} if isinstance(strategy, Constraint) else {}


def described(values: Mapping[str, Any]) -> Strategy[Any]:
    """Return the strategy that `describe` told of.

    Raises:
        ValueError: It is none of ours, or has other arguments.
    """
    name, config = values.get("strategy"), values.get("config")
    kind = _OURS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(
            f"the weights were balanced by {name!r:.60}, which is none of {list(_OURS)}: give it as argument `balance`."
        )
    try:
        strategy: Strategy[Any] = kind(**config) if isinstance(config, Mapping) else kind()
    except TypeError as error:
        raise ValueError(f"the strategy {name!r} has other arguments than {config!r:.200}: {error}") from error
    return strategy
