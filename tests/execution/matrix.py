"""Train a small model in every execution mode; compare with plain Keras, with values by hand, and with one device.

    python tests/execution/matrix.py [--quick] [--each] [--results FILE]

Prints a Markdown table, mode x what was checked x largest deviation, and exits with 1 if a deviation is above its limit
(`checks.py` says which and why). The full matrix, 313 modes, takes half an hour on two cores, `--quick` about a
minute. A line for each mode goes to the standard error. With `--results` each mode is also written to that file when it
is done, and those that are in it already are not run again: after an interrupt the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import tensorflow as tf
from checks import Check, check, train
from keras_losses import check_of_keras
from modes import FEWER, KINDS, few, leave_graphs_as_traced, of_a_balance, one_device, replicas

HEADINGS = {
    "parameters": "parameters and statistics from plain Keras's",
    "telemetry": "telemetry from values by hand (relative)",
    "logs": "History from plain Keras's (relative)",
    "decisions": "executions decided otherwise",
    "bad batch": "traces of a bad batch",
}


def two_devices():
    """Split the CPU in two, before TensorFlow begins, and return the strategy over both."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


class Results:
    """The checks by mode, also in a file, if there is one."""

    def __init__(self, path=None):
        self._path = path
        self._kept = {}
        for line in path.read_text().splitlines() if path and path.exists() else ():
            values = json.loads(line)
            self._kept[values["mode"]] = [Check(*check) for check in values["checks"]]

    def get(self, mode):
        """Return what is known of a mode, or None."""
        return self._kept.get(str(mode))

    def add(self, mode, checks):
        """Keep the checks of a mode."""
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps({"mode": str(mode), "checks": checks}) + "\n")


def run(modes, strategy=None, results=None):
    """Yield each mode with its checks, and tell on the standard error how far it is."""
    results = results or Results()
    for number, mode in enumerate(modes, 1):
        began = time.perf_counter()
        checks = results.get(mode)
        if checks is None:
            checks = check_of_keras(mode, strategy) if mode.losses == "Keras's" else check(mode, train(mode, strategy))
            results.add(mode, checks)
        failed = [f"{c.what} ({c.deviation:.2g})" for c in checks if not c.passed]
        print(
            f"{number}/{len(modes)} {mode}: {'FAILED ' + ', '.join(failed) if failed else 'as it should be'} "
            f"({time.perf_counter() - began:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
        yield mode, checks


def table(results, *, each=False):
    """Return a Markdown table of the results; optimizer, accumulation and clipping are one row unless `each`."""
    rows = {}
    for mode, checks in results:
        kind = f"{mode.machine}, {mode.execution}, {mode.steps} per execution, {mode.dtype}"
        kind = str(mode) if each else ", ".join(filter(None, (kind, KINDS[mode.losses])))
        rows.setdefault(kind, []).append(checks)
    lines = [f"| mode | runs | {' | '.join(HEADINGS.values())} |", "|---|---:|" + "---:|" * len(HEADINGS)]
    for kind, runs in rows.items():
        cells = []
        for what in HEADINGS:
            found = [check for run in runs for check in run if check.what == what]
            worst = max(found, key=lambda c: c.deviation, default=None)
            bad = "" if worst is None or worst.passed else f" **above {worst.limit:.2g}**"
            cells.append("" if worst is None else f"{worst.deviation:.2g}{bad}")
        lines.append(f"| {kind} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few modes, with every value of everything, fewer steps")
    parser.add_argument("--each", action="store_true", help="a row per mode, also per setting of the optimizer")
    parser.add_argument("--only", choices=("one device", "two replicas"), help="one kind of machine")
    parser.add_argument("--results", type=Path, metavar="FILE", help="keep what is done, and go on from what is kept")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    strategy = two_devices()
    if options.quick:
        leave_graphs_as_traced()
    mirrored = [*replicas("two replicas"), *replicas("two replicas", "Keras's")]
    balanced = replicas("two replicas", "balanced")[-1:]
    kept, found = Results(options.results), []
    if options.only != "two replicas":
        every = [*one_device(), *one_device("Keras's"), *of_a_balance()]
        found += run(few() if options.quick else every, results=kept)
    if options.only != "one device":
        chosen = [*(mirrored[7::5] if options.quick else mirrored), *balanced]
        chosen = [mode._replace(length=FEWER) for mode in chosen] if options.quick else chosen
        found += run(chosen, strategy, results=kept)
    print(table(found, each=options.each))
    return 0 if all(c.passed for _, checks in found for c in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
