"""Summaries of runs of steps in the journal, so that an overview of a million steps need not read a million lines.

A block says about the steps since the block (or header) before it:

- `first`, `last`, `steps`: their first and last number, and how many they are;
- `figures`: for each figure that was a finite number at least once, its least, greatest and last value;
- `skipped`: the skipped steps, as lists of step, what was non-finite (or null), and whether it was routine loss
  scaling;
- `dampened`: the steps whose total was scaled down, as pairs of step and factor; blocks of older versions lack it;
- `terms`: of each term its own `figures`, and for an adaptive one
  `reasons`: how often each reason of a HOLD was given; `phases`: the phase at the first step, and every change after
  it, as pairs of step and phase: "warmup", "cooling", "disabled" or "" for none of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from keras_adaptive_weights.deciding.decision import Action, Reason
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.lines import OUTCOME_FIGURES, SHARED_FIGURES, Values
from keras_adaptive_weights.journal.terms import Rows

BLOCK_STEPS = 256
FIGURES = ("weight", "proposed_weight", "loss", "total_loss", "gradient_norm", "term_norm", "share", *OUTCOME_FIGURES)
_OF_TERM = ("figures", "reasons", "phases")
_PHASES = {
    Reason.WARMUP.value: "warmup",
    Reason.COOLING.value: "cooling",
    Reason.DISABLED.value: "disabled",
    Reason.SWITCHED_OFF.value: "disabled",
}
_NO_PHASE_CHANGE = (
    Reason.NON_FINITE.value,
    Reason.LOSS_SCALING.value,
    Reason.EMPTY.value,
    Reason.MEASURED_AT_START.value,
)


class BlockBuilder:
    """Collects what steps say of one term (see `terms`) into a block of it.

    Args:
        phase: The phase before the first step.
        figures: Names of the figures to collect.
    """

    def __init__(self, phase: str = "", figures: Sequence[str] = FIGURES) -> None:
        self._phase = phase
        self._figures = figures
        self._begin()

    @property
    def steps(self) -> int:
        """Number of steps collected."""
        return int(self._block["steps"])

    def add(self, values: Mapping[str, Any]) -> None:
        """Take in one step."""
        block, step = self._block, values["step"]
        if not block["steps"]:
            block["first"] = step
            block["phases"].append([step, self._phase])
        block["last"] = step
        block["steps"] += 1
        for name in self._figures:
            value = values.get(name)
            if isinstance(value, (int, float)) and math.isfinite(value):
                self._add_figure(name, value)
        if not values.get("applied", True):
            block["skipped"].append([step, values.get("non_finite"), bool(values.get("loss_scaling"))])
        if (factor := values.get("dampening", 1.0)) != 1.0:
            block["dampened"].append([step, factor])
        if (reason := values.get("reason")) is not None:
            self._add_outcome(step, values.get("action"), reason)

    def take(self) -> Values:
        """Return the block of the steps collected, and begin the next."""
        block = self.preview()
        self._begin()
        return block

    def preview(self) -> Values:
        """Return the block of the steps collected so far; more may follow."""
        return dict(self._block)

    def _begin(self) -> None:
        self._block: Values = {"kind": "block", "first": 0, "last": 0, "steps": 0, "skipped": [], "dampened": []}
        self._block |= {"figures": {}, "reasons": {}, "phases": []}

    def _add_figure(self, name: str, value: float) -> None:
        seen = self._block["figures"].get(name)
        if seen is None:
            self._block["figures"][name] = [value, value, value]
            return
        if value < seen[0]:
            seen[0] = value
        elif value > seen[1]:
            seen[1] = value
        seen[2] = value

    def _add_outcome(self, step: int, action: str | None, reason: str) -> None:
        if action == Action.HOLD.value:
            reasons = self._block["reasons"]
            reasons[reason] = reasons.get(reason, 0) + 1
        phase = self._phase if reason in _NO_PHASE_CHANGE else _PHASES.get(reason, "")
        if phase != self._phase:
            self._phase = phase
            phases = self._block["phases"]
            if phases[-1][0] == step:
                phases.pop()
            phases.append([step, phase])


class RunBlocks:
    """Collects step lines, written or read back, into a block of all terms.

    Args:
        header: The header before the first of them.
        phases: The phase of each term before it.
    """

    def __init__(self, header: Header, phases: Mapping[str, str] = MappingProxyType({})) -> None:
        self._rows = Rows(header)
        self._shared = BlockBuilder(figures=SHARED_FIGURES)
        own = tuple(name for name in FIGURES if name not in SHARED_FIGURES)
        self._of_terms = {name: BlockBuilder(phases.get(name, ""), own) for name in header.terms}

    @property
    def steps(self) -> int:
        """Number of steps collected."""
        return self._shared.steps

    def add(self, values: Values) -> None:
        """Take in one step line."""
        self._shared.add(values)
        for name, row in self._rows.split(values).items():
            self._of_terms[name].add(row)

    def take(self) -> Values:
        """Return the block of the steps collected, and begin the next."""
        block = self.preview()
        for builder in (self._shared, *self._of_terms.values()):
            builder.take()
        return block

    def preview(self) -> Values:
        """Return the block of the steps collected so far; more may follow."""
        block = self._shared.preview()
        del block["reasons"], block["phases"]
        each = {name: builder.preview() for name, builder in self._of_terms.items()}
        return block | {"terms": {name: {part: one[part] for part in _OF_TERM} for name, one in each.items()}}
