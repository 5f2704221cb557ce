"""The model that everybody is compared with: Keras's own train step."""

from __future__ import annotations

from typing import Any

import keras


class PlainModel(keras.Model):
    """Keras's own train step. Keras hands a single loss one output at a time, so the loss is called here."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the weighted sum of the loss terms."""
        del x, training
        return self.loss.evaluate(y, y_pred, sample_weight).total
