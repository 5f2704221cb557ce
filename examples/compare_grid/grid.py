"""What is compared: scenarios, contestants, and where the faults of a run are. Without TensorFlow."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from xtts_demo.faults import NAN, SPIKE

FAULT_SHARE = 0.01
SPIKE_FACTOR = 100.0
SURGE_FACTOR = 10.0
SURGE_SHARE = 0.05
GUIDE_WEIGHT = 2.5
USUAL_ROOM = 100.0  # what the package gives a balanced weight without settings

PLAIN, TERMINATE, EARLIER, FIXED, ADAPTIVE = "plain", "terminate-on-nan", "earlier-rule", "mixin-fixed", "adaptive"
SHARE, AUTO = "share-60", "auto"
BALANCED = {SHARE: {"mel_loss": 0.6}, AUTO: None}
"""The contestants with a balance, and the shares of the gradient that they intend; `None`: equal ones."""
CONTESTANTS = {
    PLAIN: "plain Keras, fixed weight",
    TERMINATE: "plain Keras + TerminateOnNaN",
    EARLIER: "earlier rule, plain Keras",
    FIXED: "mixin, fixed weight",
    ADAPTIVE: "mixin + adaptive weight",
    SHARE: "mixin + share 60 %",
    AUTO: "mixin + equal shares",
}
"""Name -> what it is called in the report. `adaptive` is the guide's rule, the two after it are balances."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of trouble.

    Attributes:
        title: What it is called in the report.
        base_weight: Mel weight that everybody begins with, and those with a fixed weight keep.
        fault: Kind of fault that 1 % of the batches have; `None`: no bad batches.
        surge: Whether the learning rate is ten times as high for a twentieth of the run.
    """

    title: str
    base_weight: float = GUIDE_WEIGHT
    fault: str | None = None
    surge: bool = False


SCENARIOS = {
    "clean": Scenario("clean"),
    "nan": Scenario("1 % NaN batches", fault=NAN),
    "spike": Scenario("1 % spikes of 100x", fault=SPIKE),
    "surge": Scenario("learning rate x10 for a while", surge=True),
    "weight-1": Scenario("base weight 1.0", base_weight=1.0),
    "weight-5": Scenario("base weight 5.0", base_weight=5.0),
    "weight-low": Scenario("mel weight 100 times too low", base_weight=0.01 * GUIDE_WEIGHT),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What all runs of a grid have in common.

    Attributes:
        steps: Training steps of a run.
        batch_size: Utterances of a batch.
        max_seconds: Longer clips are left out.
        max_clips: Only so many sentences of the corpus are looked at. `None`: all.
        width: Channels of the model.
        learning_rate: Its peak; it rises over 40 steps and falls along a cosine to 0.
        room: Balanced weights move within their base divided by this and times this.
    """

    steps: int = 400
    batch_size: int = 6
    max_seconds: float = 3.0
    max_clips: int | None = None
    width: int = 64
    learning_rate: float = 2e-3
    room: float = USUAL_ROOM

    @property
    def label(self) -> str:
        """The settings in one line. Rows with another line do not belong to the same grid."""
        clips = "" if self.max_clips is None else f" of the first {self.max_clips}"
        room = "" if self.room == USUAL_ROOM else f"; room {self.room:g}"
        return (
            f"{self.steps} steps of {self.batch_size} clips{clips} up to {self.max_seconds:g} s; width {self.width}; "
            f"rate {self.learning_rate:g}{room}"
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the grid: names in `SCENARIOS` and `CONTESTANTS`, and the seed of split, order, model and faults."""

    scenario: str
    contestant: str
    seed: int


def cells(scenarios: Sequence[str], contestants: Sequence[str], seeds: int) -> list[Cell]:
    """Return all runs, one seed after the other: what is done of a grid is a whole grid of fewer seeds."""
    return [Cell(s, c, seed) for seed in range(1, seeds + 1) for s in scenarios for c in contestants]


def fault_steps(scenario: str, seed: int, steps: int) -> dict[int, str]:
    """Return step -> kind of the bad batches: 1 % of the steps, at least one, the same for every contestant."""
    kind = SCENARIOS[scenario].fault
    if kind is None:
        return {}
    count = max(1, round(FAULT_SHARE * steps))
    chosen = random.Random(f"{scenario} {seed}").sample(range(1, steps + 1), count)
    return dict.fromkeys(sorted(chosen), kind)


def surge_steps(scenario: str, seed: int, steps: int) -> range:
    """Return the steps with a learning rate ten times as high: a twentieth of the run, within its middle half."""
    if not SCENARIOS[scenario].surge:
        return range(0)
    length = max(1, round(SURGE_SHARE * steps))
    first = random.Random(f"{scenario} {seed}").randint(
        1 + steps // 4, max(1 + steps // 4, 1 + 3 * steps // 4 - length)
    )
    return range(first, first + length)
