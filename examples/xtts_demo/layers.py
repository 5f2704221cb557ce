"""Building blocks of the model: positions, transformer blocks, and the speaker encoder."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops


def add_positions(x: Any) -> Any:
    """Add sinusoidal positions to a sequence [B, S, C]; S is static and C even."""
    _, length, width = x.shape
    rates = 10_000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * rates[None, :]
    return x + ops.convert_to_tensor(np.concatenate([np.sin(angles), np.cos(angles)], axis=1), x.dtype)


class Block(layers.Layer):
    """Pre-norm transformer block: self-attention, optionally cross-attention, feed-forward.

    Args:
        width: Channels, C.
        heads: Attention heads, a divisor of `width`.
        dropout: Rate after each of the parts.
        cross: Whether there is a cross-attention.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, cross: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.normalise_self = layers.LayerNormalization(epsilon=1e-5)
        self.attend_self = layers.MultiHeadAttention(heads, width // heads)
        self.normalise_cross = layers.LayerNormalization(epsilon=1e-5) if cross else None
        self.attend_cross = layers.MultiHeadAttention(heads, width // heads) if cross else None
        self.normalise_out = layers.LayerNormalization(epsilon=1e-5)
        self.widen = layers.Dense(4 * width, activation="gelu")
        self.narrow = layers.Dense(width)
        self.drop = layers.Dropout(dropout)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build every part; the text that is attended to has as many channels as the input."""
        width = input_shape[-1]
        for part in (self.normalise_self, self.normalise_cross, self.normalise_out, self.widen):
            if part is not None:
                part.build(input_shape)
        self.attend_self.build(input_shape, input_shape)
        if self.attend_cross is not None:
            self.attend_cross.build(input_shape, input_shape)
        self.narrow.build((*input_shape[:-1], 4 * width))
        self.built = True

    def call(
        self,
        x: Any,
        mask: Any = None,
        memory: Any = None,
        memory_mask: Any = None,
        *,
        causal: bool = False,
        training: bool | None = None,
    ) -> tuple[Any, Any]:
        """Transform a sequence.

        Args:
            x: Sequence [B, S, C].
            mask: Which positions may be attended to, booleans [B, 1, S]. `None`: all.
            memory: What the cross-attention looks at, [B, N, C].
            memory_mask: Which of it, booleans [B, 1, N].
            causal: Whether a position sees itself and earlier ones only.
            training: Whether dropout is on.

        Returns:
            The sequence [B, S, C], and the cross-attention's weights [B, S, N], the mean of its heads (`None` without).
        """
        inner = self.normalise_self(x)
        inner = self.attend_self(inner, inner, attention_mask=mask, use_causal_mask=causal)
        x = x + self.drop(inner, training=training)
        weights = None
        if self.attend_cross is not None:
            inner, scores = self.attend_cross(
                self.normalise_cross(x), memory, attention_mask=memory_mask, return_attention_scores=True
            )
            x = x + self.drop(inner, training=training)
            weights = ops.mean(scores, axis=1)
        inner = self.narrow(self.widen(self.normalise_out(x)))
        return x + self.drop(inner, training=training), weights


class SpeakerEncoder(layers.Layer):
    """Turns a reference spectrogram into a few latent vectors, by attention of learned queries (a perceiver).

    Args:
        width: Channels, C.
        heads: Attention heads.
        latents: Number of vectors, L.
    """

    def __init__(self, width: int, heads: int, latents: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.latents = width, latents
        self.first = layers.Conv1D(width // 2, 5, strides=2, padding="same", activation="gelu")
        self.second = layers.Conv1D(width, 5, strides=2, padding="same", activation="gelu")
        self.normalise = layers.LayerNormalization(epsilon=1e-5)
        self.attend = layers.MultiHeadAttention(heads, width // heads)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build every part and make the queries."""
        self.first.build(input_shape)
        self.second.build((*input_shape[:2], self.width // 2))
        sequence = (input_shape[0], None, self.width)
        self.normalise.build(sequence)
        self.attend.build((input_shape[0], self.latents, self.width), sequence)
        self.queries = self.add_weight(
            shape=(self.latents, self.width), initializer=keras.initializers.RandomNormal(stddev=0.5), name="queries"
        )
        self.built = True

    def call(self, reference_mel: Any) -> Any:
        """Return latents [B, L, C] of a reference [B, R, 80]."""
        heard = self.normalise(self.second(self.first(reference_mel)))
        queries = ops.broadcast_to(self.queries[None], (ops.shape(heard)[0], self.latents, self.width))
        return queries + self.attend(queries, heard)
