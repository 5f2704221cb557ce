"""Series, their comparison and their noise, each against NumPy written out."""

import ast
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_adaptive_weights.deciding import statistics as ours
from keras_adaptive_weights.deciding.statistics import Comparison, Noise, Series, mean, measure_noise

SETTINGS = {"span": 4, "reference_steps": 6, "clip": 2.0}


def series(values, **settings):
    result = Series()
    for value in values:
        result = result.push(value, **{**SETTINGS, **settings})
    return result


def test_mean_of_nothing_is_nan():
    assert math.isnan(mean(()))
    assert mean((1.0, 3.0)) == 2.0


def test_recent_and_older_values_never_overlap_and_stay_in_order():
    got = series(range(1, 10), clip=100.0)
    assert got.recent == (6, 7, 8, 9)
    assert got.reference == (1, 2, 3, 4, 5)
    assert got.reference_mean == 3.0


def test_both_parts_are_bounded():
    got = series([1.0] * 1000)
    assert (len(got.recent), len(got.reference)) == (4, 6)


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=40))
def test_the_parts_are_the_last_values(values):
    got = series(values, clip=1e9)
    assert [*got.reference, *got.recent] == values[-10:]
    if got.reference:
        assert got.average == pytest.approx(np.mean(got.reference))
    else:
        assert got.average == pytest.approx(np.mean(values))


def test_the_average_of_an_empty_series_is_nan():
    assert math.isnan(Series().average)


def test_a_spike_enters_the_running_average_cut_off():
    got = series([1.0] * 6 + [100.0] + [1.0] * 4)
    assert got.reference[-1] == 2.0
    assert max(got.reference) == 2.0


@pytest.mark.parametrize("level", [0.01, 40.0])
def test_a_spike_is_cut_off_in_units_of_the_average(level):
    got = series([level] * 6 + [100.0 * level] + [level] * 4)
    assert got.reference[-1] == pytest.approx(2.0 * level)
    kept = series([level] * 6 + [1.99 * level] + [level] * 4)
    assert kept.reference[-1] == 1.99 * level


@pytest.mark.parametrize("level", [0.0, -1.0])
def test_nothing_is_cut_off_at_an_average_that_is_no_scale(level):
    got = series([level] * 6 + [100.0] + [level] * 4)
    assert got.reference[-1] == 100.0


def test_variance_is_that_of_the_recent_values_in_squared_averages():
    older, recent = [2.0, 3.0, 4.0], [5.0, 7.0, 6.0, 10.0]
    got = series(older + recent, clip=100.0).variance
    assert got == pytest.approx(np.var(recent) / np.mean(older) ** 2)


def test_variance_before_there_are_older_values_is_relative_to_the_recent_ones():
    assert series([1.0, 3.0]).variance == pytest.approx(np.var([1.0, 3.0]) / 4.0)


def test_a_series_has_a_scale_as_long_as_none_of_its_values_is_below_zero():
    got = series([1.0, -0.1, *[1.0] * 8])
    assert (got.average, got.variance) == (pytest.approx(4.9 / 6), 0.0)
    assert math.isnan(got.scale)
    assert math.isnan(got.compare(4).ratio)
    got = got.push(1.0, **SETTINGS).push(1.0, **SETTINGS)
    assert (got.scale, got.compare(4).ratio) == (1.0, 1.0), "the negative value has left"


@pytest.mark.parametrize("values", [[], [0.0] * 12, [-1.0] * 12, [1e308] * 14])
def test_there_is_no_scale_without_a_positive_finite_average(values):
    assert math.isnan(series(values).scale)


def test_an_outlier_among_negative_values_is_no_scale():
    """The average of nine values of -28 and a million is positive, and measures nothing."""
    got = series([-28.0] * 9 + [1e6] + [-28.0] * 4)
    assert got.average > 0.0
    assert math.isnan(got.compare(4).ratio)


@pytest.mark.parametrize("values", [[], [1.0], [0.0, 0.0], [-1.0, -2.0], [3.0, -1.0]])
def test_variance_is_zero_where_there_is_none(values):
    assert series(values).variance == 0.0


@pytest.mark.parametrize("values", [[1e-150] * 12 + [1.8e4] * 2, [1e-300] * 10 + [1e300] * 4, [1e308] * 14])
def test_variance_of_extreme_values_is_a_number_or_infinite(values):
    """Squares that are finite may have a sum that is not."""
    assert not math.isnan(series(values).variance)


