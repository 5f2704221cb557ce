"""The journal's lines: what is written of a record, and what a line that is read may hold.

Whatever reads a journal reads its lines here, so that nothing in a file is believed before it was checked: kind, type,
range and size of every field. Fields that are not known are left out. Lines of format 1, which were about one term and
did not name it, are read as if they were of today's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypedDict

from keras_adaptive_weights.deciding.decision import Decision
from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation
from keras_adaptive_weights.deciding.plain_records import MAY_BE_MISSING, MAY_OVERFLOW, read_fields
from keras_adaptive_weights.deciding.printable import bounded, printable
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.regular_files import parse_json

MOST_LINE_BYTES = 1 << 22
HEADER_LINE, STEP_LINE = b'{"kind": "header"', b'{"kind": "step"'  # how these lines begin
OUTCOME_FIGURES = ("smoothed_loss", "running_average", "loss_ratio", "loss_variance", "average_gradient_norm")
SHARED_FIGURES = ("total_loss", "gradient_norm")
Values = dict[str, Any]
_Real = Annotated[float, MAY_OVERFLOW]
_Figure = _Real | None
_SEEN = tuple(name for name in JointObservation._fields if name != "weights")
_SELDOM = {  # left out of a step where it is as usual
    name: JointObservation._field_defaults[name] for name in ("term_norms", "loss_scaling", "dampening", "non_finite")
}


class StepLine(TypedDict):
    """A training step; what is as usual is left out."""

    step: int
    losses: Mapping[str, _Real]
    total_loss: _Real | None
    gradient_norm: _Real | None
    applied: bool
    loss_scaling: Annotated[bool, MAY_BE_MISSING]
    dampening: Annotated[_Real, MAY_BE_MISSING]
    non_finite: Annotated[str | None, MAY_BE_MISSING]
    term_norms: Annotated[Mapping[str, _Real], MAY_BE_MISSING]
    shares: Annotated[Mapping[str, _Real], MAY_BE_MISSING]
    weights: Annotated[Mapping[str, float], MAY_BE_MISSING]
    proposed_weights: Annotated[Mapping[str, float], MAY_BE_MISSING]
    decided: Annotated[Mapping[str, tuple[str, str, _Figure, _Figure, _Figure, _Figure, _Figure]], MAY_BE_MISSING]


class _AnyEventLine(TypedDict):
    step: int
    action: str
    reason: str
    evidence: Mapping[str, _Real]
    wall_time: float
    note: Annotated[str, MAY_BE_MISSING]
    advice: Annotated[str, MAY_BE_MISSING]


class EventLine(_AnyEventLine):
    """A decision other than HOLD. Action and reason may be those of a newer version."""

    old_weight: float
    new_weight: float
    held_weight: Annotated[float, MAY_BE_MISSING]
    term: Annotated[str, MAY_BE_MISSING]


class JointEventLine(_AnyEventLine):
    """A decision other than HOLD on all weights of a balance."""

    old_weights: Mapping[str, float]
    new_weights: Mapping[str, float]
    held_weights: Annotated[Mapping[str, float], MAY_BE_MISSING]


class TermBlock(TypedDict):
    """What a block says of one term."""

    figures: Mapping[str, tuple[float, float, float]]
    reasons: Mapping[str, int]
    phases: list[tuple[int, str]]


class BlockLine(TypedDict):
    """A summary of steps, see `blocks`."""

    first: int
    last: int
    steps: int
    figures: Mapping[str, tuple[float, float, float]]
    skipped: list[tuple[int, str | None, bool]]
    dampened: Annotated[list[tuple[int, _Real]], MAY_BE_MISSING]
    terms: Mapping[str, TermBlock]


class _SavedLine(TypedDict):
    step: int
    wall_time: float


class _EndLine(TypedDict):
    wall_time: float
    interrupted: Annotated[bool, MAY_BE_MISSING]


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


def step_values(seen: JointObservation) -> Values:
    """Return the fields of a step line that say what was seen; what is as usual is left out."""
    values: Values = {
        "kind": "step",
        "step": seen.step,
        "losses": seen.losses,
        "total_loss": seen.total_loss,
        "gradient_norm": seen.gradient_norm,
        "applied": seen.applied,
    }
    for name, usual in _SELDOM.items():
        if (value := getattr(seen, name)) != usual:
            values[name] = value
    return values


def outcome_values(decisions: Sequence[Decision | JointDecision]) -> Values:
    """Return what the last step of an execution says about the decisions after it; of a balance under no name."""
    return {"decided": {decision.term: _outcome(decision) for decision in decisions}}


def _outcome(decision: Decision | JointDecision) -> list[Any]:
    evidence = decision.evidence
    figures = [float(f"{evidence[name]:.6g}") if name in evidence else None for name in OUTCOME_FIGURES]
    return [decision.action.value, decision.reason.value, *figures]


def event_values(decision: Decision | JointDecision, wall_time: float) -> Values:
    """Return the fields of an event line."""
    return {"kind": "event", **decision.to_dict(), "advice": decision.advice, "wall_time": wall_time}


def read_line(line: bytes, header: Header | None = None) -> Values:
    """Return what a line of any kind holds, checked field by field; numbers are numbers again.

    Of a header that is the run's id, the `step` to go on from, and the `header` itself.

    Args:
        line: The line.
        header: The header before it. `None`: it was not read; then what a line of format 1 says is of a term "".

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
    return {"kind": kind, **read(values, header)}


