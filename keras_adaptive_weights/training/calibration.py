"""What a balance would set at the start, measured before `fit` without an update of anything."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_adaptive_weights.deciding.config import check_number
from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation, Weights
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.deciding.shares import FEW
from keras_adaptive_weights.deciding.statistics import mean
from keras_adaptive_weights.losses.balance import terms_of
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.runtime.written_variables import TracedAgain
from keras_adaptive_weights.training.model_parts import gradient_scale
from keras_adaptive_weights.training.term_norms import norms_of_terms
from keras_adaptive_weights.training.train_step import StableTrainStepMixin, forward

_LOWER = 16.0  # what a loss scale is divided by where gradients overflow
_MOST_STEPS = 1000


class Calibration(NamedTuple):
    """What `calibrate` measured.

    Attributes:
        weights: Weight of each adaptive term that a calibration would set, within its bounds. It is as it was where
            what was measured does not tell it from its target.
        losses: Mean of the raw loss of each term.
        norms: Geometric mean of the norm of each raw term's gradient; empty for a strategy that looks at losses alone.
        steps: Batches that told something.
        decision: What was decided on them, with its evidence: `share.TERM` as it is, `intent.TERM`, `target.TERM`.
    """

    weights: Weights
    losses: Weights
    norms: Weights
    steps: int
    decision: JointDecision


def calibrate(model: Any, data: Iterable[Any], steps: int = 20) -> Calibration:
    """Measure what the balance of a model's loss would set at the start of training; nothing is updated.

    Parameters, optimizer, metrics, statistics of layers and their seeds are as before, bit for bit. To train with the
    weights found, give them to the terms, as in `AdaptiveWeight(found.weights["mel_loss"])`; a `fit` with
    `calibrate_steps` measures and sets them by itself. One device measures, also of several replicas, by the model's
    `call` and loss, also where it has a train step of its own.

    Args:
        model: A compiled model with the stable train step, whose loss has a balance.
        data: Batches `(x, y)` or `(x, y, sample_weight)`: a `tf.data.Dataset`, a `PyDataset`, or any iterable of them.
        steps: Batches to look at, fewer where there are not as many. At least 5.

    Returns:
        A `Calibration`.

    Raises:
        TypeError: `model` or `data` is something else.
        ValueError: A loss without a balance, or with one that does not calibrate; or fewer than 5 batches told
            something.

    Example:

    ```python
    found = kaw.calibrate(model, dataset)
    print(found.decision)   # step 20: calibrate mel_loss 0.025 -> 1.31, ...
    ```
    """
    loss = _checked_loss(model)
    check_number("calibrate", "steps", steps, low=FEW, high=_MOST_STEPS, integer=True)
    seen = [_observation(loss, *found) for found in _measure(model, itertools.islice(_batches(data), steps))]
    needs_norms = loss.norm_schedule is not None
    told = [one for one in seen if (any(map(math.isfinite, one.term_norms.values())) if needs_norms else one.losses)]
    if len(told) < FEW:
        raise ValueError(
            f"calibrate: argument `data` must hold at least {FEW} batches with finite losses and gradients. Received: "
            f"{len(told)} of {len(seen)}."
        )
    return _decided(loss, [one._replace(step=step) for step, one in enumerate(told, 1)])


def _checked_loss(model: Any) -> CompositeLoss:
    """Return the loss of a model that can be calibrated."""
    if not isinstance(model, StableTrainStepMixin):
        raise TypeError(
            f"calibrate: argument `model` must have the stable train step. Received: a {type(model).__name__}. Write "
            "`model = kaw.stable(model)` and compile it."
        )
    loss = getattr(model, "loss", None)
    if not isinstance(loss, CompositeLoss) or not hasattr(loss.balance, "calibrate_steps"):
        balance = getattr(loss, "balance", None)
        raise ValueError(
            "calibrate: argument `model` must be compiled with a loss whose balance measures at the start. Received: "
            f"loss={type(loss).__name__}, balance={balance!r}. Write `CompositeLoss(terms, balance=GradientShare())`."
        )
    return loss


def _batches(data: Any) -> Iterator[Any]:
    """Yield batches."""
    if isinstance(data, keras.utils.PyDataset):
        yield from (data[index] for index in range(len(data)))
    elif isinstance(data, (tuple, dict, str, bytes)) or hasattr(data, "shape") or not isinstance(data, Iterable):
        raise TypeError(
            f"calibrate: argument `data` must be batches, as `fit` takes them. Received: a {type(data).__name__}. "
            "Write `tf.data.Dataset.from_tensor_slices((x, y)).batch(32)`."
        )
    else:
        yield from data


def _observation(loss: CompositeLoss, losses: Mapping[str, Any], norms: Any) -> JointObservation:
    values = {name: float(value) for name, value in losses.items()}
    found = dict(zip(loss.terms, map(float, norms), strict=True)) if len(norms) else {}
    there = {name: norm for name, norm in found.items() if not math.isnan(norm)}
    return JointObservation(
        0, {name: value for name, value in values.items() if not math.isnan(value)}, term_norms=there
    )


def _decided(loss: CompositeLoss, seen: Sequence[JointObservation]) -> Calibration:
    strategy = dataclasses.replace(loss.balance, calibrate_steps=len(seen))
    weights = loss.adaptive_weights
    terms = [t if t.fixed else t._replace(weight=weights[t.name].weight) for t in terms_of(loss.terms)]
    envelope = JointEnvelope(strategy, terms, next(iter(weights.values())).config)
    state = envelope.initial()
    for one in seen:
        state, decision = envelope.step(state, [one])
    names = dict.fromkeys(name for one in seen for name in one.losses)
    losses = {name: mean(tuple(one.losses[name] for one in seen if name in one.losses)) for name in names}
    logs = {
        n: tuple(math.log(o.term_norms[n]) for o in seen if 0.0 < o.term_norms.get(n, 0.0) < math.inf) for n in names
    }
    norms = {name: math.exp(mean(values)) for name, values in logs.items() if values}
    return Calibration(decision.new_weights, losses, norms, len(seen), decision)


def _measure(model: Any, batches: Iterator[Any]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Yield the losses of each batch, NaN where there was nothing to measure, and the norms of the terms' gradients."""

    def measure(batch: Any, scale: Any) -> tuple[dict[str, Any], Any]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        before, loss = model.remember_state(), model.loss
        with tf.GradientTape(persistent=True) as tape:
            measured = model.measure_losses(x, y, forward(model, x, training=True), sample_weight)
        parts = {name: value for name, value in measured.parts.items() if name in loss.terms}
        losses = {name: tf.where(measured.measured[name], measured.terms[name], float("nan")) for name in parts}
        norms = tf.zeros([0])
        if loss.norm_schedule is not None:
            norms = norms_of_terms(loss, tape, parts, measured.measured, scale, model.trainable_variables)
        for variable, value in before.to_restore():
            variable.assign(value)
        return losses, norms

    run: Any = measure
    if not model.run_eagerly:
        run = TracedAgain(lambda: tf.function(measure, autograph=False, reduce_retracing=True))
    scale = float(gradient_scale(model.optimizer))
    for batch in batches:
        tensors = keras.tree.map_structure(_as_tensor, batch)
        losses, norms = run(tensors, tf.constant(scale))
        while scale > 1.0 and not tf.reduce_all(norms < math.inf):
            scale /= _LOWER
            losses, norms = run(tensors, tf.constant(scale))
        yield losses, norms


def _as_tensor(leaf: Any) -> Any:
    """Return what is no tensor as one; ragged and sparse ones, and None for no weights, are as they are."""
    return leaf if leaf is None or tf.is_tensor(leaf) else tf.convert_to_tensor(leaf)
