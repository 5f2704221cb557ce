"""The ways in which Keras can run a training: modes, the small model that is trained in each, and its data."""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive_weights as kaw

BATCH = 8
STEPS, FEWER = 41, 25  # one more than multiples of 8 and 4: executions end early, accumulation is left half-way
CONFIG = kaw.AdaptiveWeightConfig(
    warmup_steps=8, cooling_period=4, min_stable_steps=3, loss_smoothing_factor=0.2, gradient_norm_threshold=None
)
FROZEN = kaw.AdaptiveWeightConfig(enabled=False, min_weight=0.5)
CONFIGS = {"mel_loss": FROZEN, "stop_loss": FROZEN, "energy_loss": CONFIG}
WEIGHTS = {"mel_loss": 2.5, "stop_loss": 0.5, "energy_loss": 1.5}


KINDS = {"one of ours": "", "Keras's": "Keras's losses", "balanced": "a balance"}


class Mode(NamedTuple):
    """One way to train.

    Attributes:
        execution: "eager", "graph" or "xla".
        steps: Steps per execution.
        dtype: Name of the dtype policy.
        optimizer: "sgd" (with momentum) or "adam".
        accumulation: Gradient accumulation steps, or `None`.
        clipnorm: The optimizer's `global_clipnorm`, or `None`.
        machine: "one device", "two replicas" or "two processes".
        losses: "one of ours", a `CompositeLoss` with a weight that moves; "balanced", the same with a balance; or
            "Keras's", one for each of two outputs, with a weight that does not.
        length: Clean steps.
    """

    execution: str = "graph"
    steps: int = 1
    dtype: str = "float32"
    optimizer: str = "adam"
    accumulation: int | None = None
    clipnorm: float | None = None
    machine: str = "one device"
    losses: str = "one of ours"
    length: int = STEPS

    @property
    def compile_arguments(self):
        return {
            "run_eagerly": self.execution == "eager",
            "jit_compile": self.execution == "xla",
            "steps_per_execution": self.steps,
        }

    def __str__(self):
        parts = [self.machine, self.execution, f"{self.steps} per execution", self.dtype, self.optimizer]
        if self.accumulation:
            parts.append(f"accumulation {self.accumulation}")
        if self.clipnorm:
            parts.append(f"clipnorm {self.clipnorm:g}")
        if self.losses != "one of ours":
            parts.append(KINDS[self.losses])
        if self.length != STEPS:
            parts.append(f"{self.length} steps")
        return ", ".join(parts)


def optimizers():
    """The settings of the optimizer: optimizer, accumulation, clipnorm."""
    return list(itertools.product(("sgd", "adam"), (None, 4), (None, 1.0)))


def one_device(losses="one of ours"):
    """Every mode of one device."""
    kinds = itertools.product(
        ("eager", "graph", "xla"), (1, 8), ("float32", "mixed_bfloat16", "mixed_float16"), optimizers()
    )
    return [Mode(execution, steps, dtype, *settings, losses=losses) for execution, steps, dtype, settings in kinds]


def replicas(machine, losses="one of ours"):
    """The modes of several replicas: a step per execution, in float32, for plain Keras cannot loop over replicas."""
    return [Mode("graph", 1, "float32", *settings, machine, losses) for settings in optimizers()]


def of_a_balance():
    """Modes with a balance: every value of everything, each with several others, as there is no end of the product."""
    modes = [
        Mode("graph", 8, "float32", "adam", 4, 1.0),
        Mode("eager", 1, "float32", "sgd", 4, 1.0),
        Mode("xla", 1, "mixed_float16", "sgd", None, 1.0),
        Mode("eager", 8, "mixed_float16", "adam", None, None),
        Mode("graph", 1, "mixed_bfloat16", "sgd", None, None),
        Mode("graph", 8, "mixed_float16", "adam", 4, None),
        Mode("xla", 8, "float32", "adam", None, None),
        Mode("xla", 1, "mixed_bfloat16", "adam", 4, 1.0),
    ]
    return [mode._replace(losses="balanced") for mode in modes]


def few():
    """A mode for each value of everything, and of what is apt to interfere: for those who cannot wait."""
    modes = [
        Mode("eager", 1, "float32", "sgd", 4, 1.0),
        Mode("eager", 8, "mixed_float16", "adam", None, None),
        Mode("graph", 1, "float32", "adam", 4, 1.0),
        Mode("graph", 8, "float32", "sgd", None, 1.0),
        Mode("graph", 8, "mixed_float16", "sgd", 4, None),
        Mode("graph", 1, "mixed_bfloat16", "adam", None, 1.0),
        Mode("xla", 8, "mixed_bfloat16", "sgd", 4, 1.0),
        Mode("xla", 1, "mixed_float16", "adam", 4, 1.0),
        *(mode._replace(losses="Keras's") for mode in few_of_keras()),
        *of_a_balance()[:2],
    ]
    return [mode._replace(length=FEWER) for mode in modes]


