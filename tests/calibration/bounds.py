"""Exact confidence bounds for counts and shares, by bisection: no statistics library is needed for two functions."""

from __future__ import annotations

import math
from collections.abc import Callable

CONFIDENCE = 0.95


def poisson_upper(count: int, confidence: float = CONFIDENCE) -> float:
    """Return the expected count above which seeing at most `count` has probability `1 - confidence` (Garwood 1936)."""

    def at_most_count(expected: float) -> float:
        return sum(math.exp(k * math.log(expected) - expected - math.lgamma(k + 1.0)) for k in range(count + 1))

    return _solve(lambda expected: at_most_count(expected) > 1.0 - confidence, 1e-9, 10.0 * (count + 5.0))


def binomial_upper(hits: int, runs: int, confidence: float = CONFIDENCE) -> float:
    """Return the share above which seeing at most `hits` has probability `1 - confidence` (Clopper & Pearson 1934)."""
    if hits >= runs:
        return 1.0

    def at_most_hits(share: float) -> float:
        return sum(
            math.exp(
                math.lgamma(runs + 1.0)
                - math.lgamma(k + 1.0)
                - math.lgamma(runs - k + 1.0)
                + k * math.log(share)
                + (runs - k) * math.log1p(-share)
            )
            for k in range(hits + 1)
        )

    return _solve(lambda share: at_most_hits(share) > 1.0 - confidence, 1e-12, 1.0 - 1e-12)


def binomial_lower(hits: int, runs: int, confidence: float = CONFIDENCE) -> float:
    """Return the share below which seeing at least `hits` has probability `1 - confidence`."""
    return 1.0 - binomial_upper(runs - hits, runs, confidence)


def _solve(still_below: Callable[[float], bool], low: float, high: float) -> float:
    """Return where `still_below` turns from true to false."""
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if still_below(middle) else (low, middle)
    return high
