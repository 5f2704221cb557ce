"""Weights in closed form: what they must be for each term to make a given part of a sum.

Every term has a magnitude `g`: the norm of its gradient, say. Its share is `w_k g_k / sum_j w_j g_j`. Where some terms
keep their weights and make the part F of the sum, shares `s` come true with `w_k = s_k / (1 - sum s) * F / g_k`; where
none does, with `w_k` proportional to `s_k / g_k`, and the geometric mean of the weights is held at that of the weights
to start from.

A magnitude is the geometric mean of the last `KEPT` measurements: one that is far off hardly moves it. How well it is
known follows from the differences of successive ones (von Neumann et al. 1941), which a drift hardly adds to; of the
measurements at the start, taken on successive steps, from their noise and autocorrelation (`statistics`). After the
start it begins afresh. A term takes part from `FEW` measurements on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from keras_adaptive_weights.deciding.config import keep_number
from keras_adaptive_weights.deciding.joint import Term, Weights
from keras_adaptive_weights.deciding.statistics import mean, measure_noise, total
from keras_adaptive_weights.deciding.strategy import Proposal, Target

KEPT = 20
"""Measurements in a magnitude."""
FEW = 5
"""Measurements that a magnitude needs."""
_MOST_STEPS = 10_000


class Magnitude(NamedTuple):
    """What a term's norms are like: their geometric mean, the standard error of its logarithm, and its freedom."""

    value: float
    error: float = 0.0
    freedom: float = math.inf


class Measurements(NamedTuple):
    """Logarithms of the last measurements of each term, oldest first, and how many there were in all."""

    logs: Mapping[str, tuple[float, ...]] = {}
    taken: int = 0

    def push(self, values: Weights, calibrate_steps: int | None) -> Measurements:
        """Return the measurements with one more of each term; what is not positive and finite teaches nothing."""
        start = calibrate_steps or 0
        kept, before = (start, self.logs) if self.taken < start else (KEPT, {} if self.taken == start else self.logs)
        new = {
            name: (*before.get(name, ())[1 - kept :], math.log(value))
            for name, value in values.items()
            if 0.0 < value < math.inf
        }
        return Measurements({**before, **new}, self.taken + 1) if new else self

    def magnitudes(self, calibrate_steps: int | None) -> dict[str, Magnitude]:
        """Return the magnitude of each term that has enough measurements."""
        measure = _at_start if self.taken <= (calibrate_steps or 0) else _from_differences
        return {name: measure(logs) for name, logs in self.logs.items() if len(logs) >= FEW}


def _at_start(logs: tuple[float, ...]) -> Magnitude:
    center = mean(logs)
    noise = measure_noise(tuple(1.0 + log - center for log in logs))  # relative to a mean of 1: in units of the logs
    return Magnitude(math.exp(center), noise.standard_error(len(logs)), noise.freedom)


def _from_differences(logs: tuple[float, ...]) -> Magnitude:
    steps = len(logs) - 1
    error = math.dist(logs[1:], logs[:-1]) / math.sqrt(2.0 * steps * len(logs))
    return Magnitude(math.exp(mean(logs)), error, steps / 1.5)


def targets(base: Weights, shares: Weights, magnitudes: Mapping[str, Magnitude]) -> dict[str, Target]:
    """Return the weights with which the shares come true; none where nothing can be held against anything.

    Args:
        base: Weight to start from of every term; of one that stays, its weight.
        shares: Part of the sum of each term that is to move. Where the magnitude of one is not known it stays as well,
            and the shares of the others hold among those that are known.
        magnitudes: What is known of the terms.
    """
    known = [name for name in base if name in magnitudes]
    moving = {name: shares[name] for name in known if name in shares}
    staying = [name for name in known if name not in shares]
    if len(known) < 2 or not moving:
        return {}
    freedom = min(magnitudes[name].freedom for name in known)
    if not staying:
        return _among(base, moving, magnitudes, freedom)
    parts = {name: base[name] * magnitudes[name].value for name in staying}
    return _beside(parts, moving, magnitudes, freedom)


