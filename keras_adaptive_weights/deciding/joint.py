"""The records of a balance: the terms it is about, what was seen of all of them on a step, and what was decided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from keras_adaptive_weights.deciding.decision import Action, Decision, Observation, Reason
from keras_adaptive_weights.deciding.printable import printable

Weights = Mapping[str, float]
"""Weights by the names of their terms."""
_REACH = 100.0


class Term(NamedTuple):
    """A term of the loss.

    Attributes:
        name: Its name.
        weight: Its weight to start from, and to return to in an emergency; of a fixed term, its weight.
        low: Lowest weight. `None`: the weight is fixed.
        high: Highest weight. `None`: the weight is fixed.

    Example:

    >>> Term.adaptive("kl_loss", 0.1).fixed, Term("stop_loss", 1.0).fixed
    (False, True)
    """

    name: str
    weight: float
    low: float | None = None
    high: float | None = None

    @property
    def fixed(self) -> bool:
        """Whether the weight never moves."""
        return self.low is None or self.high is None

    @classmethod
    def adaptive(cls, name: str, weight: float) -> Self:
        """Return a term whose weight moves between a hundredth and a hundred times what it starts from."""
        return cls(name, weight, weight / _REACH, weight * _REACH)


class JointObservation(NamedTuple):
    """One training step as a balance sees it.

    Attributes:
        step: Number of the step, counted from 1 over the whole life of the weights; never rewinds.
        losses: Raw, unweighted loss of each term that took part in this batch.
        total_loss: Weighted sum of all terms, before spike dampening. `None`: unknown.
        gradient_norm: Global norm of the unscaled gradients of the total. `None`: not measured.
        term_norms: Norm of the gradient of each raw term, without loss scale and dampening. Empty: not measured on this
            step.
        applied: Whether the optimizer took the step. `False`: the step was skipped.
        loss_scaling: The step was skipped only because the mixed-precision loss scale overflowed: routine.
        dampening: Factor by which the total and its gradients were scaled down, 1.0 where they were not.
        non_finite: Name of the first non-finite thing seen (a loss term, else a variable's gradient).
        weights: Weight of each term as it was decided before this step, fixed ones too. The envelope fills it in for
            the strategy; it is not written down.

    Example:

    >>> JointObservation(7, {"mel_loss": 0.8, "kl_loss": np.nan}).finite
    False
    """

    step: int
    losses: Weights
    total_loss: float | None = None
    gradient_norm: float | None = None
    term_norms: Mapping[str, float] = {}
    applied: bool = True
    loss_scaling: bool = False
    dampening: float = 1.0
    non_finite: str | None = None
    weights: Mapping[str, float] = {}

    @property
    def finite(self) -> bool:
        """Whether the step was applied, and total, gradient and the losses of all terms are finite.

        A norm of a single term may be infinite all the same: that measurement then teaches nothing.
        """
        return (
            self.applied
            and all(map(math.isfinite, self.losses.values()))
            and (self.total_loss is None or math.isfinite(self.total_loss))
            and (self.gradient_norm is None or math.isfinite(self.gradient_norm))
        )

    def of(self, term: str) -> Observation:
        """Return what was seen of one term: `empty` where there was nothing of it to measure."""
        loss = self.losses.get(term)
        return Observation(  # in the order of the fields: by name it takes twice as long, and this is every step
            self.step,
            math.nan if loss is None else loss,
            self.total_loss,
            self.gradient_norm,
            self.applied,
            self.loss_scaling,
            self.dampening,
            self.non_finite,
            loss is None,
        )

    @classmethod
    def of_one(cls, term: str, seen: Observation) -> Self:
        """Return a step of which only one term is known."""
        losses = {} if seen.empty else {term: seen.loss}
        about = (seen.applied, seen.loss_scaling, seen.dampening, seen.non_finite)
        return cls(seen.step, losses, seen.total_loss, seen.gradient_norm, {}, *about)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `from_dict` reads back: what is as its default is left out."""
        values = self._asdict()
        del values["weights"]
        required = ("step", "losses")
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in values.items()
            if name in required or value != self._field_defaults[name]
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; other keys are ignored."""
        return cls(**{name: value for name, value in values.items() if name in cls._fields})


class JointDecision(NamedTuple):
    """What was decided on all adaptive terms after one execution, why, and on what evidence.

    Attributes:
        step: The last step the decision looked at.
        action: What happens to the weights.
        reason: Why.
        old_weights: Weight of each adaptive term before the decision.
        new_weights: Weight of each adaptive term from the next step on.
        evidence: The numbers the decision was taken on, by name; those of one term end in a dot and its name.
        note: What the person who asked for it said; empty for automatic decisions.
        held_weights: In a shadow run, the weights that stay in force: the decision is a proposal. `None`: it takes
            effect.

    Example:

    >>> print(JointDecision(40, Action.DISABLE, Reason.MANUAL, {"mel": 2.0, "kl": 0.1}, {"mel": 2.5, "kl": 0.1}))
    step 40: disable mel 2 -> 2.5, manual: asked for by hand.
    """

    step: int
    action: Action
    reason: Reason
    old_weights: Weights
    new_weights: Weights
    evidence: Mapping[str, float] = {}
    note: str = ""
    held_weights: Weights | None = None

    @property
    def term(self) -> str:
        """Empty: it is about all adaptive terms."""
        return ""

    def of(self, term: str) -> Decision:
        """Return what was decided on the weight of one term."""
        held = None if self.held_weights is None else self.held_weights[term]
        weights = self.old_weights[term], self.new_weights[term]
        return Decision(self.step, self.action, self.reason, *weights, self.evidence, self.note, held, term)

    @property
    def weights_in_force(self) -> Weights:
        """The weights that the loss reads from the next step on."""
        return self.new_weights if self.held_weights is None else self.held_weights

    @property
    def is_event(self) -> bool:
        """Whether this is anything but a HOLD."""
        return self.action is not Action.HOLD

    @property
    def by_hand(self) -> bool:
        """Whether it came from outside the envelope: from a person, or from the recovery of the model."""
        return self.reason.from_outside

    @property
    def advice(self) -> str:
        """One sentence for a person: what it means and what to do."""
        return self.reason.advice(self.evidence)

    def __str__(self) -> str:
        """Return one line: step, action, the weights that change, reason, note."""
        note = f" ({printable(self.note)})" if self.note else ""
        held = "" if self.held_weights is None else " in shadow"
        moves = "".join(
            f" {printable(name)} {old:.4g} -> {self.new_weights[name]:.4g}{held},"
            for name, old in self.old_weights.items()
            if self.new_weights[name] != old
        )
        return f"step {self.step}: {self.action}{moves} {self.reason}{note}: {self.advice}"

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of plain values that `from_dict` reads back; `held_weights` only in a shadow run."""
        held = {} if self.held_weights is None else {"held_weights": dict(self.held_weights)}
        return {
            "step": self.step,
            "action": self.action.value,
            "reason": self.reason.value,
            "old_weights": dict(self.old_weights),
            "new_weights": dict(self.new_weights),
            "evidence": dict(self.evidence),
            "note": self.note,
            **held,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; other keys are ignored."""

        def weights(name: str) -> Weights:
            return {term: float(value) for term, value in values[name].items()}

        return cls(
            step=int(values["step"]),
            action=Action(values["action"]),
            reason=Reason(values["reason"]),
            old_weights=weights("old_weights"),
            new_weights=weights("new_weights"),
            evidence=weights("evidence") if "evidence" in values else {},
            note=str(values.get("note", "")),
            held_weights=weights("held_weights") if values.get("held_weights") is not None else None,
        )


def by_term(decision: Decision | JointDecision) -> list[Decision]:
    """Return what was decided on each weight."""
    return [decision] if isinstance(decision, Decision) else [decision.of(term) for term in decision.old_weights]
