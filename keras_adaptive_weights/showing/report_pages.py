"""A report on one run as lines of text, or as one page of HTML."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.showing.explain import headline, moves_of
from keras_adaptive_weights.showing.look import colours
from keras_adaptive_weights.showing.report import Report
from keras_adaptive_weights.showing.verdict import duration, standing_text

_LONGEST_LINE = 2000
_FINE = "  Nothing stands out."


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
