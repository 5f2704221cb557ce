"""A balance by its name, as it is given on a command line."""

from __future__ import annotations

from typing import Any

FORMS = "guide, auto, share:TERM=PART[,TERM=PART...], constraint:TERM=LIMIT or sqrt"
"""What `balance_of` reads."""


def balance_of(text: str) -> Any:
    """Return the strategy that a text names; `None` for "guide", the guide's rule term by term.

    Raises:
        ValueError: It names none.

    Example:

    >>> balance_of("share:mel_loss=0.6").shares
    {'mel_loss': 0.6}
    """
    from keras_adaptive_weights.deciding.constraint import Constraint  # noqa: PLC0415 - `--help` needs but the forms
    from keras_adaptive_weights.deciding.gradient_share import GradientShare  # noqa: PLC0415
    from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss  # noqa: PLC0415

    kind, _, rest = text.partition(":")
    if not rest and kind in ("guide", "auto", "sqrt") and ":" not in text:
        return {"guide": None, "auto": GradientShare(), "sqrt": SqrtLoss()}[kind]
    parts = [part.rpartition("=") for part in rest.split(",")]
    try:
        values = {name: float(value) for name, equals, value in parts if equals}
        if kind == "share" and len(values) == len(parts):
            return GradientShare(values)
        if kind == "constraint" and len(values) == 1:
            ((term, limit),) = values.items()
            return Constraint(term, at_most=limit)
    except ValueError as error:
        raise ValueError(f"a balance must be one of {FORMS}. Received: {text!r}: {error}") from None
    raise ValueError(f"a balance must be one of {FORMS}. Received: {text!r}.")
