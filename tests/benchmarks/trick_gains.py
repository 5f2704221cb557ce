"""What each trick of `runtime` gains: the time of a step without it, relative to the same step with all of them.

    python tests/benchmarks/trick_gains.py              # about ten minutes
    python tests/benchmarks/trick_gains.py --steps-per-execution 1 --no-xla --seconds 60

One process, and in it a model for each trick that is left out, one that leaves out all of them, one that is as the
first, whose distance is the noise of the measurement, and plain Keras. They take turns in segments of a few steps, in
an order that changes with every round. Other work on the machine only ever adds to a segment, so that a figure compares
the lower quartiles of all segments; in brackets is the same for each fifth of the rounds, from the least to the most.
What Keras does around an execution is done: it makes numbers of the logs for the callbacks.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
from contestant import Cost, Task, make_data, make_model
from markdown import publish, table

import keras_adaptive_weights as kaw
from keras_adaptive_weights.runtime.plain import TRICKS

_REFERENCE, _ALL = "nothing", "all of them"
_FEW, _MANY = 4, 64  # frames
_PARTS = 5


def main() -> None:
    """Measure and print the table."""
    arguments = _arguments()
    columns = {}
    for jit in (False, True)[: 1 if arguments.no_xla else 2]:
        for steps in arguments.steps_per_execution:
            task = Task(arguments.width, 1, steps, jit_compile=jit, lead_in=1)
            columns[f"{steps} per execution{', XLA' * jit}"] = _measure(_calibrate(task, arguments.step_ms), arguments)
    names = next(iter(columns.values()))
    text = ""
    for field in ("wall", "cpu"):
        rows = [[name, *(column[name][field] for column in columns.values())] for name in names]
        text += f"{field} time of a step\n\n{table(['without', *columns], rows)}\n"
    publish(text, arguments.output)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--step-ms", type=float, default=2.0, help="plain step time (2)")
    parser.add_argument("--width", type=int, default=64, help="units of the hidden layers (64)")
    parser.add_argument("--steps-per-execution", type=int, nargs="+", default=[1, 16], help="(1 16)")
    parser.add_argument("--no-xla", action="store_true", help="leave out the columns with jit_compile=True")
    parser.add_argument("--tricks", nargs="+", choices=TRICKS, default=TRICKS, help="those to leave out (each)")
    parser.add_argument("--seconds", type=float, default=120.0, help="length of a column (120)")
    parser.add_argument(
        "--segment", type=float, default=0.02, help="length of a segment in seconds, or one execution (0.02)"
    )
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    return parser.parse_args()


def _calibrate(task: Task, step_ms: float) -> Task:
    """Find the number of frames at which a step of plain Keras takes about so long."""

    def measure(frames: int) -> float:
        run = _runner(keras.Model, replace(task, frames=frames), "0")
        return min(run(2).wall for _ in range(30))

    few, many = measure(_FEW), measure(_MANY)
    return replace(task, frames=max(1, round(_FEW + (step_ms - few) * (_MANY - _FEW) / (many - few))))


def _measure(task: Task, arguments: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Return wall and CPU time, by what is left out."""
    without = {"nothing, again": "0", **{trick: trick for trick in arguments.tricks}, _ALL: "1"}
    runners = {name: _runner(kaw.StableModel, task, plain) for name, plain in without.items()}
    runners["plain Keras"] = _runner(keras.Model, task, "0")
    runners[_REFERENCE] = _runner(kaw.StableModel, task, "0")
    executions = max(1, round(arguments.segment / (1e-3 * arguments.step_ms * task.steps_per_execution)))
    order, names, rounds = random.Random(7), list(runners), []
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end or len(rounds) < 2 * _PARTS:
        rounds.append({name: runners[name](executions) for name in order.sample(names, len(names))})
    names.remove(_REFERENCE)
    return {name: {field: _compare(rounds, name, field) for field in ("wall", "cpu")} for name in names}


def _compare(rounds: Sequence[dict[str, Cost]], name: str, field: str) -> str:
    """Return what a step of it costs more than the reference's, of all rounds and the range over parts of them."""

    def percent(some: Sequence[dict[str, Cost]]) -> float:
        low, reference = (
            statistics.quantiles([getattr(costs[which], field) for costs in some], n=4, method="inclusive")[0]
            for which in (name, _REFERENCE)
        )
        return 100.0 * (low / reference - 1.0)

    parts = [percent(rounds[start::_PARTS]) for start in range(_PARTS)]
    return f"{percent(rounds):+.1f} % ({min(parts):+.1f} … {max(parts):+.1f})"


def _runner(cls: type[keras.Model], task: Task, plain: str) -> Callable[[int], Cost]:
    """Return a function that runs so many executions of a model as `fit` does, and says what a step of them cost."""
    os.environ["KAW_PLAIN"] = plain
    model = make_model(cls, task)
    model.make_train_function()
    callbacks = keras.callbacks.CallbackList([keras.callbacks.Callback()], model=model)
    iterator = iter(make_data(task))

    def execute() -> None:
        callbacks.on_train_batch_begin(0)
        callbacks.on_train_batch_end(0, model.train_function(iterator))

    def run(executions: int) -> Cost:
        for _ in range(task.lead_in):
            execute()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(executions):
            execute()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        steps = executions * task.steps_per_execution
        return Cost(1e3 * wall / steps, 1e3 * cpu / steps, 0.0)

    execute()  # traces, while the variable is set
    return run


if __name__ == "__main__":
    main()
