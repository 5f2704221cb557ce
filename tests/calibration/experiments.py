"""What is measured, the targets, and how results become rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import simulation as sim
from bounds import binomial_lower, binomial_upper, poisson_upper

import keras_adaptive_weights as kaw

_CHUNK = 25


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    group: str
    case: str
    target: str
    measured: str
    met: bool


Verdict = tuple[str, str, bool]


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement.

    Attributes:
        group: What it belongs to.
        name: What is simulated.
        simulate: Function of a seed.
        summary: Makes target, measured figures and verdict of the results.
        runs: Number of seeds of the table; the command multiplies it.
        few: Number of seeds in the test: as many as the bounds need, and hardly more.
    """

    group: str
    name: str
    simulate: Callable[[int], Any]
    summary: Callable[[Sequence[Any]], Verdict]
    runs: int
    few: int


def measure(case: Case, executor: Executor, runs: int) -> Row:
    """Simulate a case for a number of seeds."""
    results = executor.map(case.simulate, range(runs), chunksize=max(1, min(_CHUNK, runs // 8)))
    return Row(case.group, case.name, *case.summary(list(results)))


def at_most_rate(limit: float, results: Sequence[tuple[int, float, bool]]) -> Verdict:
    """Moves of the weight per 10,000 steps; the upper bound must meet the target, not only the estimate."""
    moves, runs = sum(result[0] for result in results), len(results)
    upper = poisson_upper(moves) / runs
    return f"at most {limit:g}", f"{moves / runs:.2f} (below {upper:.2f}), {_outcome(results)}", upper <= limit


def at_least_rate(limit: float, results: Sequence[tuple[int, float, bool]]) -> Verdict:
    """Moves per 10,000 steps of a rule that must fail: if it did not, the measurement could show nothing."""
    rate = fmean(result[0] for result in results)
    return f"more than {limit:g}", f"{rate:.1f}, {_outcome(results)}", rate > limit


def at_least_share(limit: float, results: Sequence[bool | None]) -> Verdict:
    """Share of runs, whose lower bound must meet the target."""
    hits, runs = _count(results)
    lower = binomial_lower(hits, runs)
    return f"at least {_percent(limit)}", f"{_percent(hits / runs)} (above {_percent(lower)})", lower >= limit


def at_most_share(limit: float, results: Sequence[bool | None]) -> Verdict:
    """Share of runs, whose upper bound must meet the target."""
    hits, runs = _count(results)
    upper = binomial_upper(hits, runs)
    return f"at most {_percent(limit)}", f"{_percent(hits / runs)} (below {_percent(upper)})", upper <= limit


def right_direction(limit: float, results: Sequence[int]) -> Verdict:
    """Share of runs answered rightly, whose lower bound must meet the target, and hardly ever wrongly."""
    runs, right, wrong = len(results), results.count(1), results.count(-1)
    lower = binomial_lower(right, runs)
    measured = f"{_percent(right / runs)} (above {_percent(lower)}), wrongly {_percent(wrong / runs)}"
    return f"at least {_percent(limit)}" if limit else "not wrongly", measured, lower >= limit and wrong <= 0.02 * runs


def none_disabled(results: Sequence[tuple[int, float, bool]]) -> Verdict:
    """Whether adaptation stayed on to the end."""
    return "none", f"{sum(result[2] for result in results)} of {len(results)} runs", not any(r[2] for r in results)


def all_same(results: Sequence[bool]) -> Verdict:
    """Whether every run gave the same decisions."""
    return "the same decisions", f"the same in {sum(results)} of {len(results)} runs", all(results)


def of_descents(results: Sequence[tuple[int, int, float]]) -> Verdict:
    """What the weight did while the loss fell."""
    lowered, others = fmean(result[0] for result in results), fmean(result[1] for result in results)
    measured = f"lowered {lowered:.1f} times to {_span([result[2] for result in results])}, other moves {others:.2f}"
    return "lowered or left alone", measured, others <= 0.2


def settles(widest: float, results: Sequence[tuple[int, int, float, float]]) -> Verdict:
    """Band of the weight over the second half: the ratio of its highest to its lowest value."""
    changes, late = fmean(result[0] for result in results), fmean(result[1] for result in results)
    band = max(high / low for _, _, low, high in results)
    ends = _span([result[3] for result in results])
    measured = f"x{band:.2f}; {changes:.1f} changes, {late:.2f} in the second half; ends at {ends}"
    return f"band at most x{widest:g}", measured, band <= widest


def _count(results: Sequence[bool | None]) -> tuple[int, int]:
    counted = [result for result in results if result is not None]
    return sum(counted), len(counted)


def _outcome(results: Sequence[tuple[int, float, bool]]) -> str:
    disabled = sum(result[2] for result in results)
    ends = f"weight ends at {_span([result[1] for result in results])}"
    return f"{ends}, {disabled} of {len(results)} runs disabled" if disabled else ends


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _percent(share: float) -> str:
    return f"{100.0 * share:.3g} %"


def cases() -> Iterator[Case]:
    """Yield every measurement, in the order of the table."""
    yield from _false_changes()
    yield from _answers()
    yield from _trials()
    yield from _descents()
    yield from _loops()
    yield from _other_losses()
    yield from _bad_data()
    yield from _balances()


def _false_changes() -> Iterator[Case]:
    group = "False changes per 10,000 steps"
    for draw, name, limit, few in ((sim.white, "independent noise", 1.0, 3), (sim.wander, "AR(1) 0.9,", 3.0, 4)):
        for noise in (0.05, 0.15, 0.3):
            simulate = partial(sim.stationary, draw=partial(draw, noise=noise))
            yield Case(group, f"{name} {_percent(noise)}", simulate, partial(at_most_rate, limit), 16, few)
    eight = partial(sim.stationary, draw=partial(sim.white, noise=0.15), execution=8)
    yield Case(group, "independent noise 15 %, 8 steps per execution", eight, partial(at_most_rate, 1.0), 8, 3)
    naive = partial(sim.stationary, draw=partial(sim.white, noise=0.15), config=_settings(significance=0.0))
    yield Case(group, "control: 15 %, significance=0", naive, partial(at_least_rate, 5.0), 4, 2)
    yield Case("Scale", "losses times 1,000 and times 0.001", sim.same_at_every_scale, all_same, 10, 4)


def _answers() -> Iterator[Case]:
    group = "Answered rightly within 60 steps"
    for factor, word in ((1.3, "rise"), (0.7, "fall")):
        for at, when in ((100, "as the gates open"), (300, "at step 300")):
            simulate = partial(sim.shift_answered, factor=factor, noise=0.1, at=at)
            name = f"lasting {word} of 30 % {when}, noise 10 %"
            yield Case(group, name, simulate, partial(right_direction, 0.95), 500, 60)
    simulate = partial(sim.shift_answered, factor=1.3, noise=0.1, at=104, execution=8)
    yield Case(
        group, "rise of 30 %, noise 10 %, 8 steps per execution", simulate, partial(right_direction, 0.95), 200, 60
    )
    for noise in (0.2, 0.4):
        simulate = partial(sim.shift_answered, factor=2.0, noise=0.1, at=150, norms=True, norm_noise=noise)
        name = f"gradient norms double, their noise {_percent(noise)}"
        yield Case(group, name, simulate, partial(right_direction, 0.95), 500, 95)
    for factor, noise, limit in ((1.3, 0.15, 0.9), (1.3, 0.3, 0.0), (0.7, 0.3, 0.5)):
        simulate = partial(sim.shift_answered, factor=factor, noise=noise, at=150)
        name = f"{'rise' if factor > 1.0 else 'fall'} of 30 %, noise {_percent(noise)}"
        yield Case(group, name, simulate, partial(right_direction, limit), 200, 60)


def _trials() -> Iterator[Case]:
    group = "Rolled back on trial"
    for noise, phi, rise in ((0.05, 0.0, 1.0), (0.1, 0.0, 1.0), (0.1, 0.0, 1.5), (0.15, 0.0, 1.0), (0.1, 0.9, 1.0)):
        simulate = partial(sim.trial, effect=1.0, noise=noise, phi=phi, rise=rise)
        kind = ", AR(1) 0.9" if phi else ", after a rise of 50 %" if rise > 1.0 else ""
        name = f"no effect, noise {_percent(noise)}{kind}"
        yield Case(group, name, simulate, partial(at_most_share, 0.05), 300, 95)
    for effect, noise, lag, rise, runs, few, limit in (
        (1.3, 0.05, 1.0, 1.0, 200, 60, 0.95),
        (1.3, 0.1, 1.0, 1.0, 300, 60, 0.95),
        (1.3, 0.1, 1.0, 1.3, 300, 60, 0.95),
        (1.5, 0.15, 1.0, 1.0, 200, 60, 0.95),
        (1.5, 0.1, 30.0, 1.0, 200, 60, 0.95),
        (1.2, 0.1, 1.0, 1.0, 200, 30, 0.8),
        (1.3, 0.1, 30.0, 1.0, 200, 90, 0.8),
        (1.3, 0.15, 1.0, 1.0, 200, 70, 0.9),
        (1.5, 0.3, 1.0, 1.0, 200, 30, 0.75),
    ):
        kind = f", lag {lag:.0f} steps" if lag > 1.0 else ", after a rise of 30 %" if rise > 1.0 else ""
        simulate = partial(sim.trial, effect=effect, noise=noise, lag=lag, rise=rise)
        name = f"loss {_percent(effect - 1.0)} worse{kind}, noise {_percent(noise)}"
        yield Case(group, name, simulate, partial(at_least_share, limit), runs, few)


def _descents() -> Iterator[Case]:
    for constant in (100.0, 300.0, 1000.0, 3000.0):
        for noise in (0.05, 0.15):
            simulate = partial(sim.descent, constant=constant, noise=noise)
            name = f"time constant {constant:,.0f} steps, noise {_percent(noise)}"
            yield Case("Healthy descent to a fifth", name, simulate, of_descents, 6, 1)


def _loops() -> Iterator[Case]:
    for elasticity, lag, word in (
        (1.0, 50.0, "falls with the weight"),
        (4.0, 50.0, "falls with its 4th power"),
        (-1.0, 50.0, "rises with the weight"),
        (-4.0, 1.0, "rises with its 4th power"),
        (-4.0, 50.0, "rises with its 4th power"),
    ):
        simulate = partial(sim.closed_loop, elasticity=elasticity, lag=lag)
        name = f"loss {word}, lag {lag:.0f}"
        yield Case("Closed loop, band over steps 10,000 to 20,000", name, simulate, partial(settles, 1.05), 2, 1)


def _other_losses() -> Iterator[Case]:
    """Yield losses that are harder than the targets ask for; the limits keep what is known from getting worse."""
    mixed, norms = partial(sim.wander_and_batches, noise=0.1), partial(sim.white, noise=0.3)
    waves = partial(sim.sine, noise=0.1, period=1000, amplitude=0.2)
    epochs = partial(sim.sawtooth, noise=0.1, period=200, low=0.8, high=1.2)
    spikes = partial(sim.outliers, share=0.01, factor=100.0)
    for name, limit, settings in (
        ("Student t3 noise, 10 %", 1.0, {"draw": partial(sim.heavy_tailed, noise=0.1)}),
        ("1 % spikes of 100x", 1.0, {"draw": partial(spikes, noise=0.1)}),
        ("5 % spikes of 1.9x", 3.0, {"draw": partial(sim.outliers, noise=0.1, share=0.05, factor=1.9)}),
        ("half of the batches twice as hard", 1.0, {"draw": partial(sim.outliers, noise=0.1, share=0.5, factor=2.0)}),
        ("noise 5 % and 30 % by turns", 3.0, {"draw": partial(sim.changing_noise, quiet=0.05, loud=0.3)}),
        ("a loss that touches zero", 1.0, {"draw": sim.near_zero}),
        ("gradient norms 10 % below the threshold, noise 30 %", 1.0, {"norms": norms, "norm_level": 4.5}),
        ("1 % of the gradient norms 100x", 3.0, {"norms": partial(spikes, noise=0.2)}),
        ("level +-25 % every 500 steps, 1 % NaN", 40.0, {"draw": partial(sim.with_bad_batches, noise=0.1, share=0.01)}),
        ("AR(1) 0.9 of 10 % plus independent 10 %", 30.0, {"draw": mixed}),
        ("the same, significance=6", 6.0, {"draw": mixed, "config": _settings(significance=6.0)}),
        ("random walk of 1 % a step", 12.0, {"draw": partial(sim.random_walk, noise=0.01)}),
        ("sine of 20 %, period 1,000", 20.0, {"draw": waves}),
        ("sorted epochs of 200 steps, 0.8 to 1.2", 110.0, {"draw": epochs}),
        (
            "the same, significance=6, reference_steps=400",
            15.0,
            {"draw": epochs, "config": _settings(significance=6.0, reference_steps=400)},
        ),
    ):
        simulate = partial(sim.stationary, **settings)
        yield Case("Moves per 10,000 steps on other losses", name, simulate, partial(at_most_rate, limit), 4, 3)


def _bad_data() -> Iterator[Case]:
    simulate = partial(sim.stationary, draw=partial(sim.with_bad_batches, noise=0.1, share=0.01))
    yield Case(
        "Disabled itself within 10,000 steps", "1 % NaN, level +-25 % every 500 steps", simulate, none_disabled, 8, 2
    )


def _balances() -> Iterator[Case]:
    group = "False changes of a balance per 10,000 steps"
    for strategy, what in ((kaw.GradientShare(), "shares of the gradient"), (kaw.SqrtLoss(), "square roots")):
        for draw, noise, name, limit, few in (
            (sim.white, 0.3, "independent noise", 1.0, 3),
            (sim.wander, 0.15, "AR(1) 0.9,", 3.0, 4),
        ):
            simulate = partial(sim.balanced, draw=partial(draw, noise=noise), strategy=strategy)
            yield Case(group, f"{what}, {name} {_percent(noise)}", simulate, partial(at_most_rate, limit), 16, few)
    group, name = "Answered by a balance within 2,000 steps", "norms of a term double, noise 30 %"
    yield Case(group, name, sim.balance_follows, partial(at_least_share, 0.75), 100, 11)


def _settings(**changes: Any) -> kaw.AdaptiveWeightConfig:
    return kaw.AdaptiveWeightConfig(**changes)
