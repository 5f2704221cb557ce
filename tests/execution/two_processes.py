"""Train in two processes under `MultiWorkerMirroredStrategy` and compare with one device, as `matrix.py` does.

    python tests/execution/two_processes.py [--quick]

Beyond what `matrix.py` checks: both workers end with the same bits, what is asked for on one takes effect on both at
the same step, only the chief writes files, and both take the same recoveries, though the chief cannot write snapshots
and variables go bad on worker 1 alone. Prints Markdown and exits with 1 on failure. Takes two to four minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

import keras_adaptive_weights as kaw
from keras_adaptive_weights.training.worker_requests import FROM_ANOTHER_WORKER

TIMEOUT = 900.0
NOTE = "worker 1 saw clipping"
RECOVERIES = [(30, "recovered_from_bad_variables", 20.0), (36, "recovered_from_skips", 10.0)]
EXPECTED = [("disable", 11), ("enable", 21), ("reset", 22)]  # asked after steps 10 and 20, passed on with the next ones


class Outcome(NamedTuple):
    """What a worker found.

    Attributes:
        runs: A `checks.Run` per mode.
        requests: Action, step and note of what was carried out by hand.
        others: What was carried out by hand for weights that nobody asked anything about.
        weight: The weight at the end.
        recoveries: Step, reason and snapshot of each recovery of the model.
        recovered: Values of the trainable variables after it, and whether all numbers are finite.
        warnings: What `ModelRecovery` warned of.
    """

    runs: list
    requests: list
    others: list
    weight: float
    recoveries: list
    recovered: tuple
    warnings: list


def work(folder, *, quick):
    """Do a worker's part and leave the outcome in the folder."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else that TensorFlow does
    import checks
    from modes import leave_graphs_as_traced

    if quick:
        leave_graphs_as_traced()
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    runs = []
    for mode in chosen(quick=quick):
        runs.append(checks.train(mode, strategy))
        if index == 0:
            print(f"{len(runs)} {mode}", flush=True)
    outcome = Outcome(runs, *disturb(folder, index, strategy))
    (folder / f"worker-{index}").write_bytes(pickle.dumps(tuple(outcome)))


