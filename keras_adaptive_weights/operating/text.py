"""What the command line prints, for people and for machines."""

from __future__ import annotations

import os
import sys
import textwrap
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Decision
from keras_adaptive_weights.deciding.joint import JointDecision, Weights, by_term
from keras_adaptive_weights.deciding.printable import encodable, printable
from keras_adaptive_weights.journal.lines import encode
from keras_adaptive_weights.recording.what_if import CAVEAT, SHADOW, WhatIf
from keras_adaptive_weights.showing.explain import headline, moves_of
from keras_adaptive_weights.showing.report import Report
from keras_adaptive_weights.showing.report_pages import balance_of
from keras_adaptive_weights.showing.verdict import duration, standing_text

_ROWS = 60


@dataclass(frozen=True, slots=True)
class Style:
    """Terminal codes; empty where they would not be understood."""

    bold: str = ""
    good: str = ""
    bad: str = ""
    plain: str = ""

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """Return codes for a terminal that takes colours, and none for a file, a pipe, or where NO_COLOR is set."""
        if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            return cls()
        return cls("\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[0m")


def say(text: str, stream: TextIO | None = None) -> None:
    """Print lines, to the standard output if no other stream is given, whatever its encoding."""
    stream = stream or sys.stdout
    stream.write(encodable(f"{text}\n", stream))


def print_json(values: dict[str, Any]) -> None:
    """Print plain values as one line of JSON; numbers it has no word for become strings."""
    say(encode(values))


def status_lines(report: Report, style: Style) -> list[str]:
    """Return what `status` prints."""
    color = {"alive": style.good, "silent": style.bad}.get(report.process, "")
    age = report.age or 0.0
    said = {
        "alive": f"training, last sign of life {age:.0f} s ago",
        "ended": "ended" if report.age is None else f"ended {duration(age)} ago",
        "silent": f"no sign of life for {duration(age)}: killed or stuck",
        "": "not known: the store does not say when it was written to",
    }
    enabled = f"{style.good}enabled" if report.enabled else f"{style.bad}disabled"
    lines = [
        f"run         {printable(report.run)} ({printable(report.term)})",
        f"process     {color}{said[report.process]}{style.plain}",
        f"step        {report.last:,}",
        f"weight      {report.weight:.4g} (base {report.base:.4g})",
        f"adaptation  {enabled}{style.plain}",
    ]
    if report.balance:
        lines.append(f"balance     {balance_of(report)}")
    if report.standing is not None:
        lines.append(f"at present  {standing_text(report.standing)}")
    for state in report.terms if len(report.terms) > 1 else ():
        how = "" if state.enabled else f", {style.bad}disabled{style.plain}"
        about = f"base {state.base:.4g}{how}" if state.adaptive else "fixed"
        lines.append(f"            {printable(state.term, 60)} {state.weight:.4g} ({about})")
    lines += [f"attention   {printable(concern.text)}" for concern in report.concerns if concern.level != "note"]
    if report.shadow:
        lines.append(f"shadow run  decisions are recorded only; proposed is {report.proposed:.4g}")
    if not report.latest:
        return [*lines, "last        no decision other than hold yet"]
    event = report.latest[0]
    note = f" ({printable(event['note'])})" if event.get("note") else ""
    what = f"{printable(event['action'], 60)} {change_of(event, report.several)}, {headline(event['reason'])}{note}"
    return [*lines, f"last        step {event['step']:,}: {what}", f"            {printable(event.get('advice', ''))}"]


def change_of(event: Mapping[str, Any], named: bool = False) -> str:
    """Return the weights of a recorded event, and what stays in force in a shadow run; `named`: after their terms."""
    moves = []
    for term, old, new, held in moves_of(event):
        whose = f"{printable(term, 60)} " if term and named else ""
        shadow = "" if held is None else f" in shadow ({held:.4g} stays in force)"
        moves.append(f"{whose}{old:.4g} -> {new:.4g}{shadow}")
    return ", ".join(moves) or "no weight"


def what_if_lines(
    result: WhatIf, recorded: AdaptiveWeightConfig, style: Style, balance: str | None = None
) -> list[str]:
    """Return what `replay` prints: what differs in the settings, both lists of events side by side, and the end."""
    before, after = recorded.to_dict(), result.config.to_dict()
    changed = [f"{name}: {before[name]} -> {value}" for name, value in after.items() if value != before[name]]
    if balance is not None:
        changed.insert(0, f"balance: {printable(balance, 60)}")
    if not changed:
        verdict = "reproduces the record exactly" if result.same else "differs from the record"
        lines = [f"{style.bold}Replay under the recorded settings {verdict}{style.plain}"]
    else:
        lines = [f"{style.bold}What if{style.plain} {', '.join(changed)}", *textwrap.wrap(CAVEAT, 100)]
    if any(one.held_weight is not None for event in result.recorded for one in by_term(event)):
        lines += textwrap.wrap(SHADOW, 100)
    width = 52
    lines += ["", f"{style.bold}{'recorded':<{width}}  what if{style.plain}"]
    pairs = list(_side_by_side(result))
    for left, right in pairs[:_ROWS]:
        mark = "" if _brief(left) == _brief(right) else style.bad
        lines.append(f"{mark}{_brief(left):<{width}}  {_brief(right)}{style.plain if mark else ''}")
    if len(pairs) > _ROWS:
        lines.append(f"... {len(pairs) - _ROWS:,} more (all of them with --json)")
    ends = (result.recorded_path[-1][1], result.path[-1][1])
    counts = (len(result.recorded), len(result.decided))
    totals = [f"{count:,} events, weight ends at {_weight(end)}" for count, end in zip(counts, ends, strict=True)]
    lines += ["", f"{totals[0]:<{width}}  {totals[1]}"]
    held = ", ".join(f"{headline(reason)} {count:,}" for reason, count in list(result.holds.items())[:6])
    return [*lines, f"held by (what if): {held}"]


def _side_by_side(result: WhatIf) -> Iterator[tuple[Any, Any]]:
    """Yield the events of both sides in the order of their steps, those of one step together."""
    left, right = deque(result.recorded), deque(result.decided)
    while left or right:
        step = min(events[0].step for events in (left, right) if events)
        pair = [events.popleft() if events and events[0].step == step else None for events in (left, right)]
        yield pair[0], pair[1]


def _brief(event: Decision | JointDecision | None) -> str:
    if event is None:
        return ""
    weight = event.new_weight if isinstance(event, Decision) else event.new_weights
    return f"{event.step:>7} {event.action} {_weight(weight)} {headline(event.reason)}"


def _weight(weight: float | Weights) -> str:
    """Return a weight, or those of all terms."""
    if not isinstance(weight, Mapping):
        return f"{weight:.4g}"
    return ", ".join(f"{printable(name, 60)} {one:.4g}" for name, one in weight.items())
