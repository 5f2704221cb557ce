"""One run of the grid."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras

import keras_adaptive_weights as kaw

from .contestants import loss_and_callbacks
from .grid import PROBLEMS, Cell
from .problems import problem
from .results import Row

_PER_EXECUTION, _OF_A_CONSTRAINT = 10, 1
"""Steps per execution. A constraint moves every ten steps, and decisions are taken at the end of an execution."""


def run(cell: Cell, steps: int | None, cache_dir: Path | None = None) -> Row:
    """Train one contestant on one problem.

    Args:
        cell: Which.
        steps: Training steps, a multiple of 10. `None`: those of the problem.
        cache_dir: Of no use; `run_all` hands one on.
    """
    del cache_dir
    keras.backend.clear_session()
    began, steps = time.perf_counter(), steps or PROBLEMS[cell.problem].steps
    task = problem(cell.problem, cell.seed, steps)
    inputs, outputs = task.outputs()
    model = kaw.StableModel(inputs, outputs)
    loss, callbacks = loss_and_callbacks(cell.contestant, cell.problem, task.terms)
    per_execution = _OF_A_CONSTRAINT if PROBLEMS[cell.problem].limit else _PER_EXECUTION
    model.compile(keras.optimizers.Adam(task.rate), loss=loss, steps_per_execution=per_execution, jit_compile=False)
    model.fit(task.dataset(cell.seed, steps), verbose=0, callbacks=callbacks, shuffle=False)
    weights = {name: weight.weight for name, weight in loss.adaptive_weights.items()}
    return Row(
        cell.problem,
        cell.contestant,
        cell.seed,
        steps,
        task.score(model),
        " ".join(f"{name}={value:.4g}" for name, value in weights.items()),
        _changes(callbacks),
        time.perf_counter() - began,
    )


def _changes(callbacks: list[Any]) -> int:
    """Return how often weights moved."""
    return sum(len(getattr(callback, "decisions", ())) for callback in callbacks)
