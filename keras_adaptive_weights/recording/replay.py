"""Recorded observations and a configuration -> the decisions they lead to. Needs no TensorFlow."""

from __future__ import annotations

import contextlib
import gc
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

from keras_adaptive_weights.deciding import guide_rule
from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action, Decision, Observation
from keras_adaptive_weights.deciding.described_strategy import described
from keras_adaptive_weights.deciding.guide_envelope import GuideEnvelope
from keras_adaptive_weights.deciding.joint import JointDecision, Term
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.deciding.observations import all_observations
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.deciding.strategy import Strategy
from keras_adaptive_weights.journal.header import Header, TermStart
from keras_adaptive_weights.journal.reader import Entry, Journal, read_journal

_DEFAULT_BASE_WEIGHT = 2.5


def replay(
    source: Iterable[Observation] | Journal | str | os.PathLike[str],
    config: AdaptiveWeightConfig | None = None,
    base_weight: float | None = None,
    balance: Strategy[Any] | None = None,
) -> list[Decision]:
    """Return the decisions that the controller takes on what was recorded.

    Args:
        source: Observations in their order, or a journal: one that was read, or the path of its file.
        config: Settings. `None`: the defaults for observations; for a journal, those it was recorded under.
        base_weight: Weight to start from. `None`: 2.5 for observations; for a journal, as it was recorded.
        balance: For a journal: what would have decided on all weights together. Norms of the terms' gradients are known
            where they were measured, which is where the run had a balance itself. `None`: as it was recorded.

    Returns:
        For observations, one `Decision` each. For a journal, one for each adaptive term and execution (K steps are
        decided on once) and one for each event that came from outside the controller (a disable, enable, rollback or
        reset by hand, a recovery of the model), which happens at the same place again, each with its `term` (which
        journals of format 1 did not name with each event). Of a balance it is one `JointDecision` for all terms.

        Without `config`, `base_weight` and `balance` these are exactly the decisions of the recorded run, also where it
        was resumed: each `fit` goes on from the state that its header holds. With any of them, only the first does, and
        the others go on from the decisions before them. Those of a shadow run are proposals, as they were then: see
        `Decision.held_weight`.

    Raises:
        TypeError: `base_weight` is no number, `config` no `AdaptiveWeightConfig`, or `source` none of these.
        ValueError: `base_weight` is outside the bounds, or the file is no journal.
        FileNotFoundError: No such file.

    Example:

    >>> replay([Observation(step=1, loss=0.8)])[0].reason
    <Reason.WARMUP: 'warmup'>
    """
    if config is not None and not isinstance(config, AdaptiveWeightConfig):
        raise TypeError(
            f"replay: argument `config` must be an AdaptiveWeightConfig or None. Received: config={config!r}."
        )
    with _no_cycles():
        if isinstance(source, (str, os.PathLike)):
            source = read_journal(source, joint=balance is not None)
        if isinstance(source, Journal):
            return list(_decide_again(source, config, base_weight, balance))
        return _decide_on(source, config, base_weight)


