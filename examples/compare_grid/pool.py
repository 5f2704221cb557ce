"""The workers: processes of one thread each, which train one run after the other. The parent alone writes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from .grid import Cell, Settings
from .results import Row

_RUNS_OF_A_PROCESS = 25  # then a new one: what TensorFlow never gives back stays bounded


def run_all(
    cells: Sequence[Cell],
    settings: Settings,
    cache_dir: Path,
    workers: int,
    *,
    runner: Callable[[Cell, Settings, Path], Row] | None = None,
) -> Iterator[Row]:
    """Train the runs and yield their rows as they come.

    Args:
        cells: The runs.
        settings: What they have in common.
        cache_dir: Where corpus and spectrograms are kept.
        workers: Number of processes.
        runner: What trains one run, importable. `None`: `training.run`.

    Raises:
        BrokenProcessPool: A worker died.
    """
    share = _RUNS_OF_A_PROCESS * workers
    for first in range(0, len(cells), share):
        # A new executor, since one with `max_tasks_per_child` may wait for ever (python/cpython#115634).
        executor = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_prepare)
        try:
            some = cells[first : first + share]
            futures = [executor.submit(runner or _train, cell, settings, cache_dir) for cell in some]
            for future in as_completed(futures):
                yield future.result()
        finally:
            executor.shutdown(cancel_futures=True)


def _prepare() -> None:
    """Keep TensorFlow to one thread and the CPU, before it is imported; see to it that the worker ends at last."""
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1", CUDA_VISIBLE_DEVICES="")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is killed: it would wait for its next run for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _train(cell: Cell, settings: Settings, cache_dir: Path) -> Row:
    from .training import run

    return run(cell, settings, cache_dir)
