"""What a model or a step of one's own is given in place of what it takes, refused with the line that puts it right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import keras

from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.losses.loss_term import LossTerm
from keras_adaptive_weights.runtime.tapes import gives_gradients_once


def checked_loss(loss: Any, loss_weights: Any) -> Any:
    """Return the argument `loss` of `compile`, a class of losses as one of its objects.

    Raises:
        TypeError: Something of ours that is no loss.
        ValueError: A `CompositeLoss` among the losses of outputs, or with `loss_weights` beside it.
    """
    if isinstance(made := loss, type) and issubclass(made, CompositeLoss):
        loss = loss()  # as Keras does with its own
    leaves = keras.tree.flatten(loss)
    if any(isinstance(leaf, LossTerm) for leaf in leaves):
        terms = "..." if isinstance(loss, Mapping) else "{'mel_loss': ...}"
        raise TypeError(
            f"compile: argument `loss` must be a loss. Received: loss={loss!r}, with terms of one. Write "
            f"`loss=CompositeLoss({terms})`."
        )
    if any(isinstance(leaf, AdaptiveWeight) for leaf in leaves):
        raise TypeError(
            f"compile: argument `loss` must be a loss. Received: loss={loss!r}. Write the weight beside its loss, as "
            "in `loss={'a': 'mse'}, loss_weights={'a': AdaptiveWeight(2.5)}`, or `LossTerm(fn, AdaptiveWeight(2.5))`."
        )
    if not isinstance(loss, CompositeLoss):
        within = [leaf for leaf in leaves if isinstance(leaf, CompositeLoss) and leaf.adaptive_weights]
        if within:
            raise ValueError(
                f"compile: a {type(within[0]).__name__} must be the only loss, as its terms look at all targets and "
                f"outputs. Received: loss={loss!r}. Write `loss={type(within[0]).__name__}(...)`, with the other "
                "losses as terms of it."
            )
    elif loss_weights is not None:
        raise ValueError(
            f"compile: argument `loss_weights` must be None beside a {type(loss).__name__}, whose terms have weights "
            f"of their own. Received: loss_weights={loss_weights!r}. Write the weights there, as in `LossTerm(fn, "
            "weight=0.5)` or `XTTSLoss(stop_loss_weight=0.5)`."
        )
    return loss


def output_names_of(model: keras.Model, loss: Any) -> Any:
    """Return the names of a model's outputs in their structure, where it knows them, for a given `loss` of `compile`.

    Raises:
        ValueError: A loss for an output that the model does not have.
    """
    if isinstance(model, keras.Sequential):
        return [layer.name for layer in model.layers[-1:]] or None
    if not (names := getattr(model, "output_names", None)):
        return None
    outputs = getattr(model, "output", None)  # a class of one's own may name its outputs, too
    if isinstance(loss, Mapping):
        keys = list(outputs if isinstance(outputs, Mapping) else names)
        if unknown := [name for name in loss if name not in keys]:
            nearest = difflib.get_close_matches(str(unknown[0]), map(str, keys), 1, 0.0)[0]
            raise ValueError(
                f"compile: argument `loss` must name outputs of the model. Received: {unknown[0]!r}; there are "
                f"{keys}. Write `loss={{{nearest!r}: ...}}`."
            )
    return list(names) if outputs is None else keras.tree.pack_sequence_as(outputs, names)


def refuse_shared_names(metrics: Iterable[Any], ours: AbstractSet[str]) -> None:
    """Refuse a metric that would stand in the logs under a name of ours.

    Args:
        metrics: Keras's metrics of the model.
        ours: Names of terms, weights and counts.

    Raises:
        ValueError: There is one.
    """
    results = [(metric, metric.result()) for metric in metrics if getattr(metric, "built", True)]
    theirs = {name for metric, result in results for name in (result if isinstance(result, dict) else (metric.name,))}
    if twice := sorted(theirs & ours):
        raise ValueError(
            f"compile: each name in the logs must stand for one thing. Received: a metric of the name {twice[0]!r}, "
            f"which a term, weight or count has. Write `metrics=[...(name='my_{twice[0]}')]` or rename the term."
        )


def refuse_no_tape(tape: Any, balance: Any) -> None:
    """Refuse a step of one's own from which the gradient norms of its terms cannot be had.

    Raises:
        ValueError: No tape, or one that is not persistent.
    """
    if tape is None or gives_gradients_once(tape):
        received = "None" if tape is None else "a tape that is not persistent"
        raise ValueError(
            f"apply_if_finite: argument `tape` must be the tape that saw the losses, as {type(balance).__name__} "
            f"measures the gradient norm of each term. Received: {received}. Write `with self.gradient_tape() as "
            "tape:` and `apply_if_finite(measured, gradients, before, tape=tape)`."
        )


def refuse_others_gradients(gradients: Sequence[Any], variables: Sequence[Any]) -> None:
    """Refuse gradients that are not those of the variables.

    Raises:
        ValueError: Not as many, or one of another shape.
    """
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=False) if g is not None]
    others = [(g, v) for g, v in pairs if not g.shape.is_compatible_with(v.shape)]
    if len(gradients) != len(variables) or others:
        where = "".join(f"; that of {v.path} has shape {tuple(g.shape)}" for g, v in others[:1])
        raise ValueError(
            f"apply_if_finite: argument `gradients` must hold one gradient for each of `variables`. Received: "
            f"{len(gradients)} gradients for {len(variables)} variables{where}. Write `apply_if_finite(measured, "
            "gradients, before, variables=...)` with those that the tape was asked for."
        )
