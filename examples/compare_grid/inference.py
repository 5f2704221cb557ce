"""Intervals and the question "not worse?" for a few paired values, by Student's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scipy.stats import t

CONFIDENCE = 0.95
MARGIN = 0.02
"""A final loss up to 2 % higher counts as "not worse".

Small beside what a user would notice or could have by other means (here, seeds alone move the final loss by several
percent), and larger than what the paired design can resolve with five seeds. Stated before the grid was run.
"""


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
    return float(t.ppf(probability, count - 1)) * statistics.stdev(values) / math.sqrt(count)
