"""The adaptive weights of a loss that are decided on together: one joint state, and the variables of all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation, Term, Weights
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.deciding.joint_state import JointState
from keras_adaptive_weights.deciding.observations import all_joint_observations
from keras_adaptive_weights.deciding.state import ControllerState
from keras_adaptive_weights.deciding.strategy import Strategy
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.controlled import LOCK, Controlled, Saved


class BalancedWeights(Controlled[JointState, JointDecision]):
    """Loss weights that a strategy moves together within one envelope. Made by a `CompositeLoss` with a `balance`.

    Args:
        strategy: What the weights should be.
        terms: All terms of the loss as the strategy sees them.
        weights: The adaptive weights by the names of their terms; they follow from now on.
        forgot: Called where the strategy begins anew, to measure anew. `None`: nothing is measured.

    Attributes:
        strategy: As above.

    Every method may be called from any thread and from a signal handler.

    Raises:
        ValueError: Weights whose settings differ in more than their bounds, or terms that the strategy cannot balance.
    """

    def __init__(
        self,
        strategy: Strategy[Any],
        terms: Sequence[Term],
        weights: Mapping[str, AdaptiveWeight],
        forgot: Callable[[], None] | None = None,
    ) -> None:
        self.strategy = strategy
        self._members = dict(weights)
        self._forgot = forgot
        envelope = JointEnvelope(strategy, terms, _common_settings(weights))
        self._joint = envelope
        super().__init__(envelope, envelope.initial())
        self._lead()

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle: observers and requests stay behind."""
        return {**self.__dict__, "_observers": [], "_requests": deque(), "_catch_up": None, "_busy": False}

    def __setstate__(self, values: dict[str, Any]) -> None:
        """Lead the copies of the weights."""
        self.__dict__.update(values)
        self._lead()
        self._write(self.weights)

    def _lead(self) -> None:
        for name, weight in self._members.items():
            weight.follow(self, name)

    @property
    def state(self) -> JointState:
        """The state of the envelope, frozen."""
        return self._state

    @property
    def state_values(self) -> dict[str, Any]:
        """The state as plain values, for a record."""
        return self._joint.to_dict(self._state)

    @property
    def weights(self) -> Weights:
        """The weights in force by term."""
        return self._state.core.weight_in_force

    @property
    def step_count(self) -> int:
        """Training steps seen over the whole life of the weights."""
        return self._state.core.step

    @property
    def shadow(self) -> bool:
        """Whether decisions are only recorded, and the weights in force stay."""
        return self._state.core.held_weight is not None

    def of(self, term: str) -> ControllerState:
        """Return the state with the weights of one term."""
        return self._state.core.of(term)

    def observe(self, observations: Sequence[JointObservation]) -> JointDecision:
        """Take in the observations of one execution, oldest first, and decide once for all weights.

        Raises:
            TypeError: Something else among them.
            ValueError: No observations.
        """
        observations = all_joint_observations("BalancedWeights.observe", "observations", observations)
        return self._observe(observations)

    def go_on_from_each(self, states: Mapping[str, Saved]) -> None:
        """Go on from the weights of a checkpoint that decided on each by itself; there is no calibration any more."""
        run = next((saved.run for saved in states.values()), self.run)
        with LOCK:
            self._go_on_from(Saved(run, self._joint.going_on({name: saved.state for name, saved in states.items()})))

    def _weights(self, state: JointState) -> tuple[Weights, Weights]:
        return state.core.weight_in_force, state.core.weight

    def _write(self, in_force: Weights) -> None:
        for name, weight in self._members.items():
            weight.variable.assign(in_force[name])

    def _told(self, decision: JointDecision) -> JointDecision:
        if decision.action is Action.RESET and self._forgot is not None:
            self._forgot()
        return decision


def _common_settings(weights: Mapping[str, AdaptiveWeight]) -> AdaptiveWeightConfig:
    """Return the settings that all weights have but for their bounds.

    Raises:
        ValueError: They differ.
    """
    alike = [replace(weight.config, **_NO_BOUNDS) for weight in weights.values()]
    if any(settings != alike[0] for settings in alike):
        raise ValueError(
            "CompositeLoss: with a `balance`, the settings of all adaptive weights must agree in all but their bounds. "
            f"Received: {[weight.config for weight in weights.values()]!r:.1000}. Give all of them the same `config`."
        )
    return alike[0]


_NO_BOUNDS: dict[str, Any] = {"min_weight": 1.0, "max_weight": 5.0}
