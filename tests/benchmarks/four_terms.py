"""A model with four of Keras's losses: what three adaptive weights and a fixed one, with callback and record, cost.

    python tests/benchmarks/four_terms.py                # a few minutes
    python tests/benchmarks/four_terms.py --memory       # peak memory and time of 50 million parameters, a minute

Plain Keras, plain Keras again (the noise of the measurement), and `kaw.stable` with `AdaptiveWeightCallback(log_dir)`
train the same model in one process and take turns, in an order that changes with every round. Other work on the machine
only ever adds to a step: a figure compares the lower quartiles of all steps. With `--memory` each has a process of its
own; memory is the largest that was ever resident, above that of a process which has imported Keras and made the data.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
import tensorflow as tf
from markdown import table

import keras_adaptive_weights as kaw

PLAIN, AGAIN, PLUGIN = "plain Keras", "plain Keras again", "stable model, callback, record"
BALANCED = "four squared errors, a GradientShare that measures every third step"
_LOSSES = {"mel": "mae", "stop": "mse", "pitch": "huber", "energy": "mse"}
_WEIGHTS = {"mel": 2.5, "stop": 1.5, "pitch": 2.0, "energy": 0.1}
_BATCH, _BANDS, _DEPTH = 16, 80, 5
_STEPS = 40
_LARGE_STEPS = 6
_TASKS = {2: (256, 8), 20: (512, 24)}
"""Width and frames of a model whose step takes about so many milliseconds on two cores."""


class Times(keras.callbacks.Callback):
    """Notes when each step ended."""

    def __init__(self):
        super().__init__()
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())


def make_model(kind, width, frames, **compile_arguments):
    """The compiled model of a contestant."""
    keras.utils.set_random_seed(7)
    inputs = hidden = keras.Input((frames, _BANDS))
    for _ in range(_DEPTH):
        hidden = keras.layers.Dense(width, activation="relu")(hidden)
    model = keras.Model(inputs, {name: keras.layers.Dense(_BANDS, name=name)(hidden) for name in _LOSSES})
    weights = dict(_WEIGHTS)
    if kind in (PLUGIN, BALANCED):
        model = kaw.stable(model)
        weights = {name: kaw.AdaptiveWeight(weight) if weight >= 1.0 else weight for name, weight in weights.items()}
    loss = {"loss": _LOSSES, "loss_weights": weights}
    if kind == BALANCED:
        terms = {f"{name}_loss": kaw.LossTerm(squared(name), weight) for name, weight in weights.items()}
        balance = kaw.GradientShare(measure_every=3, calibrate_steps=None)
        loss = {"loss": kaw.CompositeLoss(terms, balance=balance)}
    model.compile(keras.optimizers.Adam(1e-4), **loss, jit_compile=False, **compile_arguments)
    return model


def squared(name):
    """The squared error of an output, per sample."""
    return lambda y, out: tf.reduce_mean(tf.square(y[name] - out[name]), axis=(1, 2))


def make_data(frames):
    """The same batch without end."""
    x = np.random.default_rng(7).normal(size=(_BATCH, frames, _BANDS)).astype("float32")
    return tf.data.Dataset.from_tensors((x, dict.fromkeys(_LOSSES, x))).repeat()


def callbacks_of(kind, folder):
    return [kaw.AdaptiveWeightCallback(log_dir=folder)] if kind in (PLUGIN, BALANCED) else []


def step_times(model, data, steps, more):
    """Wall times of the steps of a short `fit`, in milliseconds, without the first two."""
    times = Times()
    model.fit(data, steps_per_epoch=steps, verbose=0, shuffle=False, callbacks=[*more, times])
    return list(1e3 * np.diff(times.ends)[1:])


def measure(milliseconds, seconds):
    """Rows of the table for one length of the step."""
    width, frames = _TASKS[milliseconds]
    data = make_data(frames)
    kinds = (PLAIN, AGAIN, PLUGIN)
    models = {kind: make_model(kind, width, frames) for kind in kinds}
    found, draw = {kind: [] for kind in kinds}, random.Random(5)
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            step_times(models[kind], data, 150 if milliseconds < 10 else _STEPS, callbacks_of(kind, folder))
        end = time.monotonic() + seconds
        while time.monotonic() < end or not found[PLAIN]:
            for kind in draw.sample(kinds, len(kinds)):
                found[kind] += step_times(models[kind], data, _STEPS, callbacks_of(kind, folder))
    lower = {kind: statistics.quantiles(times, n=4)[0] for kind, times in found.items()}
    return [
        [f"{milliseconds} ms", kind, f"{lower[kind]:.2f} ms", f"{100 * (lower[kind] / lower[PLAIN] - 1):+.1f} %"]
        for kind in kinds
    ]


def _train_large(kind, frames, connection):
    """Train 50 million parameters, a round whenever asked for one; then say peak memory in MB and the parameters."""
    data = make_data(frames)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = make_model(kind, 3500, frames)
    with tempfile.TemporaryDirectory() as folder:
        while connection.recv():
            connection.send(step_times(model, data, _LARGE_STEPS, callbacks_of(kind, folder)))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    connection.send(((after - before) / 1024, model.count_params()))


def memory(frames, rounds):
    """Rows of the table of peak memory, and of the step: the processes take turns."""
    kinds, processes, connections = (PLAIN, PLUGIN, BALANCED), [], {}
    for kind in kinds:
        connections[kind], theirs = multiprocessing.Pipe()
        processes.append(multiprocessing.get_context("spawn").Process(target=_train_large, args=(kind, frames, theirs)))
        processes[-1].start()
    times = {kind: [] for kind in kinds}
    for turn in range(rounds):
        for kind in kinds if turn % 2 else reversed(kinds):
            connections[kind].send(True)
            times[kind] += connections[kind].recv()
    peaks = {}
    for kind in kinds:
        connections[kind].send(False)
        peaks[kind], parameters = connections[kind].recv()
    for process in processes:
        process.join()
    steps = {kind: statistics.quantiles(found, n=4)[0] for kind, found in times.items()}
    gradients = parameters * 4 / 2**20
    return [
        [
            kind,
            f"{parameters / 1e6:.0f} million",
            f"{peaks[kind]:,.0f} MB",
            f"{(peaks[kind] - peaks[PLAIN]) / gradients:+.2f} copies of the gradients",
            f"{steps[kind]:.0f} ms",
            f"{steps[kind] / steps[PLAIN]:.3f} x",
        ]
        for kind in kinds
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", action="store_true", help="peak memory of a large model")
    parser.add_argument("--frames", type=int, default=1, help="of a sample, of which a batch has 16, for --memory (1)")
    parser.add_argument("--rounds", type=int, default=8, help="for --memory, of six steps each (8)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each length of the step (default: 60)")
    parser.add_argument("--step-ms", type=int, choices=sorted(_TASKS), action="append", help="one length only")
    options = parser.parse_args()
    if options.memory:
        print(
            table(
                ["", "parameters", "peak memory", "above plain Keras", "lower quartile", "step"],
                memory(options.frames, options.rounds),
            )
        )
        return
    rows = [row for size in options.step_ms or sorted(_TASKS) for row in measure(size, options.seconds)]
    print(table(["a step of about", "", "lower quartile", "against plain Keras"], rows))


if __name__ == "__main__":
    main()
