"""A report on one run, over or still going: what the weight did, why it moved, and why it did not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.recording.run_folder import find_journal, liveliness
from keras_adaptive_weights.showing.explain import meaning, moves_of
from keras_adaptive_weights.showing.verdict import Concern, Standing, concerns, standing
from keras_adaptive_weights.showing.view import View, last_header, parts_of_the_gradient, view

_LATEST = 10


@dataclass(frozen=True, slots=True)
class Moves:
    """Events of one action and reason: how many, the first and last of them, and what they mean."""

    action: str
    reason: str
    count: int
    first: int
    last: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Holds:
    """Decisions that held the weight for one reason: how many, their share of all of them, and what they mean."""

    reason: str
    count: int
    share: float
    meaning: str


@dataclass(frozen=True, slots=True)
class TermState:
    """A term of the loss after the last step: its weight, and of an adaptive one base, events and the last of them.

    `share` is the part of the gradient that it made at the end, `intent` that which a balance is to give it. None: not
    measured, or nobody said.
    """

    term: str
    weight: float
    adaptive: bool
    base: float
    enabled: bool
    events: int
    last: int | None
    share: float | None = None
    intent: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What there is to say about a run. `to_dict` gives plain values.

    Attributes:
        journal: Path of the journal.
        run: Id of the run.
        term: The loss term whose weight it is.
        terms: All terms, the adaptive ones first.
        process: "alive", "ended" or "silent", and `age`: seconds since its last sign of life. "" and None: the store
            that the journal is in does not say when it was written to.
        first: First step.
        last: Last step.
        weight: Weight in force after the last step; `base`, `lowest`, `highest` and `minimum`, `maximum` (its bounds)
            with it.
        enabled: Whether adaptation is on.
        shadow: Whether the last `fit` was a shadow run, whose decisions were not put into force.
        proposed: Weight that was decided on last: that in force, or what a shadow run proposes.
        balance: Name of the strategy that decides on all weights together; empty: each is decided on by itself.
        calibrated: Step of the one calibration of a balance; None: there was none.
        largest_change: Largest relative change of one decision that took effect, without disables, a calibration and
            what undoes it.
        skipped: Steps the optimizer did not take; `loss_scaling` of them are routine.
        dampened: Steps whose loss was a spike, and whose gradients were scaled down.
        resumed: How often the run was resumed.
        problems: Journal lines that could not be read.
        standing: Why the weight is as it is after the last step; None before the first decision.
        concerns: What may be wrong, the worst first.
        moves: Why the weight moved.
        holds: Why it did not.
        latest: The last ten events, newest first: those of all terms, unless it was asked for one.
    """

    journal: str
    run: str
    term: str
    process: str
    age: float | None
    first: int
    last: int
    weight: float
    base: float
    lowest: float
    highest: float
    minimum: float
    maximum: float
    enabled: bool
    shadow: bool
    proposed: float
    balance: str
    calibrated: int | None
    largest_change: float
    skipped: int
    loss_scaling: int
    dampened: int
    resumed: int
    problems: int
    standing: Standing | None = None
    concerns: list[Concern] = field(default_factory=list)
    moves: list[Moves] = field(default_factory=list)
    holds: list[Holds] = field(default_factory=list)
    latest: list[dict[str, Any]] = field(default_factory=list)
    terms: list[TermState] = field(default_factory=list)

    @property
    def several(self) -> bool:
        """Whether several weights are adaptive."""
        return sum(term.adaptive for term in self.terms) > 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def make_report(path: str | os.PathLike[str], term: str | None = None) -> Report:
    """Read a run and sum it up.

    Args:
        path: The run's log dir, or its journal.
        term: The term whose weight it is about. `None`: the first adaptive one, and the latest events of all.

    Raises:
        FileNotFoundError: No journal there.
        ValueError: It is no journal, there are several, or no weight of that term is adaptive.
    """
    index = open_index(path, term)
    seen = view(index, points=1)
    header, weights = last_header(index), _weights(index)
    events = index.events if term is not None else index.all_events
    config = header["config"]
    process, age = liveliness(index.path, ended=index.ended)
    return Report(
        journal=index.path,
        run=header["run"],
        term=header["term"],
        process=process,
        age=age,
        first=seen.first,
        last=seen.last,
        weight=index.weight,
        base=header["base_weight"],
        lowest=min(weights),
        highest=max(weights),
        minimum=config["min_weight"],
        maximum=config["max_weight"],
        enabled=config["enabled"] and not index.disabled,
        shadow=index.shadow,
        proposed=index.proposed,
        balance=str((index.balance or {}).get("strategy", "")),
        calibrated=next((event["step"] for event in index.events if event["action"] == Action.CALIBRATE), None),
        largest_change=_largest_change(index.events),
        skipped=len(seen.skipped),
        loss_scaling=sum(routine for _, _, routine in seen.skipped),
        dampened=len(seen.dampened),
        resumed=len(index.headers) - 1,
        problems=index.problems,
        standing=standing(index),
        concerns=concerns(index, seen, process, age),
        moves=_moves(index.events, config),
        holds=_holds(seen, config),
        latest=list(reversed(events[-_LATEST:])),
        terms=_terms(index),
    )


