"""The journal's lines: what is written of a record, and what a line that is read may hold.

Whatever reads a journal reads its lines here, so that nothing in a file is believed before it was checked: kind, type,
range and size of every field. Fields that are not known are left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, TypedDict

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.deciding.plain_records import FLOAT32_MAX, MAY_BE_MISSING, MAY_OVERFLOW, read_fields
from keras_adaptive_weights.deciding.printable import bounded, printable
from keras_adaptive_weights.deciding.state import ControllerState
from keras_adaptive_weights.journal.regular_files import parse_json
from keras_adaptive_weights.version import __version__

FORMAT = 1
MOST_LINE_BYTES = 1 << 22
OUTCOME_FIGURES = ("smoothed_loss", "running_average", "loss_ratio", "loss_variance", "average_gradient_norm")
Values = dict[str, Any]
_Real = Annotated[float, MAY_OVERFLOW]
_SELDOM = {  # left out of a step where it is as usual
    name: usual
    for name, usual in Observation._field_defaults.items()
    if name not in ("total_loss", "gradient_norm", "applied")
}
_USUAL_STEP = re.compile(  # as `encode` writes `step_values` and `outcome_values` of a step with nothing unusual
    rb'\{"kind": "step", "step": ([0-9]{1,15}), "weight": ([0-9.e+-]+), "loss": ([0-9.e+-]+), "total_loss": '
    rb'(null|[0-9.e+-]+), "gradient_norm": (null|[0-9.e+-]+), "applied": true(, "action": [^}]*)?\}\n?'
)


class StepLine(TypedDict):
    """A training step; what is as usual is left out."""

    step: int
    weight: float
    loss: _Real
    total_loss: _Real | None
    gradient_norm: _Real | None
    applied: bool
    proposed_weight: Annotated[float, MAY_BE_MISSING]
    loss_scaling: Annotated[bool, MAY_BE_MISSING]
    dampening: Annotated[_Real, MAY_BE_MISSING]
    non_finite: Annotated[str | None, MAY_BE_MISSING]
    empty: Annotated[bool, MAY_BE_MISSING]
    action: Annotated[str, MAY_BE_MISSING]
    reason: Annotated[str, MAY_BE_MISSING]
    smoothed_loss: Annotated[_Real, MAY_BE_MISSING]
    running_average: Annotated[_Real, MAY_BE_MISSING]
    loss_ratio: Annotated[_Real, MAY_BE_MISSING]
    loss_variance: Annotated[_Real, MAY_BE_MISSING]
    average_gradient_norm: Annotated[_Real, MAY_BE_MISSING]


class EventLine(TypedDict):
    """A decision other than HOLD. Action and reason may be those of a newer version."""

    step: int
    action: str
    reason: str
    old_weight: float
    new_weight: float
    evidence: Mapping[str, _Real]
    wall_time: float
    note: Annotated[str, MAY_BE_MISSING]
    advice: Annotated[str, MAY_BE_MISSING]
    held_weight: Annotated[float, MAY_BE_MISSING]


class BlockLine(TypedDict):
    """A summary of steps, see `blocks`."""

    first: int
    last: int
    steps: int
    figures: Mapping[str, tuple[float, float, float]]
    reasons: Mapping[str, int]
    phases: list[tuple[int, str]]
    skipped: list[tuple[int, str | None, bool]]
    dampened: Annotated[list[tuple[int, _Real]], MAY_BE_MISSING]


class _HeaderLine(TypedDict):
    version: str
    run: str
    term: str
    base_weight: float


class _SavedLine(TypedDict):
    step: int
    wall_time: float


class _EndLine(TypedDict):
    wall_time: float
    interrupted: Annotated[bool, MAY_BE_MISSING]


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


def plain(value: Any) -> Any:
    """Return the value with the numbers that JSON cannot hold as strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def header_values(header: Header) -> Values:
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