def _beside(parts: Weights, moving: Weights, magnitudes: Mapping[str, Magnitude], freedom: float) -> dict[str, Target]:
    """Return the targets of the terms that move beside those that stay and make these parts of the sum."""
    fixed = total(parts.values())
    error = math.hypot(*(part / fixed * magnitudes[name].error for name, part in parts.items()))
    unit = fixed / (1.0 - total(moving.values()))
    return {
        name: Target(share * unit / magnitudes[name].value, math.hypot(error, magnitudes[name].error), freedom)
        for name, share in moving.items()
    }


def _among(base: Weights, moving: Weights, magnitudes: Mapping[str, Magnitude], freedom: float) -> dict[str, Target]:
    """Return the targets where all terms move: the geometric mean of the weights is held."""
    count = len(moving)
    logs = {name: math.log(share / magnitudes[name].value) for name, share in moving.items()}
    shift = mean([math.log(base[name]) for name in moving]) - mean(tuple(logs.values()))
    squares = {name: magnitudes[name].error ** 2 for name in moving}
    others = total(squares.values()) / count**2
    return {
        name: Target(math.exp(log + shift), math.sqrt(squares[name] * (1.0 - 2.0 / count) + others), freedom)
        for name, log in logs.items()
    }


def shares_of(weights: Weights, magnitudes: Mapping[str, Magnitude]) -> dict[str, float]:
    """Return the part of the sum that each term makes whose magnitude is known."""
    parts = {name: weights[name] * magnitude.value for name, magnitude in magnitudes.items() if name in weights}
    whole = total(parts.values())
    return {name: part / whole for name, part in parts.items()} if whole > 0.0 else {}


def equal_shares(adaptive: Iterable[str], known: Collection[str]) -> dict[str, float]:
    """Return equal parts for all terms that something is known of: those of the adaptive ones among them."""
    return {name: 1.0 / len(known) for name in adaptive if name in known}


class ShareState(NamedTuple):
    """Weights to start from, those of fixed terms, and what was measured."""

    adaptive: Weights
    fixed: Weights
    measured: Measurements = Measurements()


def keep_steps(strategy: Any) -> None:
    """Turn a frozen strategy's numbers of steps into integers of Python's own, as a record wants them.

    Raises:
        TypeError: Not an integer.
        ValueError: Out of bounds.
    """
    keep_number(strategy, "measure_every", low=1, high=_MOST_STEPS, integer=True)
    keep_number(strategy, "calibrate_steps", low=FEW, high=1000, integer=True, optional=True)


def initial_state(owner: str, terms: Sequence[Term]) -> ShareState:
    """Return the state before the first measurement.

    Raises:
        ValueError: Fewer than two terms, or none with an adaptive weight.
    """
    adaptive = {term.name: float(term.weight) for term in terms if not term.fixed}
    if len(terms) < 2 or not adaptive:
        raise ValueError(
            f"{owner}: needs two or more terms, at least one of them with an adaptive weight. Received the terms "
            f"{[term.name for term in terms]}, of which {list(adaptive)} are adaptive. Give a term "
            "`weight=AdaptiveWeight(...)` to let it move."
        )
    return ShareState(adaptive, {term.name: float(term.weight) for term in terms if term.fixed})


def propose(state: ShareState, shares: Weights | None, calibrate_steps: int | None, weights: Weights) -> Proposal:
    """Return the targets with which the shares come true, once enough was measured.

    Args:
        state: What was measured.
        shares: What is intended. `None`: equal shares for all terms.
        calibrate_steps: Measurements needed for the first targets. `None`: a few.
        weights: The weights as they are, for the shares as they are.
    """
    count, magnitudes = state.measured.taken, state.measured.magnitudes(calibrate_steps)
    if shares is None:
        shares = equal_shares(state.adaptive, magnitudes)
    evidence = {"measurements": 1.0 * count}
    evidence |= {f"share.{name}": share for name, share in shares_of(weights, magnitudes).items()}
    evidence |= {f"intent.{name}": share for name, share in shares.items()}
    if count < (FEW if calibrate_steps is None else calibrate_steps):
        return Proposal(evidence=evidence)
    return Proposal(
        targets({**state.adaptive, **state.fixed}, shares, magnitudes), calibrate_steps is not None, evidence
    )
