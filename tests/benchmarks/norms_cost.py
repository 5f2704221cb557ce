"""What it costs to measure the gradient norm of each term every 50 steps, beside the same steps without a balance.

    python tests/benchmarks/norms_cost.py                       # ten minutes
    python tests/benchmarks/norms_cost.py --seconds 20 --no-xla
    python tests/benchmarks/norms_cost.py --speech              # the small speech model of examples/compare.py

A model trains in several ways that take turns step by step: without a balance; with `GradientShare()`, measured in all
variables that several terms reach; and in the last shared layer only. The model is a trunk and four heads at its end,
one for each term, so that each norm takes a backward pass through all of it; that of speech has terms that branch off
on the way. Every tenth step measures here, and the figures are for every fiftieth. Each is the processor time beyond
that of the step without a balance at the same turn, relative to the median of those: the median of a block of a hundred
turns, and of these medians the median, with their quartiles in brackets. TensorFlow has one thread, and other work on
the machine does not count. The calibration is left out.
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
_EVERY, _EVERY_HERE, _BLOCK = 50, 10, 100
_ROOM = kaw.AdaptiveWeightConfig(min_weight=0.01, max_weight=100.0)
_WAYS = {
    "none": None,
    "all shared": kaw.GradientShare(measure_every=_EVERY_HERE, calibrate_steps=None),
    "last shared layer": kaw.GradientShare(measure_every=_EVERY_HERE, calibrate_steps=None, variables=_LAST),
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
    header = ["plain step", "XLA", "measured in", "a step that measures", "one that does not", f"every {_EVERY} steps"]
    rows = []
    for jit in modes:
        rows += _rows(_speech() if options.speech else _trunk(options, jit), options.seconds, jit=jit)
    publish(table(header, rows), options.output)


def _rows(made: tuple[dict[str, kaw.StableModel], tf.data.Dataset], seconds: float, *, jit: bool) -> list[list[str]]:
    """Return a row for each way to measure."""
    models, batches = made
    iterators = {way: iter(batches) for way in models}
    functions = {way: model.make_train_function() for way, model in models.items()}

    def step(way: str) -> float:
        began = time.process_time()
        float(functions[way](iterators[way])["loss"])
        return 1e3 * (time.process_time() - began)

    def turns() -> list[dict[str, float]]:
        return [{way: step(way) for way in order.sample(list(models), len(models))} for _ in range(_EVERY_HERE)]

    order, blocks = random.Random(7), []
    turns()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(blocks) < 3:
        blocks.append([turns() for _ in range(_BLOCK // _EVERY_HERE)])
    plain = statistics.median(turn["none"] for block in blocks for ten in block for turn in ten)

    def beyond(way: str, block: list[list[dict[str, float]]], places: slice) -> float:
        return 100.0 / plain * statistics.median(turn[way] - turn["none"] for ten in block for turn in ten[places])

    rows = []
    for way in models:
        if way == "none":
            continue
        measuring = [beyond(way, block, slice(_EVERY_HERE - 1, None)) for block in blocks]
        others = [beyond(way, block, slice(_EVERY_HERE - 1)) for block in blocks]
        both = [(m + (_EVERY - 1) * o) / _EVERY for m, o in zip(measuring, others, strict=True)]
        figures = [quartiles(measuring, ".0f", "%"), quartiles(others, ".1f", "%"), quartiles(both, ".1f", "%")]
        rows.append([f"{plain:.1f} ms", "yes" if jit else "no", way, *figures])
    return rows


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
