"""Models as people write them, and what it takes to let one of their weights adapt.

    python tests/models/comparing.py [MODEL ...]

Each model is there twice, in `plain/` and in `adaptive/`. The command prints a Markdown table: lines that differ (but
for the import), the largest deviation of the adaptive one from plain Keras with its weights frozen (losses of two
eager steps, and parameters after them), and what becomes of 150 steps in a graph, one of them with a batch of NaN:
steps skipped, decisions other than HOLD, the loss of the first and of the last ten steps. It exits with 1 where a
deviation is above its limit. Takes a minute.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import sys
import warnings
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive_weights as kaw

FOLDER = Path(__file__).parent
NAMES = ("tickets", "backbone", "speech", "transcriber", "recogniser", "distilled", "vae", "gan")
OF_KERAS = NAMES[:5]
"""Those with losses of Keras's own, which are computed by Keras: to the last bit. The means of the others are ours."""
FROZEN = kaw.AdaptiveWeightConfig(enabled=False)
QUICK = kaw.AdaptiveWeightConfig(warmup_steps=20, cooling_period=20, gradient_norm_threshold=None)
BATCH, STEPS = 4, 150
IMPORT = "import keras_adaptive_weights as kaw"


class Result(NamedTuple):
    """What was found of a model.

    Attributes:
        lines: Lines that differ.
        deviation: Largest deviation from plain Keras with frozen weights, and how far it may be.
        skipped: Steps that were skipped.
        decisions: Decisions other than HOLD.
        finite: Whether all parameters are finite at the end.
        losses: Mean loss of the first and of the last ten steps.
    """

    lines: int
    deviation: float
    limit: float
    skipped: int
    decisions: int
    finite: bool
    losses: tuple[float, float]


def model_file(kind, name):
    """The module of a model."""
    spec = importlib.util.spec_from_file_location(f"{kind}_{name}", FOLDER / kind / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines_changed(name):
    """Lines of the plain model that are others in the adaptive one, or are added there, but for the import."""
    plain, adaptive = (_code((FOLDER / kind / f"{name}.py").read_text()) for kind in ("plain", "adaptive"))
    changes = difflib.SequenceMatcher(None, plain, adaptive, autojunk=False).get_opcodes()
    return sum(max(b - a, d - c) for what, a, b, c, d in changes if what != "equal")


def _code(text):
    return [line for line in text.splitlines() if line.strip() and line != IMPORT]


def batches(file, count, *, bad=None):
    """A dataset of batches; the first sample of the batch number `bad` is not finite."""
    x, y = file.data(count * BATCH, np.random.default_rng(5))
    if bad is not None:
        file.spoil(x, y, bad * BATCH)
    y = tuple(y) if isinstance(y, list) else y
    return tf.data.Dataset.from_tensor_slices((x,) if y is None else (x, y)).batch(BATCH, drop_remainder=True)


class Losses(keras.callbacks.Callback):
    """Notes the loss of each step."""

    def __init__(self):
        super().__init__()
        self.means = []

    def on_train_batch_end(self, batch, logs=None):
        self.means.append(float(logs["loss"]))


def configured(config):
    """Let adaptive weights that are made within it have these settings."""
    return mock.patch.object(kaw, "AdaptiveWeight", functools.partial(kaw.AdaptiveWeight, config=config))


def trained(kind, name):
    """Train two steps in eager mode, with frozen weights, and return all losses and parameters."""
    keras.utils.set_random_seed(7)
    file, losses = model_file(kind, name), Losses()
    with configured(FROZEN):
        model = file.make(run_eagerly=True)
    for step in range(2):  # an epoch each, as a train step of one's own may return the loss or its mean
        model.fit(batches(file, 2).skip(step).take(1), verbose=0, callbacks=[losses])
    return losses.means, [variable.numpy() for variable in model.trainable_variables]


def deviation(name):
    """Largest deviation of a loss or parameter with frozen weights from plain Keras's."""
    (plain_losses, plain), (losses, ours) = trained("plain", name), trained("adaptive", name)
    pairs = [(plain_losses, losses), *zip(plain, ours, strict=True)]
    return max(float(np.max(np.abs(np.subtract(one, other)))) for one, other in pairs)


def adapted(name, steps):
    """Train so many steps, one of them on a bad batch, and return what became of it."""
    keras.utils.set_random_seed(7)
    file, losses = model_file("adaptive", name), Losses()
    with configured(QUICK):
        model = file.make(jit_compile=False)
    if name in OF_KERAS:  # build the metrics: else the step is traced twice, which takes longer than the steps
        model.run_eagerly = True
        model.evaluate(batches(file, 1), verbose=0)
        model.run_eagerly = False
    callback = kaw.AdaptiveWeightCallback()
    model.fit(batches(file, steps, bad=2 * steps // 5), verbose=0, callbacks=[losses, callback])
    weights = model.loss.adaptive_weights.values()
    rows = {weight.step_count for weight in weights}
    assert rows == {steps}
    skipped = steps - int(model.optimizer.iterations)
    finite = all(np.all(np.isfinite(variable.numpy())) for variable in model.variables)
    sums = np.array([0.0, *losses.means]) * np.arange(steps + 1)  # the logs are means since the epoch began
    each = np.diff(sums)
    return skipped, len(callback.decisions), finite, (float(np.mean(each[:10])), float(np.mean(each[-10:])))


def compare(name, steps=STEPS):
    """Look at one model, in so many steps."""
    limit = 0.0 if name in OF_KERAS else 1e-6
    return Result(lines_changed(name), deviation(name), limit, *adapted(name, steps))


def table(results):
    """Return the results by name as Markdown."""
    heads = ("model", "lines", "deviation frozen", "skipped", "decisions", "loss, first and last ten steps")
    rows = [
        (name, r.lines, f"{r.deviation:.2g}", r.skipped, r.decisions, f"{r.losses[0]:.3g} -> {r.losses[1]:.3g}")
        for name, r in results.items()
    ]
    lines = [heads, ("---", *["---:"] * 5), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def main(arguments=None):
    names = (sys.argv[1:] if arguments is None else arguments) or NAMES
    warnings.filterwarnings("ignore", message="Gradients do not exist|.*shuffle=True")
    results = {}
    for name in names:
        results[name] = compare(name)
        print(f"{name}: {results[name]}", file=sys.stderr, flush=True)
    print(table(results))
    return 0 if all(r.deviation <= r.limit and r.finite for r in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
