"""The switch that turns off whatever makes training faster by other means than Keras's and TensorFlow's public API."""

from __future__ import annotations

import os

VARIABLE = "KAW_PLAIN"
TRICKS = ("train_function", "packed_logs", "known_scalars", "conditional_writes", "read_once", "xla_norms")
"""The tricks by name; the docstring of `runtime` says what each of them is, and what it gains."""


def plain(trick: str) -> bool:
    """Whether to do without a trick, as the environment variable `KAW_PLAIN` says.

    `1`: without all of them, to the same results. Names, separated by commas: without those. `0` or nothing: with all.
    It is read when something is traced or made, so that a running train function stays as it is.

    Args:
        trick: One of `TRICKS`.

    Raises:
        ValueError: The variable holds anything else.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked in ("", "0", "1"):
        return asked == "1"
    names = asked.split(",")
    if not {*names} <= {*TRICKS}:
        raise ValueError(
            f"Environment variable {VARIABLE} must be 1 (without all tricks), 0, or names of {', '.join(TRICKS)}. "
            f"Received: {VARIABLE}={asked}."
        )
    return trick in names
