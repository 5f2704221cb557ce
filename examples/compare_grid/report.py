"""The comparison as Markdown: what the runs came to, and whether the adaptive weight is worse than a fixed one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from .grid import ADAPTIVE, AUTO, BALANCED, CONTESTANTS, FIXED, PLAIN, SCENARIOS, SHARE, Cell
from .inference import MARGIN, Comparison, compare, mean_interval
from .results import Row

_RESULT_HEADER = (
    "scenario",
    "contestant",
    "finite",
    "mel L1",
    "total",
    "largest change",
    "changes",
    "rollbacks",
    "skips",
    "share of mel",
    "time",
)
_PAIR_HEADER = ("scenario", "first / second", "pairs", "mel L1", "", "total", "")
_QUESTION = (
    "Not worse? Mean difference between pairs of one seed, relative to the mean of the second; its one-sided upper "
    f"95 % bound; the verdict for a margin of {100 * MARGIN:g} %."
)
_PAIRS = ((ADAPTIVE, FIXED), (ADAPTIVE, PLAIN), (FIXED, PLAIN), (SHARE, FIXED), (AUTO, FIXED))


def report(rows: Sequence[Row]) -> str:
    """Return the whole report of one grid.

    Args:
        rows: At least one, of one grid.
    """
    seeds = sorted({row.seed for row in rows})
    return "\n".join(
        (
            f"{rows[0].settings}; {len(rows)} runs, seeds {', '.join(map(str, seeds))}.",
            "",
            *_table(_RESULT_HEADER, result_lines(rows)),
            "",
            _QUESTION,
            "",
            *_table(_PAIR_HEADER, pair_lines(rows)),
        )
    )


def result_lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Yield a line for each scenario and contestant that has runs.

    Losses are means over the runs that ended finite, with their 95 % interval; the largest change is that of all runs;
    changes, rollbacks and skips are means over all runs; the share is the lowest and the highest at the end; the time
    is CPU time of a step relative to that of plain Keras with the same seed, the median over the seeds.
    """
    for scenario, about in SCENARIOS.items():
        title = about.title
        for contestant, name in CONTESTANTS.items():
            runs = [row for row in rows if (row.scenario, row.contestant) == (scenario, contestant)]
            if not runs:
                continue
            yield [
                title,
                name,
                f"{sum(row.finite for row in runs)} of {len(runs)}",
                _interval([row.val_mel_l1 for row in runs if row.finite]),
                _interval([row.val_total for row in runs if row.finite]),
                _largest([row.largest_change for row in runs]),
                *(_number(statistics.fmean(getattr(row, field) for row in runs)) for field in _COUNTS),
                _share([row.mel_share for row in runs if row.finite]) if contestant in BALANCED else "-",
                _relative_time(runs, rows),
            ]
            title = ""


def pair_lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Yield a line for each scenario and pair of contestants that was run: differences, bounds and verdicts."""
    by_cell = {row.cell: row for row in rows}
    ran = {(row.scenario, row.contestant) for row in rows}
    for scenario, about in SCENARIOS.items():
        title = about.title
        for ours, reference in _PAIRS:
            if not {(scenario, ours), (scenario, reference)} <= ran:
                continue
            pairs = paired(by_cell, scenario, ours, reference)
            no_pairs = _no_pairs(rows, scenario, ours, reference)
            line = [title, f"{CONTESTANTS[ours]} / {CONTESTANTS[reference]}", str(len(pairs))]
            for value in (_mel, _total):
                compared = compare([value(a) for a, _ in pairs], [value(b) for _, b in pairs])
                line += [_difference(compared), str(compared.verdict())] if pairs else ["-", no_pairs]
            yield line
            title = ""


def paired(by_cell: dict[Cell, Row], scenario: str, ours: str, reference: str) -> list[tuple[Row, Row]]:
    """Return the runs of both contestants, seed by seed, where both ended finite: a NaN is no loss to compare with."""
    pairs = []
    for cell, row in sorted(by_cell.items(), key=lambda item: item[0].seed):
        if (cell.scenario, cell.contestant) != (scenario, ours):
            continue
        other = by_cell.get(Cell(scenario, reference, cell.seed))
        if other is not None and row.finite and other.finite:
            pairs.append((row, other))
    return pairs


_COUNTS = ("changes", "rollbacks", "skipped")


def _mel(row: Row) -> float:
    return row.val_mel_l1


def _total(row: Row) -> float:
    return row.val_total


def _interval(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean, reach = mean_interval(values)
    return f"{mean:.4f}" + (f" ± {reach:.4f}" if math.isfinite(reach) else "")


def _largest(changes: Sequence[float]) -> str:
    """Return the largest change of all runs: to NaN where one was."""
    return "to NaN" if any(map(math.isnan, changes)) else f"{100.0 * max(changes):.1f} %"


def _share(shares: Sequence[float]) -> str:
    return f"{100.0 * min(shares):.0f} to {100.0 * max(shares):.0f} %" if shares else "-"


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _relative_time(runs: Sequence[Row], rows: Sequence[Row]) -> str:
    """Return the CPU time relative to plain Keras; a dash where no run has both."""
    plain = {(row.scenario, row.seed): row.step_cpu_ms for row in rows if row.contestant == PLAIN}
    ratios = [row.step_cpu_ms / plain.get((row.scenario, row.seed), math.nan) for row in runs]
    known = [ratio for ratio in ratios if math.isfinite(ratio)]
    return f"{100.0 * (statistics.median(known) - 1.0):+.0f} %" if known else "-"


def _difference(compared: Comparison) -> str:
    bound = f", at most {100.0 * compared.upper:+.1f} %" if math.isfinite(compared.upper) else ""
    return f"{100.0 * compared.mean:+.1f} %{bound}"


def _no_pairs(rows: Sequence[Row], scenario: str, ours: str, reference: str) -> str:
    """Say why there is nothing to compare."""
    ended = {row.contestant for row in rows if row.scenario == scenario and row.finite}
    for contestant, which in ((reference, "second"), (ours, "first")):
        if contestant not in ended:
            return f"nothing to compare with: the {which} ended NaN"
    return "nothing to compare with: no seed in which both ended finite"


def _table(header: Sequence[str], lines: Iterator[list[str]]) -> Iterator[str]:
    for line in (header, ["---"] * len(header), *lines):
        yield f"| {' | '.join(line)} |"
