"""What is compared: problems and contestants, by name. Without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

EQUAL, GUIDE, SHARE, SQRT, INVERSE, DWA, CONSTRAINT = "equal", "guide", "share", "sqrt", "inverse", "dwa", "constraint"
CONTESTANTS = {
    EQUAL: "equal fixed weights",
    GUIDE: "the guide's rule",
    SHARE: "GradientShare()",
    SQRT: "SqrtLoss()",
    INVERSE: "1/L at once",
    DWA: "DWA",
    CONSTRAINT: "Constraint",
}
"""Name -> what it is called in the report. The first is what the others are compared with."""


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a problem without TensorFlow.

    Attributes:
        title: What it is called in the report.
        steps: Training steps of a run.
        required: What `GradientShare()` is to reach, as a mean change of the score; `None`: nothing is promised.
        limit: Of a problem with a constraint, the limit; its score is the deviation from it.
    """

    title: str
    steps: int
    required: str | None = None
    limit: float | None = None

    @property
    def contestants(self) -> tuple[str, ...]:
        """Those that can be tried on it."""
        return (CONSTRAINT,) if self.limit else tuple(name for name in CONTESTANTS if name != CONSTRAINT)


PROBLEMS = {
    "toy2": About("two regressions of scale 1 : 100", 2500, "-18 %, every seed better"),
    "toy2-long": About("the same, 8,000 steps", 8000, "-15 %"),
    "toy1": About("two regressions of the same scale", 2500, "median within 1 %, mean at most +5 %"),
    "digits": About("digits: class, angle in degrees, ink", 2500, "-45 %, every seed -35 %"),
    "helmholtz": About("Helmholtz equation (PINN)", 3000, "-80 %, every seed -70 %"),
    "vae-1.5": About("digits VAE, reconstruction at 1.5", 2000, limit=1.5),
    "vae-2.0": About("digits VAE, reconstruction at 2.0", 2000, limit=2.0),
    "toy3": About("three regressions of scale 1 : 30 : 900", 2500),
    "toy2-noise": About("1 : 100, labels of the first half noise", 2500),
    "toy2-fast": About("1 : 100, three times the learning rate", 2500),
}
"""Name -> what is known of it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: names in `PROBLEMS` and `CONTESTANTS`, and the seed of data, parameters and batches."""

    problem: str
    contestant: str
    seed: int


def cells(problems: Sequence[str], contestants: Sequence[str], seeds: int) -> list[Cell]:
    """Return all runs, one seed after the other: what is done of a grid is a whole grid of fewer seeds."""
    return [
        Cell(problem, contestant, seed)
        for seed in range(1, seeds + 1)
        for problem in problems
        for contestant in PROBLEMS[problem].contestants
        if contestant in contestants
    ]
