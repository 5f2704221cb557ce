"""Clips to batches: the split, the shapes, and the `tf.data` pipelines."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from . import features, inject, text
from .audio import SAMPLE_RATE
from .clips import Clip, DataError

REFERENCE_FRAMES = 128
VALIDATION_SHARE = 0.1
_LOADERS = 2


@dataclass(frozen=True, slots=True)
class Shape:
    """The one shape that all batches have, so that a compiled step fits them all.

    Attributes:
        frames: Mel frames, a multiple of the model's reduction factor.
        characters: Text tokens.
    """

    frames: int
    characters: int

    @property
    def seconds(self) -> float:
        """Duration of the frames."""
        return self.frames * features.HOP / SAMPLE_RATE


def common_shape(clips: Sequence[Clip], reduction: int) -> Shape:
    """Return the smallest shape that all clips fit, in multiples of 4 decoder steps and 8 characters.

    Args:
        clips: The clips, at least one.
        reduction: Frames of one decoder step.
    """

    def round_up(number: int, unit: int) -> int:
        return unit * math.ceil(number / unit)

    frames = round_up(max(clip.frames for clip in clips), 4 * reduction)
    return Shape(frames, round_up(max(len(clip.tokens) for clip in clips), 8))


def split(clips: Sequence[Clip], seed: int, batch_size: int) -> tuple[list[Clip], list[Clip]]:
    """Divide the clips by utterance: a tenth of every speaker for validation, at least one in all.

    Every speaker keeps two clips for training, so that the reference is never the utterance itself and never a clip of
    the other part. More validation clips than a batch holds are cut to whole batches.

    Args:
        clips: Usable clips.
        seed: Seed of the choice.
        batch_size: Utterances of a batch.

    Returns:
        Training clips, validation clips.

    Raises:
        DataError: No speaker has three clips.
    """
    chooser = np.random.default_rng(seed)
    by_speaker: dict[str, list[int]] = defaultdict(list)
    for index, clip in enumerate(clips):
        by_speaker[clip.speaker].append(index)
    groups = [chooser.permutation(group) for group in by_speaker.values() if len(group) >= 3]
    if not groups:
        raise DataError(
            f"{len(clips)} usable clips are too few: training, validation and a reference need at least three of one "
            "speaker."
        )
    chosen = [group[: min(round(VALIDATION_SHARE * len(group)), len(group) - 2)] for group in groups]
    validation = np.concatenate(chosen) if any(map(len, chosen)) else max(groups, key=len)[:1]
    validation = chooser.permutation(validation)
    if len(validation) > batch_size:
        validation = validation[: len(validation) - len(validation) % batch_size]
    held_out = set(validation.tolist())
    training = [clip for index, clip in enumerate(clips) if index not in held_out]
    return training, [clips[index] for index in sorted(held_out)]


class Batches:
    """Makes the batches of a training: `(inputs, targets)`, the dictionaries of the model and of `XTTSLoss`.

    Inputs: `text` [B, N] int32; `mel` [B, T, 80], the target itself, which the model shifts by a step; `reference_mel`
    [B, 128, 80], a stretch of another utterance of the same speaker. Targets: `mel_target` [B, T, 80], `mel_lengths`
    [B], `stop_target` [B, T] (1 from the last frame on), `text_lengths` [B], `duration_target` [B, N]. Padding is
    silence.

    Args:
        training: Training clips; references come from these only.
        shape: Shape of every example.
        batch_size: Examples of a batch, B.
        seed: Seed of the order and of the references.
    """

    def __init__(self, training: Sequence[Clip], shape: Shape, batch_size: int, seed: int) -> None:
        self._clips = list(training)
        self._shape = shape
        self._batch_size = batch_size
        self._seed = seed
        self._same_speaker: dict[str, list[Clip]] = defaultdict(list)
        for clip in self._clips:
            self._same_speaker[clip.speaker].append(clip)

    def training(self, faults: Mapping[int, str], done: int = 0) -> tf.data.Dataset:
        """Return endless shuffled batches.

        Args:
            faults: Kinds of faults by step: the batch of that step is corrupted.
            done: Steps that a resumed run has taken already: their batches are passed over.
        """
        order = tf.data.Dataset.range(len(self._clips))
        order = order.shuffle(len(self._clips), seed=self._seed, reshuffle_each_iteration=True).repeat().enumerate(1)
        order = order.skip(done * self._batch_size)
        examples = order.map(lambda draw, index: self._load(self._clips, draw, index), num_parallel_calls=_LOADERS)
        batches = examples.batch(self._batch_size, drop_remainder=True).enumerate(1 + done)
        return batches.map(lambda step, batch: (batch[0], inject.corrupt(faults, step, batch[1]))).prefetch(_LOADERS)

    def validation(self, clips: Sequence[Clip]) -> tf.data.Dataset:
        """Return the batches of these clips, in order and with the same references each time."""
        clips = list(clips)
        size = min(self._batch_size, len(clips))
        examples = tf.data.Dataset.range(len(clips)).map(lambda index: self._load(clips, -1, index))
        return examples.batch(size, drop_remainder=True).cache().prefetch(1)

    def example(self, clip: Clip, chooser: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return one clip's inputs and targets, without the batch axis.

        Args:
            clip: The clip.
            chooser: Chooses the reference and the stretch of it.
        """
        mel = clip.mel()
        frames, characters = self._shape.frames, self._shape.characters
        padded = np.full((frames, features.MEL_BANDS), features.SILENCE, np.float32)
        padded[: clip.frames] = mel
        tokens = np.full(characters, text.PADDING, np.int32)
        tokens[: len(clip.tokens)] = clip.tokens
        durations = np.zeros(characters, np.float32)
        durations[: len(clip.durations)] = clip.durations
        targets = {
            "mel_target": padded,
            "mel_lengths": np.int32(clip.frames),
            "stop_target": (np.arange(frames) >= clip.frames - 1).astype(np.float32),
            "text_lengths": np.int32(len(clip.tokens)),
            "duration_target": durations,
        }
        return {"text": tokens, "mel": padded, "reference_mel": self._reference(clip, chooser)}, targets

    def _reference(self, clip: Clip, chooser: np.random.Generator) -> np.ndarray:
        """Return 128 frames of another training clip of the same speaker, repeated where it is shorter."""
        others = [other for other in self._same_speaker[clip.speaker] if other.name != clip.name]
        mel = others[chooser.integers(len(others))].mel()
        start = chooser.integers(max(1, len(mel) - REFERENCE_FRAMES + 1))
        return np.resize(mel[start : start + REFERENCE_FRAMES], (REFERENCE_FRAMES, features.MEL_BANDS))

    def _load(
        self, clips: list[Clip], draw: int | tf.Tensor, index: tf.Tensor
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the tensors of one example; `draw` makes each drawing of a clip another one."""

        def load(draw: np.int64, index: np.int64) -> list[np.ndarray]:
            chooser = np.random.default_rng((self._seed, int(draw) + 1, int(index)))
            return tf.nest.flatten(self.example(clips[index], chooser))

        signature = self._signature()
        flat = tf.numpy_function(load, [tf.cast(draw, tf.int64), index], [s.dtype for s in tf.nest.flatten(signature)])
        for tensor, spec in zip(flat, tf.nest.flatten(signature), strict=True):
            tensor.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(signature, flat)

    def _signature(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return shapes and types of an example."""
        frames, characters = self._shape.frames, self._shape.characters
        mel = tf.TensorSpec((frames, features.MEL_BANDS), tf.float32)
        inputs = {
            "text": tf.TensorSpec((characters,), tf.int32),
            "mel": mel,
            "reference_mel": tf.TensorSpec((REFERENCE_FRAMES, features.MEL_BANDS), tf.float32),
        }
        targets = {
            "mel_target": mel,
            "mel_lengths": tf.TensorSpec((), tf.int32),
            "stop_target": tf.TensorSpec((frames,), tf.float32),
            "text_lengths": tf.TensorSpec((), tf.int32),
            "duration_target": tf.TensorSpec((characters,), tf.float32),
        }
        return inputs, targets
