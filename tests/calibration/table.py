"""The calibration of the decision rule, as the table of the guide to the evidence.

python tests/calibration/table.py                # what the tests check with a few seeds, with many
python tests/calibration/table.py --factor 1     # with a tenth of these
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from experiments import Row, cases, measure


def pool(processes: int) -> ProcessPoolExecutor:
    """Return an executor of fresh processes; forking one that has threads is not safe."""
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, each group named once."""
    lines = ["| What | Case | Target | Measured | Met |", "|---|---|---|---|---|"]
    group = ""
    for row in rows:
        shown = "" if row.group == group else row.group
        group = row.group
        lines.append(f"| {shown} | {row.case} | {row.target} | {row.measured} | {'yes' if row.met else '**no**'} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--factor", type=float, default=10.0, help="multiple of each case's own number of seeds (10)")
    parser.add_argument("--processes", type=int, default=2, help="processes to simulate in (2)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose group or name has this in it")
    options = parser.parse_args(arguments)
    rows = []
    with pool(options.processes) as executor:
        for case in cases():
            if options.only.lower() in f"{case.group} {case.name}".lower():
                rows.append(measure(case, executor, max(1, round(case.runs * options.factor))))
                print(f"{case.group}: {case.name}: {rows[-1].measured}", file=sys.stderr)
    print(markdown(rows))
    return int(not all(row.met for row in rows))


if __name__ == "__main__":
    sys.exit(main())
