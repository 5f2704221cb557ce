"""Strategies: what the weights of several terms should be, whatever that is decided by. The protocol and its records.

A strategy is pure. `initial` makes its state, `step` takes in what was seen and proposes target weights, or nothing
new. How far the weights may go, how fast, when, and back where it did harm is the envelope's business
(`joint_envelope`): a strategy need not know of warmup, cooling, bounds, steps or rollbacks, only how well its targets
are known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

from keras_adaptive_weights.deciding.joint import JointObservation, Term
from keras_adaptive_weights.deciding.plain_records import MAY_OVERFLOW

T = TypeVar("T", bound=tuple[Any, ...])


class Target(NamedTuple):
    """What a weight should be.

    Attributes:
        weight: The weight.
        error: Standard error of its logarithm, which is about its relative error. 0: as good as exact.
        freedom: Independent values that the error rests on, less the parameters estimated with it: the fewer, the more
            standard errors a move needs.

    Example:

    >>> Target(2.0, error=0.05).freedom
    inf
    """

    weight: float
    error: Annotated[float, MAY_OVERFLOW] = 0.0
    freedom: Annotated[float, MAY_OVERFLOW] = math.inf


class Proposal(NamedTuple):
    """What a strategy proposes after a step.

    Attributes:
        targets: What the weights should be, by term. A term that is left out stays; empty: nothing to say yet.
        calibrate: The targets were measured at the start and are to be gone to at once. Granted at most once a run.
        evidence: Numbers to be recorded with the decision, by name; those of one term end in a dot and its name.

    Example:

    >>> Proposal({"kl_loss": Target(0.2)}, evidence={"share.kl_loss": 0.1}).calibrate
    False
    """

    targets: Mapping[str, Target] = {}
    calibrate: bool = False
    evidence: Mapping[str, Annotated[float, MAY_OVERFLOW]] = {}


class Strategy(Protocol[T]):
    """Whatever decides what the weights of several terms should be.

    The state is a bounded `NamedTuple` of numbers, truth values, tuples of numbers, mappings from names to these, and
    records of the same kind. Its annotations say how it is read back from JSON (`plain_records`).

    A strategy may have these attributes, too; without them no norms are measured and the settings' cooling holds:

    - `variables`: where the norm of each term's gradient is measured, as `GradientShare` has it;
    - `measure_every`, `calibrate_steps`: in which steps: the first `calibrate_steps` ones (`None`: none) and every
      `measure_every`-th;
    - `cooling_period`: steps between its changes.

    Example:

    >>> class AtHalf:
    ...     def initial(self, terms):
    ...         return ()
    ...
    ...     def step(self, state, observations):
    ...         return state, Proposal({"kl_loss": Target(0.5)})
    >>> AtHalf().step((), [])[1].targets["kl_loss"].weight
    0.5
    """

    def initial(self, terms: Sequence[Term]) -> T:
        """Return the state before the first step.

        Args:
            terms: All terms of the loss, fixed ones too.

        Raises:
            ValueError: Terms that the strategy cannot balance.
        """

    def step(self, state: T, observations: Sequence[JointObservation]) -> tuple[T, Proposal | None]:
        """Return the next state and what is proposed; `None`: nothing new, what was proposed last still holds.

        Args:
            state: The state before.
            observations: The finite, applied steps of one execution, oldest first, at least one.
        """


def plain(value: Any) -> Any:
    """Return a record, a strategy's state say, as values that JSON can hold."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        return [plain(part) for part in value] if fields is None else plain(dict(zip(fields, value, strict=True)))
    return value
