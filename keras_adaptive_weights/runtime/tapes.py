"""What a `tf.GradientTape` does not tell by a public name."""

from __future__ import annotations

from typing import Any


def gives_gradients_once(tape: Any) -> bool:
    """Whether a tape is known not to be persistent; where the name is gone, TensorFlow says so by itself."""
    return not getattr(tape, "_persistent", True)
