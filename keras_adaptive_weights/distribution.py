"""What exists only because of `tf.distribute`, each with the fact that makes it necessary."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def divide_by_replicas(loss: Any) -> Any:
    """Divide a replica's loss by the number of replicas: optimizers sum the gradients of all of them."""
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return loss if replicas == 1 else loss / replicas
