"""What a program with types writes with this package: `mypy` reads it in strict mode, and knows what everything is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, assert_type

import keras_adaptive_weights as kaw

CONFIG = kaw.AdaptiveWeightConfig(min_weight=0.02, max_weight=2.0, cooling_period=100)


class Count(NamedTuple):
    """Steps seen."""

    steps: int = 0


class Own:
    """A strategy of a user's."""

    def initial(self, terms: Sequence[kaw.Term]) -> Count:
        """Nothing was seen yet."""
        return Count()

    def step(self, state: Count, observations: Sequence[kaw.JointObservation]) -> tuple[Count, kaw.Proposal | None]:
        """Want the first term at 2."""
        return Count(state.steps + len(observations)), kaw.Proposal({"mel_loss": kaw.Target(2.0, error=0.1)})


class Prints:
    """An observer of a user's."""

    def observe(self, observations: Sequence[kaw.Observation], decision: kaw.Decision) -> None:
        """Print what happened."""
        if decision.is_event:
            print(f"{decision.step}: {decision.action.value}, {decision.advice}")


def compiled(model: Any, log_dir: Path) -> kaw.AdaptiveWeightCallback:
    """Make a model stable and adaptive, and return its callback."""
    stable = kaw.stable(model)
    weights: Mapping[str, float | kaw.AdaptiveWeight] = {"price": kaw.AdaptiveWeight(0.2, CONFIG), "kind": 1.0}
    stable.compile("adam", loss={"price": "mse", "kind": "mse"}, loss_weights=weights)
    return kaw.AdaptiveWeightCallback(log_dir=log_dir, observers=[Prints()])


def balanced(error: Any, strategy: kaw.Strategy[Count]) -> kaw.CompositeLoss:
    """Return a loss whose weights a user's own strategy finds."""
    return kaw.CompositeLoss({"mel_loss": kaw.LossTerm(error, kaw.AdaptiveWeight(2.5))}, balance=strategy)


def read(loss: kaw.CompositeLoss, callback: kaw.AdaptiveWeightCallback, error: Any) -> list[str]:
    """Return what was decided, as text."""
    balanced(error, Own())
    assert_type(loss.adaptive_weights["mel_loss"].weight, float)
    assert_type(kaw.replay([kaw.Observation(1, 0.8)], CONFIG), list[kaw.Decision])
    decision = loss.adaptive_weights["mel_loss"].update(0.8, gradient_norm=1.0)
    assert_type(decision, kaw.Decision)
    assert_type(decision.new_weight, float)
    return [str(each) for each in callback.decisions]
