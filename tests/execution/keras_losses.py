"""What is checked in every mode with Keras's losses and a weight that does not move: it is what plain Keras does."""

from __future__ import annotations

import contextlib
import functools

import keras
import numpy as np
from checks import PARAMETERS, Check, copies, same_bits, scaling_state, unlike, values
from modes import bad_batch, data, dataset, make_model

import keras_adaptive_weights as kaw

# Relative. The logs are sums over the samples of an epoch; over replicas Keras adds up the parts of two.
LOGS = {"float32": 1e-5, "mixed_float16": 1e-3, "mixed_bfloat16": 1e-2}


def as_targets(x, y):
    """The data of a mode for two outputs."""
    return x, {"mel": y[:, :1], "stop": y[:, 1:2]}


def compared(mode, model):
    """Parameters, and the statistics, unless loss scaling skips steps: plain Keras leaves what these have moved."""
    parameters, statistics = values(model)
    return parameters if mode.dtype == "mixed_float16" else [*parameters, *statistics]


@functools.cache
def plain(mode):
    """Train plain Keras: parameters and statistics, History, and the loss scale after it and after a bad batch."""
    model = make_model(mode, keras.Model)
    history = model.fit(dataset(*as_targets(*data(mode.length))), verbose=0).history
    found, scale = compared(mode, model), scaling_state(model)
    if scale:
        model.fit(dataset(*as_targets(*bad_batch())), verbose=0)
    return found, history, [*scale, *scaling_state(model)]


def check_of_keras(mode, strategy=None):
    """Train a `StableModel` in one mode, then on a bad batch, and compare with plain Keras on one device."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = make_model(mode, kaw.StableModel)
    callbacks = [kaw.AdaptiveWeightCallback("mel_loss")]
    history = model.fit(dataset(*as_targets(*data(mode.length))), verbose=0, callbacks=callbacks).history
    ours, before, scale = compared(mode, model), copies(model), scaling_state(model)
    model.fit(dataset(*as_targets(*bad_batch())), verbose=0, callbacks=callbacks)
    changed = [name for name, copy in copies(model).items() if not same_bits(before[name], copy)]
    theirs, expected, plain_scale = plain(mode._replace(machine="one device"))
    exact = mode.execution == "eager" and strategy is None
    row = model.telemetry.read()[-1]
    bad = (
        unlike(changed, []) + unlike(row.non_finite, "mel_loss") + unlike([*scale, *scaling_state(model)], plain_scale)
    )
    deviations = [float(np.max(np.abs(one - other))) for one, other in zip(ours, theirs, strict=True)]
    return [
        Check("parameters", max(deviations), 0.0 if exact else PARAMETERS[mode.dtype]),
        Check("logs", log_deviation(history, expected), 0.0 if exact else LOGS[mode.dtype]),
        Check("bad batch", bad, 0.0),
    ]


def log_deviation(ours, expected):
    """Largest relative deviation of what plain Keras logs; infinite where the names or their order are others."""
    if [name for name in ours if name not in ("mel_weight", "skipped_steps")] != list(expected):
        return np.inf
    pairs = [(one, other) for name in expected for one, other in zip(ours[name], expected[name], strict=True)]
    return max(abs(one - other) / abs(other) for one, other in pairs)
