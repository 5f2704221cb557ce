"""What must hold of a run's folder after any number of kills; each function raises AssertionError or returns facts."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import keras_adaptive_weights as kaw

PARTS = ("controller", "average", "parameters", "optimizer")


def processes(folder):
    """Return the lines of `trace.jsonl`, one list for each process."""
    found = []
    for line in (Path(folder) / "trace.jsonl").read_text().splitlines():
        values = json.loads(line)
        if "restored" in values:
            found.append([])
        found[-1].append(values)
    return found


def lineage(traces):
    """Return what was so after each step, told by the last process that took it; at 0 by the last that began there."""
    by_step = {}
    for lines in traces:
        for values in lines:
            step = values.get("step", values.get("restored"))
            if "step" in values or step not in by_step:
                by_step[step] = values
    return by_step


def differing(one, other):
    """Return the names of the parts that differ."""
    return [name for name in (*PARTS, "weight", "disabled") if one[name] != other[name]]


def check_restored(before, restored):
    """Say which parts differ between the restore point and what the killed processes had at that step."""
    known = lineage(before).get(restored["restored"])
    assert known is not None, f"no process took step {restored['restored']}"
    return differing(known, restored) + ["run"] * (restored["restored"] > 0 and known["run"] != restored["run"])


def parts_of(journal):
    """Return the journal of each term, or the one of a balance, which is about all of them."""
    return [journal] if journal.joint else [journal.of(term) for term in journal.terms]


def check_journal(folder):
    """The steps are 1, 2, 3, ... as the lines stand in the file, and each term has them; return how many."""
    path = Path(folder) / "adaptive_weights" / "journal.jsonl"
    lines = path.read_text().rpartition("\n")[0].splitlines()
    steps = [values["step"] for values in map(json.loads, lines) if values["kind"] == "step"]
    assert steps == list(range(1, len(steps) + 1)), steps
    for journal in parts_of(kaw.read_journal(path)):
        assert [seen.step for seen in journal.observations] == steps[: len(journal.observations)]
        assert len(journal.weights) == len(journal.observations)
        by_hand = [event.step for event in journal.events if event.by_hand]
        assert len(by_hand) == len(set(by_hand)), by_hand
    return len(steps)


def check_abandoned(folder):
    """Each file with what was taken back is a journal that begins right after the restore point; return how many."""
    paths = sorted((Path(folder) / "adaptive_weights" / "abandoned").glob("*.jsonl"))
    for path in paths:
        whole = kaw.read_journal(path)
        first = whole.headers[0].step + 1
        for journal in parts_of(whole):
            steps = [seen.step for seen in journal.observations]
            assert steps == list(range(first, first + len(steps))), path
    return len(paths)


def check_event_files(folder):
    """Over all files, no tag has a step twice or one that goes back; return {tag: steps}."""
    steps = {}
    for path in sorted((Path(folder) / "adaptive_weights").glob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                steps.setdefault(value.tag, []).append(event.step)
    for tag, found in steps.items():
        assert all(a < b for a, b in itertools.pairwise(found)), (tag, found)
    return steps
