"""A stand-in for the speech model of the examples, with the same inputs and outputs, for tests of what is around it."""

from __future__ import annotations

import keras
from keras import layers, ops
from xtts_demo import features, text

import keras_adaptive_weights as kaw


class SmallSpeech(kaw.StableTrainStepMixin, keras.Model):
    """Few layers, built and traced in little time: `xtts_demo.model.XTTSModel` says what goes in and out.

    Args:
        width: Channels.
        reduction: Frames of a row of the attention.
        others: What else the speech model takes, of no use here.
    """

    def __init__(self, width=16, reduction=4, **others):
        super().__init__()
        self.reduction = reduction
        self.embed = layers.Embedding(text.VOCABULARY_SIZE, width)
        self.listen = layers.Dense(width)
        self.drop = layers.Dropout(0.1)
        self.to_mel, self.to_stop = layers.Dense(features.MEL_BANDS), layers.Dense(1)
        self.to_duration = layers.Dense(1)

    def call(self, inputs, training=None):
        tokens = self.embed(inputs["text"])
        frames = self.drop(self.listen(inputs["mel"]), training=training)
        _, length, width = frames.shape
        groups = ops.mean(ops.reshape(frames, (-1, length // self.reduction, self.reduction, width)), axis=2)
        return {
            "mel_output": self.to_mel(frames),
            "stop_tokens": self.to_stop(frames)[..., 0],
            "attention_weights": ops.softmax(ops.matmul(groups, ops.transpose(tokens, (0, 2, 1)))),
            "duration_pred": self.to_duration(tokens)[..., 0],
        }