def disturb(folder, index, strategy):
    """Train once more, where the workers ask for something and variables go bad.

    Worker 1 asks for a disable from a thread, and the chief for two things at once later. Batch statistics go bad on
    worker 1 alone after step 26, and parameters on both after step 33; statistics are not synchronized. The chief
    writes snapshots until step 15, where its folder becomes a file.
    """
    import checks
    import modes

    with strategy.scope():
        model = modes.make_model(modes.Mode(), kaw.StableModel, synchronized=False)
    snapshots = folder / f"snapshots-{index}"
    settings = kaw.ModelRecovery(every=10, after=3, directory=snapshots)
    callback = kaw.AdaptiveWeightCallback(log_dir=folder / f"log-{index}", recovery=settings)

    class Operator(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if (index, batch) == (1, 9):
                thread = threading.Thread(target=callback.emergency_disable, args=(NOTE, "energy_loss"))
                thread.start()
                thread.join()
            if (index, batch) == (0, 19):
                callback.enable("looked at", "energy_loss")
                callback.reset("from here on", "energy_loss")

    class Trouble(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if (index, batch) == (0, 14):
                kept = folder / "kept"
                snapshots.rename(kept)
                snapshots.write_text("no folder")
            if (index, batch) == (1, 25):
                model.layers[2].moving_variance.assign(tf.fill([6], float("nan")))
            if batch == 32:
                kernel = model.trainable_variables[-2]
                kernel.assign(tf.fill(kernel.shape, float("nan")))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(modes.dataset(*modes.data()), verbose=0, callbacks=[callback, Operator(), Trouble()])
    by_hand = [d for d in callback.decisions if d.reason == "manual"]
    asked = [(d.action.value, d.step, d.note) for d in by_hand if d.term == "energy_loss"]
    others = [d for d in by_hand if d.term != "energy_loss"]
    recovered = [d for d in callback.decisions if d.reason.value.startswith("recovered_") and d.term == "mel_loss"]
    said = [str(warning.message) for warning in caught if "ModelRecovery" in str(warning.message)]
    events = [(d.step, d.reason.value, d.evidence["snapshot_step"]) for d in recovered]
    found = checks.copies(model).values()
    finite = all(bool(tf.reduce_all(tf.math.is_finite(v))) for v in found if v.dtype.kind == "f")
    weight = model.loss.adaptive_weights["energy_loss"].weight
    return asked, others, weight, events, (checks.values(model)[0], finite), said


def chosen(*, quick):
    import modes

    every = modes.replicas("two processes")
    found = [*(every[7:] if quick else every), modes.replicas("two processes", "balanced")[-1]]
    return [mode._replace(length=modes.FEWER) for mode in found] if quick else found


def compare(folder, *, quick):
    """Return the results as `matrix.py` takes them, and the sentences that are not true."""
    import checks
    import numpy as np

    chief, other = found = [Outcome(*pickle.loads((folder / f"worker-{i}").read_bytes())) for i in range(2)]
    results, wrong = [], []
    for mode, one, two in zip(chosen(quick=quick), chief.runs, other.runs, strict=True):
        results.append((mode, checks.check(mode, one)))
        same = all(np.array_equal(a, b) for a, b in zip(one.parameters, two.parameters, strict=True))
        told = [(worker.rows, worker.decisions, worker.norms) for worker in (one, two)]
        if not same or told[0] != told[1] or two.changed:
            wrong.append(f"{mode}: both workers end with the same bits, telemetry and decisions")
    asked = [[(action, step) for action, step, _ in worker.requests] for worker in found]
    if asked != [EXPECTED, EXPECTED]:
        wrong.append(f"what one worker asks for, both do at the same step: {EXPECTED}, not {asked}")
    notes = [worker.requests[0][2] for worker in found]
    if notes != [FROM_ANOTHER_WORKER, NOTE]:
        wrong.append("the note is that of the asking worker, the other says where it came from")
    if chief.others or other.others or chief.weight != other.weight:
        wrong.append("a request for one weight leaves the others alone")
    files = sorted(path.name for path in folder.glob("*-?"))
    if files != ["log-0", "snapshots-0", "worker-0", "worker-1"]:
        wrong.append(f"only the chief writes records and snapshots, not {files}")
    return results, wrong + compare_recoveries(folder, chief, other)


def compare_recoveries(folder, chief, other):
    """Return the sentences about the model's rollback that are not true."""
    import numpy as np

    wrong = []
    if not chief.recoveries == other.recoveries == RECOVERIES:
        wrong.append(
            f"both go back at the same step to the same one: {RECOVERIES}, not {chief.recoveries} and "
            f"{other.recoveries}"
        )
    same = all(np.array_equal(a, b) for a, b in zip(chief.recovered[0], other.recovered[0], strict=True))
    if not same or not chief.recovered[1] or not other.recovered[1]:
        wrong.append("after it both have the same parameters, and finite ones")
    if [name.name for name in (folder / "kept").iterdir()] != ["step-000000010.weights.h5"]:
        wrong.append("the chief writes snapshots for as long as it can")
    if len(chief.warnings) != 1 or "which is kept in memory" not in chief.warnings[0] or other.warnings:
        wrong.append(f"the chief warns once, and the other does not: {chief.warnings}, {other.warnings}")
    return wrong


def main(arguments=None, start=subprocess.Popen):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one mode instead of eight, beside that of a balance")
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
        with started(command, start=start) as processes:
            codes, texts = outputs(processes, TIMEOUT)
        if codes != [0, 0]:
            print(*(text[-4000:] for text in texts), f"the workers ended with {codes}", sep="\n", file=sys.stderr)
            return 1
        results, wrong = compare(Path(folder), quick=options.quick)
    print(table(results))
    print("", *(f"- NOT TRUE: {sentence}" for sentence in wrong), sep="\n")
    if not wrong:
        print("Both workers: same bits, decisions and recoveries, requests of either at the same step, one record.")
    return 0 if not wrong and all(c.passed for _, checks in results for c in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
