"""The mask that a Keras layer leaves on its output: which positions are no padding."""

from __future__ import annotations

from typing import Any


def keras_mask(tensor: Any) -> Any:
    """Return the mask of a tensor, or None. Where Keras keeps it under another name one day, nothing is masked."""
    return getattr(tensor, "_keras_mask", None)


def set_keras_mask(tensor: Any, mask: Any) -> None:
    """Put a mask on a tensor that was made of one that had it."""
    tensor._keras_mask = mask  # noqa: SLF001 - where Keras's own losses and layers look for it
