"""Kill a training with SIGKILL at random instants, start it again each time, and check what came back.

    python tests/resume/kill_and_resume.py --kills 20

One chain of kills for each way to save, and for what decides on the weights; callback order and the instant within the
step are drawn anew for each process.
A line of the table is a kill and what the next process restored:

- state: controller (with weight, step and disable), spike average, parameters and optimizer are, bit for bit, what the
  killed process had at that step;
- from there on: how many executions after the restore point were, bit for bit, those of a run that was never killed.
  "other data": Keras repeated an epoch from its first batch, so that there is nothing to compare with;
- the journal's steps are consecutive, no tag of the event files has a step twice or one that goes back.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import verify

from keras_adaptive_weights.journal.reader import read_journal

STEPS = 40
KILLS_PER_CHAIN = 4  # of at most 65 steps each: the 280 steps of the run are enough
CHAINS = (
    ("epoch", 1, "guide"),
    ("batches", 1, "share"),
    ("model", 1, "guide"),
    ("weights", 1, "constraint"),
    ("batches", 4, "guide"),
    ("model", 4, "share"),
    ("batches", 1, "guide"),
    ("weights", 1, "guide"),
)
HEADINGS = (
    "saved by",
    "K",
    "decides",
    "ours",
    "kill at",
    "+ms",
    "restored",
    "lost",
    "state",
    "from there on",
    "journal",
    "records",
)
_HERE = Path(__file__).resolve().parent


def train_here(folder, mode, kwargs):
    """Run the training script in this process, which was forked for it."""
    import training

    training.train(folder, mode, **kwargs)


class Launcher:
    """Starts the script in a process of its own, forked from one that only imported TensorFlow, or all new."""

    def __init__(self, *, new_interpreters=False):
        self._new = new_interpreters
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["training", "keras_adaptive_weights.training.callback"])

    def run(self, folder, mode, **kwargs):
        """Return the exit code; negative: the signal."""
        if self._new:
            return subprocess.run(_command(folder, mode, kwargs), check=False, timeout=300).returncode
        process = self._context.Process(target=train_here, args=(str(folder), mode, kwargs))
        process.start()
        process.join(300)
        return process.exitcode


def _command(folder, mode, kwargs):
    command = [sys.executable, str(_HERE / "training.py"), str(folder)]
    command += ["--mode", mode] if mode else []
    command += [] if kwargs.get("ours_first", True) else ["--ours-last"]
    for name in ("steps_per_execution", "balance", "kill_in", "kill_after_ms"):
        if kwargs.get(name) is not None:
            command += [f"--{name.replace('_', '-')}", str(kwargs[name])]
    return command


class Chain:
    """One run: killed, started again, killed, ... and let go on to its end."""

    def __init__(self, launcher, folder, mode, steps_per_execution, reference, balance="guide"):
        self._launcher, self._folder, self._mode = launcher, Path(folder), mode
        self._kind = {"steps_per_execution": steps_per_execution, "balance": balance}
        self._reference = reference
        self._on_track = True

    def start(self, **kwargs):
        """Let a process run until it is killed or done; return (what it began with, the last step it took)."""
        code = self._launcher.run(self._folder, self._mode, **self._kind, **kwargs)
        assert code == (-9 if "kill_in" in kwargs else 0), f"exit code {code}"
        lines = verify.processes(self._folder)[-1]
        return lines[0], lines[-1].get("step", lines[0]["restored"])

    def compare(self):
        """Return what is wrong with the last process, and how many executions were those of the reference, if any."""
        *before, last = verify.processes(self._folder)
        wrong = verify.check_restored(before, last[0])
        self._on_track &= last[0]["restored"] == last[0]["epoch"] * STEPS
        if not self._on_track:
            return wrong, None
        for values in last[1:]:
            parts = verify.differing(values, self._reference[values["step"]])
            wrong += [f"{part} at step {values['step']}" for part in parts]
        return wrong, len(last) - 1

    def records(self):
        """Check the records; return the journal's number of steps and the event files' number of records."""
        verify.check_abandoned(self._folder)
        steps = verify.check_event_files(self._folder)
        return verify.check_journal(self._folder), sum(map(len, steps.values()))


def draw_kill(draw):
    """Return the step, the instant within it and the order of the callbacks."""
    return {
        "kill_in": draw.randint(1, 65),
        "kill_after_ms": round(draw.uniform(0.0, 12.0), 1),
        "ours_first": draw.random() < 0.5,
    }


def run_chain(chain, name, kills, draw):
    """Kill so many times, one line each; return how many of the kills were followed by something wrong."""
    bad = 0
    plan = draw_kill(draw)
    began, reached = chain.start(**plan)
    for left in reversed(range(kills)):
        next_plan = draw_kill(draw) if left else {"ours_first": True}
        resumed, next_reached = chain.start(**next_plan)
        wrong, same = chain.compare()
        journal, records = chain.records()
        bad += bool(wrong)
        show_row(
            *name,
            "first" if plan["ours_first"] else "last",
            began["restored"] + plan["kill_in"],
            plan["kill_after_ms"],
            resumed["restored"],
            reached - resumed["restored"],
            f"WRONG: {', '.join(wrong[:4])}" if wrong else "equal",
            "other data" if same is None else f"{same} equal" if not wrong else "-",
            f"1..{journal}",
            records,
        )
        plan, began, reached = next_plan, resumed, next_reached
    return bad


def show_row(*cells):
    """Print a line of the table."""
    print("  ".join(f"{cell!s:>{max(6, len(heading))}}" for cell, heading in zip(cells, HEADINGS, strict=True)))
    sys.stdout.flush()


def decisions_of(folder):
    """Return the events of a run in few words."""
    events = read_journal(folder / "adaptive_weights" / "journal.jsonl").events
    return ", ".join(f"{event.step} {event.action.value}" for event in events)


def make_references(launcher, folder):
    """Train without a kill; return what was so after each step, for each number of steps per execution."""
    references = {}
    for executions, balance in sorted({chain[1:] for chain in CHAINS}):
        path = folder / f"reference-{executions}-{balance}"
        code = launcher.run(path, None, steps_per_execution=executions, balance=balance)
        assert code == 0, f"exit code {code}"
        references[executions, balance] = verify.lineage(verify.processes(path))
        print(f"never killed, {executions} steps an execution, {balance}: {decisions_of(path)}")
    return references


def main():
    """Do what the docstring of the module says."""
    parser = argparse.ArgumentParser(description="Kill and resume; see the docstring.")
    parser.add_argument("--kills", type=int, default=20, help="kill points in all")
    parser.add_argument("--seed", type=int, default=None, help="of the kill points; default: another each time")
    parser.add_argument("--new-interpreters", action="store_true", help="start Python anew for each process: slower")
    parser.add_argument("--keep", action="store_true", help="keep the folders, and say where they are")
    args = parser.parse_args()
    seed = random.randrange(10**6) if args.seed is None else args.seed
    draw = random.Random(seed)
    print(f"seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    launcher = Launcher(new_interpreters=args.new_interpreters)
    references = make_references(launcher, folder)
    show_row(*HEADINGS)
    bad, left, chains = 0, args.kills, itertools.cycle(CHAINS)
    while left > 0:
        name, kills = next(chains), min(left, KILLS_PER_CHAIN)
        mode, executions, balance = name
        chain = Chain(launcher, folder / f"{left}-{mode}", mode, executions, references[executions, balance], balance)
        bad += run_chain(chain, name, kills, draw)
        left -= kills
    print(f"{args.kills} kills, {bad} followed by something wrong")
    if args.keep:
        print(folder)
    else:
        shutil.rmtree(folder)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
