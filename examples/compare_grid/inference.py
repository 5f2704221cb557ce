"""Intervals and the question "not worse?" for a few paired values, by Student's t. No statistics library is needed."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

CONFIDENCE = 0.95
MARGIN = 0.02
"""A final loss up to 2 % higher counts as "not worse".

Small beside what a user would notice or could have by other means (here, seeds alone move the final loss by several
percent), and larger than what the paired design can resolve with five seeds. Stated before the grid was run.
"""
_INTERVALS = 2_000


class Verdict(StrEnum):
    """The answer to "not worse?", each with one-sided confidence of 95 %."""

    BETTER = "better"
    NOT_WORSE = "not worse"
    NOT_SHOWN = "not shown"
    WORSE = "worse"
    NO_PAIRS = "no pairs"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Paired differences of ours and a reference, relative to the reference's mean.

    Attributes:
        pairs: Number of pairs.
        mean: Mean difference; positive: ours is higher, which is worse. NaN without pairs.
        upper: Upper one-sided 95 % bound of the mean; infinite with fewer than two pairs.
        lower: Lower one-sided 95 % bound.
    """

    pairs: int
    mean: float
    upper: float
    lower: float

    def verdict(self, margin: float = MARGIN) -> Verdict:
        """Return the answer for a margin, a fraction of the reference's mean.

        Better: the upper bound is below 0. Not worse: it is below the margin. Worse: the lower bound is above the
        margin. Else it is not shown.
        """
        if not self.pairs:
            return Verdict.NO_PAIRS
        if self.upper < 0.0:
            return Verdict.BETTER
        if self.upper < margin:
            return Verdict.NOT_WORSE
        return Verdict.WORSE if self.lower > margin else Verdict.NOT_SHOWN


def compare(ours: Sequence[float], reference: Sequence[float]) -> Comparison:
    """Compare values pair by pair, in the order given.

    Raises:
        ValueError: Not as many of one as of the other.
    """
    differences = [a - b for a, b in zip(ours, reference, strict=True)]
    if not differences:
        return Comparison(0, math.nan, math.inf, -math.inf)
    scale = statistics.fmean(reference)
    middle = statistics.fmean(differences) / scale
    reach = _reach(differences, CONFIDENCE) / abs(scale)
    return Comparison(len(differences), middle, middle + reach, middle - reach)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half width of its two-sided 95 % interval, infinite for one value."""
    return statistics.fmean(values), _reach(values, 0.5 + CONFIDENCE / 2.0)


def _reach(values: Sequence[float], probability: float) -> float:
    """Return standard errors of the mean times the quantile of Student's t."""
    count = len(values)
    if count < 2:
        return math.inf
    return t_quantile(probability, count - 1) * statistics.stdev(values) / math.sqrt(count)


@functools.cache
def t_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t, for a probability of at least a half.

    With `t = sqrt(degrees) * tan(angle)` the density is a power of a cosine, which Simpson's rule integrates to far
    more digits than are needed; the angle is found by bisection.

    Raises:
        ValueError: A probability outside `[0.5, 1)`, or degrees below 1.
    """
    if not 0.5 <= probability < 1.0 or degrees < 1:
        raise ValueError(
            f"t_quantile: expected `probability` in [0.5, 1) and `degrees` of at least 1. Received: "
            f"probability={probability!r}, degrees={degrees!r}."
        )
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = 0.5 + scale * _integral_of_cosine(degrees - 1, middle) < probability
        low, high = (middle, high) if below else (low, middle)
    return math.sqrt(degrees) * math.tan(high)


def _integral_of_cosine(power: int, end: float) -> float:
    """Return the integral of `cos(x) ** power` from 0 to `end`, by Simpson's rule."""
    width = end / _INTERVALS
    inner = sum((4 if k % 2 else 2) * math.cos(k * width) ** power for k in range(1, _INTERVALS))
    return width / 3 * (1.0 + inner + math.cos(end) ** power)
