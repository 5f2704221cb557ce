"""The faults of `--inject`: which batch is to be corrupted, and how."""

from __future__ import annotations

import argparse

NAN = "nan"
SPIKE = "spike"


def parse(argument: str) -> dict[int, str]:
    """Read `nan@150,spike@220`.

    Args:
        argument: Faults `kind@step`, separated by commas; kinds are `nan` and `spike`, steps are counted from 1.

    Returns:
        Step -> kind, in the order of the steps.

    Raises:
        argparse.ArgumentTypeError: Anything else, or a step named twice.
    """
    faults: dict[int, str] = {}
    for item in argument.split(","):
        kind, separator, number = (part.strip() for part in item.partition("@"))
        if not separator or kind not in (NAN, SPIKE) or not number.isascii() or not number.isdigit() or int(number) < 1:
            raise argparse.ArgumentTypeError(
                f"expected nan@STEP or spike@STEP, separated by commas, with steps from 1; received {item.strip()!r} "
                f"in {argument!r}"
            )
        if int(number) in faults:
            raise argparse.ArgumentTypeError(f"step {int(number)} is named twice in {argument!r}")
        faults[int(number)] = kind
    return dict(sorted(faults.items()))
