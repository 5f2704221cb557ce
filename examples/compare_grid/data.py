"""The clips of the grid: the corpus of `train_xtts.py`, the same for all seeds. Without TensorFlow."""

from __future__ import annotations

import functools
from pathlib import Path

from xtts_demo.clips import Clip, scan
from xtts_demo.corpus import synthetic_corpus

from .grid import Settings

CORPUS_SEED = 0


@functools.cache
def find_clips(cache_dir: Path, settings: Settings) -> list[Clip]:
    """Return the usable clips, made and kept in the cache where they are not there yet.

    Raises:
        DataError: The corpus cannot be made, or the cache cannot be written.
    """
    folder = synthetic_corpus(cache_dir, CORPUS_SEED)
    return scan(folder, cache_dir, max_seconds=settings.max_seconds, max_clips=settings.max_clips).clips
