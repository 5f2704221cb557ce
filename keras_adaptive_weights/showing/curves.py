"""The curves of a picture: one for a weight that is looked at alone, or one for each term of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.showing.explain import moves_of
from keras_adaptive_weights.showing.look import Panel
from keras_adaptive_weights.showing.view import View, first_average, view

_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Curve:
    """A term in a picture.

    Attributes:
        index: Of its term.
        seen: What is in view.
        number: Which of the terms it is, the adaptive ones first: its colour and dash.
        adaptive: Whether it has an adaptive weight.
        together: Whether it is one of all terms of a run; else it is alone.
        average: Of its first losses: what it is drawn relative to. 1 where it is alone.
    """

    index: JournalIndex
    seen: View
    number: int = 0
    adaptive: bool = True
    together: bool = False
    average: float = 1.0

    @property
    def term(self) -> str:
        """Name of the term."""
        return self.index.term

    @property
    def smoothed(self) -> bool:
        """Whether the journal has its smoothed loss: that of a fixed or balanced term nobody smooths."""
        return self.adaptive and self.index.balance is None

    @property
    def told(self) -> list[dict[str, Any]]:
        """Its events; those of a balance are told once, for the first term."""
        return self.index.events if self.adaptive and self._leads else []

    @property
    def concerning(self) -> list[dict[str, Any]]:
        """Its events, and of those of a balance what moved its weight."""
        events = self.index.events if self.adaptive else []
        return [event for event in events if self._leads or any(move.new != move.old for move in moves_of(event))]

    @property
    def _leads(self) -> bool:
        return self.index.balance is None or self.number == 0

    def factor(self, panel: Panel) -> float:
        """Return what its figures are multiplied by in a panel."""
        return 1.0 / self.average if panel.id == "loss" else 1.0

    def is_in(self, panel: Panel) -> bool:
        """Whether a panel shows it beside the first: weights, losses and parts of the gradient are shown of all."""
        if panel.id == "weight":
            return self.adaptive
        found = {"loss": "loss", "share": "share"}.get(panel.id)
        return found is not None and not all(map(math.isnan, self.seen.column(found)))


def curves_of(index: JournalIndex, points: int) -> list[Curve]:
    """Return the curves of a run: of all its terms where the index is of none in particular, the adaptive ones first.

    Args:
        index: A refreshed index.
        points: Largest number of buckets of each.
    """
    if not index.together:
        return [Curve(index, view(index, points=points))]
    curves = []
    for number, name in enumerate([*index.terms, *index.fixed]):
        one = index.of(name)
        average = first_average(one)
        usable = math.isfinite(average) and average > 0.0
        seen = view(one, points=points)
        curves.append(Curve(one, seen, number, name in index.terms, together=True, average=average if usable else 1.0))
    return curves


def smoothed(values: Iterable[float]) -> list[float]:
    """Return values as a reader's eye would smooth them, where nobody has."""
    found, mean = [], math.nan
    for value in values:
        if not math.isnan(value):
            mean = value if math.isnan(mean) else mean + _SMOOTHING * (value - mean)
        found.append(math.nan if math.isnan(value) else mean)
    return found
