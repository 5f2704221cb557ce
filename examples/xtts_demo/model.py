"""A small XTTS-style model: text and a reference of the speaker in, a mel spectrogram out, group by group of frames."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from keras_adaptive_weights import StableTrainStepMixin

from . import features, text
from .layers import Block, SpeakerEncoder, add_positions


class XTTSModel(StableTrainStepMixin, keras.Model):
    """Autoregressive text-to-speech model with speaker conditioning, about 2 million parameters by default.

    As in XTTS the reference becomes a few latent vectors, which are the first elements of the decoder's sequence. The
    decoder makes `reduction` frames in a step; it sees the latents, the frames of earlier steps, and the text by
    cross-attention. B: batch, N: characters, T: frames (a multiple of `reduction`), D = T / `reduction`: decoder steps.

    Args:
        vocabulary_size: Number of tokens; 0 is padding.
        mel_bands: Bands of the spectrogram.
        width: Channels, a multiple of `heads`, even.
        heads: Attention heads.
        encoder_blocks: Transformer blocks over the text.
        decoder_blocks: Transformer blocks over the frames.
        latents: Vectors that describe the speaker.
        reduction: Frames of one decoder step.
        dropout: Dropout rate; that of the frames fed back is four times as high.
    """

    def __init__(
        self,
        vocabulary_size: int = text.VOCABULARY_SIZE,
        mel_bands: int = features.MEL_BANDS,
        width: int = 160,
        heads: int = 4,
        encoder_blocks: int = 2,
        decoder_blocks: int = 3,
        latents: int = 4,
        reduction: int = 4,
        dropout: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.mel_bands, self.width, self.latents, self.reduction = mel_bands, width, latents, reduction
        self.embed = layers.Embedding(vocabulary_size, width)
        self.convolve = layers.Conv1D(width, 5, padding="same", activation="gelu")
        self.encoder = [Block(width, heads, dropout, name=f"encoder_{n}") for n in range(encoder_blocks)]
        self.normalise_text = layers.LayerNormalization(epsilon=1e-5)
        self.speaker = SpeakerEncoder(width, heads, latents)
        self.duration = keras.Sequential([layers.Dense(width, activation="gelu"), layers.Dense(1)], name="duration")
        self.feed_back = layers.Dense(width, activation="gelu")
        self.feed_back_drop = layers.Dropout(min(0.5, 4.0 * dropout))
        self.feed_back_out = layers.Dense(width)
        self.decoder = [Block(width, heads, dropout, cross=True, name=f"decoder_{n}") for n in range(decoder_blocks)]
        self.normalise_frames = layers.LayerNormalization(epsilon=1e-5)
        self.to_mel = layers.Dense(reduction * mel_bands)
        self.to_stop = layers.Dense(reduction)

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> dict[str, Any]:
        """Predict every group of frames from the true groups before it (teacher forcing).

        Args:
            inputs: `text` [B, N], tokens; `mel` [B, T, bands], the spectrogram to be spoken; `reference_mel`
                [B, R, bands], another utterance of the speaker, R of any length.
            training: Whether dropout is on.

        Returns:
            `mel_output` [B, T, bands]; `stop_tokens` [B, T], logits; `attention_weights` [B, D, N], of the last decoder
            block, rows sum to 1; `duration_pred` [B, N], log(1 + frames).
        """
        memory, mask, latents = self.encode(inputs["text"], inputs["reference_mel"], training=training)
        mel, stop, attention = self.decode(inputs["mel"], memory, mask, latents, training=training)
        return {
            "mel_output": mel,
            "stop_tokens": stop,
            "attention_weights": attention,
            "duration_pred": ops.where(mask, self.duration(memory)[..., 0], 0.0),
        }

    def encode(self, tokens: Any, reference_mel: Any, training: bool | None = None) -> tuple[Any, Any, Any]:
        """Encode text and speaker.

        Args:
            tokens: Text [B, N].
            reference_mel: Reference [B, R, bands].
            training: Whether dropout is on.

        Returns:
            Encoded text [B, N, C]; which of it is no padding, booleans [B, N]; latents of the speaker [B, L, C].
        """
        mask = ops.not_equal(tokens, text.PADDING)
        latents = self.speaker(reference_mel)
        # Zeroed before the convolution, whose borders are zeros too: padding changes nothing.
        x = ops.where(mask[..., None], add_positions(self.embed(tokens)), 0.0)
        x = x + self.convolve(x)
        for block in self.encoder:
            x, _ = block(x, mask[:, None, :], training=training)
        return self.normalise_text(x) + ops.mean(latents, axis=1, keepdims=True), mask, latents

    def decode(
        self, mel: Any, memory: Any, mask: Any, latents: Any, training: bool | None = None
    ) -> tuple[Any, Any, Any]:
        """Predict every group of frames from the groups before it.

        Args:
            mel: Frames [B, T, bands].
            memory: Encoded text [B, N, C].
            mask: Which of it is no padding, booleans [B, N].
            latents: The speaker [B, L, C].
            training: Whether dropout is on.

        Returns:
            Frames [B, T, bands], stop logits [B, T] and attention weights [B, D, N].
        """
        frames = mel.shape[1]
        steps = frames // self.reduction
        groups = ops.reshape(mel, (-1, steps, self.reduction * self.mel_bands))
        shifted = ops.pad(groups[:, :-1], ((0, 0), (1, 0), (0, 0)))
        x = self.feed_back_out(self.feed_back_drop(self.feed_back(shifted), training=training))
        x = ops.concatenate([latents, add_positions(x)], axis=1)
        for block in self.decoder:
            x, attention = block(x, None, memory, mask[:, None, :], causal=True, training=training)
        x = self.normalise_frames(x[:, self.latents :])
        mel = ops.reshape(self.to_mel(x), (-1, frames, self.mel_bands))
        return mel, ops.reshape(self.to_stop(x), (-1, frames)), attention[:, self.latents :]

    def synthesise(
        self, tokens: np.ndarray, reference_mel: np.ndarray, max_frames: int, stop_threshold: float = 0.5
    ) -> tuple[np.ndarray, np.ndarray]:
        """Speak: predict group after group from the model's own output, until it says stop.

        Args:
            tokens: Text [B, N].
            reference_mel: References of the speakers [B, R, bands].
            max_frames: Where to stop at the latest, a multiple of `reduction`.
            stop_threshold: Probability of the stop token from which a frame is the last.

        Returns:
            Spectrograms [B, max_frames, bands], silence after their end; and their lengths in frames [B].

        Raises:
            ValueError: `max_frames` is no positive multiple of `reduction`.
        """
        if max_frames < 1 or max_frames % self.reduction:
            raise ValueError(
                f"{type(self).__name__}: argument `max_frames` must be a positive multiple of reduction="
                f"{self.reduction}. Received: max_frames={max_frames!r}."
            )
        encoded = self.encode(ops.convert_to_tensor(tokens), ops.convert_to_tensor(reference_mel), training=False)
        step = tf.function(lambda frames: self.decode(frames, *encoded, training=False)[:2])
        mel = np.full((len(tokens), max_frames, self.mel_bands), features.SILENCE, np.float32)
        lengths = np.full(len(tokens), max_frames)
        for start in range(0, max_frames, self.reduction):
            group = slice(start, start + self.reduction)
            predicted, stop = (output.numpy() for output in step(mel))
            mel[:, group] = predicted[:, group]
            last = 1.0 / (1.0 + np.exp(-stop[:, group])) >= stop_threshold
            ended = last.any(axis=1) & (lengths == max_frames)
            lengths[ended] = start + 1 + last.argmax(axis=1)[ended]
            if (lengths <= start + self.reduction).all():
                break
        mel[np.arange(max_frames)[None, :] >= lengths[:, None]] = features.SILENCE
        return mel, lengths
