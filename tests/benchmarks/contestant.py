"""A process that trains one model of the benchmark, some executions at a time, whenever it is told to.

Each contestant has a process of its own, so that its CPU time is its own and no summary state of one reaches another.
Between two segments it waits inside `fit`: what opens and closes with `fit` is not part of any segment.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive_weights as kaw

PLAIN, AGAIN, MIXIN, PLUGIN, TENSORBOARD = "plain", "plain again", "mixin", "mixin + callback", "Keras TensorBoard"
BY_HAND, NO_TRICKS = "checked by hand", "mixin + callback, `KAW_PLAIN=1`"
CONTESTANTS = (PLAIN, AGAIN, MIXIN, PLUGIN, NO_TRICKS, TENSORBOARD, BY_HAND)

_BATCH_SIZE = 16
_BANDS = 80
_DEPTH = 6


@dataclass(frozen=True)
class Task:
    """The model to train.

    Attributes:
        width: Units of its hidden layers.
        frames: Frames of each sample of the batch.
        steps_per_execution: As in `compile`.
        jit_compile: As in `compile`.
        lead_in: Executions at the start of a segment that are not measured: the caches are the others'.
    """

    width: int
    frames: int
    steps_per_execution: int
    jit_compile: bool
    lead_in: int


@dataclass(frozen=True)
class Cost:
    """What a segment cost, in milliseconds.

    Attributes:
        wall: Wall time of a step.
        cpu: CPU time of a step: all that the process used since its last segment, as threads that write files go on
            after it.
        between: Wall time between the end of an execution and the begin of the next: Keras's loop and all callbacks.
    """

    wall: float
    cpu: float
    between: float


class Contestant:
    """The handle on a contestant's process.

    Args:
        kind: One of `CONTESTANTS`.
    """

    def __init__(self, kind: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(kind, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def begin(self, task: Task) -> None:
        """Build the model and start `fit`, which waits for the first segment."""
        self._connection.send(task)
        self._connection.recv()

    def run(self, executions: int) -> Cost:
        """Let `fit` go on, and measure so many executions."""
        self._connection.send(executions)
        return self._connection.recv()

    def end(self) -> None:
        """End `fit`."""
        self._connection.send(0)
        self._connection.recv()

    def close(self) -> None:
        """End the process."""
        self._connection.send(None)
        self._process.join()


class _Gate(keras.callbacks.Callback):
    """Holds `fit` before an execution until more are asked for. It has no batch hook: plain `fit` has none either."""

    def __init__(self, connection: Connection, task: Task) -> None:
        super().__init__()
        self._connection = connection
        self._task = task
        self._asked = self._left = 0
        self._cpu = self._wall = self._executing = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        del logs
        train, model = self.model.train_function, self.model

        def gated(iterator: Any) -> Any:
            if not self._left:
                self._wait()
                model.stop_training = not self._asked
            begin = time.perf_counter()
            if self._left == self._asked:
                self._wall, self._executing = begin, 0.0
            self._left -= 1
            try:
                return train(iterator)
            finally:
                self._executing += time.perf_counter() - begin

        self._connection.send(None)
        model.train_function = gated

    def _wait(self) -> None:
        wall = time.perf_counter()
        if self._asked:
            wall -= self._wall
            cpu = _cpu_seconds() - self._cpu
            self._cpu += cpu
            steps = self._task.steps_per_execution * self._asked
            all_steps = steps + self._task.steps_per_execution * self._task.lead_in
            between = (wall - self._executing) / self._asked
            self._connection.send(Cost(1e3 * wall / steps, 1e3 * cpu / all_steps, 1e3 * between))
        self._asked = self._connection.recv()
        self._left = self._asked + self._task.lead_in


def _serve(kind: str, connection: Connection) -> None:
    """Carry out one task after the other until there are no more."""
    os.environ["KAW_PLAIN"] = str(int(kind == NO_TRICKS))
    while (task := connection.recv()) is not None:
        keras.backend.clear_session()
        with tempfile.TemporaryDirectory() as folder:
            _train(kind, task, folder, connection)
        connection.send(None)


def _train(kind: str, task: Task, folder: str, connection: Connection) -> None:
    make_model(_MODELS.get(kind, keras.Model), task).fit(
        make_data(task),
        steps_per_epoch=10**9,
        shuffle=False,
        verbose=0,
        callbacks=[_Gate(connection, task), *_CALLBACKS[kind](folder)],
    )


def make_model(cls: type[keras.Model], task: Task) -> keras.Model:
    """Return the compiled model of a task."""
    keras.utils.set_random_seed(7)
    inputs = outputs = keras.Input((task.frames, _BANDS))
    for _ in range(_DEPTH):
        outputs = keras.layers.Dense(task.width, activation="relu")(outputs)
    outputs = keras.layers.Dense(_BANDS)(outputs)
    model = cls(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-4),
        loss=kaw.CompositeLoss({"mel_loss": kaw.LossTerm(_mean_absolute_error, weight=kaw.AdaptiveWeight(2.5))}),
        steps_per_execution=task.steps_per_execution,
        jit_compile=task.jit_compile,
    )
    return model


def make_data(task: Task) -> tf.data.Dataset:
    """Return the same batch without end."""
    x, y = np.random.default_rng(7).normal(size=(2, _BATCH_SIZE, task.frames, _BANDS)).astype("float32")
    return tf.data.Dataset.from_tensors((x, y)).repeat()


class CheckedByHand(keras.Model):
    """What one would write without the mixin, so that a step that is not finite changes no parameter."""

    def train_step(self, data: Any) -> dict[str, Any]:
        """Measure the gradients' norm, and apply them where it is finite."""
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        norm = tf.linalg.global_norm(gradients)

        def apply() -> None:
            self.optimizer.apply(gradients, self.trainable_variables)

        tf.cond(tf.math.is_finite(norm), apply, lambda: None)
        return {"loss": loss, "gradient_norm": norm}


_MODELS: dict[str, type[keras.Model]] = {
    MIXIN: kaw.StableModel,
    PLUGIN: kaw.StableModel,
    NO_TRICKS: kaw.StableModel,
    BY_HAND: CheckedByHand,
}
_CALLBACKS: dict[str, Callable[[str], list[keras.callbacks.Callback]]] = {
    PLAIN: lambda _: [],
    AGAIN: lambda _: [],
    MIXIN: lambda _: [],
    BY_HAND: lambda _: [],
    PLUGIN: lambda folder: [kaw.AdaptiveMelWeightCallback(log_dir=folder)],
    NO_TRICKS: lambda folder: [kaw.AdaptiveMelWeightCallback(log_dir=folder)],
    TENSORBOARD: lambda folder: [keras.callbacks.TensorBoard(folder, update_freq="batch")],
}


def _mean_absolute_error(y_true: Any, y_pred: Any) -> Any:
    return tf.reduce_mean(tf.abs(y_true - y_pred), axis=(1, 2))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
