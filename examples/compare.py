"""Compare the adaptive weight with what people use now, on a small speech model, through several kinds of trouble.

    python examples/compare.py
    python examples/compare.py --report
    python examples/compare.py --quick --csv runs/quick.csv

The whole grid, 7 scenarios x 7 contestants x 5 seeds, takes an hour and a half on two cores. Every run appends a row to
a CSV file; started again after an interruption it goes on with what is missing. `--report` trains nothing, and prints
the comparison from the file given, or else from the results that come with this example.

The contestants of a seed and scenario have the same initial parameters, batches, dropout and faults, so that they
differ in nothing but how they are trained; on a clean run plain Keras and the mixin are equal to the last bit. All are
validated at the same weights. Time is CPU time of the whole process for a step, and so hardly depends on what else the
machine does; the adaptive weight keeps its journal and TensorBoard files meanwhile.

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

from compare_grid import command, results
from compare_grid.command import factor, names_of, positive
from compare_grid.data import find_clips
from compare_grid.grid import CONTESTANTS, SCENARIOS, USUAL_ROOM, Settings, cells
from compare_grid.pool import run_all
from compare_grid.report import report
from xtts_demo.clips import DataError
from xtts_demo.options import default_cache_dir

SHIPPED = Path(__file__).parent / "compare_grid" / "results.csv"
_DEFAULT_CSV = Path("runs") / "compare.csv"
_QUICK = {"steps": 120, "seeds": 2, "scenarios": ["clean", "nan"]}


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
    return command.run(path, training, results.read, report, (DataError, results.ResultsError))


def train(path: Path, options: argparse.Namespace) -> None:
    """Train what is missing in the file, and append it.

    Args:
        path: The file of results.
        options: The parsed options.

    Raises:
        ResultsError: The file is of no use, or of a grid with other settings.
        DataError: The corpus cannot be made.
        OSError: The file cannot be written.
    """
    settings = Settings(steps=options.steps, max_clips=options.max_clips, room=options.room)
    wanted = cells(options.scenarios, options.contestants, options.seeds)
    left = results.missing(wanted, results.read(path), settings.label)
    print(f"{len(wanted)} runs, {len(left)} of them still to do: {settings.label}; into {path}", file=sys.stderr)
    if not left:
        return
    find_clips(options.cache_dir, settings)  # now, rather than in every worker
    started = time.perf_counter()
    for number, row in enumerate(run_all(left, settings, options.cache_dir, options.workers), 1):
        results.append(path, row)
        print(_progress(number, len(left), time.perf_counter() - started, row), file=sys.stderr, flush=True)


def _progress(number: int, total: int, seconds: float, row: results.Row) -> str:
    ending = f"mel L1 {row.val_mel_l1:.4f}" if row.finite else "not finite"
    remaining = seconds / number * (total - number) / 60.0
    return (
        f"{number:>4} of {total}: {row.scenario}, {row.contestant}, seed {row.seed}: {ending}; {remaining:.0f} min left"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--report", action="store_true", help="print the comparison from the file; train nothing")
    parser.add_argument("--csv", type=Path, metavar="FILE", help=f"file of the results (default: {_DEFAULT_CSV})")
    parser.add_argument("--quick", action="store_true", help="a small grid, to see it work: fewer steps and seeds")
    parser.add_argument("--steps", type=positive, help=f"training steps of a run ({Settings().steps})")
    parser.add_argument("--seeds", type=positive, help="number of seeds (5)")
    parser.add_argument("--scenarios", type=names_of(SCENARIOS), help=f"some of {','.join(SCENARIOS)} (all)")
    parser.add_argument("--contestants", type=names_of(CONTESTANTS), help=f"some of {','.join(CONTESTANTS)} (all)")
    parser.add_argument("--room", type=factor, default=USUAL_ROOM, help="how far balanced weights may move (100)")
    parser.add_argument("--max-clips", type=positive, help="read only so many sentences of the corpus (all)")
    parser.add_argument("--workers", type=positive, default=2, help="processes, of one thread each (2)")
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir(), help="for corpus and spectrograms")
    options = parser.parse_args(arguments)
    defaults = {"steps": Settings().steps, "seeds": 5, "scenarios": list(SCENARIOS)}
    defaults |= {"contestants": list(CONTESTANTS)} | (_QUICK if options.quick else {})
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    sys.exit(main())
