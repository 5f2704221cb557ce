"""The command line: `keras-adaptive-weights`, or `python -m keras_adaptive_weights`. Imports no TensorFlow.

What the commands do, `commands`, is imported when one of them is run: help and version need none of it.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from collections.abc import Sequence

from keras_adaptive_weights.deciding.named_balance import FORMS, balance_of
from keras_adaptive_weights.deciding.printable import LONGEST_ERROR, printable
from keras_adaptive_weights.version import __version__

_INTERRUPTED = 130
_FIRST = "the first that is adaptive"
_DESCRIPTION = "Look at adaptive loss weights, and switch them, from outside the training process."
_EPILOG = "Exit codes: 0 done, 1 failed or not taken by the process, 2 wrong usage."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parser().parse_args(arguments)
    commands = importlib.import_module("keras_adaptive_weights.operating.commands")
    try:
        code = int(getattr(commands, options.run)(options))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(commands.FAILED)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return int(commands.fail(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="keras-adaptive-weights", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: str, text: str, folder: str = "RUN_DIR", default: str = "all") -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EPILOG)
        what = "the run's log dir" if folder == "RUN_DIR" else "the journal.jsonl of a run, or the run's log dir"
        what += "" if run == "switch" else ", or its URL"
        command.add_argument("path", metavar=folder, help=what)
        command.add_argument("--json", action="store_true", help="print JSON for machines")
        command.add_argument("--term", metavar="NAME", help=f"the loss term whose weight is meant (default: {default})")
        command.set_defaults(run=run)
        return command

    text = "sum up a run: what the weight did, why it moved and why it did not"
    command = add("report", "report", text, default=_FIRST)
    command.add_argument("--png", metavar="FILE", help="also write a picture (needs the extra 'plot')")
    command.add_argument(
        "--html", metavar="FILE", help="also write a page with the picture in it (needs the extra 'plot')"
    )
    command = add("replay", "replay", "decide anew on what a run recorded, under other settings", "JOURNAL")
    command.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="a setting to try; repeatable"
    )
    text = f"what is to decide on all weights together: {FORMS}"
    command.add_argument("--balance", type=_Balance, metavar="NAME", help=text)
    command.add_argument("--png", metavar="FILE", help="also write both weight paths as a picture (extra 'plot')")
    actions = {
        "disable": "ask a training process to return to the base weight and stay there",
        "enable": "ask a training process to let the weight move again",
        "rollback": "ask a training process to undo its last change",
    }
    for action, text in actions.items():
        command = add(action, "switch", text)
        command.add_argument("--reason", required=True, metavar="TEXT", help="why; goes into the journal")
        command.add_argument("--by", metavar="NAME", help="who asks (default: user@host)")
        command.add_argument(
            "--timeout", type=_seconds, default=30.0, metavar="S", help="seconds to wait (default: 30)"
        )
        command.set_defaults(action=action)
    text = "say whether the process is alive, where it is, and what was decided last"
    add("status", "status", text, default=_FIRST)
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
            raise argparse.ArgumentTypeError(printable(error, LONGEST_ERROR)) from None
