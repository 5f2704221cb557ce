"""Strategies: what the weights of several terms should be, whatever that is decided by. The protocol and its records.

A strategy is pure. `initial` makes its state, `step` takes in what was seen and proposes target weights, or nothing
new. How far the weights may go, how fast, when, and back where it did harm is the envelope's business
(`joint_envelope`): a strategy need not know of warmup, cooling, bounds, steps or rollbacks, only how well its targets
are known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar

from keras_adaptive_weights.deciding.joint import JointObservation, Term
from keras_adaptive_weights.deciding.plain_records import MAY_OVERFLOW, read_record

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

    weight: Annotated[float, MAY_OVERFLOW]
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
    records of the same kind, or `()`. Its annotations say how it is read back from JSON (`plain_records`).

    What it proposes does no harm: a target that no weight can have is refused, one whose error is unknown is not gone
    to, and no weight leaves its bounds. A mistake of the strategy itself (an exception, a target for what is no
    adaptive term, something else than a proposal) ends the training that it came up in, with the strategy's name and
    the step: weights, state and record are then those of the step before.

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


def restored_state(state: T, values: Any, owner: str) -> T:
    """Return a state of the same kind as `state` from the plain values that it was stored as.

    Raises:
        ValueError: It is none of that kind.
    """
    if state == ():
        return state
    if not isinstance(getattr(type(state), "_fields", None), tuple):
        raise ValueError(f"{owner}: field `state` must be a NamedTuple, or (). Received: {state!r:.200}.")
    return read_record(type(state), values, owner)


def checked_step(result: Any, owner: str) -> tuple[Any, Any]:
    """Return the next state and what is proposed, if that is what `step` returned.

    Raises:
        ValueError: Something else.
    """
    if isinstance(result, tuple) and len(result) == 2 and not isinstance(result, Proposal):
        return result
    raise ValueError(
        f"{owner}.step: must return the next state, and a `Proposal` or None. Received: {result!r:.300}. Write "
        "`return state, Proposal({name: Target(0.5)})`."
    )


def checked_state(state: T, owner: str, method: str = "initial") -> T:
    """Return a state that can be stored and read back.

    Raises:
        ValueError: It cannot.
    """
    try:
        restored_state(state, json.loads(json.dumps(plain(state))), owner)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{owner}.{method}: must return a state that can be stored: a NamedTuple of numbers, truth values, tuples "
            f"of numbers, mappings from names to these and such records, each field annotated, or (). {error}"
        ) from error
    return state


def checked_proposal(proposal: Proposal, adaptive: Collection[str], owner: str) -> Proposal:
    """Return a proposal whose numbers are plain ones.

    Raises:
        ValueError: No proposal, or one with targets for what is no adaptive term.
    """
    try:
        targets = {name: Target(*map(float, target)) for name, target in proposal.targets.items()}
        evidence = {str(name): float(value) for name, value in proposal.evidence.items()}
        proposal = Proposal(targets, bool(proposal.calibrate), evidence)
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"{owner}.step: must propose None or a `Proposal` of `Target`s and evidence that are numbers, as "
            f"`Proposal({{name: Target(0.5)}})`. Received: {proposal!r:.300}: {error}"
        ) from error
    if unknown := sorted(set(targets) - set(adaptive)):
        raise ValueError(
            f"{owner}.step: proposes targets for {unknown}. Expected some of the adaptive terms {sorted(adaptive)}."
        )
    return proposal


def plain(value: Any) -> Any:
    """Return a record, a strategy's state say, as values that JSON can hold."""
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        return [plain(part) for part in value] if fields is None else plain(dict(zip(fields, value, strict=True)))
    return value