@contextlib.contextmanager
def _no_cycles() -> Iterator[None]:
    """Let Python not look for dead cycles: there are none, and the more is decided the longer it looks."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _decide_on(
    source: Iterable[Observation], config: AdaptiveWeightConfig | None, base_weight: float | None
) -> list[Decision]:
    """Return a decision for each observation."""
    config = config or AdaptiveWeightConfig()
    base_weight = _DEFAULT_BASE_WEIGHT if base_weight is None else base_weight
    config.check_base_weight("replay", "base_weight", base_weight)
    state = initial_state(config, base_weight)
    decisions = []
    for observation in all_observations("replay", "source", source):
        state, decision = guide_rule.step(config, state, (observation,))
        decisions.append(decision)
    return decisions


def _decide_again(
    journal: Journal, config: AdaptiveWeightConfig | None, base_weight: float | None, balance: Strategy[Any] | None
) -> Iterator[Any]:
    """Yield a decision for each entry of a journal that is in force."""
    if balance is not None and not journal.joint:
        raise ValueError(
            "replay: with a `balance`, argument `source` must be a path, or a journal that was read jointly. Write "
            "`read_journal(path, joint=True)`."
        )
    exactly = config is None and base_weight is None and balance is None
    states: dict[str, Any] = {}
    for header, entries in entries_in_force(journal):
        envelopes = _envelopes(header, config, balance, joint=journal.joint)
        for term, envelope in envelopes.items():
            if exactly or term not in states:
                states[term] = _start(header, term, envelope, base_weight)
            else:
                states[term] = envelope.set_shadow(states[term], shadow=header.shadow)
        first = next(iter(envelopes))
        for observations, event, of in _each_once(entries) if balance is not None else entries:
            term = of if of in envelopes else first
            if observations:
                states[term], decision = envelopes[term].step(states[term], observations)
            elif event is not None and event.by_hand:
                states[term], decision = _from_outside(envelopes[term], states[term], event)
            else:
                continue
            yield decision


def _envelopes(
    header: Header, config: AdaptiveWeightConfig | None, balance: Strategy[Any] | None, *, joint: bool
) -> dict[str, Any]:
    """Return what decides on each term or, under no name, on all of them."""
    if balance is None and header.balance is None:
        if joint:
            raise ValueError("replay: argument `balance` must be given for a journal that was read jointly.")
        starts = {term: header.terms[term].config for term in header.adaptive}
        return {
            term: GuideEnvelope(config or settings or header.config, term if header.format > 1 else "")
            for term, settings in starts.items()
        }
    try:
        strategy = described((header.balance or {})["strategy"]) if balance is None else balance
    except ValueError as error:
        raise ValueError(f"replay: {error}") from error
    terms = [_term(name, header.terms[name], header) for name in header.taking_part]
    return {"": JointEnvelope(strategy, terms, config or header.config)}


def _term(name: str, start: TermStart, header: Header) -> Term:
    """Return a term as a balance sees it: with the bounds it had, or with those it would have had."""
    if start.config is None:
        return Term(name, start.weight)
    if header.balance is None:
        return Term.adaptive(name, start.weight)
    return Term(name, start.weight, start.config.min_weight, start.config.max_weight)


def _start(header: Header, term: str, envelope: Any, base_weight: float | None) -> Any:
    """Return the state that a header holds, within other bounds perhaps, or at another base weight."""
    if not term:
        if base_weight is not None:
            raise ValueError("replay: argument `base_weight` must be None for the weights of a balance.")
        if header.balance is not None and header.balance["strategy"].get("strategy") == envelope.name:
            return envelope.restored(header.balance["state"])
        state = envelope.initial()
        return envelope.set_shadow(state._replace(core=state.core._replace(step=header.step)), shadow=header.shadow)
    state = envelope.restored(header.terms[term].state or {})
    if base_weight is None:
        return state
    envelope.config.check_base_weight("replay", "base_weight", base_weight)
    weight = float(base_weight)
    return state._replace(weight=weight, base_weight=weight, previous_weight=None, trial=None)


def _each_once(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Leave out that the same was asked for of one term after the other: of a balance it is asked once."""
    before = None
    for entry in entries:
        event = entry.event
        asked = None if event is None or entry.observations else (*event[:3], event.note)
        if asked is None or asked != before:
            yield entry
        before = asked


def entries_in_force(journal: Journal) -> Iterator[tuple[Header, list[Entry]]]:
    """Yield each header and the entries after it that no resume from an earlier step superseded."""
    for number, (header, segment) in enumerate(zip(journal.headers, journal.segments, strict=True), 1):
        end = min((later.step for later in journal.headers[number:]), default=math.inf)
        yield header, segment if end == math.inf else [entry for entry in segment if _last_step(entry) <= end]


def _last_step(entry: Entry) -> float:
    if entry.observations:
        return float(entry.observations[-1].step)
    return entry.event.step if entry.event else math.inf


def _from_outside(envelope: Any, state: Any, event: Decision | JointDecision) -> Any:
    """Do again what was asked for from outside the controller at this point of the record."""
    if event.action is Action.DISABLE:
        return envelope.disable(state, event.note)
    if event.action is Action.ENABLE:
        return envelope.enable(state, event.note)
    if event.action is Action.RESET:
        return envelope.reset(state, event.note, event.reason, event.evidence)
    return envelope.rollback(state, event.note)
