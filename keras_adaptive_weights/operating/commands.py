"""What each command does, with the options that it was given; each returns an exit code."""

from __future__ import annotations

import argparse
import getpass
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.printable import LONGEST_ERROR, bounded, printable
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.places import local_folder
from keras_adaptive_weights.journal.reader import Journal, read_journal
from keras_adaptive_weights.operating.control import IN_A_STORE, Switch
from keras_adaptive_weights.operating.text import Style, change_of, print_json, say, status_lines, what_if_lines
from keras_adaptive_weights.recording.run_folder import find_journal
from keras_adaptive_weights.recording.what_if import CAVEAT, WhatIf, parse_settings, what_if
from keras_adaptive_weights.showing.picture import draw_run, write_picture
from keras_adaptive_weights.showing.report import Report, make_report, open_index
from keras_adaptive_weights.showing.report_pages import to_html, to_text
from keras_adaptive_weights.showing.what_if_picture import draw_what_if

OK, FAILED, USAGE = 0, 1, 2
_EVENT_SECONDS = 5.0
_STATUS = (
    "journal",
    "run",
    "term",
    "process",
    "age",
    "last",
    "weight",
    "base",
    "enabled",
    "skipped",
    "shadow",
    "terms",
)


def fail(error: Exception) -> int:
    """Say what went wrong."""
    say(f"keras-adaptive-weights: {printable(error, LONGEST_ERROR)}", sys.stderr)
    return FAILED


def report(options: argparse.Namespace) -> int:
    """Sum up a run; write its picture and its page."""
    report = make_report(options.path, options.term)
    if options.png or options.html:
        index = open_index(options.path, options.term)
        picture = draw_run(index)
        if options.png:
            write_picture(options.png, picture)
        if options.html:
            page = to_html(report, picture, draw_run(index, theme="dark"))
            Path(options.html).write_text(page, encoding="utf-8")
    style = Style.of(sys.stdout)
    if options.json:
        print_json(report.to_dict())
    else:
        say(to_text(report, bold=style.bold, plain=style.plain))
    return OK


def status(options: argparse.Namespace) -> int:
    """Say whether the process is alive, and what was decided last."""
    report = make_report(options.path, options.term)
    if options.json:
        print_json(_status_values(report))
    else:
        say("\n".join(status_lines(report, Style.of(sys.stdout))))
    return OK


def _status_values(report: Report) -> dict[str, Any]:
    values = report.to_dict()
    return {**{name: values[name] for name in _STATUS}, "last_decision": next(iter(report.latest), None)}


def replay(options: argparse.Namespace) -> int:
    """Decide anew on what was recorded, and say what would have come out otherwise."""
    balance = options.balance and options.balance.strategy
    journal = read_journal(find_journal(options.path), joint=balance is not None)
    terms = [""] if journal.joint else list(journal.terms) if options.term is None else [options.term]
    if wrong := _wrong_usage(options, journal, terms):
        say(f"keras-adaptive-weights replay: {wrong}", sys.stderr)
        return USAGE
    replayed, done = {}, True
    for term in terms:
        of_term = journal.of(term) if term else journal
        recorded = of_term.headers[0].config
        try:
            config = parse_settings(options.set, recorded)
        except ValueError as error:
            say(f"keras-adaptive-weights replay: {printable(error, LONGEST_ERROR)}", sys.stderr)
            return USAGE
        result = what_if(of_term, config if options.set else None, balance)
        done &= bool(options.set or options.balance or result.same)
        if options.png:
            write_picture(options.png, draw_what_if(result, of_term))
        replayed[term] = _replayed_values(result, config)
        if not options.json:
            style = Style.of(sys.stdout)
            heading = [f"{style.bold}{printable(term, 60)}{style.plain}"] if len(terms) > 1 else []
            lines = what_if_lines(result, recorded, style, options.balance and options.balance.name)
            say("\n".join([*heading, *lines, *([""] if heading else [])]))
    if options.json:
        print_json({"terms": replayed} if len(terms) > 1 else replayed[terms[0]])
    return OK if done else FAILED


def _wrong_usage(options: argparse.Namespace, journal: Journal, terms: Sequence[str]) -> str | None:
    """Return what cannot be replayed as it is asked for, or None."""
    if options.png and len(terms) > 1:
        return f"--png shows one term: write --term with one of {terms}."
    if not journal.joint:
        return None
    if options.term is not None:
        return "--term: what is decided on all terms together cannot be decided again for one."
    if options.balance is not None and options.balance.strategy is None:
        return "--balance guide: the record is of a balance, and cannot be decided again term by term."
    return None


def _replayed_values(result: WhatIf, config: AdaptiveWeightConfig) -> dict[str, Any]:
    return {
        "config": config.to_dict(),
        "same": result.same,
        "recorded": [event.to_dict() for event in result.recorded],
        "decided": [event.to_dict() for event in result.decided],
        "holds": result.holds,
        "recorded_path": result.recorded_path,
        "path": result.path,
        "caveat": CAVEAT,
    }


def switch(options: argparse.Namespace) -> int:
    """Ask the process that trains for an action, and wait for what becomes of it."""
    path = local_folder(options.path, "keras-adaptive-weights", "RUN_DIR", IN_A_STORE)
    index = open_index(path, options.term)
    terms = index.terms if options.term is None else [options.term]
    known = {term: len(index.of(term).events) for term in terms}
    note = bounded(f"asked for by {options.by or _user_and_host()}: {options.reason}")
    switch = Switch(Path(index.path).parent, index.headers[-1]["run"])
    taken = switch.ask(options.action, note, term=options.term, timeout=options.timeout)
    events = _wait_for_events(index, known, note) if taken else {}
    refused = [event for event in events.values() if event["action"] != options.action]
    if options.json:
        print_json({"taken": taken, "event": next(iter(events.values()), None), "events": events})
    elif not taken:
        say(
            f"Not taken within {options.timeout:g} s: the process is not running, is between two long steps, or was "
            "started with remote_control=False. The request is withdrawn.",
            sys.stderr,
        )
    elif not events:
        say("Taken by the process; the journal does not show the decision yet.")
    for term, event in () if options.json else events.items():
        outcome, advice = ("refused", f" ({printable(event.get('advice', ''))})") if event in refused else ("done", "")
        whose = f"{printable(term, 60)}, " if len(known) > 1 else ""
        say(f"{outcome}: {whose}step {event['step']:,}, weight {change_of(event)}{advice}")
    return FAILED if refused or not taken else OK


def _user_and_host() -> str:
    """Return who is asking; a uid that has no name, as in many a container, by its number."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    return f"{user}@{socket.gethostname()}"


def _wait_for_events(index: JournalIndex, known: Mapping[str, int], note: str) -> dict[str, dict[str, Any]]:
    """Return the decisions that came of the request by term, once the journal shows them."""
    end = time.monotonic() + _EVENT_SECONDS
    while True:
        index.refresh()
        new = {term: index.of(term).events[seen:] for term, seen in known.items()}
        found = {term: event for term, events in new.items() for event in events if event.get("note") == note}
        if len(found) == len(known) or time.monotonic() >= end:
            return found
        time.sleep(0.1)
