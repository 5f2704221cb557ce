"""The contestants: the same layers from the same random numbers, under five ways to train them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from xtts_demo import features
from xtts_demo.dataset import REFERENCE_FRAMES, Shape
from xtts_demo.model import XTTSModel

import keras_adaptive_weights as kaw

from .earlier_rule import EarlierRuleModel
from .grid import ADAPTIVE, BALANCED, EARLIER, FIXED, PLAIN, SURGE_FACTOR, TERMINATE, USUAL_ROOM, Settings
from .plain import PlainModel

REDUCTION = 4
_CLIP_NORM = 1.0
_HEADS, _BLOCKS = 2, 1
_RISE, _START, _END = 40, 0.05, 0.0  # steps of the rate's rise; its first and last value as fractions of the peak
_MODELS = {
    PLAIN: PlainModel,
    TERMINATE: PlainModel,
    EARLIER: EarlierRuleModel,
    FIXED: kaw.StableModel,
    ADAPTIVE: kaw.StableModel,
    **dict.fromkeys(BALANCED, kaw.StableModel),
}


class SurgingRate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises, falls along a cosine, and is ten times as high during a surge.

    Args:
        settings: Peak and number of steps.
        surge: Steps of the surge, counted from 1; may be empty.
    """

    def __init__(self, settings: Settings, surge: range) -> None:
        super().__init__()
        rise = min(_RISE, 1 + settings.steps // 10)
        self._calm = keras.optimizers.schedules.CosineDecay(
            _START * settings.learning_rate,
            decay_steps=max(1, settings.steps - rise),
            alpha=_END,
            warmup_target=settings.learning_rate,
            warmup_steps=rise,
        )
        self._surge = surge

    def __call__(self, step: Any) -> Any:
        """Return the rate after so many steps."""
        rate, number = self._calm(step), tf.cast(step, tf.int64) + 1
        high = (number >= self._surge.start) & (number < self._surge.stop)
        return tf.where(high, SURGE_FACTOR * rate, rate)

    def get_config(self) -> dict[str, Any]:
        """Return nothing: it is not saved."""
        return {}


def build(contestant: str, base_weight: float, shape: Shape, settings: Settings, surge: range, seed: int) -> Any:
    """Return a compiled model. Parameters and dropout depend on the seed only, not on the contestant.

    Args:
        contestant: A name in `CONTESTANTS`.
        base_weight: Mel weight to begin with.
        shape: Shape of the batches.
        settings: Width, rate and number of steps.
        surge: Steps of the learning-rate surge.
        seed: Seed of parameters and dropout.
    """
    keras.utils.set_random_seed(seed)
    inputs = {
        "text": keras.Input((shape.characters,), dtype="int32", name="text"),
        "mel": keras.Input((shape.frames, features.MEL_BANDS), name="mel"),
        "reference_mel": keras.Input((REFERENCE_FRAMES, features.MEL_BANDS), name="reference_mel"),
    }
    network = XTTSModel(
        width=settings.width, heads=_HEADS, encoder_blocks=_BLOCKS, decoder_blocks=_BLOCKS, reduction=REDUCTION
    )
    model = _MODELS[contestant](inputs, network(inputs))
    model.compile(
        optimizer=keras.optimizers.Adam(SurgingRate(settings, surge), global_clipnorm=_CLIP_NORM),
        loss=loss(contestant, base_weight, settings.room),
    )
    model.optimizer.build(model.trainable_variables)  # else Keras traces the train step twice, which takes seconds
    return model


def loss(contestant: str, base_weight: float, room: float = USUAL_ROOM) -> kaw.XTTSLoss:
    """Return the loss of a contestant. A weight outside the guide's bounds moves up to a hundredfold either way."""
    if contestant in BALANCED:
        config = kaw.AdaptiveWeightConfig(min_weight=base_weight / room, max_weight=base_weight * room)
        return kaw.XTTSLoss(base_weight, config=config, balance=kaw.GradientShare(BALANCED[contestant]))
    usual = kaw.AdaptiveWeightConfig(enabled=contestant == ADAPTIVE)
    if not usual.min_weight <= base_weight <= usual.max_weight:
        usual = dataclasses.replace(usual, min_weight=base_weight / USUAL_ROOM, max_weight=base_weight * USUAL_ROOM)
    return kaw.XTTSLoss(base_weight, config=usual)


def callbacks(contestant: str, log_dir: str) -> Sequence[keras.callbacks.Callback]:
    """Return the callbacks that make the contestant what it is; ours keeps its record in `log_dir`."""
    if contestant == TERMINATE:
        return [keras.callbacks.TerminateOnNaN()]
    if contestant in BALANCED:
        return [kaw.AdaptiveWeightCallback(log_dir=log_dir)]
    return [kaw.AdaptiveMelWeightCallback(log_dir=log_dir)] if contestant == ADAPTIVE else []
