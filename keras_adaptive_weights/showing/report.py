"""A report on one run, over or still going: what the weight did, why it moved, and why it did not."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.recording.run_folder import find_journal, liveliness
from keras_adaptive_weights.showing.explain import headline, meaning, moves_of
from keras_adaptive_weights.showing.look import colours
from keras_adaptive_weights.showing.verdict import Concern, Standing, concerns, duration, standing, standing_text
from keras_adaptive_weights.showing.view import View, last_header, parts_of_the_gradient, view

_LATEST = 10
_LONGEST_LINE = 2000
_FINE = "  Nothing stands out."


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
        dampened=len(getattr(seen, "dampened", ())),
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


def to_text(report: Report, *, bold: str = "", plain: str = "") -> str:
    """Return the report as lines of text; nothing from the journal can add a line or a terminal code to them.

    Args:
        report: The report.
        bold: Terminal code put before headings.
        plain: Terminal code put after them.
    """
    facts = [f"  {name:<14} {value}" for name, value in _facts(report)]
    moves = _text_table(("action", "reason", "times", "first", "last"), _move_rows(report))
    holds = []
    for hold in report.holds:
        holds += [f"  {hold.share:6.1%}  {headline(hold.reason)} ({hold.count:,})", f"          {hold.meaning}"]
    latest = [f"  {_event_line(event, report)}" for event in report.latest]
    lines: list[str] = []
    for heading, body in (
        (_title(report), facts),
        *([("All terms", _text_table(_term_heads(report), _term_rows(report)))] if len(report.terms) > 1 else []),
        ("Is something wrong?", [f"  {concern.level:<6} {concern.text}" for concern in report.concerns] or [_FINE]),
        (_moves_heading(report), moves or ["  It did not."]),
        ("Why it did not", holds),
        ("Latest decisions", latest or ["  None."]),
    ):
        lines += ["", f"{bold}{printable(heading)}{plain}", *(printable(line, _LONGEST_LINE) for line in body)]
    return "\n".join(lines[1:])


def to_html(report: Report, picture: bytes, dark: bytes | None = None) -> str:
    """Return the report as one page of HTML that needs no other file; everything from the journal is escaped.

    Args:
        report: The report.
        picture: PNG of the run.
        dark: The same for a reader who prefers dark pages.
    """
    wrong = [(concern.level, concern.text) for concern in report.concerns]
    facts = _html_table((), _facts(report))
    moves = _html_table(("action", "reason", "times", "first", "last", "meaning"), _move_rows(report, meanings=True))
    holds = _html_table(
        ("reason", "times", "share", "meaning"),
        [(headline(hold.reason), f"{hold.count:,}", f"{hold.share:.1%}", hold.meaning) for hold in report.holds],
    )
    terms = f"<h2>All terms</h2>{_html_table(_term_heads(report), _term_rows(report))}" if len(report.terms) > 1 else ""
    latest = _html_table(
        ("step", "action", "weight", "reason", "note", "advice"),
        [
            (
                f"{event['step']:,}",
                event["action"],
                _change(event, report),
                headline(event["reason"]),
                event.get("note", ""),
                event.get("advice", ""),
            )
            for event in report.latest
        ],
    )
    title = _escaped(_title(report))
    source = "" if dark is None else f'<source media="(prefers-color-scheme:dark)" srcset="{_inline(dark)}">'
    image = f'<img alt="Weight, loss, loss ratio, variance and gradient norm over steps" src="{_inline(picture)}">'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_style()}</style></head>"
        f"<body><h1>{title}</h1>{facts}{terms}<h2>Is something wrong?</h2>{_html_table((), wrong) if wrong else _FINE}"
        f"<picture>{source}{image}</picture><h2>{_moves_heading(report)}</h2>{moves}<h2>Why it did not</h2>{holds}"
        f"<h2>Latest decisions</h2>{latest}</body></html>\n"
    )


def _inline(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"


_STYLE = (
    "body{{font:15px/1.45 system-ui,sans-serif;max-width:80em;margin:2em auto;padding:0 1em;color:{ink};"
    "background:{paper}}}img{{max-width:100%}}table{{border-collapse:collapse;margin:.5em 0}}"
    "th,td{{text-align:left;padding:.25em 1em .25em 0;border-top:1px solid {faint};vertical-align:top;"
    "overflow-wrap:anywhere}}th{{font-weight:600}}"
)


def _style() -> str:
    """Return the page's style, in the colours of the pictures."""
    light, dark = (_STYLE.format_map(colours(theme)) for theme in ("light", "dark"))
    return f"{light}@media(prefers-color-scheme:dark){{{dark}}}"


