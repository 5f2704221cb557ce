"""Bounded, scale-free statistics of a series: recent values against the ones before them.

A series keeps the last `span` values as they came, and before them up to `reference_steps` older ones. The mean of
the recent values is the *smoothed current* value, the mean of the older ones the *running average*; no value is in
both.

Whether the two differ by more than noise is a two-sample comparison of means. Losses of successive steps are not
independent, so the noise of a mean is that of a first-order autoregressive process: n values count as
`n (1 - phi) / (1 + phi)` independent ones (Bayley & Hammersley 1946). `phi` and the deviation are estimated on the
older values after removing their straight line, so that a steady descent is not taken for noise, with `phi` corrected
for its bias in short series (Marriott & Pope 1954, Kendall 1954). The deviation is at least that of the newest values,
so that noise that has grown is not taken for a signal either (the two samples may differ in variance: Welch 1947). The
quantile needed is widened for the few effective samples the deviation rests on (the leading terms of the t quantile,
Abramowitz & Stegun 26.7.5). All of it is relative to the running average: multiplying every value by a constant
changes nothing. So it needs values that have a zero to be measured from: a series that holds one below zero (a
log-likelihood, say) or whose average is 0 has no scale: its ratio is NaN, its variance 0, and it has no noise.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import Annotated, NamedTuple

from keras_adaptive_weights.deciding.plain_records import ADDED_LATER, MAY_OVERFLOW

_MAX_AUTOCORRELATION = 0.98
_new = tuple.__new__  # takes half as long as a call of the class, and this is every step
_ROUNDING = 1e-6  # residuals below this share of the mean are taken for rounding, not for noise


def _one_after_the_other(values: Iterable[float]) -> float:
    return deque(accumulate(values, initial=0.0), maxlen=1)[0]


total = sum if sys.version_info < (3, 12) else _one_after_the_other
"""The sum of some numbers, rounded after each: to the same digits under every Python, which 3.12 no longer does."""


class Series(NamedTuple):
    """The recent values, oldest first, the older ones they are compared with, and the mean of the older ones.

    `below_zero`: after so many more values none of those that are held is below zero.
    """

    recent: tuple[float, ...] = ()
    reference: tuple[float, ...] = ()
    reference_mean: Annotated[float, MAY_OVERFLOW] = 0.0
    below_zero: Annotated[int, ADDED_LATER] = 0

    def push(self, value: float, span: int, reference_steps: int, clip: float) -> Series:
        """Return the series with `value` added; on leaving the recent values one is cut at `clip` averages."""
        recent, reference, average, below_zero = self
        recent += (value,)
        if value < 0.0:
            below_zero = span + reference_steps
        elif below_zero:
            below_zero -= 1
        if len(recent) <= span:
            return _new(Series, (recent, reference, average, below_zero))
        old = recent[-span - 1]  # not the first: a restored series may be longer than today's settings say
        if old > clip * average > 0.0 and not below_zero:
            old = clip * average
        reference = reference[1 - reference_steps :] + (old,)  # noqa: RUF005 - unpacking takes twice as long
        return _new(Series, (recent[-span:], reference, total(reference) / len(reference), below_zero))

    @property
    def average(self) -> float:
        """The running average; of the recent values while there are no older ones. NaN: nothing seen."""
        return self.reference_mean if self.reference else mean(self.recent)

    @property
    def scale(self) -> float:
        """The running average as what the values are measured by; NaN where it can be none."""
        recent, reference, average, below_zero = self
        if not reference:
            average = mean(recent)
        return average if 0.0 < average < math.inf and not below_zero else math.nan

    @property
    def variance(self) -> float:
        """Variance of the recent values in units of the squared scale; 0 for fewer than two, or without a scale."""
        recent, scale = self.recent, self.scale
        count = len(recent)
        if count < 2 or not scale > 0.0:
            return 0.0
        center = total(recent) / count
        return _square(math.dist(recent, (center,) * count) / scale) / count

    def compare(self, steps: int) -> Comparison:
        """Hold the newest `steps` recent values (at least one) against the older ones."""
        recent, reference, average, below_zero = self
        recent = recent[-steps:] if steps > 1 else recent[-1:]
        current = total(recent) / len(recent) if recent else math.nan
        if not reference:
            average = math.nan
        ratio = current / average if 0.0 < average < math.inf and not below_zero else math.nan
        return _new(Comparison, (recent, reference, current, average, ratio))


class Noise(NamedTuple):
    """Noise of a series: relative standard deviation, autocorrelation, and the number of values it was measured on."""

    deviation: Annotated[float, MAY_OVERFLOW] = 0.0
    autocorrelation: float = 0.0
    samples: int = 0

    @property
    def possible(self) -> bool:
        """Whether a series can have it: it may come from a file."""
        return 0.0 <= self.autocorrelation <= _MAX_AUTOCORRELATION and not self.deviation < 0.0

    def standard_error(self, count: int, other: int | None = None) -> float:
        """Relative standard error of a mean over `count` successive values, or of its difference from one of others."""
        inflation = (1.0 + self.autocorrelation) / (1.0 - self.autocorrelation)
        error = min(1.0, inflation / count)
        return self.deviation * math.sqrt(error if other is None else error + min(1.0, inflation / other))

    @property
    def freedom(self) -> float:
        """Independent values the deviation was measured on, less the two that its line took; at least 1."""
        inflation = (1.0 + self.autocorrelation) / (1.0 - self.autocorrelation)
        return max(1.0, self.samples / inflation - 2.0)

    def quantile(self, normal: float) -> float:
        """The normal quantile, widened for the few independent values the deviation was measured on."""
        return widened(normal, self.freedom)


class Comparison(NamedTuple):
    """Recent values held against older ones: their means and the ratio of these, NaN where there is no scale."""

    recent: tuple[float, ...]
    reference: tuple[float, ...]
    current: float
    average: float
    ratio: float

    @property
    def newer(self) -> tuple[float, ...]:
        """The newer half of the recent values."""
        return self.recent[len(self.recent) // 2 :]

    @property
    def lowest(self) -> float:
        """The lower of the means of the two halves; NaN for fewer than two values."""
        older = mean(self.recent[: len(self.recent) // 2])
        return min(older, mean(self.newer))

    @property
    def highest(self) -> float:
        """The higher of the means of the two halves; NaN for fewer than two values."""
        older = mean(self.recent[: len(self.recent) // 2])
        return max(older, mean(self.newer))

    def noise(self) -> Noise:
        """Noise of the older values; its deviation is at least that of the newer half of the recent ones."""
        older, newer = measure_noise(self.reference), measure_noise(self.newer)
        if newer.deviation <= older.deviation:
            return older
        return Noise(newer.deviation, older.autocorrelation, max(older.samples, newer.samples))

    def deviation(self, noise: Noise) -> float:
        """Distance of the ratio from 1 on the logarithmic scale, in standard errors of such a comparison."""
        return _deviation(self.ratio, noise.standard_error(len(self.recent), len(self.reference)))

    def deviation_from(self, level: float, noise: Noise) -> float:
        """Distance of the recent mean from a fixed level on the logarithmic scale, in standard errors of that mean."""
        return _deviation(self.current / level, noise.standard_error(len(self.recent)))


def _deviation(ratio: float, error: float) -> float:
    distance = abs(math.log(ratio)) if ratio > 0.0 else math.inf
    if error == 0.0:
        return math.inf if distance > 0.0 else 0.0
    return distance / error  # NaN where the noise is beyond measure: above no threshold


def _square(value: float) -> float:
    """Return the square; of a huge value infinity, where `**` raises an error."""
    return value * value


def widened(normal: float, freedom: float) -> float:
    """Return the normal quantile as that of so many degrees of freedom (the leading terms of an expansion)."""
    return normal * (1.0 + (normal * normal + 1.0) / (4.0 * freedom))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; NaN for no values."""
    return total(values) / len(values) if values else math.nan


