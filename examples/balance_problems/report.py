"""The comparison as Markdown: each contestant against equal weights, seed by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from compare_grid.inference import mean_interval

from .grid import CONTESTANTS, EQUAL, PROBLEMS, About
from .results import Row

_HEADER = ("problem", "what decides the weights", "seeds", "score", "against equal", "best and worst seed", "required")
_ABOUT = (
    "Score: smaller is better, the mean over the seeds. Against equal: the geometric mean of the ratios to equal fixed "
    "weights, less 1, with its 95 % interval, and the seeds' best and worst; negative is better. Of a constraint: the "
    "deviation from its limit."
)


def report(rows: Sequence[Row]) -> str:
    """Return the report of some runs."""
    lines = [_HEADER, tuple("---" for _ in _HEADER), *_lines(rows)]
    return "\n".join((_ABOUT, "", *(f"| {' | '.join(line)} |" for line in lines)))


def log_ratios(rows: Sequence[Row], problem: str, contestant: str) -> list[float]:
    """Return the logarithms of a contestant's scores over those of equal weights, by seed."""
    scores = {(row.contestant, row.seed): row.score for row in rows if row.problem == problem}
    seeds = sorted(seed for name, seed in scores if name == contestant and (EQUAL, seed) in scores)
    return [math.log(scores[contestant, seed] / scores[EQUAL, seed]) for seed in seeds]


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    for name, problem in PROBLEMS.items():
        for contestant in problem.contestants:
            runs = [row for row in rows if (row.problem, row.contestant) == (name, contestant)]
            if runs:
                against = log_ratios(rows, name, contestant)
                yield _line(problem, contestant, runs, against if contestant != EQUAL else [])


def _line(problem: About, contestant: str, runs: Sequence[Row], against: Sequence[float]) -> tuple[str, ...]:
    score = statistics.fmean(run.score for run in runs)
    title, count = CONTESTANTS[contestant], str(len(runs))
    if problem.limit is not None:
        worst = max(run.score for run in runs)
        return (problem.title, title, count, _percent(score), "", f"worst {_percent(worst)}", "every seed 5 %")
    required = (problem.required or "") if contestant == "share" else ""
    if not against:
        return (problem.title, title, count, f"{score:.4g}", "", "", required)
    mean, reach = mean_interval(against)
    interval = f" [{_change(mean - reach)}, {_change(mean + reach)}]" if math.isfinite(reach) else ""
    ends = f"{_change(min(against))}, {_change(max(against))} (median {_change(statistics.median(against))})"
    return (problem.title, title, count, f"{score:.4g}", f"**{_change(mean)} %**{interval}", ends, required)


def _change(logarithm: float) -> str:
    """Return a log-ratio as a change in percent."""
    return f"{100.0 * math.expm1(logarithm):+.1f}"


def _percent(value: float) -> str:
    return f"{100.0 * value:.1f} %"
