"""Balance by gradient shares: each term is to make a given part of the gradient, as `shares` has it in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from keras_adaptive_weights.deciding.config import check_number
from keras_adaptive_weights.deciding.joint import JointObservation, Term, Weights
from keras_adaptive_weights.deciding.shares import ShareState, initial_state, keep_steps, propose
from keras_adaptive_weights.deciding.strategy import Proposal

_SLACK = 1e-9  # what shares that add up to 1 may be off by rounding


@dataclass(frozen=True)
class GradientShare:
    """Each term makes a given part of the gradient: `w_k g_k / sum_j w_j g_j`, `g` the norm of the raw term's gradient.

    Args:
        shares: Part of the gradient by term, each between 0 and 1. The other terms keep their weights and share what is
            left as they do. `None`: equal parts for all terms, of which the adaptive ones move.
        measure_every: Steps between two measurements.
        calibrate_steps: First steps, in all of which the norms are measured; the weights then go to what follows at
            once. `None`: never; slow balancing alone may be worse than none.
        variables: Where the gradient is measured: names, layers, or a function that picks variables. `None`: all
            variables that two or more terms reach.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A share outside (0, 1), shares that add up to more than 1, or a number of steps out of bounds.

    Example:

    >>> GradientShare({"mel_loss": 0.6}).shares
    {'mel_loss': 0.6}
    """

    shares: Weights | None = None
    _: KW_ONLY
    measure_every: int = 50
    calibrate_steps: int | None = 20
    variables: Any = None

    def __post_init__(self) -> None:
        """Validate every field."""
        owner = type(self).__name__
        keep_steps(self)
        if self.shares is None:
            return
        if not isinstance(self.shares, Mapping) or not self.shares:
            raise TypeError(
                f"{owner}: argument `shares` must be a dictionary of terms and their parts of the gradient, or None "
                f'for equal parts. Received: shares={self.shares!r}. Write `{owner}({{"mel_loss": 0.6}})`.'
            )
        if others := [name for name in self.shares if not isinstance(name, str)]:
            raise TypeError(
                f"{owner}: argument `shares` must have names of terms as its keys. Received: {others[0]!r} of type "
                f'{type(others[0]).__name__}. Write `{owner}({{"mel_loss": 0.6}})`.'
            )
        bounds: dict[str, Any] = {"low": 0.0, "high": 1.0, "open_low": True, "open_high": True}
        shares = {name: check_number(owner, f"shares[{name!r}]", s, **bounds) for name, s in self.shares.items()}
        if sum(shares.values()) > 1.0 + _SLACK:
            raise ValueError(
                f"{owner}: argument `shares` must add up to 1 at most. Received: shares={shares!r}, which add up to "
                f"{sum(shares.values()):g}."
            )
        object.__setattr__(self, "shares", shares)

    def initial(self, terms: Sequence[Term]) -> ShareState:
        """Return the state before the first step.

        Raises:
            ValueError: A share for a term that there is not or whose weight is fixed, no other term to share with, or
                shares that leave something over, or nothing, for the terms without one.
        """
        state = initial_state(type(self).__name__, terms)
        if self.shares is None:
            return state
        if unknown := sorted(set(self.shares) - set(state.adaptive)):
            raise ValueError(
                f"GradientShare: argument `shares` names {unknown}, and must name terms with an adaptive weight. "
                f"Expected some of {sorted(state.adaptive)}. Give a term `weight=AdaptiveWeight(...)` to let it move."
            )
        left = 1.0 - sum(self.shares.values())
        if (left > _SLACK) is not (len(self.shares) < len(terms)):
            raise ValueError(
                f"GradientShare: argument `shares` must leave a part to the terms without a share, and add up to 1 "
                f"where there are none. Received: shares={self.shares!r} for the terms "
                f"{[term.name for term in terms]}, which leave {max(0.0, left):g}."
            )
        return state

    def step(self, state: ShareState, observations: Sequence[JointObservation]) -> tuple[ShareState, Proposal | None]:
        """Take in the norms that were measured; what follows from them is proposed with each new measurement."""
        measured = state.measured
        for seen in observations:
            if seen.term_norms:
                measured = measured.push(seen.term_norms, self.calibrate_steps)
        if measured is state.measured:
            return state, None
        state = state._replace(measured=measured)
        return state, propose(state, self.shares, self.calibrate_steps, observations[-1].weights)
