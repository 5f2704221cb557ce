"""The earlier adaptive weight, as a contestant only: do not use it.

A re-creation from the description in the guide's first section, not the original code: an adaptation factor from a
tanh, clipped to 0.8-1.2, the weight then clipped to 1.0-5.0, at every step, with no look at gradients and no check for
NaN or inf. What the description leaves open is chosen in the rule's favour or as simple as can be: the gain of the
tanh is 1, the average is that of the guide (smoothing factor 0.1), and a weight takes effect with the next step.

Its faults are part of it:

- a falling mel loss raises its own weight, by up to 20 % in every step, and the factors multiply: a feedback loop;
- it moves from the second step on, in every step, also where there is nothing but noise;
- the running average contains the loss that is compared with it;
- it never looks at a gradient;
- one NaN makes average and weight NaN, for good;
- it is updated wherever the loss is computed, so validation moves it too.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from .plain import PlainModel

SMOOTHING = 0.1
LOWEST_FACTOR, HIGHEST_FACTOR = 0.8, 1.2
LOWEST_WEIGHT, HIGHEST_WEIGHT = 1.0, 5.0


class EarlierRule:
    """The rule, in the graph.

    Args:
        weight: The weight that it moves, a scalar `tf.Variable`.
    """

    def __init__(self, weight: tf.Variable) -> None:
        self.weight = weight
        self.average = tf.Variable(-1.0, trainable=False, name="running_mel_loss")  # below 0: no loss seen yet

    def update(self, mel_loss: Any) -> None:
        """Move the weight by a raw mel loss, a scalar."""
        before = self.average.value()
        average = tf.where(before < 0.0, mel_loss, before + SMOOTHING * (mel_loss - before))
        factor = tf.clip_by_value(1.0 + tf.tanh(1.0 - mel_loss / average), LOWEST_FACTOR, HIGHEST_FACTOR)
        self.average.assign(average)
        self.weight.assign(tf.clip_by_value(self.weight * factor, LOWEST_WEIGHT, HIGHEST_WEIGHT))


class EarlierRuleModel(PlainModel):
    """Plain Keras with the earlier rule in its loss; compile it with an `XTTSLoss`."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile, and let the rule move the mel weight of the loss."""
        super().compile(*args, **kwargs)
        self.rule = EarlierRule(self.loss.mel_weight.variable)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the weighted sum of the loss terms, and move the weight for the next step."""
        del x, training
        batch = self.loss.evaluate(y, y_pred, sample_weight)
        self.rule.update(batch.terms["mel_loss"])
        return batch.total
