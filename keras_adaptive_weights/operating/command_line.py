"""The command line: `keras-adaptive-weights`, or `python -m keras_adaptive_weights`. Imports no TensorFlow."""

from __future__ import annotations

import argparse
import getpass
import math
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.named_balance import FORMS, balance_of
from keras_adaptive_weights.deciding.printable import bounded, printable
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.places import local_folder
from keras_adaptive_weights.journal.reader import Journal, read_journal
from keras_adaptive_weights.operating.control import ACTIONS, IN_A_STORE, Switch
from keras_adaptive_weights.operating.text import Style, change_of, print_json, say, status_lines, what_if_lines
from keras_adaptive_weights.recording.run_folder import find_journal
from keras_adaptive_weights.recording.what_if import CAVEAT, WhatIf, parse_settings, what_if
from keras_adaptive_weights.showing.picture import draw_run, write_picture
from keras_adaptive_weights.showing.report import Report, make_report, open_index
from keras_adaptive_weights.showing.report_pages import to_html, to_text
from keras_adaptive_weights.showing.what_if_picture import draw_what_if
from keras_adaptive_weights.version import __version__

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
_EVENT_SECONDS = 5.0
_LONGEST_ERROR = 2000
_FIRST = "the first that is adaptive"
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
_DESCRIPTION = "Look at adaptive loss weights, and switch them, from outside the training process."
_EPILOG = "Exit codes: 0 done, 1 failed or not taken by the process, 2 wrong usage."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code = int(options.run(options))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (OSError, ValueError, ModuleNotFoundError) as error:
        say(f"keras-adaptive-weights: {printable(error, _LONGEST_ERROR)}", sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="keras-adaptive-weights", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str, folder: str = "RUN_DIR", default: str = "all") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EPILOG)
        what = "the run's log dir" if folder == "RUN_DIR" else "the journal.jsonl of a run, or the run's log dir"
        what += "" if run is _switch else ", or its URL"
        command.add_argument("path", metavar=folder, help=what)
        command.add_argument("--json", action="store_true", help="print JSON for machines")
        command.add_argument("--term", metavar="NAME", help=f"the loss term whose weight is meant (default: {default})")
        command.set_defaults(run=run)
        return command

    text = "sum up a run: what the weight did, why it moved and why it did not"
    command = add("report", _report, text, default=_FIRST)
    command.add_argument("--png", metavar="FILE", help="also write a picture (needs the extra 'plot')")
    command.add_argument(
        "--html", metavar="FILE", help="also write a page with the picture in it (needs the extra 'plot')"
    )
    command = add("replay", _replay, "decide anew on what a run recorded, under other settings", "JOURNAL")
    command.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="a setting to try; repeatable"
    )
    text = f"what is to decide on all weights together: {FORMS}"
    command.add_argument("--balance", type=_Balance, metavar="NAME", help=text)
    command.add_argument("--png", metavar="FILE", help="also write both weight paths as a picture (extra 'plot')")
    texts = {
        "disable": "ask a training process to return to the base weight and stay there",
        "enable": "ask a training process to let the weight move again",
        "rollback": "ask a training process to undo its last change",
    }
    for action in ACTIONS:
        command = add(action, _switch, texts[action])
        command.add_argument("--reason", required=True, metavar="TEXT", help="why; goes into the journal")
        command.add_argument("--by", metavar="NAME", help="who asks (default: user@host)")
        command.add_argument(
            "--timeout", type=_seconds, default=30.0, metavar="S", help="seconds to wait (default: 30)"
        )
        command.set_defaults(action=action)
    text = "say whether the process is alive, where it is, and what was decided last"
    add("status", _status, text, default=_FIRST)
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 86_400.0:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 86400, received {text}")
    return value


class _Balance:
    """A balance that is to be tried: its name, and the strategy; None: the guide's rule, term by term."""

    def __init__(self, name: str) -> None:
        try:
            self.name, self.strategy = name, balance_of(name)
        except ValueError as error:
            raise argparse.ArgumentTypeError(printable(error, _LONGEST_ERROR)) from None


def _report(options: argparse.Namespace) -> int:
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


def _status(options: argparse.Namespace) -> int:
    report = make_report(options.path, options.term)
    if options.json:
        print_json(_status_values(report))
    else:
        say("\n".join(status_lines(report, Style.of(sys.stdout))))
    return OK


def _status_values(report: Report) -> dict[str, Any]:
    values = report.to_dict()
    return {**{name: values[name] for name in _STATUS}, "last_decision": next(iter(report.latest), None)}


def _replay(options: argparse.Namespace) -> int:
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
            say(f"keras-adaptive-weights replay: {printable(error, _LONGEST_ERROR)}", sys.stderr)
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


def _switch(options: argparse.Namespace) -> int:
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
