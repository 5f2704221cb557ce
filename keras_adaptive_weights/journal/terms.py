"""One term of a run: what lines about several terms say of it, in the words of format 1, which knew only one.

So whatever looks at one weight (a picture, a report, a window of the dashboard) need not know how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.lines import OUTCOME_FIGURES, Values

_OF_THE_SUM = frozenset({"smoothed_loss", "running_average"})
_COMMON = ("kind", "step", "total_loss", "gradient_norm", "applied", "loss_scaling", "dampening", "non_finite")


class Rows:
    """Splits step lines, in their order, into what they say of each term.

    Weights are written where they change, on the first step after a header and on the first of each block; they are
    carried on from there.

    Args:
        header: The header before them.
    """

    def __init__(self, header: Header) -> None:
        self._adaptive = frozenset(header.adaptive)
        self.weights = {name: start.in_force for name, start in header.terms.items()}
        self._proposed: dict[str, float] = {}

    def carry(self, values: Values) -> None:
        """Take in the weights of a step line, if it has any."""
        if "weights" in values:
            self.weights |= self._known(values["weights"])
            self._proposed |= self._known(values.get("proposed_weights", {}))

    def _known(self, weights: Mapping[str, float]) -> dict[str, float]:
        return {name: weight for name, weight in weights.items() if name in self.weights}

    def split(self, values: Values) -> dict[str, Values]:
        """Return what a step line says of each term: its `weight`, `loss`, `action`, `reason`, figures, and the rest.

        Where the batch had nothing of the term to measure, the loss is NaN and `empty` true. A balance smooths the
        weighted sum of the losses, and not that of a term: of these figures a term of a balance has none.
        """
        self.carry(values)
        common = {name: values[name] for name in _COMMON if name in values}
        losses, decided, rows = values["losses"], values.get("decided", {}), {}
        left_out = _OF_THE_SUM if "" in decided else ()
        for name, weight in self.weights.items():
            row: dict[str, Any] = common | {"weight": weight, "loss": losses.get(name, math.nan)}
            if name not in losses:
                row["empty"] = True
            if name in self._proposed:
                row["proposed_weight"] = self._proposed[name]
            for figure, of_all in (("term_norm", "term_norms"), ("share", "shares")):
                if name in values.get(of_all, ()):
                    row[figure] = values[of_all][name]
            outcome = decided.get(name, decided.get("")) if name in self._adaptive else None
            if outcome is not None:
                action, reason, *figures = outcome
                named = zip(OUTCOME_FIGURES, figures, strict=True)
                known = {n: value for n, value in named if value is not None and n not in left_out}
                row |= {"action": action, "reason": reason, **known}
            rows[name] = row
        return rows


def header_of(header: Header, term: str) -> Values:
    """Return what a header says of one term: of a fixed one, neither `config` nor `state`."""
    start = header.terms[term]
    about = {"format": header.format, "version": header.version, "run": header.run, "term": term}
    of_adaptive = {} if start.config is None else {"config": start.config.to_dict(), "state": start.state}
    return {"kind": "header", **about, "base_weight": start.weight, **of_adaptive}


def event_of(event: Values, term: str) -> Values | None:
    """Return what an event says of one term; None: nothing. One of a balance also keeps the weights of all."""
    if event["term"] == term:
        return event
    if event["term"] or term not in event["new_weights"]:
        return None
    held = {"held_weight": event["held_weights"][term]} if "held_weights" in event else {}
    return (
        event
        | {"term": term, "old_weight": event["old_weights"][term], "new_weight": event["new_weights"][term]}
        | held
    )


def block_of(block: Values, term: str) -> Values:
    """Return what a block says of one term."""
    of_all = {name: value for name, value in block.items() if name != "terms"}
    own: Values = block["terms"][term]
    return of_all | own | {"figures": {**block["figures"], **own["figures"]}}
