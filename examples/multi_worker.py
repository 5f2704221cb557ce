r"""Train on several workers: the same decisions on all of them, a worker that dies is named, and a restart goes on.

    python examples/multi_worker.py                     # starts two workers on this machine
    python examples/multi_worker.py --log-dir runs/two  # with a record and backups; again after a crash: it goes on

Started without a cluster, the script starts its workers itself, with TF_CONFIG on loopback, and compares what they
decided. On a cluster each process runs the same script and is one of the workers:

TF_CONFIG (Vertex AI, SageMaker, Kubeflow's TFJob, or by hand): nothing to do, the variable is found.

    TF_CONFIG='{"cluster": {"worker": ["a:4000", "b:4000"]}, "task": {"type": "worker", "index": 0}}' \
        python examples/multi_worker.py --log-dir /shared/run

Slurm, one task per worker; addresses and index come from the SLURM_ variables, ports begin at 8888:

    srun --nodes 2 --ntasks-per-node 1 python examples/multi_worker.py --cluster slurm --log-dir /shared/run

Kubernetes without Kubeflow, as a StatefulSet: needs `pip install kubernetes`, a service account that may list pods, and
a `WORKER_SELECTORS` such as `statefulset.kubernetes.io/pod-name=tts-0,statefulset.kubernetes.io/pod-name=tts-1`. The
resolver does not know in which pod it runs: that is the number at the end of the host's name.

    python examples/multi_worker.py --cluster kubernetes --log-dir /shared/run

The log dir must be on a file system that all workers see: only the chief (worker 0) writes there, the others read the
backup when they go on. When a worker dies or freezes, the others notice within half a minute (TensorFlow's heartbeats
take 10 s), name it, and end with exit code 3. Start all of them again to go on from the last epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

WORKERS, BATCH, STEPS = 2, 64, 40
GRACE = 60.0
LOST = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Be a worker of a cluster, or start a cluster on this machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cluster", choices=("tf_config", "slurm", "kubernetes"), default="tf_config")
    parser.add_argument("--log-dir", type=Path, help="folder of the run, seen by all workers. Default: nothing written")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seconds-per-step", type=float, default=0.0, help="a pause, to have time to kill a worker")
    options = parser.parse_args(arguments)
    if options.cluster == "tf_config" and "TF_CONFIG" not in os.environ:
        return start_workers(sys.argv[1:] if arguments is None else list(arguments))
    return work(options)


def start_workers(arguments: Sequence[str]) -> int:
    """Start the workers, pass their output on, and say whether they took the same decisions."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(WORKERS)]
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    threads, processes, lines = [], [], [[] for _ in range(WORKERS)]
    errors = [deque(maxlen=20) for _ in range(WORKERS)]
    for index in range(WORKERS):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, __file__, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, env=environment, **pipes)
        processes.append(process)
        print(f"worker {index} is process {process.pid}", flush=True)
        readers = ((pass_on, (index, process, lines[index])), (errors[index].extend, (process.stderr,)))
        threads += [threading.Thread(target=read, args=what, daemon=True) for read, what in readers]
        for thread in threads[-2:]:
            thread.start()
    try:
        wait_for(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for thread in threads:
            thread.join()
    codes = [process.returncode for process in processes]
    decisions = [[line for line in said if line.startswith("step ")] for said in lines]
    if any(codes):
        for index in (i for i, code in enumerate(codes) if code > 0 and code != LOST):
            print(f"worker {index} wrote at last:", *errors[index], sep="\n")
        print(f"the workers ended with the exit codes {codes}")
        return LOST
    same = all(other == decisions[0] for other in decisions)
    print(f"{len(decisions[0])} decisions, {'the same' if same else 'NOT the same'} on all {WORKERS} workers")
    return 0 if same and decisions[0] else 1


def pass_on(index: int, process: subprocess.Popen[str], lines: list[str]) -> None:
    """Print what a worker says, and keep it."""
    for line in process.stdout or ():
        lines.append(line.rstrip())
        print(f"worker {index}: {line.rstrip()}", flush=True)


def wait_for(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Wait until all have ended; when one has died, no longer than the grace period for the others."""
    deadline = float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if deadline == float("inf") and any(process.poll() for process in processes):
            deadline = time.monotonic() + GRACE
        time.sleep(0.1)


def work(options: argparse.Namespace) -> int:
    """Be one worker: train, and print every decision."""
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver(options.cluster))  # before all else
    import keras

    import keras_adaptive_weights as kaw

    index = strategy.cluster_resolver.task_id
    with strategy.scope():
        model = build_model()
    callback = kaw.AdaptiveMelWeightCallback(log_dir=options.log_dir)
    callbacks = [callback, pause(options.seconds_per_step)]
    if options.log_dir:
        callbacks.insert(0, shared_backup(options.log_dir / "backup", chief=index == 0))
    try:
        model.fit(data(), epochs=options.epochs, verbose=0, callbacks=callbacks)
    except tf.errors.OpError as error:
        print(f"LOST {culprit(str(error), index)}. Start all workers again. {gist(error)}", flush=True)
        return LOST
    for decision in callback.decisions:
        change = f"{decision.old_weight:.3f} -> {decision.new_weight:.3f}"
        print(f"step {decision.step}: {decision.action.value} ({decision.reason.value}), {change}", flush=True)
    print(f"done after {callback.get_stability_metrics()['step_count']} steps; keras {keras.__version__}", flush=True)
    return 0


def resolver(cluster: str) -> object:
    """Return what tells TensorFlow who the workers are, and which of them this is."""
    import tensorflow as tf

    resolvers = tf.distribute.cluster_resolver
    if cluster == "slurm":
        return resolvers.SlurmClusterResolver()
    if cluster == "kubernetes":
        found = resolvers.KubernetesClusterResolver({"worker": os.environ["WORKER_SELECTORS"].split(",")})
        found.task_type, found.task_id = "worker", int(socket.gethostname().rsplit("-", 1)[1])
        return found
    return resolvers.TFConfigClusterResolver()


def build_model() -> object:
    """Return a compiled model from [B, 8] to [B, 4]; call it within the scope of the strategy."""
    import keras
    import tensorflow as tf

    import keras_adaptive_weights as kaw

    def error(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)

    def size(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        del y_true
        return tf.reduce_mean(tf.square(y_pred), axis=-1)

    keras.utils.set_random_seed(1)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs)
    hidden = keras.layers.BatchNormalization(synchronized=True)(hidden)
    model = kaw.StableModel(inputs, keras.layers.Dense(4)(hidden))
    low_threshold = 0.5  # to see decisions
    config = kaw.AdaptiveWeightConfig(warmup_steps=20, cooling_period=20, gradient_norm_threshold=low_threshold)
    weight = kaw.AdaptiveWeight(2.5, config)
    terms = {"mel_loss": kaw.LossTerm(error, weight=weight), "size_loss": kaw.LossTerm(size, weight=0.01)}
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=kaw.CompositeLoss(terms))
    return model


def data() -> object:
    """Return the batches of an epoch; each worker takes its share of each."""
    import numpy as np
    import tensorflow as tf

    draw = np.random.default_rng(0)
    x = draw.standard_normal((STEPS * BATCH, 8)).astype("float32")
    y = (x[:, :4] + 0.5 * draw.standard_normal((len(x), 4))).astype("float32")
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).with_options(options)


def shared_backup(folder: Path, *, chief: bool) -> object:
    """Return a BackupAndRestore that every worker reads, and only the chief writes.

    With a backup each, workers that are killed between two of them would go on from different epochs. The files are
    put in place when they are whole: a chief that is killed while it writes them leaves the ones before.
    """
    import keras

    class SharedBackup(keras.callbacks.BackupAndRestore):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            if not chief:
                return
            scratch = keras.callbacks.BackupAndRestore(str(folder / "unfinished"))
            scratch.set_model(self.model)
            scratch.on_epoch_end(epoch, logs)
            for name in ("latest.weights.h5", "training_metadata.json"):
                (folder / "unfinished" / name).replace(folder / name)

        def on_train_end(self, logs: dict | None = None) -> None:
            if chief:
                super().on_train_end(logs)

    return SharedBackup(str(folder))


def pause(seconds: float) -> object:
    """Return a callback that says when an epoch is over, and waits after every step."""
    import keras

    class Pause(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            print(f"epoch {epoch + 1} done, mel_weight {(logs or {})['mel_weight']:.3f}", flush=True)

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            del batch, logs
            time.sleep(seconds)

    return Pause()


def culprit(message: str, own: int) -> str:
    """Return the workers that an error of TensorFlow's is about, other than this one.

    Worker 0 collects the heartbeats and names those that are silent; where nobody is named, nobody collects them.
    """
    tasks = {int(task) for task in re.findall(r"/job:worker/(?:replica:\d+/)?task:(\d+)", message)} - {own}
    return ", ".join(f"worker {task}" for task in sorted(tasks)) or "worker 0, which is silent"


def gist(error: Exception) -> str:
    """Return the line of a TensorFlow error that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "/job:worker" in line and "node" not in line] or lines[-1:]
    return f"{type(error).__name__}: {telling[0] if telling else ''}"


if __name__ == "__main__":
    sys.exit(main())