def _terms(index: JournalIndex) -> list[TermState]:
    states = []
    parts = parts_of_the_gradient(index)
    shares = {name: (parts.get(name), index.of(name).intent) for name in [*index.terms, *index.fixed]}
    for one in map(index.of, index.terms):
        header, events = last_header(one), one.events
        enabled = bool(header["config"]["enabled"]) and not one.disabled
        last = events[-1]["step"] if events else None
        about = (True, header["base_weight"], enabled, len(events), last)
        states.append(TermState(one.term, one.weight, *about, *shares[one.term]))
    fixed = index.fixed.items()
    return states + [TermState(name, weight, False, weight, False, 0, None, *shares[name]) for name, weight in fixed]


def open_index(path: str | os.PathLike[str], term: str | None = None) -> JournalIndex:
    """Return the refreshed index of a run's journal, of one adaptive term. `None`: the first.

    Raises:
        FileNotFoundError: No journal there.
        ValueError: It is no journal, there are several, or no weight of that term is adaptive.
    """
    journal = find_journal(path)
    index = JournalIndex(journal)
    index.refresh()
    if not index.headers:
        raise ValueError(f"{os.fspath(journal)!r} does not begin with the header of a journal.")
    if term is not None and term not in index.terms:
        raise ValueError(f"{os.fspath(journal)!r} has no adaptive weight of a term {term!r}; there are {index.terms}.")
    return index if term is None else index.of(term)


def _moves(events: Iterable[dict[str, Any]], config: dict[str, Any]) -> list[Moves]:
    groups: dict[tuple[str, str], list[int]] = {}
    for event in events:
        groups.setdefault((event["action"], event["reason"]), []).append(event["step"])
    moves = [
        Moves(action, reason, len(steps), min(steps), max(steps), meaning(reason, config))
        for (action, reason), steps in groups.items()
    ]
    return sorted(moves, key=lambda move: -move.count)


def _holds(seen: View, config: dict[str, Any]) -> list[Holds]:
    total = sum(seen.reasons.values())
    return [Holds(reason, count, count / total, meaning(reason, config)) for reason, count in seen.reasons.items()]


def _weights(index: JournalIndex) -> list[float]:
    """Return every weight that was in force."""
    starts = [(header["state"], "weight") for header in index.headers]
    changes = [(event, "new_weight") for event in index.events]
    return [float(values.get("held_weight") or values[name]) for values, name in starts + changes]


def _largest_change(events: Iterable[dict[str, Any]]) -> float:
    largest, jumped = 0.0, False
    for event in events:
        (move,) = moves_of(event)
        undone = jumped and event["action"] == Action.ROLLBACK
        if move.held is None and not undone and event["action"] not in (Action.DISABLE, Action.CALIBRATE):
            largest = max(largest, move.new / move.old - 1.0, move.old / move.new - 1.0)
        if move.new != move.old:
            jumped = event["action"] == Action.CALIBRATE
    return largest