@pytest.mark.parametrize("factor", [2.0**20, 2.0**-20, 1000.0, 0.001])
def test_all_statistics_are_scale_free(factor):
    values = np.random.default_rng(0).lognormal(0.0, 0.2, 60)
    one, other = (series(v, span=8, reference_steps=40) for v in (values, values * factor))
    assert other.variance == pytest.approx(one.variance)
    first, second = one.compare(8), other.compare(8)
    assert second.ratio == pytest.approx(first.ratio)
    assert measure_noise(second.reference) == pytest.approx(measure_noise(first.reference))
    assert second.deviation(measure_noise(second.reference)) == pytest.approx(
        first.deviation(measure_noise(first.reference))
    )


def test_a_comparison_holds_the_newest_steps_against_the_older_values():
    got = series([1.0, 1.0, 2.0, 4.0, 6.0, 8.0], clip=100.0).compare(2)
    assert got.recent == (6.0, 8.0)
    assert (got.current, got.average, got.ratio) == (7.0, 1.0, 7.0)
    assert series([1.0, 2.0, 3.0]).compare(0).recent == (3.0,), "at least one"


@pytest.mark.parametrize("values", [[], [1.0] * 3, [0.0] * 9, [-1.0] * 9])
def test_there_is_no_ratio_without_a_positive_average(values):
    assert math.isnan(series(values).compare(4).ratio)


@pytest.mark.parametrize(
    ("recent", "newer", "lowest", "highest"),
    [
        ((1.0, 2.0, 5.0, 6.0), (5.0, 6.0), 1.5, 5.5),
        ((5.0, 6.0, 1.0, 2.0), (1.0, 2.0), 1.5, 5.5),
        ((4.0, 1.0, 3.0), (1.0, 3.0), 2.0, 4.0),
        ((3.0,), (3.0,), math.nan, math.nan),
        ((), (), math.nan, math.nan),
    ],
)
def test_the_two_halves(recent, newer, lowest, highest):
    got = Comparison(recent, (), mean(recent), 1.0, 1.0)
    assert got.newer == newer
    assert got.lowest == pytest.approx(lowest, nan_ok=True)
    assert got.highest == pytest.approx(highest, nan_ok=True)


@pytest.mark.parametrize(
    ("ratio", "noise", "expected"),
    [
        (1.0, Noise(0.1, 0.0, 50), 0.0),
        (1.2, Noise(0.1, 0.0, 50), math.log(1.2) / (0.1 * math.sqrt(1 / 4 + 1 / 9))),
        (1 / 1.2, Noise(0.1, 0.0, 50), math.log(1.2) / (0.1 * math.sqrt(1 / 4 + 1 / 9))),
        (1.2, Noise(0.1, 0.5, 50), math.log(1.2) / (0.1 * math.sqrt(3 / 4 + 3 / 9))),
        (1.2, Noise(0.1, 0.9, 50), math.log(1.2) / (0.1 * math.sqrt(1.0 + 1.0))),  # never below one independent value
        (1.2, Noise(), math.inf),
        (1.0, Noise(), 0.0),
        (0.0, Noise(0.1, 0.0, 50), math.inf),
        (-1.0, Noise(0.1, 0.0, 50), math.inf),
    ],
)
def test_deviation_is_the_distance_of_the_ratio_from_one_in_standard_errors(ratio, noise, expected):
    got = Comparison((ratio,) * 4, (1.0,) * 9, ratio, 1.0, ratio).deviation(noise)
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (2.0, 0.0),
        (1.5, math.log(2.0 / 1.5) / (0.1 * math.sqrt(3 / 4))),
        (4.0, math.log(2.0) / (0.1 * math.sqrt(3 / 4))),
    ],
)
def test_deviation_from_a_fixed_level_rests_on_the_recent_values_alone(level, expected):
    got = Comparison((2.0,) * 4, (1.0,) * 9, 2.0, 1.0, 2.0).deviation_from(level, Noise(0.1, 0.5, 50))
    assert got == pytest.approx(expected)


def test_noise_that_has_grown_counts():
    """Not to be taken for a signal; noise that has fallen is measured on the many older values."""
    rng = np.random.default_rng(1)
    calm, wild = (tuple(rng.lognormal(0.0, noise, 40)) for noise in (0.02, 0.5))
    for older, recent, deviation in ((calm, wild, wild[20:]), (wild, calm, wild)):
        noise = Comparison(recent, older, 1.0, 1.0, 1.0).noise()
        assert noise.deviation == measure_noise(deviation).deviation
        assert (noise.autocorrelation, noise.samples) == measure_noise(older)[1:]


