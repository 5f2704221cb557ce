"""The journal's lines as plain dictionaries: what is written of a record, and the record read back from it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.version import __version__

FORMAT = 1
OUTCOME_FIGURES = ("smoothed_loss", "running_average", "loss_ratio", "loss_variance", "average_gradient_norm")
_JSON = json.JSONEncoder(allow_nan=False)  # `json.dumps` makes a new one for every line
_USUAL_STEP = re.compile(  # as `encode` writes `step_values` and `outcome_values` of a step with nothing unusual
    r'\{"kind": "step", "step": (\d+), "weight": ([^,]+), "loss": ([^,]+), "total_loss": ([^,]+), '
    r'"gradient_norm": ([^,]+), "applied": true(, "action": [^}]*)?\}\n?'
)
_known_weight = lru_cache(maxsize=16)(float)  # the same one on many steps


@dataclass(frozen=True, slots=True)
class Header:
    """What a journal says about the run before its steps.

    Attributes:
        run: Id of the run; a resumed run keeps it.
        term: Name of the loss term whose weight it is about.
        base_weight: The weight's base.
        config: Settings of the controller.
        state: The controller's state that the steps after the header start from, as plain values.
        version: Version of the package that wrote it.
    """

    run: str
    term: str
    base_weight: float
    config: AdaptiveWeightConfig
    state: dict[str, Any]
    version: str = __version__

    @property
    def shadow(self) -> bool:
        """Whether the decisions after it were only recorded, and the weight in force stayed."""
        return self.state.get("held_weight") is not None


def encode(values: Mapping[str, Any]) -> str:
    """Return one line of JSON, ASCII only, with the numbers JSON has no word for as strings."""
    try:
        return _JSON.encode(values)
    except ValueError:
        return _JSON.encode(plain(values))


def header_values(header: Header) -> dict[str, Any]:
    """Return the fields of a header line."""
    return {
        "version": header.version,
        "run": header.run,
        "term": header.term,
        "base_weight": header.base_weight,
        "shadow": header.shadow,
        "config": header.config.to_dict(),
        "state": header.state,
    }


def step_values(seen: Observation, weight: float, proposed_weight: float | None = None) -> dict[str, Any]:
    """Return the fields of a step line; what is as usual is left out.

    Args:
        seen: The step.
        weight: The weight in force on it.
        proposed_weight: In a shadow run, the weight that the controller had proposed.
    """
    values: dict[str, Any] = {
        "kind": "step",
        "step": seen.step,
        "weight": weight,
        "loss": seen.loss,
        "total_loss": seen.total_loss,
        "gradient_norm": seen.gradient_norm,
        "applied": seen.applied,
    }
    if proposed_weight is not None:
        values["proposed_weight"] = proposed_weight
    if seen.loss_scaling:
        values["loss_scaling"] = True
    if seen.dampening != 1.0:
        values["dampening"] = seen.dampening
    if seen.non_finite is not None:
        values["non_finite"] = seen.non_finite
    return values


def outcome_values(decision: Decision) -> dict[str, Any]:
    """Return what the last step of an execution says about the decision after it."""
    evidence = decision.evidence
    figures = {name: float(f"{evidence[name]:.6g}") for name in OUTCOME_FIGURES if name in evidence}
    return {"action": decision.action.value, "reason": decision.reason.value, **figures}


def read_header(values: dict[str, Any], path: str | os.PathLike[str]) -> Header:
    """Read a header line.

    Raises:
        ValueError: A format newer than this package.
        KeyError: No header.
    """
    if values["format"] > FORMAT:
        raise ValueError(
            f"read_journal: {os.fspath(path)!r} has format {values['format']}, this package reads up to {FORMAT}: "
            "install a newer version."
        )
    return Header(
        run=values["run"],
        term=values["term"],
        base_weight=values["base_weight"],
        config=AdaptiveWeightConfig.from_dict(values["config"]),
        state=revived(values["state"]),
        version=values["version"],
    )


def read_step(values: dict[str, Any]) -> Observation:
    """Read a step line."""
    return Observation(
        step=values["step"],
        loss=float(values["loss"]),
        total_loss=_optional(values["total_loss"]),
        gradient_norm=_optional(values["gradient_norm"]),
        applied=values["applied"],
        loss_scaling=values.get("loss_scaling", False),
        dampening=float(values.get("dampening", 1.0)),
        non_finite=values.get("non_finite"),
    )


def read_usual_step(line: str) -> tuple[Observation, float, bool] | None:
    """Read a step line in the usual layout: the observation, its weight, and whether a decision came after it.

    Nearly every line of a journal is one, and read so it takes a third of the time that a parser of JSON takes. None:
    any other line, for the parser.
    """
    if (match := _USUAL_STEP.fullmatch(line)) is None:
        return None
    step, weight, loss, total, norm, outcome = match.groups()
    if outcome is not None and "{" in outcome:  # the next line followed without a line break
        return None
    try:
        seen = Observation(
            int(step),
            float(loss),
            None if total == "null" else float(total),
            None if norm == "null" else float(norm),
        )
        return seen, _known_weight(weight), outcome is not None
    except ValueError:  # no number after all, or one that JSON has no word for
        return None


def plain(value: Any) -> Any:
    """Return the value with the numbers that JSON cannot hold as strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def revived(value: Any) -> Any:
    """Undo `plain` within a controller state."""
    if value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, dict):
        return {key: revived(item) for key, item in value.items()}
    if isinstance(value, list):
        return [revived(item) for item in value]
    return value


def _optional(value: float | str | None) -> float | None:
    return None if value is None else float(value)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return what a line holds; None where it cannot be read."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return revived(values) if isinstance(values, dict) else None
