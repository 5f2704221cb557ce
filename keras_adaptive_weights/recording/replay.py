"""Recorded observations and a configuration -> the decisions they lead to. Needs no TensorFlow."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator

from keras_adaptive_weights.deciding import envelope, guide_rule, safeguards
from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action, Decision, Observation
from keras_adaptive_weights.deciding.state import ControllerState, initial_state
from keras_adaptive_weights.journal.header import Header, TermStart
from keras_adaptive_weights.journal.reader import Entry, Journal, read_journal

_DEFAULT_BASE_WEIGHT = 2.5


def replay(
    source: Iterable[Observation] | Journal | str | os.PathLike[str],
    config: AdaptiveWeightConfig | None = None,
    base_weight: float | None = None,
) -> list[Decision]:
    """Return the decisions that the controller takes on what was recorded.

    Args:
        source: Observations in their order, or a journal: one that was read, or the path of its file.
        config: Settings. `None`: the defaults for observations; for a journal, those it was recorded under.
        base_weight: Weight to start from. `None`: 2.5 for observations; for a journal, as it was recorded.

    Returns:
        For observations, one `Decision` each. For a journal, one for each adaptive term and execution (K steps are
        decided on once) and one for each event that came from outside the controller (a disable, enable, rollback or
        reset by hand, a recovery of the model), which happens at the same place again, each with its `term` (which
        journals of format 1 did not name with each event). Without `config` and `base_weight` these are
        exactly the decisions of the recorded run, also where it was resumed: each `fit` goes on from the state that its
        header holds. With either, only the first does, and the others go on from the decisions before them. Those of a
        shadow run are proposals, as they were then: see `Decision.held_weight`.

    Raises:
        TypeError: `base_weight` is no number.
        ValueError: `base_weight` is outside the bounds, or the file is no journal.
        FileNotFoundError: No such file.

    Example:

    >>> replay([Observation(step=1, loss=0.8)])[0].reason
    <Reason.WARMUP: 'warmup'>
    """
    if isinstance(source, (str, os.PathLike)):
        source = read_journal(source)
    if isinstance(source, Journal):
        return list(_decide_again(source, config, base_weight))
    config = config or AdaptiveWeightConfig()
    base_weight = _DEFAULT_BASE_WEIGHT if base_weight is None else base_weight
    config.check_base_weight("replay", "base_weight", base_weight)
    state = initial_state(config, base_weight)
    decisions = []
    for observation in source:
        state, decision = guide_rule.step(config, state, (observation,))
        decisions.append(decision)
    return decisions


def _decide_again(
    journal: Journal, config: AdaptiveWeightConfig | None, base_weight: float | None
) -> Iterator[Decision]:
    """Yield a decision for each entry of a journal that is in force."""
    states: dict[str, ControllerState] = {}
    for header, entries in entries_in_force(journal):
        settings = {term: config or start.config for term, start in header.terms.items() if start.config is not None}
        for term, of_term in settings.items():
            if (config is None and base_weight is None) or term not in states:
                states[term] = _start(header.terms[term], of_term, base_weight)
            else:
                states[term] = safeguards.set_shadow(of_term, states[term], shadow=header.shadow)
        for entry in entries:
            term = entry.term or header.term
            if entry.observations:
                states[term], decision = guide_rule.step(settings[term], states[term], entry.observations)
            elif entry.event is not None and entry.event.by_hand:
                states[term], decision = _from_outside(settings[term], states[term], entry.event)
            else:
                continue
            yield decision if header.format == 1 else Decision._make((*decision[:-1], term))  # a quick `_replace`


def _start(start: TermStart, config: AdaptiveWeightConfig, base_weight: float | None) -> ControllerState:
    """Return the state that a header holds, within other bounds perhaps, or at another base weight."""
    state = ControllerState.from_dict(start.state or {}).within(config)
    if base_weight is None:
        return state
    config.check_base_weight("replay", "base_weight", base_weight)
    weight = float(base_weight)
    return state._replace(weight=weight, base_weight=weight, previous_weight=None, trial=None)


def entries_in_force(journal: Journal) -> Iterator[tuple[Header, list[Entry]]]:
    """Yield each header and the entries after it that no resume from an earlier step superseded."""
    for number, (header, segment) in enumerate(zip(journal.headers, journal.segments, strict=True), 1):
        end = min((later.step for later in journal.headers[number:]), default=math.inf)
        yield header, segment if end == math.inf else [entry for entry in segment if _last_step(entry) <= end]


def _last_step(entry: Entry) -> float:
    if entry.observations:
        return entry.observations[-1].step
    return entry.event.step if entry.event else math.inf


def _from_outside(
    config: AdaptiveWeightConfig, state: ControllerState, event: Decision
) -> tuple[ControllerState, Decision]:
    """Do again what was asked for from outside the controller at this point of the record."""
    if event.action is Action.DISABLE:
        return envelope.disable(state, event.note)
    if event.action is Action.ENABLE:
        return envelope.enable(config, state, event.note)
    if event.action is Action.RESET:
        return envelope.reset(state, event.note, event.reason, event.evidence)
    return envelope.rollback(config, state, event.note)
