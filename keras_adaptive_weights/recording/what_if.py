"""What if: a recorded run decided anew under other settings, beside what was recorded.

The losses stay what they were, measured under the weights of the run: a what-if tells when the controller would have
moved the weight, not what the training would have made of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Decision
from keras_adaptive_weights.deciding.joint import JointDecision
from keras_adaptive_weights.deciding.state import ControllerState
from keras_adaptive_weights.deciding.strategy import Strategy
from keras_adaptive_weights.journal.reader import Journal
from keras_adaptive_weights.recording.replay import entries_in_force, replay

CAVEAT = (
    "The losses were measured under the weights of the recorded run: this shows when the controller would have decided "
    "otherwise, not what the training would have become."
)

SHADOW = (
    "Decisions of a shadow run are among those recorded: they were proposals, and the weight in force stayed as it was."
)


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A recorded run and the same observations under other settings.

    Attributes:
        config: The settings tried; those of the record at its beginning where none were.
        recorded: Events of the record.
        decided: Events under the settings tried.
        holds: How often each reason held the weight under the settings tried.
        recorded_path: Weight after each step of the record, as pairs of step and weight, at changes only. Of a journal
            that was read jointly, weights by term.
        path: The same under the settings tried.
    """

    config: AdaptiveWeightConfig
    recorded: list[Any]
    decided: list[Any]
    holds: dict[str, int]
    recorded_path: list[tuple[int, Any]]
    path: list[tuple[int, Any]]

    @property
    def same(self) -> bool:
        """Whether every event is the same: step, action, reason and weights."""
        return self.first_difference is None

    @property
    def first_difference(self) -> int | None:
        """Step of the first event that differs; up to there, the losses are also those of the settings tried."""
        for ours, theirs in zip_longest(self.recorded, self.decided):
            if ours is None or theirs is None or _key(ours) != _key(theirs):
                return min(int(event.step) for event in (ours, theirs) if event is not None)
        return None


def parse_settings(assignments: Sequence[str], config: AdaptiveWeightConfig) -> AdaptiveWeightConfig:
    """Return `config` with settings replaced, given as "name=value".

    Raises:
        ValueError: No such setting, or a value it does not take.
    """
    known = {field.name: str(field.type) for field in fields(AdaptiveWeightConfig)}
    changes: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in known:
            raise ValueError(f"{assignment!r}: expected name=value with a name among {', '.join(sorted(known))}.")
        changes[name] = _parse_value(name, text, known[name])
    try:
        return replace(config, **changes)
    except TypeError as error:
        raise ValueError(str(error)) from error


def what_if(
    journal: Journal, config: AdaptiveWeightConfig | None = None, balance: Strategy[Any] | None = None
) -> WhatIf:
    """Decide anew on what a journal recorded, with what was asked for by hand at the same steps.

    Args:
        journal: A journal that was read, of one term (see `Journal.of`) or jointly.
        config: The settings to try; None: those of the record, also where they were changed on the way.
        balance: What is to decide on all weights of a journal that was read jointly; None: as it was recorded.

    Raises:
        ValueError: It is of several terms.
    """
    if len(journal.terms) > 1 and not journal.joint:
        raise ValueError(
            f"what_if: argument `journal` must be of one term. Received: one of {journal.terms}. Write "
            f"`what_if(journal.of({journal.terms[0]!r}))`."
        )
    settings = config or journal.headers[0].config
    recorded = [entry.event for _, entries in entries_in_force(journal) for entry in entries if entry.event]
    decided: list[Any] = []
    holds: Counter[str] = Counter()
    for decision in replay(journal, config, balance=balance):
        if decision.is_event:
            decided.append(decision)
        else:
            holds[decision.reason.value] += 1
    return WhatIf(
        settings,
        recorded,
        decided,
        dict(holds.most_common()),
        _path(_begin(journal, None), recorded),
        _path(_begin(journal, config), decided),
    )


def _begin(journal: Journal, config: AdaptiveWeightConfig | None) -> tuple[int, Any]:
    """Return the step and the weight, or the weights by term, that a journal begins with."""
    header = journal.headers[0]
    states = {term: ControllerState.from_dict(header.terms[term].state or {}) for term in header.adaptive}
    if journal.joint:
        return header.step, {term: state.weight for term, state in states.items()}
    state = states[header.term]
    return header.step, (state if config is None else state.within(config)).weight


def _new(event: Any) -> Any:
    return event.new_weights if isinstance(event, JointDecision) else event.new_weight


def _path(start: tuple[int, Any], events: Sequence[Any]) -> list[tuple[int, Any]]:
    path = [start]
    for event in events:
        if isinstance(path[-1][1], Mapping) and isinstance(event, Decision):  # of one term, in a record read jointly
            path.append((event.step, {**path[-1][1], event.term: event.new_weight}))
        elif _new(event) != path[-1][1]:
            path.append((event.step, _new(event)))
    return path


def _key(event: Any) -> tuple[Any, ...]:
    return tuple(event[:5])


def _parse_value(name: str, text: str, kind: str) -> Any:
    word = text.strip().lower()
    try:
        if "bool" in kind:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[word]
        if "None" in kind and word in ("none", "off"):
            return None
        return int(word) if kind == "int" else float(word)
    except (KeyError, ValueError):
        raise ValueError(f"{name}={text}: expected a value of type {kind}.") from None
