"""Balance by losses alone, where the gradients of single terms are not to be had: `w_k` goes as `1 / sqrt(loss_k)`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, NamedTuple

from keras_adaptive_weights.deciding.joint import JointObservation, Term, Weights
from keras_adaptive_weights.deciding.plain_records import MAY_OVERFLOW
from keras_adaptive_weights.deciding.shares import ShareState, initial_state, keep_steps, propose
from keras_adaptive_weights.deciding.strategy import Proposal


class SqrtState(NamedTuple):
    """What was measured, and of the steps since: their number, and of each term the sum and number of its losses."""

    shares: ShareState
    steps: int = 0
    sums: Mapping[str, Annotated[float, MAY_OVERFLOW]] = {}
    counts: Mapping[str, int] = {}

    def add(self, losses: Weights) -> SqrtState:
        """Return the state with the losses of one more step."""
        sums = {name: self.sums.get(name, 0.0) + loss for name, loss in losses.items()}
        counts = {name: self.counts.get(name, 0) + 1 for name in losses}
        return SqrtState(self.shares, self.steps + 1, {**self.sums, **sums}, {**self.counts, **counts})

    def roots(self) -> dict[str, float]:
        """Return the square root of each term's mean loss; 0 where that is negative."""
        return {name: math.sqrt(max(0.0, total / self.counts[name])) for name, total in self.sums.items()}


@dataclass(frozen=True)
class SqrtLoss:
    """Equal shares as `GradientShare` makes them, with the square root of a term's loss in place of its gradient norm.

    For a squared error the two go together; for others they need not. A loss that is not positive teaches nothing.

    Args:
        measure_every: Steps over whose mean a loss is measured.
        calibrate_steps: First steps, each of which is a measurement; the weights then go to what follows at once.
            `None`: never; slow balancing alone may be worse than none.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A number of steps out of bounds.

    Example:

    >>> SqrtLoss(measure_every=100).calibrate_steps
    20
    """

    _: KW_ONLY
    measure_every: int = 50
    calibrate_steps: int | None = 20

    def __post_init__(self) -> None:
        """Validate every field."""
        keep_steps(self)

    def initial(self, terms: Sequence[Term]) -> SqrtState:
        """Return the state before the first step.

        Raises:
            ValueError: Fewer than two terms, or none with an adaptive weight.
        """
        return SqrtState(initial_state(type(self).__name__, terms))

    def step(self, state: SqrtState, observations: Sequence[JointObservation]) -> tuple[SqrtState, Proposal | None]:
        """Take in the losses; what follows from them is proposed with each new measurement."""
        before = state.shares.measured
        for seen in observations:
            state = state.add(seen.losses)
            if state.steps >= self.measure_every or state.shares.measured.taken < (self.calibrate_steps or 0):
                measured = state.shares.measured.push(state.roots(), self.calibrate_steps)
                state = SqrtState(state.shares._replace(measured=measured))
        if state.shares.measured is before:
            return state, None
        return state, propose(state.shares, None, self.calibrate_steps, observations[-1].weights)