def _title(report: Report) -> str:
    return f"Adaptive weight of {report.term}"


def _term_heads(report: Report) -> tuple[str, ...]:
    shares = ("share", "intent") if any(state.share is not None for state in report.terms) else ()
    return ("term", "weight", "base", "adaptation", "events", "last", *shares)


def _term_rows(report: Report) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for state in report.terms:
        name, weight = printable(state.term, 60), f"{state.weight:.4g}"
        last = "" if state.last is None else f"{state.last:,}"
        how = ("enabled" if state.enabled else "disabled") if state.adaptive else "fixed"
        shares = ["" if share is None else f"{share:.1%}" for share in (state.share, state.intent)]
        events = f"{state.events:,}" if state.adaptive else ""
        rows.append((name, weight, f"{state.base:.4g}", how, events, last, *shares)[: len(_term_heads(report))])
    return rows


def _moves_heading(report: Report) -> str:
    return "Why the weight would have moved" if report.shadow else "Why the weight moved"


def _facts(report: Report) -> list[tuple[str, str]]:
    silent = f"silent for {duration(report.age or 0.0)}: killed or stuck"
    states = {"alive": "training", "ended": "ended", "silent": silent, "": "not known: the store tells no times"}
    skipped = f"{report.skipped:,}" + (f", {report.loss_scaling:,} of them loss scaling" if report.loss_scaling else "")
    facts = [
        ("journal", report.journal),
        ("process", states[report.process] + (f", resumed {report.resumed} times" if report.resumed else "")),
        ("steps", f"{report.first:,} to {report.last:,}"),
        (
            "weight",
            f"{report.weight:.4g} (base {report.base:.4g}, bounds {report.minimum:.4g} to {report.maximum:.4g})",
        ),
        (
            "range seen",
            f"{report.lowest:.4g} to {report.highest:.4g}, largest single change {report.largest_change:.1%}",
        ),
        ("adaptation", "enabled" if report.enabled else "disabled"),
        *([("balance", balance_of(report))] if report.balance else []),
        ("at present", "no decision yet" if report.standing is None else standing_text(report.standing)),
        ("skipped steps", skipped),
        *([("dampened steps", f"{report.dampened:,}")] if report.dampened else []),
    ]
    if report.shadow:
        held = f"decisions are recorded only, {report.weight:.4g} stays in force; proposed is {report.proposed:.4g}"
        facts.append(("shadow run", held))
    return facts + ([("unreadable", f"{report.problems:,} lines")] if report.problems else [])


def balance_of(report: Report) -> str:
    """Return what decides on all weights together, and since when they are where it measured that they should be."""
    when = "not calibrated" if report.calibrated is None else f"calibrated at step {report.calibrated:,}"
    return f"{printable(report.balance, 60)} decides on all weights together, {when}"


def _move_rows(report: Report, *, meanings: bool = False) -> list[tuple[str, ...]]:
    return [
        (printable(move.action, 60), headline(move.reason), f"{move.count:,}", f"{move.first:,}", f"{move.last:,}")
        + ((move.meaning,) if meanings else ())
        for move in report.moves
    ]


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


def _change(event: dict[str, Any], report: Report) -> str:
    """Return the weights of an event, after their terms where there are several."""
    changes = []
    for term, old, new, held in moves_of(event):
        whose = f"{printable(term, 60)} " if term and report.several else ""
        changes.append(f"{whose}{old:.4g} → {new:.4g}{'' if held is None else ' (shadow)'}")
    return ", ".join(changes) or "no weight"


def _event_line(event: dict[str, Any], report: Report) -> str:
    note = f" ({printable(event['note'])})" if event.get("note") else ""
    what = f"{printable(event['action'], 60)} {_change(event, report)}"
    return f"step {event['step']:,}: {what}, {headline(event['reason'])}{note}"


def _text_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (heads, *rows)
    ]


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_escaped(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f'<td dir="auto">{_escaped(cell)}</td>' for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def _escaped(text: str) -> str:
    return html.escape(printable(text, _LONGEST_LINE))
