"""Recorded observations and a configuration -> the decisions they lead to. Needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable

from keras_adaptive_weights import controller
from keras_adaptive_weights.config import AdaptiveWeightConfig
from keras_adaptive_weights.controller_state import initial_state
from keras_adaptive_weights.decision import Decision, Observation


def replay(
    observations: Iterable[Observation], config: AdaptiveWeightConfig | None = None, base_weight: float = 2.5
) -> list[Decision]:
    """Return the decisions that the controller takes on these observations, one for each.

    Args:
        observations: Steps in their order.
        config: Settings; the defaults if None.
        base_weight: Weight to start from.

    Returns:
        One `Decision` per observation.

    Raises:
        TypeError: `base_weight` is no number.
        ValueError: `base_weight` is outside the bounds.
    """
    config = config or AdaptiveWeightConfig()
    state = initial_state(config, base_weight)
    decisions = []
    for observation in observations:
        state, decision = controller.step(config, state, (observation,))
        decisions.append(decision)
    return decisions