def step_values(seen: Observation, weight: float, proposed_weight: float | None = None) -> Values:
    """Return the fields of a step line; what is as usual is left out.

    Args:
        seen: The step.
        weight: The weight in force on it.
        proposed_weight: In a shadow run, the weight that the controller had proposed.
    """
    values: Values = {
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
    for name, usual in _SELDOM.items():
        if (value := getattr(seen, name)) != usual:
            values[name] = value
    return values


def outcome_values(decision: Decision) -> Values:
    """Return what the last step of an execution says about the decision after it."""
    evidence = decision.evidence
    figures = {name: float(f"{evidence[name]:.6g}") for name in OUTCOME_FIGURES if name in evidence}
    return {"action": decision.action.value, "reason": decision.reason.value, **figures}


def event_values(decision: Decision, wall_time: float) -> Values:
    """Return the fields of an event line."""
    return {"kind": "event", **decision.to_dict(), "advice": decision.advice, "wall_time": wall_time}


def read_line(line: bytes) -> Values:
    """Return what a line of any kind holds, checked field by field; numbers are numbers again.

    A header's `config` and `state` are complete, whatever older version wrote them.

    Raises:
        ValueError: It cannot be read: one sentence that says why.
    """
    if len(line) > MOST_LINE_BYTES:
        raise ValueError(f"it is longer than {MOST_LINE_BYTES} bytes, and nothing after it is read.")
    values = parse_json(line)
    kind = values.get("kind") if isinstance(values, dict) else None
    read = _KINDS.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise ValueError(f"it is of no known kind ({printable(repr(kind), 40)}).")
    return {"kind": kind, **read(values)}


def read_header(values: Values) -> Header:
    """Make a header of the fields of its line."""
    return Header(
        run=values["run"],
        term=values["term"],
        base_weight=values["base_weight"],
        config=AdaptiveWeightConfig.from_dict(values["config"]),
        state=values["state"],
        version=values["version"],
    )


def read_step(values: Mapping[str, Any]) -> Observation:
    """Make an observation of the fields of a step line."""
    return Observation(**{name: values[name] for name in Observation._fields if name in values})


def read_usual_step(line: bytes) -> tuple[Observation, float, bool] | None:
    """Read a step line in the usual layout: the observation, its weight, and whether a decision came after it.

    Nearly every line of a journal is one, and read so it takes a fraction of the time that a parser of JSON takes.
    None: any other line, for the parser.
    """
    if (match := _USUAL_STEP.fullmatch(line)) is None:
        return None
    step, weight, loss, total, norm, outcome = match.groups()
    if outcome is not None and b"{" in outcome:  # the next line followed without a line break
        return None
    try:
        seen = Observation(
            int(step),
            float(loss),
            None if total == b"null" else float(total),
            None if norm == b"null" else float(norm),
        )
        return seen, _usual_weight(weight), outcome is not None
    except ValueError:  # no number after all, or a weight that none may be
        return None


@lru_cache(maxsize=16)
def _usual_weight(text: bytes) -> float:
    """Read a weight; on many steps it is the same one."""
    weight = float(text)
    if not 0.0 < weight <= FLOAT32_MAX:
        raise ValueError
    return weight


def _read_header_line(values: Values) -> Values:
    version = values.get("format")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"header: field `format` must be an integer from 1 on. Received: {version!r:.40}.")
    if version > FORMAT:
        raise ValueError(f"it has format {version}, this package reads up to {FORMAT}: install a newer version.")
    read = read_fields(_HeaderLine, values, "header")
    settings = values.get("config")
    if not isinstance(settings, dict):
        raise ValueError(f"header: field `config` must be a mapping. Received: {type(settings).__name__}.")
    try:
        config = AdaptiveWeightConfig.from_dict(settings)
        config.check_base_weight("header", "base_weight", read["base_weight"])
    except TypeError as error:
        raise ValueError(str(error)) from error
    state = ControllerState.from_dict(values.get("state", {}))
    if state.within(config) != state:
        raise ValueError("header: the weights in its state are not within the bounds in its config.")
    return {"format": version, **read, "config": config.to_dict(), "state": state.to_dict()}


def _read_event_line(values: Values) -> Values:
    note = values.get("note")  # older versions took it at any length
    return read_fields(EventLine, values | {"note": bounded(note)} if isinstance(note, str) else values, "event")


def _read_block_line(values: Values) -> Values:
    block = read_fields(BlockLine, values, "block")
    block.setdefault("dampened", [])
    first, last, steps, phases = block["first"], block["last"], block["steps"], block["phases"]
    seen, counts, figures = (block["skipped"], block["dampened"]), block["reasons"].values(), block["figures"].values()
    agree = (
        1 <= steps <= last - first + 1
        and all(first <= row[0] <= last for rows in (phases, *seen) for row in rows)
        and 1 <= len(phases) <= steps
        and max(map(len, seen)) <= steps
        and min(counts, default=1) >= 1
        and sum(counts) <= steps
        and all(least <= latest <= greatest for least, greatest, latest in figures)
    )
    if not agree:
        raise ValueError("block: its figures contradict each other.")
    return block


def _reader(fields: Any, kind: str) -> Callable[[Values], Values]:
    return lambda values: read_fields(fields, values, kind)


_KINDS: dict[str, Callable[[Values], Values]] = {
    "header": _read_header_line,
    "step": _reader(StepLine, "step"),
    "event": _read_event_line,
    "block": _read_block_line,
    "saved": _reader(_SavedLine, "saved"),
    "end": _reader(_EndLine, "end"),
}


def _plain_number(value: Any) -> Any:
    """Return what a number of NumPy is in plain Python."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r:.200} cannot be written to a journal.")


_JSON = json.JSONEncoder(allow_nan=False, default=_plain_number)  # `json.dumps` makes a new one for every line
