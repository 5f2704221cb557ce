"""What is checked in every mode: parameters, telemetry, decisions, and the skip of a bad batch."""

from __future__ import annotations

import contextlib
import functools
from typing import Any, NamedTuple

import balanced
import keras
import numpy as np
import tensorflow as tf
from modes import BATCH, CONFIGS, TERMS, WEIGHTS, bad_batch, data, dataset, make_model

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding import guide_rule
from keras_adaptive_weights.deciding.joint import by_term
from keras_adaptive_weights.deciding.state import initial_state

# Largest deviation allowed: of a parameter from plain Keras's (parameters are about 1), and of telemetry from the value
# computed by hand in eager mode, relative. Eager mode does the same operations one by one: no deviation. A compiler
# folds constants and fuses operations in an order of its own, which our additional outputs change: a few units in the
# last place, of 2**-24 in float32, 2**-11 in float16, 2**-8 in bfloat16, which 41 steps add up.
PARAMETERS = {"float32": 1e-5, "mixed_float16": 1e-3, "mixed_bfloat16": 1e-2}
TELEMETRY = {"float32": 1e-5, "mixed_float16": 5e-3, "mixed_bfloat16": 5e-2}
LOSS_SCALING = ("dynamic_scale", "step_counter")


class Check(NamedTuple):
    """What was checked, how far it was off, and how far it may be."""

    what: str
    deviation: float
    limit: float

    @property
    def passed(self):
        return self.deviation <= self.limit


class Run(NamedTuple):
    """A training in one mode, as plain values.

    Attributes:
        parameters: Values of the trainable variables after the clean steps.
        statistics: Those of the batch normalisation.
        rows: Per clean step: raw terms, total, gradient norm, whether it was applied.
        decisions: Per execution and term: the term, steps in it, step, action, reason, new weight.
        changed: Names of variables that a bad batch changed, in any replica.
        culprit: What was named as not finite in the bad batch.
        scale: The loss scale and its counter after the clean steps and after the bad batch.
        norms: With a balance, step and norms of the terms' gradients where they were measured.
    """

    parameters: list[Any]
    statistics: list[Any]
    rows: list[Any]
    decisions: list[Any]
    changed: list[str]
    culprit: str | None
    scale: list[float]
    norms: list[Any]


