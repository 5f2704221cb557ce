"""Balance by a constraint: one term's weight rises while its loss is above a limit, and falls while it is below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

from keras_adaptive_weights.deciding.config import keep_number
from keras_adaptive_weights.deciding.joint import JointObservation, Term
from keras_adaptive_weights.deciding.statistics import mean, measure_noise
from keras_adaptive_weights.deciding.strategy import Proposal, Target

_KEPT = 100
_KEPT_OVER_A_CHANGE = 40
_FEW = 5
_GAIN = 4.0
_MOST = math.log(2.0)  # a proposal is no further away than this: the envelope takes small steps anyway


class ConstraintState(NamedTuple):
    """The newest losses of the term, oldest first, and its weight then.

    The longer the weight stays, the more of them there are, and the smaller a deviation shows.
    """

    losses: tuple[float, ...] = ()
    weight: float | None = None


@dataclass(frozen=True)
class Constraint:
    """One term's loss is to be at a limit: its weight rises while the mean of the newest losses is above, else falls.

    The weight goes by the ratio of mean and limit, to the power of 4, in steps of the envelope. The other terms stay.

    Args:
        term: Name of the term.
        at_most: The limit, above 0.
        cooling_period: Steps between two changes.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A limit that is not positive and finite.

    Example:

    >>> Constraint("kl_loss", at_most=0.5).cooling_period
    10
    """

    term: str
    _: KW_ONLY
    at_most: float
    cooling_period: int = 10

    def __post_init__(self) -> None:
        """Validate every field."""
        owner = type(self).__name__
        if not isinstance(self.term, str):
            raise TypeError(f"{owner}: argument `term` must be a term's name. Received: term={self.term!r}.")
        keep_number(self, "at_most", low=0.0, open_low=True)
        keep_number(self, "cooling_period", low=1, integer=True)

    def initial(self, terms: Sequence[Term]) -> ConstraintState:
        """Return the state before the first step.

        Raises:
            ValueError: No such term, or one with a fixed weight.
        """
        adaptive = [term.name for term in terms if not term.fixed]
        if self.term not in adaptive:
            raise ValueError(
                f"{type(self).__name__}: argument `term` must name a term with an adaptive weight. Received: "
                f"term={self.term!r}. Expected one of {adaptive}. Give a term `weight=AdaptiveWeight(...)` to let it "
                "move."
            )
        return ConstraintState()

    def step(
        self, state: ConstraintState, observations: Sequence[JointObservation]
    ) -> tuple[ConstraintState, Proposal | None]:
        """Take in the losses of the term, and propose a weight."""
        new = tuple(seen.losses[self.term] for seen in observations if self.term in seen.losses)
        weight = observations[-1].weights[self.term]
        kept = _KEPT if weight == state.weight else _KEPT_OVER_A_CHANGE
        state = ConstraintState((*state.losses, *new)[-kept:], weight)
        losses = state.losses
        if len(losses) < _FEW:
            return state, Proposal(evidence={"measurements": 1.0 * len(losses)})
        average, noise = mean(losses), measure_noise(losses)
        way = _GAIN * math.log(average / self.at_most) if average > 0.0 else -_MOST
        aim = weight * math.exp(min(max(way, -_MOST), _MOST))
        target = Target(aim, _GAIN * noise.standard_error(len(losses)), noise.freedom)
        evidence = {"constrained_loss": average, "limit": self.at_most}
        return state, Proposal({self.term: target}, evidence=evidence)
