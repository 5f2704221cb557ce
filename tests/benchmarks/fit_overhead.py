"""What the plugin costs: the time of `model.fit` beside plain Keras, and beside Keras's own TensorBoard callback.

    python tests/benchmarks/fit_overhead.py              # about an hour
    python tests/benchmarks/fit_overhead.py --quick      # a few minutes, two rows
    python tests/benchmarks/fit_overhead.py --step-ms 4 --width 320  # the model of 100 ms, few frames

All contestants train the same model with the same loss: plain Keras; the mixin alone; the mixin and
`AdaptiveMelWeightCallback(log_dir=...)`, also with `KAW_PLAIN=1`; plain Keras with `TensorBoard(update_freq="batch")`;
a train step of one's own that measures the gradients' norm and applies them where it is finite, and records nothing;
and plain Keras again, whose
distance from plain Keras is the noise of the measurement. They take turns in segments of a fraction of a second, in an
order that changes with every round. A figure is the median over all rounds of the time relative to plain Keras in the
same round, with its quartiles in brackets. Every row is measured in several sets of fresh processes, since where a
process's memory happens to lie makes a difference of a few percent for its whole life. What Keras and the callbacks do
between two executions does not suffer from that, and has a table of its own. All of them keep the memory that they once
took: handing it back at every step and taking it again, as the C library does with blocks of some sizes and not of
others, makes a short step up to a quarter longer, plain Keras's as well.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from contestant import (
    AGAIN,
    BY_HAND,
    CONTESTANTS,
    MIXIN,
    NO_TRICKS,
    PLAIN,
    PLUGIN,
    TENSORBOARD,
    Contestant,
    Cost,
    Task,
)
from markdown import publish, table

_WIDTHS = {2: 64, 20: 192, 100: 320}
_SHOWN = (MIXIN, PLUGIN, NO_TRICKS, TENSORBOARD, BY_HAND, AGAIN)
_WARMUP_STEPS = 150  # fills the controller's statistics, where that takes no longer than:
_MAX_WARMUP_SECONDS = 4.0
_MIN_ROUNDS = 5
_LONG_EXECUTION_SECONDS = 1.0  # it needs no lead-in: that the caches are the others' is over in a hundredth of it
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": 2**30, "MALLOC_MMAP_THRESHOLD_": 2**30, "MALLOC_TOP_PAD_": 2**26}
"""Read by the C library when a contestant's process starts: see mallopt(3)."""


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    width: int
    step_ms: int
    steps_per_execution: int
    jit_compile: bool

    @property
    def execution_seconds(self) -> float:
        """How long an execution of plain Keras is to take."""
        return 1e-3 * self.step_ms * self.steps_per_execution


def main() -> None:
    """Measure and print the table."""
    arguments = _arguments()
    os.environ.update({name: str(size) for name, size in _KEEP_MEMORY.items()})
    rows = [
        Row(arguments.width or _WIDTHS[step_ms], step_ms, steps, jit)
        for jit in (False, True)
        for step_ms in arguments.step_ms
        for steps in arguments.steps_per_execution
        if not (jit and arguments.no_xla)
    ]
    tasks: dict[Row, Task] = {}
    rounds: dict[Row, list[dict[str, Cost]]] = {row: [] for row in rows}
    for number in range(arguments.sets):
        contestants = {kind: Contestant(kind) for kind in CONTESTANTS}
        for row in rows:
            if row not in tasks:
                tasks[row] = _calibrate(contestants[PLAIN], row)
            rounds[row] += _measure(contestants, tasks[row], row, arguments)
            _progress(f"set {number + 1}, {row}: {_summary(rounds[row])}")
        for contestant in contestants.values():
            contestant.close()
    publish(_report(rows, rounds), arguments.output)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--step-ms", type=int, nargs="+", help="plain step times (2 20 100)")
    parser.add_argument("--width", type=int, help=f"units of the hidden layers ({_WIDTHS}, by the step time)")
    parser.add_argument("--steps-per-execution", type=int, nargs="+", help="(1 16)")
    parser.add_argument("--no-xla", action="store_true", help="leave out the rows with jit_compile=True")
    parser.add_argument("--sets", type=int, help="sets of fresh processes (3)")
    parser.add_argument("--seconds", type=float, help="length of a row in each set, or five rounds (40)")
    parser.add_argument("--segment", type=float, help="length of a segment in seconds, or one execution (0.2)")
    parser.add_argument("--quick", action="store_true", help="two rows, two sets of ten seconds")
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    full = {"step_ms": [2, 20, 100], "steps_per_execution": [1, 16], "sets": 3, "seconds": 40.0, "segment": 0.2}
    quick = {**full, "step_ms": [2, 20], "steps_per_execution": [1], "sets": 2, "seconds": 10.0, "no_xla": True}
    arguments = parser.parse_args()
    for name, value in (quick if arguments.quick else full).items():
        if not getattr(arguments, name):
            setattr(arguments, name, value)
    if arguments.width is None and not _WIDTHS.keys() >= set(arguments.step_ms):
        parser.error(f"--width must be given for steps other than {sorted(_WIDTHS)} ms")
    return arguments


