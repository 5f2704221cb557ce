"""What it costs to measure the gradient norm of each term every 50 steps, beside the same steps without a balance.

    python tests/benchmarks/norms_cost.py                       # ten minutes
    python tests/benchmarks/norms_cost.py --seconds 20 --no-xla
    python tests/benchmarks/norms_cost.py --speech              # the small speech model of examples/compare.py

A model trains in several ways that take turns in segments of 50 steps: without a balance; with `GradientShare()`,
measured in all variables that several terms reach; in the last shared layer only; and "between", a balance that never
measures in the segment: what the condition costs. The model is a trunk and four heads at its end, one for each term, so
that each norm takes a backward pass through all of it; that of speech has terms that branch off on the way. A figure is
the median over all rounds of the processor time relative to that without a balance in the same round, with its
quartiles in brackets: TensorFlow has one thread, and other work on the machine does not count. The calibration is left
out.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import tensorflow as tf
from fit_overhead import quartiles
from markdown import publish, table

import keras_adaptive_weights as kaw

_TERMS = ("mel_loss", "stop_loss", "pitch_loss", "energy_loss")
_LAST, _LAST_OF_SPEECH = "shared3", "decoder_0"
_EVERY = 50
_ROOM = kaw.AdaptiveWeightConfig(min_weight=0.01, max_weight=100.0)
_WAYS = {
    "none": None,
    "all shared": kaw.GradientShare(measure_every=_EVERY, calibrate_steps=None),
    "last shared layer": kaw.GradientShare(measure_every=_EVERY, calibrate_steps=None, variables=_LAST),
    "between": kaw.GradientShare(measure_every=10_000, calibrate_steps=None),
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width", type=int, default=560, help="units of the four shared layers (560: a million)")
    parser.add_argument("--batch", type=int, default=256, help="samples of a batch (256)")
    parser.add_argument("--seconds", type=float, default=150.0, help="length of a row (150)")
    parser.add_argument("--no-xla", action="store_true", help="leave out the row with jit_compile=True")
    parser.add_argument("--speech", action="store_true", help="the small speech model, without XLA")
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    modes = [False] if options.speech or options.no_xla else [False, True]
    rows = [_row(_speech() if options.speech else _trunk(options, jit), options.seconds, jit=jit) for jit in modes]
    ways = [way for way in _WAYS if way != "none"]
    publish(table(["plain step", "XLA", *ways], rows), options.output)


def _row(made: tuple[dict[str, kaw.StableModel], tf.data.Dataset], seconds: float, *, jit: bool) -> list[str]:
    models, batches = made
    iterators = {way: iter(batches) for way in models}
    functions = {way: model.make_train_function() for way, model in models.items()}
    took: dict[str, list[float]] = {way: [] for way in models}

    def segment(way: str) -> float:
        began = time.process_time()
        for _ in range(_EVERY):
            logs = functions[way](iterators[way])
        float(logs["loss"])
        return 1e3 * (time.process_time() - began) / _EVERY

    for way in models:
        segment(way)
    order, end = random.Random(7), time.perf_counter() + seconds
    while time.perf_counter() < end or len(took["none"]) < 3:
        for way in order.sample(list(models), len(models)):
            took[way].append(segment(way))
    relative = {
        way: quartiles([100.0 * (a / b - 1.0) for a, b in zip(took[way], took["none"], strict=True)], ".1f", "%")
        for way in models
        if way != "none"
    }
    return [f"{statistics.median(took['none']):.1f} ms", "yes" if jit else "no", *relative.values()]


def _trunk(options: argparse.Namespace, jit: bool) -> tuple[dict[str, kaw.StableModel], tf.data.Dataset]:
    """Return the models of all ways, and batches for them."""
    models = {way: _model(balance, options.width, jit) for way, balance in _WAYS.items()}
    x = tf.random.stateless_normal([options.batch, options.width], [1, 2])
    return models, tf.data.Dataset.from_tensors((x, dict.fromkeys(_TERMS, x[:, :8]))).repeat()


def _speech() -> tuple[dict[str, kaw.StableModel], tf.data.Dataset]:
    """Return the same of speech: the weight of mel is adaptive, those of stop, attention and durations are fixed."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    from compare_grid import contestants, data, grid
    from xtts_demo import dataset, options

    settings = grid.Settings()
    clips = data.find_clips(options.default_cache_dir(), settings)
    shape = dataset.common_shape(clips, contestants.REDUCTION)
    models = {}
    for way, balance in _WAYS.items():
        models[way] = contestants.build(grid.FIXED, 2.5, shape, settings, range(0), 1)
        named = balance and dataclasses.replace(balance, variables=balance.variables and _LAST_OF_SPEECH)
        models[way].compile(models[way].optimizer, loss=kaw.XTTSLoss(balance=named))
    batch = dataset.Batches(clips, shape, settings.batch_size, 1).training({}).take(1).cache()
    return models, batch.repeat()


def _model(balance: kaw.GradientShare | None, width: int, jit: bool) -> kaw.StableModel:
    keras.utils.set_random_seed(1)
    inputs = hidden = keras.Input((width,))
    for number in range(4):
        hidden = keras.layers.Dense(width, activation="relu", name=f"shared{number}")(hidden)
    outputs = {name: keras.layers.Dense(8, name=name)(hidden) for name in _TERMS}

    def error(name: str):
        return lambda y, out: tf.reduce_mean(tf.square(y[name] - out[name]), axis=-1)

    terms = {name: kaw.LossTerm(error(name), kaw.AdaptiveWeight(1.0, _ROOM)) for name in _TERMS}
    model = kaw.StableModel(inputs, outputs)
    model.compile(keras.optimizers.Adam(1e-4), loss=kaw.CompositeLoss(terms, balance=balance), jit_compile=jit)
    model.optimizer.build(model.trainable_variables)
    return model


if __name__ == "__main__":
    main()
