"""What is measured, the targets, and how results become rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from bounds import binomial_lower, binomial_upper, poisson_upper
from simulation import (
    changing_noise,
    closed_loop,
    descent,
    heavy_tailed,
    near_zero,
    outliers,
    random_walk,
    same_at_every_scale,
    sawtooth,
    shift_answered,
    sine,
    stationary,
    trial,
    wander,
    wander_and_batches,
    white,
)

import keras_adaptive_weights as kaw

_UNIT = 10_000
_CHUNK = 25


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; `met` is None where there is no target."""

    group: str
    case: str
    target: str
    measured: str
    met: bool | None = None


Verdict = tuple[str, str, bool | None]
Summary = Callable[[Sequence[Any]], Verdict]


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement.

    Attributes:
        group: What it belongs to.
        name: What is simulated.
        simulate: Function of a seed.
        summary: Makes target, measured figures and verdict of the results.
        runs: Number of seeds in the test; the command multiplies it.
    """

    group: str
    name: str
    simulate: Callable[[int], Any]
    summary: Summary
    runs: int


def measure(case: Case, executor: Executor, factor: float = 1.0) -> Row:
    """Simulate a case for its number of seeds times `factor`."""
    runs = max(1, round(case.runs * factor))
    results = executor.map(case.simulate, range(runs), chunksize=max(1, min(_CHUNK, runs // 8)))
    return Row(case.group, case.name, *case.summary(list(results)))


def at_most_rate(limit: float | None, results: Sequence[tuple[int, float, bool]]) -> Verdict:
    """Moves per 10,000 steps; the target holds for the upper bound, not only for the estimate."""
    moves, runs = sum(result[0] for result in results), len(results)
    upper = poisson_upper(moves) / runs
    measured = f"{moves / runs:.2f} (below {upper:.2f}) in {runs * _UNIT:,} steps"
    if limit is not None:
        return f"at most {limit:g} per 10,000 steps", measured, upper <= limit
    ends = sorted(result[1] for result in results)
    off = fmean(result[2] for result in results)
    return "-", f"{moves / runs:.1f} per 10,000 steps; weight ends at {_span(ends)}; disabled {off:.0%}", None


def at_least_rate(limit: float, results: Sequence[tuple[int, float, bool]]) -> Verdict:
    """Moves per 10,000 steps of a rule that must fail, or this measurement could not."""
    rate = fmean(result[0] for result in results)
    return f"at least {limit:g}, or this table shows nothing", f"{rate:.1f} per 10,000 steps", rate >= limit


def at_least_share(limit: float | None, results: Sequence[bool | None]) -> Verdict:
    """Share of runs with the bound that it exceeds with 95 % confidence."""
    return _share(limit, results, binomial_lower, lambda lower: limit is None or lower >= limit, "at least", "above")


def at_most_share(limit: float, results: Sequence[bool | None]) -> Verdict:
    """Share of runs with the bound that it stays below with 95 % confidence."""
    return _share(limit, results, binomial_upper, lambda upper: upper <= limit, "at most", "below")


def _share(
    limit: float | None,
    results: Sequence[bool | None],
    bound: Callable[[int, int], float],
    holds: Callable[[float], bool],
    words: str,
    side: str,
) -> Verdict:
    counted = [result for result in results if result is not None]
    hits, runs = sum(counted), len(counted)
    edge = bound(hits, runs)
    measured = f"{hits / runs:.1%} ({side} {edge:.1%}) of {runs} runs"
    return (f"{words} {limit:.0%}", measured, holds(edge)) if limit is not None else ("-", measured, None)


def all_same(results: Sequence[bool]) -> Verdict:
    """Whether every run gave the same decisions."""
    return "the same decisions", f"the same in {sum(results)} of {len(results)} runs", all(results)


def of_descents(results: Sequence[tuple[int, int, float]]) -> Verdict:
    """What the weight did while the loss fell."""
    ends = sorted(result[2] for result in results)
    wrong = fmean(result[1] for result in results)
    lowered = fmean(result[0] for result in results)
    measured = f"lowered {lowered:.1f} times, {wrong:.1f} other moves; weight ends at {_span(ends)}"
    return "lowered or left alone", measured, wrong <= 0.5


def settles(widest: float, results: Sequence[tuple[int, int, float, float]]) -> Verdict:
    """Band of the weight over the second half, as the largest ratio of its highest to its lowest value."""
    changes, late = fmean(result[0] for result in results), fmean(result[1] for result in results)
    band = max(high / low for _, _, low, high in results)
    lowest, highest = min(result[2] for result in results), max(result[3] for result in results)
    measured = (
        f"{changes:.1f} changes, {late:.2f} in the second half; band x{band:.3f}; ends {lowest:.2f} to {highest:.2f}"
    )
    return f"band of the second half at most x{widest:g}", measured, band <= widest


def _span(values: Sequence[float]) -> str:
    return f"{values[0]:.2f}" if values[0] == values[-1] else f"{values[0]:.2f} to {values[-1]:.2f}"


def cases() -> Iterator[Case]:
    """Yield every measurement, in the order of the table."""
    yield from _false_changes()
    yield from _power()
    yield from _trials()
    yield from _descents()
    yield from _loops()
    yield from _other_losses()


def _false_changes() -> Iterator[Case]:
    group = "False changes"
    for noise in (0.05, 0.15, 0.3):
        draw = partial(white, noise=noise)
        yield Case(
            group, f"independent noise {noise:.0%}", partial(stationary, draw=draw), partial(at_most_rate, 1.0), 16
        )
    for noise in (0.05, 0.15, 0.3):
        draw = partial(wander, noise=noise)
        yield Case(group, f"AR(1) 0.9, {noise:.0%}", partial(stationary, draw=draw), partial(at_most_rate, 3.0), 16)
    eight = partial(stationary, draw=partial(white, noise=0.15), execution=8)
    yield Case(group, "independent noise 15 %, 8 steps per execution", eight, partial(at_most_rate, 1.0), 16)
    naive = partial(stationary, draw=partial(white, noise=0.15), config=kaw.AdaptiveWeightConfig(significance=0.0))
    yield Case(group, "control: 15 %, thresholds without significance", naive, partial(at_least_rate, 10.0), 2)
    yield Case("Scale", "every loss times 1,000 and times 0.001", same_at_every_scale, all_same, 10)


def _power() -> Iterator[Case]:
    group, target = "Answers within 60 steps", partial(at_least_share, 0.95)
    for factor, word in ((1.3, "rise"), (0.7, "fall")):
        for at, when in ((100, "at the end of the warmup"), (300, "at step 300")):
            simulate = partial(shift_answered, factor=factor, noise=0.1, at=at)
            yield Case(group, f"lasting {word} of 30 % {when}, noise 10 %", simulate, target, 500)
    simulate = partial(shift_answered, factor=1.3, noise=0.1, at=104, execution=8)
    yield Case(group, "rise of 30 %, noise 10 %, 8 steps per execution", simulate, target, 200)
    for noise in (0.2, 0.4):
        simulate = partial(shift_answered, factor=2.0, noise=0.1, at=150, norms=True, norm_noise=noise)
        yield Case(group, f"gradient norms double, their noise {noise:.0%}", simulate, target, 300)
    for factor, noise in ((1.3, 0.15), (1.3, 0.3), (0.7, 0.3)):
        simulate = partial(shift_answered, factor=factor, noise=noise, at=150)
        yield Case(
            group,
            f"lasting {'rise' if factor > 1.0 else 'fall'} of 30 %, noise {noise:.0%}",
            simulate,
            partial(at_least_share, None),
            100,
        )


def _trials() -> Iterator[Case]:
    group = "Rolled back"
    for noise, phi, word in ((0.05, 0.0, ""), (0.1, 0.0, ""), (0.15, 0.0, ""), (0.1, 0.9, ", AR(1) 0.9")):
        simulate = partial(trial, effect=1.0, noise=noise, phi=phi)
        yield Case(group, f"change without effect, noise {noise:.0%}{word}", simulate, partial(at_most_share, 0.05), 300)
    for effect, noise, lag, runs, limit in (
        (1.3, 0.05, 1.0, 200, 0.95),
        (1.3, 0.1, 1.0, 300, 0.95),
        (1.5, 0.15, 1.0, 200, 0.95),
        (1.5, 0.1, 30.0, 200, 0.95),
        (1.2, 0.1, 1.0, 100, None),
        (1.3, 0.15, 1.0, 100, None),
        (1.3, 0.1, 30.0, 100, None),
        (1.5, 0.3, 1.0, 100, None),
    ):
        late = "" if lag == 1.0 else f", with a lag of {lag:.0f} steps"
        simulate = partial(trial, effect=effect, noise=noise, lag=lag)
        name = f"change that raises the loss by {effect - 1.0:.0%}{late}, noise {noise:.0%}"
        yield Case(group, name, simulate, partial(at_least_share, limit), runs)


def _descents() -> Iterator[Case]:
    for constant in (100.0, 300.0, 1000.0, 3000.0):
        for noise in (0.05, 0.15):
            simulate = partial(descent, constant=constant, noise=noise)
            name = f"time constant {constant:,.0f} steps, noise {noise:.0%}"
            yield Case("Healthy descent to a fifth, 5,000 steps", name, simulate, of_descents, 6)


def _loops() -> Iterator[Case]:
    for elasticity, lag, word in (
        (1.0, 50.0, "falls with the weight"),
        (4.0, 50.0, "falls with its 4th power"),
        (-1.0, 50.0, "rises with the weight"),
        (-4.0, 1.0, "rises with its 4th power"),
        (-4.0, 50.0, "rises with its 4th power"),
    ):
        simulate = partial(closed_loop, elasticity=elasticity, lag=lag)
        yield Case(
            "Closed loop, 20,000 steps", f"loss {word}, lag {lag:.0f} steps", simulate, partial(settles, 1.05), 2
        )


def _other_losses() -> Iterator[Case]:
    group, any_rate = "Other losses (no target)", partial(at_most_rate, None)
    mixed, waves = partial(wander_and_batches, noise=0.1), partial(sine, noise=0.1, period=1000, amplitude=0.2)
    sorted_epochs = partial(sawtooth, noise=0.1, period=200, low=0.8, high=1.2)
    stricter = kaw.AdaptiveWeightConfig(significance=6.0)
    longer = kaw.AdaptiveWeightConfig(significance=6.0, reference_steps=400)
    spiky_norms = partial(outliers, noise=0.2, share=0.01, factor=100.0)
    for name, draw, norms, config in (
        ("heavy tails: Student t3, 10 %", partial(heavy_tailed, noise=0.1), None, None),
        ("1 % spikes of 100x, noise 10 %", partial(outliers, noise=0.1, share=0.01, factor=100.0), None, None),
        ("5 % spikes of 1.9x, noise 10 %", partial(outliers, noise=0.1, share=0.05, factor=1.9), None, None),
        ("two kinds of batches, one twice as hard", partial(outliers, noise=0.1, share=0.5, factor=2.0), None, None),
        ("noise 5 % and 30 % by turns", partial(changing_noise, quiet=0.05, loud=0.3), None, None),
        ("loss that touches zero", near_zero, None, None),
        ("gradient norms of 4.5 on average, noise 30 %", None, partial(_loud_norms, mean=4.5), None),
        ("1 % of the gradient norms 100x", None, spiky_norms, None),
        ("AR(1) 0.9 10 % plus independent 10 %", mixed, None, None),
        ("the same, significance=6", mixed, None, stricter),
        ("random walk of 1 % a step", partial(random_walk, noise=0.01), None, None),
        ("sine of 20 %, period 1,000", waves, None, None),
        ("sorted epochs of 200 steps, 0.8 to 1.2", sorted_epochs, None, None),
        ("the same, significance=6, reference_steps=400", sorted_epochs, None, longer),
    ):
        yield Case(group, name, partial(stationary, draw=draw, norms=norms, config=config), any_rate, 4)


def _loud_norms(rng: Any, steps: int, *, mean: float) -> Any:
    return mean / 2.0 * white(rng, steps, noise=0.3) / 1.046