@pytest.mark.parametrize("normal", [2.0, 3.0, 4.5])
@pytest.mark.parametrize("freedom", [10, 30, 98])
def test_the_quantile_is_close_to_that_of_student(normal, freedom):
    """Against the t distribution, by numerical integration of its density."""
    probability = statistics.NormalDist().cdf(-normal)
    t = np.linspace(normal, 400.0, 4_000_001)
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = constant * (1.0 + t * t / freedom) ** (-(freedom + 1) / 2)
    tail = np.cumsum((density[::-1][1:] + density[::-1][:-1]) / 2 * (t[1] - t[0]))[::-1]
    exact = t[np.searchsorted(-tail, -probability)]
    got = Noise(0.1, 0.0, freedom + 2).quantile(normal)
    assert got < exact + 1e-3, "the leading terms of an expansion whose further terms are positive"
    if freedom >= 30:
        assert got == pytest.approx(exact, rel=0.08)


def test_autocorrelated_samples_count_as_fewer():
    assert Noise(0.1, 0.6, 100).quantile(3.0) > Noise(0.1, 0.0, 100).quantile(3.0) > 3.0
    assert Noise(0.1, 0.98, 10).quantile(3.0) == pytest.approx(3.0 * (1.0 + 10.0 / 4.0)), "at least one degree"


def numpy_noise(values):
    """The definition with NumPy: detrended, with the bias correction of the autocorrelation."""
    values = np.asarray(values)
    n = len(values)
    line = np.polyval(np.polyfit(np.arange(n), values, 1), np.arange(n))
    residuals = (values - line) / values.mean()
    raw = (residuals[1:] * residuals[:-1]).sum() / (residuals**2).sum()
    phi = raw + (2 + 4 * raw) / n
    return math.sqrt((residuals**2).sum() / (n - 2)), min(max(phi, 0.0), 0.98), n


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [3, 4, 5, 20, 100])
def test_noise_equals_its_definition(n, seed):
    values = np.random.default_rng(seed).lognormal(0.0, 0.3, n) + 0.1 * np.arange(n)
    assert measure_noise(tuple(values)) == pytest.approx(numpy_noise(values), rel=1e-6)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_noise_of_an_autoregressive_series_is_recovered(phi):
    rng = np.random.default_rng(3)
    estimates = []
    for _ in range(200):
        x = np.zeros(150)
        for i in range(1, 150):
            x[i] = phi * x[i - 1] + 0.1 * math.sqrt(1 - phi**2) * rng.normal()
        estimates.append(measure_noise(tuple(1.0 + x[50:]))[:2])
    deviation, autocorrelation = np.mean(estimates, axis=0)
    assert deviation == pytest.approx(0.1, rel=0.25)
    assert autocorrelation == pytest.approx(phi, abs=0.12)


def test_a_straight_descent_is_not_noise():
    assert measure_noise(tuple(10.0 - 0.05 * i for i in range(100))) == Noise(samples=100)


@pytest.mark.parametrize("values", [(), (1.0, 2.0), (0.0,) * 9, (-1.0,) * 9, (1.0,) * 9])
def test_there_is_no_noise_where_none_can_be_measured(values):
    assert measure_noise(values) == Noise(samples=len(values))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30))
def test_noise_of_anything_raises_nothing(values):
    noise = measure_noise(tuple(values))
    assert noise.samples == len(values)
    assert noise.quantile(4.5) >= 4.5 or math.isnan(noise.deviation)


def test_noise_beyond_measure_is_above_no_threshold():
    """Squares of such values are infinite: a difference from them is not significant, rather than infinitely so."""
    values = (-1e300, 1e300) * 20 + (1e100,) * 3
    noise = measure_noise(values)
    assert not noise.deviation < math.inf
    assert not Comparison((1e100,) * 4, values, 1e100, mean(values), 2.0).deviation(noise) > 4.5


@pytest.mark.parametrize(("amplitude", "noisy"), [(1e-4, True), (2e-6, True), (5e-7, False), (0.0, False)])
def test_what_is_smaller_than_rounding_is_no_noise(amplitude, noisy):
    noise = measure_noise([1.0 + amplitude * (-1) ** (i // 2) for i in range(40)])
    assert noise.deviation == (pytest.approx(amplitude, rel=0.1) if noisy else 0.0)
    assert noise.samples == 40


# --- the same digits under every Python ----------------------------------------------------------


@given(st.lists(st.floats(-1e12, 1e12), max_size=60))
def test_sums_are_rounded_after_each_value(values):
    """From Python 3.12 on `sum` makes up for the rounding, and a record of 3.11 would be decided otherwise."""
    expected = 0.0
    for value in values:
        expected += value
    assert ours.total(values) == expected
    assert ours._one_after_the_other(values) == expected


def test_nothing_else_sums_what_decisions_depend_on():
    """The shares that a user gives are but checked."""
    folder = Path(ours.__file__).parent
    using = {
        file.stem
        for file in folder.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sum"
    }
    assert using == {"gradient_share"}
