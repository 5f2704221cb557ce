"""Train in two processes under `MultiWorkerMirroredStrategy` and compare with one device, as `matrix.py` does.

    python tests/execution/two_processes.py [--quick]

Beyond what `matrix.py` checks: both workers end with the same bits, what is asked for on one takes effect on both at
the same step, and only the chief writes files. Prints Markdown and exits with 1 on failure. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

import keras_adaptive_weights as kaw
from keras_adaptive_weights.worker_requests import FROM_ANOTHER_WORKER

TIMEOUT = 900.0
NOTE = "worker 1 saw clipping"
EXPECTED = [("disable", 11), ("enable", 21), ("reset", 22)]  # asked after steps 10 and 20, passed on with the next ones


class Outcome(NamedTuple):
    """What a worker found.

    Attributes:
        runs: A `checks.Run` per mode.
        requests: Step, action, reason and note of what was carried out by hand.
        others: The same of the weight that nobody asked anything about.
        weight: The weight at the end.
    """

    runs: list
    requests: list
    others: list
    weight: float


def work(folder, *, quick):
    """Do a worker's part and leave the outcome in the folder."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else that TensorFlow does
    import checks

    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    runs = [checks.train(mode, strategy) for mode in chosen(quick=quick)]
    outcome = Outcome(runs, *ask(folder, index, strategy))
    (folder / f"worker-{index}").write_bytes(pickle.dumps(outcome))


def ask(folder, index, strategy):
    """Train once more; worker 1 asks for a disable from a thread, and the chief for two things at once later."""
    import modes

    with strategy.scope():
        model = modes.make_model(modes.Mode(), kaw.StableModel)
    energy = kaw.AdaptiveWeightCallback("energy_loss", log_dir=folder / f"log-{index}")
    mel = kaw.AdaptiveMelWeightCallback(log_dir=folder / f"mel-{index}")

    class Operator(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if (index, batch) == (1, 9):
                thread = threading.Thread(target=energy.emergency_disable, args=(NOTE,))
                thread.start()
                thread.join()
            if (index, batch) == (0, 19):
                energy.enable("looked at")
                energy.reset("from here on")

    model.fit(modes.dataset(*modes.data()), verbose=0, callbacks=[mel, energy, Operator()])
    by_hand = [(d.action.value, d.step, d.reason.value, d.note) for d in energy.decisions]
    return by_hand, mel.decisions, model.loss.adaptive_weights["energy_loss"].weight


def chosen(*, quick):
    import modes

    every = modes.replicas("two processes")
    return every[2::5] if quick else every


def compare(folder, *, quick):
    """Return the results as `matrix.py` takes them, and the sentences that are not true."""
    import checks
    import numpy as np

    chief, other = found = [pickle.loads((folder / f"worker-{index}").read_bytes()) for index in range(2)]
    results, wrong = [], []
    for mode, one, two in zip(chosen(quick=quick), chief.runs, other.runs, strict=True):
        results.append((mode, checks.check(mode, one)))
        same = all(np.array_equal(a, b) for a, b in zip(one.parameters, two.parameters, strict=True))
        if not same or one.rows != two.rows or one.decisions != two.decisions or two.changed:
            wrong.append(f"{mode}: both workers end with the same bits, telemetry and decisions")
    asked = [[(action, step) for action, step, reason, _ in worker.requests if reason == "manual"] for worker in found]
    if asked != [EXPECTED, EXPECTED]:
        wrong.append(f"what one worker asks for, both do at the same step: {EXPECTED}, not {asked}")
    notes = [worker.requests[0][3] for worker in found]
    if notes != [FROM_ANOTHER_WORKER, NOTE]:
        wrong.append("the note is that of the asking worker, the other says where it came from")
    if chief.others or other.others or chief.weight != other.weight:
        wrong.append("a request for one weight leaves the other one alone")
    files = sorted(path.name for path in folder.glob("*-?"))
    if files != ["log-0", "mel-0", "worker-0", "worker-1"]:
        wrong.append(f"only the chief writes a record, not {files}")
    return results, wrong


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two modes instead of eight")
    parser.add_argument("--work-in", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", message=".*shuffle=True.*")
    if options.work_in:
        work(options.work_in, quick=options.quick)
        return 0
    from matrix import table
    from workers import outputs, started

    with tempfile.TemporaryDirectory() as folder:
        command = [__file__, "--work-in", folder, *(["--quick"] if options.quick else [])]
        with started(command) as processes:
            codes, texts = outputs(processes, TIMEOUT)
        if codes != [0, 0]:
            print(*(text[-4000:] for text in texts), f"the workers ended with {codes}", sep="\n", file=sys.stderr)
            return 1
        results, wrong = compare(Path(folder), quick=options.quick)
    print(table(results))
    print("", *(f"- NOT TRUE: {sentence}" for sentence in wrong), sep="\n")
    if not wrong:
        print("Both workers: same bits, same decisions, requests of either at the same step on both, one record.")
    return 0 if not wrong and all(c.passed for _, checks in results for c in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