def few_of_keras():
    """The modes of those in which Keras's losses are tried, too."""
    return [
        Mode("eager", 1, "float32", "adam", None, 1.0),
        Mode("graph", 8, "float32", "sgd", 4, None),
    ]


@keras.saving.register_keras_serializable(package="execution")
def squared_error(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true[:, :3] - y_pred), axis=-1)


@keras.saving.register_keras_serializable(package="execution")
def absolute_error(y_true, y_pred):
    return tf.reduce_mean(tf.abs(y_true[:, :3] - y_pred), axis=-1)


@keras.saving.register_keras_serializable(package="execution")
def level(y_true, y_pred):
    """What the data say it is: its weight may move, and the parameters train as if it did not."""
    return y_true[:, 3] + 0.0 * y_pred[:, 0]


KERAS_LOSSES = {"mel": "mse", "stop": "mae"}
KERAS_WEIGHTS = {"mel": 2.5, "stop": 0.5}
TERMS = {"mel_loss": squared_error, "stop_loss": absolute_error, "energy_loss": level}


def make_optimizer(mode):
    """The optimizer of a mode; the loss scale is so high that the first steps overflow, and grows within the run."""
    kwargs = {"global_clipnorm": mode.clipnorm, "gradient_accumulation_steps": mode.accumulation}
    if mode.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9, **kwargs)
    else:
        optimizer = keras.optimizers.Adam(0.01, **kwargs)
    if mode.dtype != "mixed_float16":
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**17, dynamic_growth_steps=12)


def make_model(mode, cls, *, synchronized=True):
    """A model with batch normalisation, compiled; all weights are adaptive, and only that of "energy_loss" moves."""
    keras.utils.set_random_seed(3)
    policy = keras.dtype_policies.get(mode.dtype)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="tanh", dtype=policy)(inputs)
    synchronized = synchronized and tf.distribute.get_strategy().num_replicas_in_sync > 1
    hidden = keras.layers.BatchNormalization(synchronized=synchronized, dtype=policy)(hidden)
    if mode.losses == "Keras's":
        heads = {n: keras.layers.Dense(1, dtype=policy, name=n)(hidden) for n in KERAS_LOSSES}
        model = cls(inputs, heads)
        weights = dict(KERAS_WEIGHTS)
        if cls is not keras.Model:
            weights["mel"] = kaw.AdaptiveWeight(weights["mel"], FROZEN)
        losses = {"loss": KERAS_LOSSES, "loss_weights": weights, "metrics": {"stop": ["mse"]}}
    else:
        model = cls(inputs, keras.layers.Dense(3, dtype=policy)(hidden))
        losses = {"loss": make_loss(balanced=mode.losses == "balanced")}
    model.compile(optimizer=make_optimizer(mode), **losses, **mode.compile_arguments)
    if mode.dtype != "mixed_float16":  # there it is built while the step is traced, which takes twice as long
        model.optimizer.build(model.trainable_variables)
    return model


def make_loss(*, balanced=False):
    weights = {name: kaw.AdaptiveWeight(WEIGHTS[name], config) for name, config in CONFIGS.items()}
    balance = None
    if balanced:  # the weights of the others would change the training
        from balanced import NormRatio

        reach = dataclasses.replace(
            CONFIG, min_weight=WEIGHTS["energy_loss"] / 100, max_weight=WEIGHTS["energy_loss"] * 100
        )
        weights = WEIGHTS | {"energy_loss": kaw.AdaptiveWeight(WEIGHTS["energy_loss"], reach)}
        balance = NormRatio()
    terms = {name: kaw.LossTerm(fn, weight=weights[name]) for name, fn in TERMS.items()}
    return kaw.CompositeLoss(terms, max_loss_spike_threshold=None, balance=balance)


def data(steps=STEPS):
    """Inputs of shape [steps * BATCH, 4] and targets of the same; the fourth target is the level, which rises."""
    draw = np.random.default_rng(11)
    x = draw.standard_normal((steps * BATCH, 4))
    y = draw.standard_normal((steps * BATCH, 4))
    levels = np.where(np.arange(steps) < 3 * steps // 5, 1.0, 1.6) * draw.lognormal(0.0, 0.01, steps)
    y[:, 3] = np.repeat(levels, BATCH)
    return x.astype("float32"), y.astype("float32")


def bad_batch():
    """One batch whose last sample, which goes to the last replica, has no number for a target."""
    x, y = (part[:BATCH].copy() for part in data())
    y[-1, 0] = np.nan
    return x, y


def leave_graphs_as_traced():
    """For a few steps: to improve a graph takes longer than to run it."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def dataset(x, y):
    """Batches in order; several processes take their shares of each batch."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).with_options(options)
