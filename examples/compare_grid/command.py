"""What the commands that fill a grid of runs have in common: their options' values, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any


def run(
    path: Path,
    train: Callable[[], None] | None,
    read: Callable[[Path], Any],
    report: Callable[[Any], str],
    refused: tuple[type[Exception], ...],
) -> int:
    """Train what is missing in a file of results, and print the report; return the exit code.

    Args:
        path: The file.
        train: Trains, and appends to it. `None`: nothing is trained.
        read: Reads its rows.
        report: Makes the report of the rows.
        refused: What is raised where data or file are of no use.
    """
    try:
        if train is not None:
            train()
        rows = read(path)
    except (OSError, *refused) as problem:
        print(f"error: {path}: {problem}", file=sys.stderr)
        return 2
    except BrokenProcessPool:
        print("error: a worker died, perhaps for want of memory. Start again: it goes on.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; start again to go on. The rows so far are in {path}", file=sys.stderr)
        return 130
    if not rows:
        print(f"error: {path}: no results there. Train first: without --report.", file=sys.stderr)
        return 2
    print(report(rows))
    return 0


def positive(text: str) -> int:
    """Return an option's value as a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1; received {text!r}")
    return int(text)


def factor(text: str) -> float:
    """Return an option's value as a number above 1."""
    with contextlib.suppress(ValueError):
        if 1.0 < (number := float(text)) < math.inf:
            return number
    raise argparse.ArgumentTypeError(f"expected a number above 1; received {text!r}")


def names_of(known: dict) -> Callable[[str], list[str]]:
    """Return a converter of names, separated by commas, that refuses those it does not know."""

    def convert(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        if unknown := [name for name in chosen if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
        return [name for name in known if name in chosen]

    return convert