def _calibrate(plain: Contestant, row: Row) -> Task:
    """Find the number of frames at which a step of plain Keras takes about as long as the row says."""

    def measure(frames: int) -> float:
        plain.begin(replace(task, frames=frames))
        took = min(plain.run(2).wall for _ in range(20))
        plain.end()
        return took

    lead_in = int(row.execution_seconds < _LONG_EXECUTION_SECONDS)
    task = Task(row.width, 1, row.steps_per_execution, row.jit_compile, lead_in)
    few, many = 4, 64
    least = measure(few)
    each = (measure(many) - least) / (many - few)
    return replace(task, frames=max(1, round(few + (row.step_ms - least) / each)))


def _measure(
    contestants: dict[str, Contestant], task: Task, row: Row, arguments: argparse.Namespace
) -> list[dict[str, Cost]]:
    """Return what each contestant's segment cost, round by round."""
    execution = row.execution_seconds
    for contestant in contestants.values():
        contestant.begin(task)
        contestant.run(round(min(_MAX_WARMUP_SECONDS, 1e-3 * row.step_ms * _WARMUP_STEPS) / execution))
    executions = max(1, round(arguments.segment / execution))
    rounds = round(arguments.seconds / (len(contestants) * (executions + task.lead_in) * execution))
    order = random.Random(7)
    measured = [
        {kind: contestants[kind].run(executions) for kind in order.sample(CONTESTANTS, len(CONTESTANTS))}
        for _ in range(max(_MIN_ROUNDS, rounds))
    ]
    for contestant in contestants.values():
        contestant.end()
    return measured


def _report(rows: Sequence[Row], rounds: dict[Row, list[dict[str, Cost]]]) -> str:
    header = ["plain", "steps per execution", "XLA", *_SHOWN[:-1], "noise"]
    text = ""
    for title, field, compare in (
        ("Wall time of a step, relative to plain Keras", "wall", _relative),
        ("CPU time of a step, relative to plain Keras", "cpu", _relative),
        ("Wall time of a step, beyond plain Keras's", "wall", _beyond),
        ("Wall time between two executions, beyond plain Keras's", "between", _beyond),
    ):
        lines = [
            [
                f"{statistics.median(getattr(r[PLAIN], field) for r in rounds[row]):.3g} ms",
                str(row.steps_per_execution),
                "yes" if row.jit_compile else "no",
                *(compare(rounds[row], kind, field) for kind in _SHOWN),
            ]
            for row in rows
        ]
        text += f"{title}\n\n{table(header, lines)}\n"
    return text


def _relative(rounds: Sequence[dict[str, Cost]], kind: str, field: str) -> str:
    """Return the median and the quartiles of the cost relative to plain Keras of the same round."""
    return quartiles([100.0 * (getattr(r[kind], field) / getattr(r[PLAIN], field) - 1.0) for r in rounds], ".1f", "%")


def _beyond(rounds: Sequence[dict[str, Cost]], kind: str, field: str) -> str:
    """Return the median and the quartiles of what it costs more than plain Keras in the same round."""
    return quartiles([getattr(r[kind], field) - getattr(r[PLAIN], field) for r in rounds], ".3f", "ms")


def quartiles(values: Sequence[float], digits: str, unit: str) -> str:
    """Return the median, and the quartiles in brackets."""
    low, median, high = (f"{value:+{digits}}" for value in statistics.quantiles(values, n=4, method="inclusive"))
    return f"{median} {unit} ({low} … {high})"


def _summary(rounds: Sequence[dict[str, Cost]]) -> str:
    plain = statistics.median(r[PLAIN].wall for r in rounds)
    return f"plain {plain:.3g} ms, " + ", ".join(f"{kind} {_relative(rounds, kind, 'wall')}" for kind in _SHOWN)


def _progress(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")


if __name__ == "__main__":
    main()
