"""What a callback needs of the `fit` it is given to, refused at its start with the line that puts it right."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig, config_around
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.training.skip_watch import without_telemetry
from keras_adaptive_weights.training.train_step import StableTrainStepMixin


class _Recorder(Protocol):
    term: str
    log_dir: Path | None


def find_weight(owner: str, model: Any, term: str) -> AdaptiveWeight:
    """Return the adaptive weight of a term of the compiled loss.

    Args:
        owner: Class name of the callback, for the message.
        model: The model that is about to be trained.
        term: Name of the term.

    Raises:
        ValueError: A model without the mixin, a loss without the term, or a term with a fixed weight.
    """
    if not isinstance(model, StableTrainStepMixin):
        raise ValueError(
            f"{owner} needs a model with StableTrainStepMixin, which measures losses and gradients. Received: "
            f"{type(model).__name__}. Write `class MyModel(StableTrainStepMixin, keras.Model)`, or use StableModel."
        )
    loss = getattr(model, "loss", None)
    if not isinstance(loss, CompositeLoss):
        raise ValueError(
            f"{owner} needs a model compiled with a CompositeLoss or XTTSLoss. Received: loss={loss!r}. Write "
            "`model.compile(..., loss=XTTSLoss())`."
        )
    if term not in loss.terms:
        raise ValueError(
            f"{owner}: argument `term` must name a term of the loss. Received: term={term!r}; there are "
            f"{sorted(loss.terms)}."
        )
    weight = loss.terms[term].weight
    if not isinstance(weight, AdaptiveWeight):
        base, usual = weight or 1.0, AdaptiveWeightConfig()
        config = "" if usual.min_weight <= base <= usual.max_weight else f", {config_around(base)}"
        raise ValueError(
            f"{owner}: the weight of term {term!r} is fixed ({weight!r}). Write "
            f"`LossTerm(fn, weight=AdaptiveWeight({base!r}{config}))` to let it adapt."
        )
    return weight


def refuse_mute_step(owner: str, model: Any) -> None:
    """Refuse a train step of the model's own that ran and left nothing to decide on.

    Raises:
        ValueError: It is one.
    """
    if mute := without_telemetry(model):
        raise ValueError(f"{owner} has nothing to decide on. {mute}")


def refuse_twins(callback: _Recorder, all_of_them: Iterable[_Recorder]) -> None:
    """Refuse another callback of this `fit` for the same term, or with the same folder.

    Raises:
        ValueError: There is one.
    """
    owner = type(callback).__name__
    for other in all_of_them:
        if other is callback:
            continue
        if other.term == callback.term:
            raise ValueError(
                f"{owner}: argument `term` must be another one for each callback of a fit, or each step is counted "
                f"twice. Received: term={callback.term!r} in two callbacks. Leave one out."
            )
        if callback.log_dir is None or other.log_dir is None:
            continue
        if callback.log_dir.resolve() == other.log_dir.resolve():
            raise ValueError(
                f"{owner}: argument `log_dir` must be another folder for each callback of a fit. Received: "
                f"log_dir={os.fspath(callback.log_dir)!r} for {callback.term!r} and {other.term!r}. Write "
                f"`log_dir={os.fspath(callback.log_dir / callback.term)!r}` and so on: TensorBoard finds all of them."
            )