def measure_noise(values: Sequence[float]) -> Noise:
    """Estimate the noise of a series of positive values around its straight line, relative to its mean.

    The sums of the residuals' squares and of their products with the next one are not summed one by one, as this runs
    on many steps: the first is the spread around the mean without that of the line, the second follows from it and the
    squared differences of successive residuals (von Neumann et al. 1941), which are those of the values less the slope.
    """
    n = len(values)
    average = mean(values)
    if n < 3 or not 0.0 < average < math.inf:
        return Noise(samples=n)
    last = (n - 1) / 2.0  # the line's position at the last value, and the negative of that at the first one
    position_squares = n * (n * n - 1.0) / 12.0  # summed over all positions, counted from their middle
    slope = total(map(mul, values, _slope_weights(n))) / average
    squares = _square(math.dist(values, (average,) * n) / average) - slope * slope * position_squares
    if squares <= _ROUNDING**2 * n:
        return Noise(samples=n)
    steps = _square(math.dist(values[1:], values[:-1]) / average)
    differences = steps - slope * (2.0 * (values[-1] - values[0]) / average - (n - 1.0) * slope)
    ends = _square(values[0] / average - 1.0 + slope * last) + _square(values[-1] / average - 1.0 - slope * last)
    raw = 1.0 - 0.5 * (ends + differences) / squares
    phi = raw + (2.0 + 4.0 * raw) / n
    return Noise(math.sqrt(squares / (n - 2)), min(max(0.0, phi), _MAX_AUTOCORRELATION), n)


@lru_cache(maxsize=256)
def _slope_weights(n: int) -> tuple[float, ...]:
    """Return the weights that make n values' sum the slope of their straight line."""
    middle = (n - 1) / 2.0
    return tuple((i - middle) * 12.0 / (n * (n * n - 1.0)) for i in range(n))
