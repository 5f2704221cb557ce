"""What the envelope of several weights remembers: as `state` of one weight, and what it knows of each term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from keras_adaptive_weights.deciding.joint import Weights
from keras_adaptive_weights.deciding.state import ControllerState, EnvelopeState, Trial
from keras_adaptive_weights.deciding.strategy import Proposal


class JointCore(EnvelopeState[Weights]):
    """Weights, counters and the statistics of the objective."""

    __slots__ = ()

    def of(self, term: str) -> ControllerState:
        """Return the state with the weights of one term, as that of one weight."""
        previous, held, trial = self.previous_weight, self.held_weight, self.trial
        fields: dict[str, Any] = self._asdict() | {
            "weight": self.weight[term],
            "base_weight": self.base_weight[term],
            "previous_weight": None if previous is None else previous[term],
            "held_weight": None if held is None else held[term],
            "trial": trial and Trial[float](trial.previous_weight[term], *trial[1:]),
        }
        return ControllerState(**fields)


class JointState(NamedTuple):
    """Everything a joint envelope remembers. Frozen, and bounded where the strategy's state is.

    Attributes:
        core: Weights, counters and the statistics of the objective.
        recent: Raw losses of the newest finite steps by term, oldest first. Where a batch lacked the term, its mean.
        strategy: The strategy's state.
        proposal: What the strategy proposed last.
        calibrated: Whether the one calibration was made or missed.
    """

    core: JointCore
    recent: Mapping[str, tuple[float, ...]]
    strategy: Any
    proposal: Proposal = Proposal()
    calibrated: bool = False


class StoredState(NamedTuple):
    """A stored state but for what the strategy knows."""

    core: JointCore
    recent: Mapping[str, tuple[float, ...]]
    proposal: Proposal
    calibrated: bool
