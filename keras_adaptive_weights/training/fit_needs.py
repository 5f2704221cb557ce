"""What a callback needs of the `fit` it is given to, refused at its start with the line that puts it right."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig, config_around
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.losses.keras_losses import OutputLosses
from keras_adaptive_weights.training.skip_watch import without_telemetry
from keras_adaptive_weights.training.train_step import StableTrainStepMixin


def find_weights(owner: str, model: Any, term: str | None) -> dict[str, AdaptiveWeight]:
    """Return the adaptive weights of the compiled loss by the names of their terms.

    Args:
        owner: Class name of the callback, for the message.
        model: The model that is about to be trained.
        term: Name of the only term that is wanted. `None`: all.

    Raises:
        ValueError: A model without the mixin, a loss without the term or without any adaptive weight, one weight for
            two terms.
    """
    if not isinstance(model, StableTrainStepMixin):
        raise ValueError(
            f"{owner} needs a model with StableTrainStepMixin, which measures losses and gradients. Received: "
            f"{type(model).__name__}. Write `model = kaw.stable(model)` before `compile`; a class of your own: "
            "`class MyModel(kaw.StableTrainStepMixin, keras.Model)`."
        )
    loss = getattr(model, "loss", None)
    if not isinstance(loss, CompositeLoss):
        raise ValueError(
            f"{owner} needs a model compiled with an adaptive weight among its `loss_weights`, or with a CompositeLoss "
            f"or XTTSLoss. Received: loss={_plain(loss)!r}. {_compile_with(_first_output(model, loss), 1.0)}"
        )
    if term is not None and term not in loss.terms:
        nearest = difflib.get_close_matches(term, loss.terms, 1, 0.0)[0]
        raise ValueError(
            f"{owner}: argument `term` must name a term of the loss. Received: term={term!r}; there are "
            f"{sorted(loss.terms)}. Write `term={nearest!r}`, or leave `term` out for all adaptive weights."
        )
    if term is not None and loss.balanced is not None and len(loss.adaptive_weights) > 1:
        raise ValueError(
            f"{owner}: argument `term` must be None where the weights are balanced, as they move together. Received: "
            f"term={term!r}, balance={loss.balance!r}. Write `AdaptiveWeightCallback(...)` without `term`."
        )
    weights = {name: weight for name, weight in loss.adaptive_weights.items() if term in (None, name)}
    if not weights:
        name = next(iter(loss.terms)) if term is None else term
        raise ValueError(f"{owner}: {_fixed(loss, name, only=term is not None)}")
    if len(set(map(id, weights.values()))) < len(weights):
        raise ValueError(
            f"{owner}: each term needs an adaptive weight of its own, or each step is counted twice. Received: one for "
            f"several of {list(weights)}. Write `kaw.AdaptiveWeight(...)` once for each."
        )
    return weights


def _fixed(loss: CompositeLoss, name: str, *, only: bool) -> str:
    """Say that a weight is fixed, and how to let it adapt."""
    weight = loss.terms[name].weight
    which = f"the weight of term {name!r} is fixed ({weight!r})" if only else "no weight of the loss is adaptive"
    if isinstance(loss, OutputLosses):
        return f"{which}. {_compile_with(name.removesuffix('_loss'), weight)}"
    return f"{which}. Write `LossTerm(fn, weight={_adaptive(weight)})` for {name!r} to let it adapt."


def _adaptive(weight: Any) -> str:
    """Return the call that makes an adaptive weight of a number."""
    base, usual = weight or 1.0, AdaptiveWeightConfig()
    config = "" if usual.min_weight <= base <= usual.max_weight else f", {config_around(base)}"
    return f"AdaptiveWeight({base!r}{config})"


def _compile_with(output: str, weight: Any) -> str:
    """Say how a weight of Keras's losses is made adaptive."""
    return f"Write `model.compile(..., loss_weights={{{output!r}: kaw.{_adaptive(weight)}}})`."


def _first_output(model: Any, loss: Any) -> str:
    """Return the name of an output that has a loss."""
    if isinstance(loss, Mapping) and (named := [str(name) for name, of in loss.items() if of is not None]):
        return named[0]
    names = getattr(model, "output_names", None) or [layer.name for layer in model.layers[-1:]]
    return next(iter(names), "output")


def _plain(loss: Any) -> Any:
    """Return a structure of losses as it was given: Keras wraps it where it tracks it."""
    return dict(loss) if isinstance(loss, Mapping) else loss


def refuse_mute_step(owner: str, model: Any) -> None:
    """Refuse a train step of the model's own that ran and left nothing to decide on.

    Raises:
        ValueError: It is one.
    """
    if mute := without_telemetry(model):
        raise ValueError(f"{owner} has nothing to decide on. {mute}")


def refuse_twins(callback: Any, all_of_them: Iterable[Any]) -> None:
    """Refuse another callback of this kind in one `fit`.

    Raises:
        ValueError: There is one.
    """
    owner = type(callback).__name__
    for other in all_of_them:
        if other is not callback:
            folder = "" if callback.log_dir is None else f"log_dir={os.fspath(callback.log_dir)!r}"
            raise ValueError(
                f"{owner}: a fit takes one callback of this kind, which looks after several weights. Received: two, "
                f"with term={callback.term!r} and term={other.term!r}. Write "
                f"`callbacks=[AdaptiveWeightCallback({folder})]` for all adaptive weights."
            )
