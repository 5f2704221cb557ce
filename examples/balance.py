"""Does a balance make the model better? Problems whose terms differ in scale, and all that may decide their weights.

    python examples/balance.py
    python examples/balance.py --report
    python examples/balance.py --problems toy2,digits --contestants equal,share --seeds 1

Every run is a Keras model trained by `fit`. The contestants of a seed have the same parameters at the start and the
same batches, and differ in nothing but what decides the weights: nothing (equal weights), the guide's rule,
`GradientShare()` and `SqrtLoss()` of this package with their defaults, and two rules that are often recommended and do
not help here: 1/L (uncertainty weighting in closed form) and DWA. `Constraint` is to hold the reconstruction error of a
VAE at a limit. Every run appends a row to a CSV file; started again after an interruption it goes on with what is
missing. `--report` trains nothing, and prints the comparison from the file.

Needs `pip install "keras-adaptive-weights[examples]"`. Ends with code 0; with 2 where an option or a file is of no use;
with 1 where a worker died.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from balance_problems import results
from balance_problems.grid import CONTESTANTS, EQUAL, PROBLEMS, Cell, cells
from balance_problems.report import report
from compare_grid import command
from compare_grid.command import names_of, positive
from compare_grid.pool import run_all

SHIPPED = Path(__file__).parent / "balance_problems" / "results.csv"
_DEFAULT_CSV = Path("runs") / "balance.csv"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example.

    Args:
        arguments: Command line without the program's name; `None`: the program's own.

    Returns:
        The exit code.
    """
    options = _parse(arguments)
    path = options.csv or (SHIPPED if options.report else _DEFAULT_CSV)
    training = None if options.report else functools.partial(train, path, options)
    return command.run(path, training, results.read, report, (results.ResultsError,))


def train(path: Path, options: argparse.Namespace) -> None:
    """Train what is missing in the file, and append it.

    Raises:
        ResultsError: The file is of no use.
        OSError: It cannot be written.
    """
    contestants = dict.fromkeys((EQUAL, *options.contestants))
    done = {(row.cell, row.steps) for row in results.read(path)}
    wanted = cells(options.problems, list(contestants), options.seeds)
    left = [cell for cell in wanted if (cell, options.steps or PROBLEMS[cell.problem].steps) not in done]
    print(f"{len(wanted)} runs, {len(left)} of them still to do; into {path}", file=sys.stderr)
    began = time.perf_counter()
    runs = run_all(left, options.steps, path.parent, options.workers, runner=_run)
    for number, row in enumerate(runs, 1):
        results.append(path, row)
        minutes = (time.perf_counter() - began) / number * (len(left) - number) / 60.0
        what = f"{row.problem}, {row.contestant}, seed {row.seed}: {row.score:.4g} ({row.seconds:.0f} s)"
        print(f"{number:>4} of {len(left)}: {what}; {minutes:.0f} min left", file=sys.stderr, flush=True)


def _run(cell: Cell, steps: int | None, cache_dir: Path) -> results.Row:
    from balance_problems.training import run

    return run(cell, steps, cache_dir)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--report", action="store_true", help="print the comparison from the file; train nothing")
    parser.add_argument("--csv", type=Path, metavar="FILE", help=f"file of the results (default: {_DEFAULT_CSV})")
    parser.add_argument("--problems", type=names_of(PROBLEMS), default=list(PROBLEMS), help=_some(PROBLEMS))
    parser.add_argument("--contestants", type=names_of(CONTESTANTS), default=list(CONTESTANTS), help=_some(CONTESTANTS))
    parser.add_argument("--seeds", type=positive, default=5, help="number of seeds (5)")
    parser.add_argument("--steps", type=positive, help="training steps of a run, a multiple of 10 (the problem's)")
    parser.add_argument("--workers", type=positive, default=2, help="processes, of one thread each (2)")
    return parser.parse_args(arguments)


def _some(known: dict) -> str:
    return f"some of {','.join(known)} (all)"


if __name__ == "__main__":
    sys.exit(main())