def read_step(values: Mapping[str, Any]) -> JointObservation:
    """Make an observation of the fields of a step line."""
    return JointObservation(**{name: values[name] for name in _SEEN if name in values})


def read_decision(values: Mapping[str, Any]) -> Decision | JointDecision:
    """Make a decision of the fields of an event line.

    Raises:
        ValueError: It has an action or reason that this version does not know.
    """
    return JointDecision.from_dict(values) if "old_weights" in values else Decision.from_dict(values)


def _read_header_line(values: Values, before: Header | None) -> Values:
    del before
    header = Header.from_dict(values)
    return {"run": header.run, "step": header.step, "header": header}


def _read_step_line(values: Values, header: Header | None) -> Values:
    if "losses" not in values and (header is None or header.format == 1):
        values = _step_of_today(values, "" if header is None else header.term)
    return read_fields(StepLine, values, "step")


def _step_of_today(old: Values, term: str) -> Values:
    """Return a step of format 1 as one of today's; it is checked afterwards."""
    step = old | {"losses": {} if old.get("empty") else {term: old.get("loss")}, "weights": {term: old.get("weight")}}
    if "proposed_weight" in old:
        step["proposed_weights"] = {term: old["proposed_weight"]}
    if "reason" in old:
        step["decided"] = {term: [old.get("action"), old["reason"], *(old.get(name) for name in OUTCOME_FIGURES)]}
    return step


def _read_event_line(values: Values, header: Header | None) -> Values:
    note, joint = values.get("note"), "old_weights" in values
    if isinstance(note, str):  # older versions took it at any length
        values = values | {"note": bounded(note)}
    event = read_fields(JointEventLine if joint else EventLine, values, "event")
    if header is None:
        return event
    event.setdefault("term", "" if joint else header.term)
    if joint:
        about = [set(event[name]) for name in ("old_weights", "new_weights", "held_weights") if name in event]
        fits = all(names == set(header.adaptive) for names in about)
    else:
        about, fits = [{event["term"]}], event["term"] in header.adaptive
    if not fits:
        raise ValueError(f"event: its terms are not those of the header. Received: {[*map(sorted, about)]!r:.200}.")
    return event


def _read_block_line(values: Values, header: Header | None) -> Values:
    if "terms" not in values and isinstance(figures := values.get("figures"), dict):  # of format 1
        of_one = {name: values.get(name) for name in ("reasons", "phases")}
        of_one["figures"] = {name: edges for name, edges in figures.items() if name not in SHARED_FIGURES}
        values = values | {"terms": {"" if header is None else header.term: of_one}}
        values["figures"] = {name: edges for name, edges in figures.items() if name in SHARED_FIGURES}
    block = read_fields(BlockLine, values, "block")
    block.setdefault("dampened", [])
    _check_block(block)
    return block


def _check_block(block: Values) -> None:
    """Refuse a block that cannot be one.

    Raises:
        ValueError: Its figures contradict each other.
    """
    first, last, steps, terms = block["first"], block["last"], block["steps"], block["terms"].values()
    seen, phases = (block["skipped"], block["dampened"]), [term["phases"] for term in terms]
    counts = [term["reasons"].values() for term in terms]
    figures = [block["figures"], *(term["figures"] for term in terms)]
    agree = (
        1 <= steps <= last - first + 1
        and terms
        and all(first <= row[0] <= last for rows in (*phases, *seen) for row in rows)
        and all(1 <= len(rows) <= steps for rows in phases)
        and max(map(len, seen)) <= steps
        and all(min(count, default=1) >= 1 and sum(count) <= steps for count in counts)
        and all(least <= latest <= greatest for named in figures for least, greatest, latest in named.values())
    )
    if not agree:
        raise ValueError("block: its figures contradict each other.")


def _reader(fields: Any, kind: str) -> Callable[[Values, Header | None], Values]:
    return lambda values, _: read_fields(fields, values, kind)


_KINDS: dict[str, Callable[[Values, Header | None], Values]] = {
    "header": _read_header_line,
    "step": _read_step_line,
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