class Watch(keras.callbacks.Callback):
    """Collects telemetry, and as an observer the decisions."""

    def __init__(self):
        super().__init__()
        self.rows, self.decisions, self.norms = [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.rows += self.model.telemetry.read(self.rows[-1].number if self.rows else 0)

    def observe(self, observations, decision):
        for one in by_term(decision):
            self.decisions.append((one.term, len(observations), *one[:3], one.new_weight))
        self.norms += [(seen.step, dict(seen.term_norms)) for seen in observations if getattr(seen, "term_norms", None)]


def train(mode, strategy=None):
    """Train a `StableModel` in one mode: the clean steps, then the bad batch."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = make_model(mode, kaw.StableModel)
    watch = Watch()
    callbacks = [kaw.AdaptiveWeightCallback(observers=[watch]), watch]
    model.fit(dataset(*data(mode.length)), verbose=0, callbacks=callbacks)
    before, scale = copies(model), scaling_state(model)
    rows = [(row.terms, row.total, row.gradient_norm, row.non_finite is None) for row in watch.rows]
    decisions, norms, (parameters, statistics) = list(watch.decisions), list(watch.norms), values(model)
    model.fit(dataset(*bad_batch()), verbose=0, callbacks=callbacks)
    after = copies(model)
    changed = [name for name in before if not same_bits(before[name], after[name])]
    scale += scaling_state(model)
    return Run(parameters, statistics, rows, decisions, changed, watch.rows[-1].non_finite, scale, norms)


@functools.cache
def plain(mode):
    """Train plain Keras on the same: parameters, statistics, and loss scales as in `Run`."""
    model = make_model(mode, keras.Model)
    model.fit(dataset(*data(mode.length)), verbose=0)
    parameters, statistics = values(model)
    scale = scaling_state(model)
    if scale:
        model.fit(dataset(*bad_batch()), verbose=0)
    return parameters, statistics, [*scale, *(scaling_state(model) if scale else [])]


@functools.cache
def by_hand(mode):
    """Train batch by batch, in eager mode, with nothing of ours: rows of terms, norm and, for a balance, norm of each
    term, and the statistics at the end.

    Where a gradient overflows the statistics of the batch normalisation are put back, as ours are. Plain Keras leaves
    those that the forward pass of the skipped step has moved.
    """
    model = make_model(mode, keras.Model)
    optimizer, variables = model.optimizer, model.trainable_variables
    optimizer.build(variables)
    x, y = data(mode.length)
    rows, each = [], mode.losses == "balanced"
    for i in range(0, len(x), BATCH):
        statistics = values(model)[1]
        inputs, targets = x[i : i + BATCH], y[i : i + BATCH]
        with tf.GradientTape(persistent=each) as tape:
            outputs = tf.cast(model(inputs, training=True), tf.float32)
            terms = {name: tf.reduce_mean(fn(targets, outputs)) for name, fn in TERMS.items()}
            parts = {name: optimizer.scale_loss(WEIGHTS[name] * term) for name, term in terms.items() if each}
            scaled = optimizer.scale_loss(sum(WEIGHTS[name] * term for name, term in terms.items()))
        scale = float(optimizer.dynamic_scale) if mode.dtype == "mixed_float16" else 1.0
        gradients = tape.gradient(scaled, variables)
        norm = norm_of(gradients, scale)
        norms = {n: norm_of(tape.gradient(part, variables), scale) / WEIGHTS[n] for n, part in parts.items()}
        optimizer.apply(gradients, variables)
        if not np.isfinite(norm):
            for variable, value in zip(model.layers[2].non_trainable_variables, statistics, strict=True):
                variable.assign(value)
        rows.append(({name: float(term) for name, term in terms.items()}, float(norm), norms))
    return rows, values(model)[1]


def norm_of(gradients, scale):
    """The global norm of scaled gradients."""
    return np.sqrt(sum(np.sum(np.square(g.numpy().astype("float64") / scale)) for g in gradients))


def check(mode, run):
    """Compare a run with plain Keras, with the values by hand, and with the pure controller."""
    alone = mode._replace(machine="one device")
    exact = mode.execution == "eager"
    parameters, statistics, scale = plain(alone._replace(losses="one of ours"))  # it knows no balance
    rows, kept = by_hand(alone._replace(execution="eager", steps=1))
    if mode.dtype == "mixed_float16":
        statistics = kept
    pairs = [*zip(run.parameters, parameters, strict=True), *zip(run.statistics, statistics, strict=True)]
    deviation = max(float(np.max(np.abs(one - other))) for one, other in pairs)
    telemetry, decisions = telemetry_deviation(run, rows), decision_deviation
    if mode.losses == "balanced":
        telemetry, decisions = max(telemetry, balanced.norm_deviation(run, rows)), balanced.decided_otherwise
    bad = unlike(run.changed, []) + unlike(run.culprit, "mel_loss") + unlike(run.scale, scale)
    return [
        Check("parameters", deviation, 0.0 if exact else PARAMETERS[mode.dtype]),
        Check("telemetry", telemetry, 1e-5 if exact else TELEMETRY[mode.dtype]),
        Check("decisions", decisions(mode, run, rows), 0.0),
        Check("bad batch", bad, 0.0),
    ]


def values(model):
    """Trainable variables, and the statistics of the batch normalisation."""
    return [v.numpy() for v in model.trainable_variables], [v.numpy() for v in model.layers[2].non_trainable_variables]


def telemetry_deviation(run, hand):
    """Largest relative deviation of terms, total and norm; infinite where one skipped a step and the other did not."""
    if len(run.rows) != len(hand):
        return np.inf
    worst, weights = 0.0, dict(WEIGHTS)
    decided = {step: weight for term, _, step, _, _, weight in run.decisions if term == "energy_loss"}
    for number, (row, (hand_terms, hand_norm, _)) in enumerate(zip(run.rows, hand, strict=True)):
        terms, total, norm, applied = row
        weights["energy_loss"] = decided.get(number, weights["energy_loss"])  # in force from the step after it on
        if applied != np.isfinite(hand_norm):
            return np.inf
        pairs = [(terms[name], value) for name, value in hand_terms.items()]
        pairs += [(total, sum(weights[name] * value for name, value in hand_terms.items()))]
        pairs += [(norm, hand_norm)] if applied else []
        worst = max(worst, *(abs(a - b) / abs(b) for a, b in pairs))
    return float(worst)


def decision_deviation(mode, run, hand):
    """Number of decisions that are others than the pure controllers take on the values by hand."""
    wrong = 0.0
    for name, config in CONFIGS.items():
        state, seen, actual = initial_state(config, WEIGHTS[name]), [], [d[1:] for d in run.decisions if d[0] == name]
        for step, (terms, norm, _) in enumerate(hand, 1):
            applied = bool(np.isfinite(norm))
            seen.append(kaw.Observation(step, terms[name], None, norm, applied=applied, loss_scaling=not applied))
        groups = [seen[i : i + mode.steps] for i in range(0, mode.length, mode.steps)]
        wrong += unlike(len(groups), len(actual))
        for group, decided in zip(groups, actual, strict=False):
            state, decision = guide_rule.step(config, state, group)
            wrong += unlike((len(group), *decision[:3]), tuple(decided[:4]))
    # a run shows something where a weight changed, or would have if loss scaling had not skipped the step
    told = [d for d in run.decisions if d[3] != kaw.Action.HOLD or d[4] == kaw.Reason.LOSS_SCALING]
    return wrong + unlike(bool(told), True)


def unlike(actual, expected):
    return 0.0 if actual == expected else 1.0


def copies(model):
    """Every replica's copy of everything that training changes, but the metrics."""
    metrics = {id(v) for v in model.metrics_variables}
    variables = [v for v in [*model.variables, *model.optimizer.variables] if id(v) not in metrics]
    local = model.distribute_strategy.experimental_local_results
    return {
        f"{place} {v.path} {replica}": copy.numpy()
        for place, v in enumerate(variables)
        if v.name not in LOSS_SCALING
        for replica, copy in enumerate(local(v.value))
    }


def same_bits(one, other):
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def scaling_state(model):
    """Loss scale and its counter, where there is loss scaling."""
    found = {v.name: v for v in model.optimizer.variables}
    return [float(found[name].numpy()) for name in LOSS_SCALING if name in found]
