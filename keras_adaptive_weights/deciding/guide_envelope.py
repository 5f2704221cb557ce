"""One weight by the guide's rule, with the same methods as the envelope of several (`joint_envelope`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_adaptive_weights.deciding import envelope, guide_rule, safeguards
from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Decision, Observation, Reason
from keras_adaptive_weights.deciding.state import ControllerState

Next = tuple[ControllerState, Decision]


@dataclass(frozen=True, slots=True)
class GuideEnvelope:
    """The guide's rule in its envelope: pure functions of a state.

    Args:
        config: Settings of the controller.
        term: Name of the loss term that the decisions are about; empty where nobody said.
    """

    config: AdaptiveWeightConfig
    term: str = ""

    def step(self, state: ControllerState, observations: Sequence[Observation]) -> Next:
        """Take in the observations of one execution, oldest first, and decide once."""
        return envelope.step(guide_rule.weigh, self.config, state, observations, self.term)

    def disable(self, state: ControllerState, note: str = "") -> Next:
        """See `envelope`, here as in the methods below."""
        return envelope.disable(state, note, self.term)

    def enable(self, state: ControllerState, note: str = "") -> Next:
        """Let the weight move again."""
        return envelope.enable(self.config, state, note, self.term)

    def reset(
        self,
        state: ControllerState,
        note: str = "",
        reason: Reason = Reason.MANUAL,
        evidence: Mapping[str, float] | None = None,
    ) -> Next:
        """Forget all statistics."""
        return envelope.reset(state, note, reason, evidence, self.term)

    def rollback(self, state: ControllerState, note: str = "") -> Next:
        """Undo the last change."""
        return envelope.rollback(self.config, state, note, self.term)

    def set_shadow(self, state: ControllerState, *, shadow: bool) -> ControllerState:
        """Let decisions only be recorded from here on, or take effect; the weight in force stays either way."""
        return safeguards.set_shadow(self.config, state, shadow=shadow)

    def to_dict(self, state: ControllerState) -> dict[str, Any]:
        """Return a state as plain values that `restored` reads back."""
        return state.to_dict()

    def restored(self, values: Mapping[str, Any]) -> ControllerState:
        """Read what `to_dict` wrote; a weight outside today's bounds is moved to the nearer one.

        Raises:
            ValueError: They cannot be read.
        """
        return ControllerState.from_dict(values).within(self.config)
