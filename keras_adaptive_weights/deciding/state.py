"""What an envelope remembers: a frozen, bounded state that JSON can hold, and the metrics read off it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Generic, NamedTuple, Self, TypeVar

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Reason
from keras_adaptive_weights.deciding.plain_records import ADDED_LATER, MAY_OVERFLOW, read_record
from keras_adaptive_weights.deciding.statistics import Noise, Series, mean

W = TypeVar("W")
"""What is decided on: one weight, or those of several terms by their names."""


class Trial(NamedTuple, Generic[W]):
    """The change under observation: what to go back to, the losses before, their ratio since, and any harm it did."""

    previous_weight: W
    baseline: Annotated[float, MAY_OVERFLOW]
    baseline_steps: int
    noise: Noise
    steps: int = 0
    ratio: Annotated[float, MAY_OVERFLOW] = 1.0
    harm: Reason | None = None


KEPT_FIELDS = 10
"""So many fields of the state, the first ones, no finite step changes, or few."""


class EnvelopeState(NamedTuple, Generic[W]):
    """Everything an envelope remembers. Frozen, bounded, and the same after a round trip through JSON.

    `faults_off_trial`: since the last rollback, a non-finite step came after a stable one with no change on trial.
    `skipped_steps`, `dampened_steps`, `empty_steps`: how many there were, over the whole life of the weight.
    `weight` is what was decided. In a shadow run it is what the envelope proposes, and `held_weight` what stays in
    force; otherwise that is None.
    """

    weight: W
    base_weight: W
    held_weight: W | None = None
    previous_weight: W | None = None
    cooling: int = 0
    disabled: bool = False
    faults_off_trial: bool = False
    skipped_steps: int = 0
    dampened_steps: Annotated[int, ADDED_LATER] = 0
    empty_steps: Annotated[int, ADDED_LATER] = 0
    # the fields from here on are what every finite step changes: `intake.feed` builds them anew, in this order
    step: int = 0
    steps_since_change: int = 0
    observed_steps: int = 0
    stable_steps: int = 0
    last_finite: bool = True
    breaker: int = 0
    rollbacks: int = 0
    trial: Trial[W] | None = None
    running_total_loss: float | None = None
    losses: Series = Series()
    gradient_norms: Series = Series()

    @property
    def weight_in_force(self) -> W:
        """The weight that the loss reads."""
        return self.weight if self.held_weight is None else self.held_weight

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `from_dict` reads back."""
        return {
            **self._asdict(),
            "trial": self.trial and {**self.trial._asdict(), "noise": self.trial.noise._asdict()},
            "losses": self.losses._asdict(),
            "gradient_norms": self.gradient_norms._asdict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote, also after JSON turned its tuples into lists.

        Raises:
            ValueError: A field is missing, unknown (of a newer version), or holds something else than it should.
        """
        state = read_record(cls, values, cls.__name__)
        for name in ("losses", "gradient_norms"):
            series: Series = getattr(state, name)
            if not _agree(series.reference_mean, mean(series.reference) if series.reference else 0.0):
                raise ValueError(
                    f"{cls.__name__}: field `{name}.reference_mean` must be the mean of `{name}.reference`. Received: "
                    f"{series.reference_mean!r}."
                )
        if (trial := state.trial) is not None and not (trial.baseline_steps >= 1 and trial.noise.possible):
            raise ValueError(f"{cls.__name__}: field `trial` must hold what can be measured. Received: {trial!r:.300}.")
        return state


def _agree(one: float, other: float) -> bool:
    """Whether two means of the same numbers are equal but for rounding, which is not the same in every Python."""
    return math.isclose(one, other, rel_tol=1e-9) or not (math.isfinite(one) or math.isfinite(other))


class ControllerState(EnvelopeState[float]):
    """Everything the envelope of one weight remembers."""

    __slots__ = ()

    def within(self, config: AdaptiveWeightConfig) -> ControllerState:
        """Return the state with every weight moved to the nearer bound of `config` where it is outside."""

        def clamp(weight: float) -> float:
            return min(max(weight, config.min_weight), config.max_weight)

        previous, trial, held = self.previous_weight, self.trial, self.held_weight
        return self._replace(
            weight=clamp(self.weight),
            base_weight=clamp(self.base_weight),
            previous_weight=None if previous is None else clamp(previous),
            trial=trial and trial._replace(previous_weight=clamp(trial.previous_weight)),
            held_weight=None if held is None else clamp(held),
        )


def initial_state(config: AdaptiveWeightConfig, base_weight: float) -> ControllerState:
    """Return the state before the first step, at the base weight.

    Raises:
        TypeError: The base weight is no number.
        ValueError: The base weight is not finite or outside the bounds.
    """
    config.check_base_weight("initial_state", "base_weight", base_weight)
    weight = float(base_weight)
    return ControllerState(weight=weight, base_weight=weight)


def stability_metrics(state: ControllerState) -> dict[str, float]:
    """Return the guide's stability metrics; averages are NaN before the first finite step.

    `loss_variance` is relative to the squared running average; `loss_stability_score` is `1 / (1 + loss_variance)`.
    """
    variance = state.losses.variance
    return {
        "running_mel_loss": state.losses.average,
        "running_total_loss": math.nan if state.running_total_loss is None else state.running_total_loss,
        "loss_variance": variance,
        "loss_stability_score": 1.0 / (1.0 + variance),
        "step_count": state.step,
    }


def adaptive_weight_metrics(config: AdaptiveWeightConfig, state: ControllerState) -> dict[str, float | bool]:
    """Return the guide's adaptive-weight metrics; the average norm is NaN before the first one.

    Of a shadow run, the current and previous weight are the one in force, and `proposed_mel_weight` comes on top.
    """
    current = state.weight_in_force
    shadow = {} if state.held_weight is None else {"proposed_mel_weight": state.weight}
    return {
        "current_mel_weight": current,
        "previous_mel_weight": current if shadow or state.previous_weight is None else state.previous_weight,
        "base_mel_weight": state.base_weight,
        "steps_since_weight_change": state.steps_since_change,
        "consecutive_stable_steps": state.stable_steps,
        "weight_adjustment_enabled": config.enabled and not state.disabled,
        "avg_gradient_norm": state.gradient_norms.average,
        **shadow,
    }
