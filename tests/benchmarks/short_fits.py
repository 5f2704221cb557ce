"""What the record costs a `fit` that is short: a loop of fits of one step each, as over folds or in a notebook.

    python tests/benchmarks/short_fits.py               # half a minute

Plain Keras, a stable model without a callback, one with `AdaptiveMelWeightCallback()`, and one with a `log_dir` take
turns; a figure is the median of all fits, in milliseconds. What opening and closing the record costs is the difference
of the last two, with the quartiles of that of each turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import keras
import numpy as np
from markdown import table

import keras_adaptive_weights as kaw


def make_model(kind: type[keras.Model], loss: object) -> keras.Model:
    """A model of one layer, compiled."""
    inputs = keras.Input((3,))
    model = kind(inputs, keras.layers.Dense(2)(inputs))
    model.compile("sgd", loss)
    return model


def composite() -> kaw.CompositeLoss:
    """A loss of one adaptive term."""
    return kaw.CompositeLoss({"mel_loss": kaw.LossTerm(keras.losses.MeanSquaredError(), kaw.AdaptiveWeight(2.5))})


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--turns", type=int, default=60, help="fits of each (60)")
    options = parser.parse_args()
    x, y = np.ones((8, 3), "float32"), np.ones((8, 2), "float32")
    with tempfile.TemporaryDirectory() as folder:
        fits = {
            "plain Keras": (make_model(keras.Model, "mse"), []),
            "stable model": (make_model(kaw.StableModel, composite()), []),
            "with the callback": (make_model(kaw.StableModel, composite()), [kaw.AdaptiveMelWeightCallback()]),
            "with its record": (make_model(kaw.StableModel, composite()), [kaw.AdaptiveMelWeightCallback(folder)]),
        }
        took: dict[str, list[float]] = {name: [] for name in fits}
        for turn in range(options.turns + 2):
            for name, (model, callbacks) in fits.items():
                began = time.perf_counter()
                model.fit(x, y, verbose=0, callbacks=callbacks)
                if turn >= 2:  # the first ones trace
                    took[name].append(1e3 * (time.perf_counter() - began))
    record = [a - b for a, b in zip(took["with its record"], took["with the callback"], strict=True)]
    low, middle, high = statistics.quantiles(record, n=4)
    rows = [[name, f"{statistics.median(times):.1f} ms"] for name, times in took.items()]
    print(
        table(["a fit of one step", "median"], [*rows, ["the record", f"{middle:+.1f} ms ({low:+.1f} to {high:+.1f})"]])
    )


if __name__ == "__main__":
    main()
