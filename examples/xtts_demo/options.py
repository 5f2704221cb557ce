"""Command line of `train_xtts.py`, and how steps are divided into epochs. Without TensorFlow: refusals come at once."""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import faults

DEFAULT_STEPS = 360
MOST_EPOCHS = 8


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=description)
    run = parser.add_argument_group("length of the run")
    run.add_argument(
        "--steps",
        type=_number(int, low=1),
        help=f"training steps in all, rounded up to whole epochs and executions (default: {DEFAULT_STEPS})",
    )
    run.add_argument(
        "--epochs",
        type=_number(int, low=1),
        help="with --steps: equal parts, each ended by a validation (default: up to 8); alone: passes over the data",
    )
    run.add_argument("--batch-size", type=_number(int, low=1), default=16, help="utterances of a batch (16)")
    run.add_argument(
        "--learning-rate", type=_number(float, low=0.0, open_low=True), default=2e-3, help="its peak (0.002)"
    )
    run.add_argument(
        "--steps-per-execution",
        type=_number(int, low=1),
        default=1,
        help="batches of one call of the compiled step (1)",
    )
    run.add_argument("--jit", action="store_true", help="compile the train step with XLA")
    run.add_argument(
        "--inject",
        type=faults.parse,
        default={},
        metavar="FAULTS",
        help="corrupt batches, e.g. nan@150,spike@220: kind@step, steps counted from 1 over all epochs",
    )
    weights = parser.add_argument_group("weights of the loss")
    weights.add_argument(
        "--balance",
        type=_balance,
        default=None,
        metavar="BALANCE",
        help="what decides the mel weight: guide (default), share:mel_loss=0.6, or auto, equal shares of the gradient",
    )
    weights.add_argument(
        "--mel-weight",
        type=_number(float, low=0.0, open_low=True),
        default=2.5,
        help="mel weight to begin with (2.5); a hundredth of it, 0.025, is a bad start",
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=Path, help="folder in LJSpeech's layout: metadata.csv and wavs/ (default: a synthesised corpus)"
    )
    data.add_argument(
        "--cache-dir",
        type=Path,
        default=default_cache_dir(),
        help="for corpus and spectrograms (a folder in your cache)",
    )
    data.add_argument(
        "--max-seconds",
        type=_number(float, low=0.0, open_low=True),
        default=12.0,
        help="longer clips are left out (12)",
    )
    data.add_argument("--max-clips", type=_number(int, low=1), help="read only the first lines of the metadata")
    data.add_argument(
        "--seed", type=_number(int, low=0, high=2**31 - 1), default=0, help="of corpus, split and training (0)"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--log-dir", type=_folder, help="folder of the run (default: runs/xtts-<date>-<time>)")
    output.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --log-dir where its last epoch ended, if there is one",
    )
    output.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _folder(text: str) -> Path:
    if "://" in text:  # the checkpoints go there, too
        raise argparse.ArgumentTypeError(f"must be a folder of this machine, received {text}")
    return Path(text)


def _balance(text: str) -> Any:
    """Convert a balance's name."""
    from keras_adaptive_weights.deciding.named_balance import balance_of

    try:
        return balance_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def default_cache_dir() -> Path:
    """Return the folder for this example in the user's cache: `$XDG_CACHE_HOME`, else `~/.cache`, and our name."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "keras-adaptive-weights"


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse and check what one option alone does not tell; a bad value ends the program with code 2."""
    options = parser.parse_args(argv)
    if options.resume and options.log_dir is None:
        parser.error("argument --resume: which run? Give its folder with --log-dir")
    if options.log_dir is None:
        options.log_dir = Path("runs") / time.strftime("xtts-%Y%m%d-%H%M%S")
    if not options.resume and (options.log_dir / "adaptive_weights" / "journal.jsonl").exists():
        parser.error(f"argument --log-dir: {options.log_dir} holds a run already; give another folder, or --resume it")
    if options.log_dir.exists() and not options.log_dir.is_dir():
        parser.error(f"argument --log-dir: {options.log_dir} is no folder")
    if options.steps is not None or options.epochs is None:
        check_faults(parser, options.inject, make_plan(options, passes_of=1))
    return options


@dataclass(frozen=True, slots=True)
class Plan:
    """How long the run is.

    Attributes:
        epochs: Epochs, each ended by a validation.
        steps_per_epoch: Steps of each, a multiple of the steps of an execution.
    """

    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.epochs * self.steps_per_epoch


def make_plan(options: argparse.Namespace, passes_of: int) -> Plan:
    """Divide the run into epochs of equal size; where it does not come out even, it is rounded up.

    Args:
        options: The parsed options: `steps`, `epochs` (either may be `None`) and `steps_per_execution`.
        passes_of: Batches of one pass over the training data; counts where only `epochs` is given.
    """
    execution = options.steps_per_execution
    if options.steps is None and options.epochs is not None:
        return Plan(options.epochs, execution * math.ceil(passes_of / execution))
    executions = math.ceil((options.steps or DEFAULT_STEPS) / execution)
    epochs = options.epochs or max(n for n in range(1, MOST_EPOCHS + 1) if executions % n == 0)
    return Plan(epochs, execution * math.ceil(executions / epochs))


def check_faults(parser: argparse.ArgumentParser, faults: dict[int, str], plan: Plan) -> None:
    """End the program with code 2 where a fault is due after the last step."""
    late = [f"{kind}@{step}" for step, kind in faults.items() if step > plan.steps]
    if late:
        parser.error(f"argument --inject: {', '.join(late)} is beyond the last step, {plan.steps}")


def _number(
    kind: Callable[[str], Any], *, low: float, high: float = math.inf, open_low: bool = False
) -> Callable[[str], Any]:
    """Return a converter that refuses what is no number, not finite, or outside the bounds."""
    noun = "a whole number" if kind is int else "a number"
    bound = f"above {low:g}" if open_low else f"of at least {low:g}"
    limit = "" if high == math.inf else f" and at most {high:.0f}"

    def convert(argument: str) -> Any:
        try:
            value = kind(argument)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < low or value > high or (open_low and value == low):
            raise argparse.ArgumentTypeError(f"expected {noun} {bound}{limit}; received {argument!r}")
        return value

    return convert
