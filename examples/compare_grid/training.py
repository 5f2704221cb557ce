"""One run of the grid: train a contestant, look at every step from outside, and validate at equal weights."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from xtts_demo import dataset, inject

import keras_adaptive_weights as kaw

from .contestants import REDUCTION, build, callbacks
from .data import find_clips
from .grid import BALANCED, GUIDE_WEIGHT, SCENARIOS, SPIKE_FACTOR, Cell, Settings, fault_steps, surge_steps
from .results import Row

if TYPE_CHECKING:
    import tensorflow as tf

_LEAD_IN = 20  # steps that are not timed: tracing, and whatever is done once
_BLOCK = 20  # steps between two looks at the clock; whole intervals of what is written every ten steps


def run(cell: Cell, settings: Settings, cache_dir: Path) -> Row:
    """Train and validate one contestant.

    Args:
        cell: Which one, in which scenario, with which seed.
        settings: Length and size of the run.
        cache_dir: Where corpus and spectrograms are kept.

    Raises:
        DataError: The corpus cannot be made or used.
    """
    keras.backend.clear_session()
    gc.collect()
    clips = find_clips(cache_dir, settings)
    scenario = SCENARIOS[cell.scenario]
    training, validation = dataset.split(clips, cell.seed, settings.batch_size)
    shape = dataset.common_shape(clips, REDUCTION)
    batches = dataset.Batches(training, shape, settings.batch_size, cell.seed)
    surge = surge_steps(cell.scenario, cell.seed, settings.steps)
    model = build(cell.contestant, scenario.base_weight, shape, settings, surge, cell.seed)
    meter = Meter(model.loss.mel_weight.variable)
    with tempfile.TemporaryDirectory() as log_dir:
        own = callbacks(cell.contestant, log_dir)
        with contextlib.suppress(kaw.TrainingStopped):
            model.fit(
                training_batches(batches, cell, settings.steps),
                steps_per_epoch=settings.steps,
                shuffle=False,
                verbose=0,
                callbacks=[*own, meter],
            )
    meter.look()
    decisions = [d for callback in own for d in getattr(callback, "decisions", [])]
    mel_l1, total = validate(model, batches.validation(validation))
    return Row(
        settings=settings.label,
        scenario=cell.scenario,
        contestant=cell.contestant,
        seed=cell.seed,
        steps_done=meter.steps,
        finite=all(np.isfinite(variable.numpy()).all() for variable in model.weights),
        val_mel_l1=mel_l1,
        val_total=total,
        end_weight=meter.weights[-1],
        largest_change=largest_change(meter.weights),
        changes=count_changes(meter.weights),
        rollbacks=sum(decision.action is kaw.Action.ROLLBACK for decision in decisions),
        skipped=int(model.get_metrics_result().get("skipped_steps", 0)),
        step_cpu_ms=meter.step_cpu_ms(),
        mel_share=mel_share(model, batches.training({})) if cell.contestant in BALANCED else math.nan,
    )


def training_batches(batches: dataset.Batches, cell: Cell, steps: int) -> tf.data.Dataset:
    """Return the endless training batches of a run, with the faults of its scenario."""
    faults = fault_steps(cell.scenario, cell.seed, steps)
    calm = batches.training({})
    if not faults:
        return calm
    return calm.enumerate(1).map(
        lambda step, batch: (batch[0], inject.corrupt(faults, step, batch[1], spike_factor=SPIKE_FACTOR))
    )


def validate(model: keras.Model, batches: tf.data.Dataset) -> tuple[float, float]:
    """Return mel L1 and total loss over the validation batches, at the guide's weights whatever the run ended with."""
    loss = kaw.XTTSLoss(mel_loss_weight=GUIDE_WEIGHT)
    l1 = kaw.XTTSLoss(mel_loss="l1")
    values, sizes = [], []
    for inputs, targets in batches:
        outputs = model(inputs, training=False)
        values.append(
            [float(l1.evaluate(targets, outputs).terms["mel_loss"]), float(loss.evaluate(targets, outputs)[0])]
        )
        sizes.append(len(targets["mel_lengths"]))
    mel_l1, total = np.average(values, axis=0, weights=sizes).tolist()
    return mel_l1, total


def mel_share(model: keras.Model, batches: tf.data.Dataset) -> float:
    """Return the part of the mel loss in the gradient, at the weights and parameters that the run ended with."""
    return kaw.calibrate(model, batches).decision.evidence["share.mel_loss"]


class Meter(keras.callbacks.Callback):
    """Notes weight and CPU time before every step, from outside: the same for every contestant.

    It wraps the train function, since a callback with a batch hook would make Keras wait for the logs of each step,
    which plain `fit` does not.

    Args:
        weight: The mel weight's variable.

    Attributes:
        weights: The mel weight before each step, and after the last.
        steps: Steps begun.
    """

    def __init__(self, weight: tf.Variable) -> None:
        super().__init__()
        self._weight = weight
        self._cpu: list[float] = []
        self.weights: list[float] = []
        self.steps = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Wrap the train function."""
        del logs
        train = self.model.train_function

        def measured(iterator: Any) -> Any:
            self.look()
            self.steps += 1
            return train(iterator)

        self.model.train_function = measured

    def look(self) -> None:
        """Note weight and CPU time."""
        self._cpu.append(time.process_time())
        self.weights.append(float(self._weight))

    def step_cpu_ms(self) -> float:
        """Return milliseconds of CPU time for a step: the median over blocks of 20 steps, of their mean.

        All threads of the process count. NaN where the run is too short.
        """
        blocks = self._cpu[_LEAD_IN : self.steps : _BLOCK]
        costs = [1e3 * (after - before) / _BLOCK for before, after in pairwise(blocks)]
        return statistics.median(costs) if costs else math.nan


def largest_change(weights: list[float]) -> float:
    """Return the largest change of one step: the larger weight over the smaller, less 1; NaN where one is NaN."""
    if any(map(math.isnan, weights)):
        return math.nan
    return max((max(before, after) / min(before, after) - 1.0 for before, after in pairwise(weights)), default=0.0)


def count_changes(weights: list[float]) -> int:
    """Return how often the weight moved; turning NaN is one move."""
    return sum(a != b and not (math.isnan(a) and math.isnan(b)) for a, b in pairwise(weights))
