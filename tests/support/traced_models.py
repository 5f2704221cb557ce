"""Models that were traced already, made as if they were new: to trace a step takes longer than most tests train.

Tests that use the fixture `traced_models` are handed these out by `make_model` of `given_losses` and
of `small_training`. What training changes is set back: all variables, and all that an adaptive weight knows, its run's
id, too. A model of which a test exchanged a part is not handed out again, and two at a time are two.
"""

from __future__ import annotations

import os
from collections import defaultdict

import keras

import keras_adaptive_weights as kaw

# fmt: off
_OF_A_FIT = frozenset({
    "history", "stop_training", "stop_evaluating", "stop_predicting", "train_function", "test_function",
    "predict_function", "_called", "_eval_epoch_iterator",
})
# fmt: on
"""Attributes of a model that its methods set."""
_PLAIN = (bool, int, float, str, type(None), kaw.AdaptiveWeightConfig)
"""What two models may have in common: any other argument belongs to one of them."""


class TracedModel:
    """A model with what it was when it was made.

    Args:
        model: New, with a `CompositeLoss` and weights of its own.
    """

    def __init__(self, model):
        model.optimizer.build(model.trainable_variables)
        model._prepare_telemetry()
        self.model = model
        self._weights = [(weight, weight.get_config()) for weight in model.loss.adaptive_weights.values()]
        self._values = [(variable, variable.numpy()) for variable in variables_of(model)]
        self._parts = self._parts_now()

    def begin_anew(self):
        """Set back what training changes."""
        for variable, value in self._values:
            variable.assign(value)
        self.model.telemetry.handed_out = None
        for weight, config in self._weights:
            new = vars(kaw.AdaptiveWeight.from_config(config))
            vars(weight).update({name: value for name, value in new.items() if name != "variable"})
        self.model.stop_training = False
        return self.model

    @property
    def whole(self):
        """Whether all its parts are those with which it was made."""
        parts = self._parts_now()
        return parts.keys() == self._parts.keys() and all(_same(parts[name], self._parts[name]) for name in parts)

    def _parts_now(self):
        model = self.model
        parts = {f"weight {name}": weight for name, weight in model.loss.adaptive_weights.items()}
        for owner in (model, model.loss, model.optimizer, *model.layers):
            parts |= {f"{id(owner)} {name}": value for name, value in vars(owner).items() if name not in _OF_A_FIT}
        return parts


class Shelf:
    """Holds the models that no test has at the moment, by what they were made of.

    Attributes:
        open: Whether models are handed out from here.
    """

    def __init__(self):
        self.open = False
        self._free = defaultdict(list)
        self._lent = []

    def take(self, make, kind, **arguments):
        """Return a model that was made with equal arguments, or by `make` now; a new one where the shelf is closed."""
        if not self.open or not all(isinstance(value, _PLAIN) for value in arguments.values()):
            return make()
        surroundings = keras.config.dtype_policy().name, os.environ.get("KAW_PLAIN")
        key = kind, *surroundings, *sorted(arguments.items())
        traced = self._free[key].pop() if self._free[key] else TracedModel(make())
        self._lent.append((key, traced))
        return traced.begin_anew()

    def take_back(self):
        """Take back all that were handed out."""
        for key, traced in self._lent:
            if traced.whole:
                self._free[key].append(traced)
        self._lent.clear()

    def clear(self):
        """Keep none."""
        self._free.clear()
        self._lent.clear()


SHELF = Shelf()


def variables_of(model):
    """All that a step may write: of the model and its metrics, the optimizer, the loss and its weights, telemetry."""
    telemetry, weights = model.telemetry, model.loss.adaptive_weights.values()
    of_keras = [*model.variables, *model.metrics_variables, *model.optimizer.variables, *telemetry.metrics.variables]
    more = [telemetry._ring, telemetry._skips, telemetry.requests, *(weight.variable for weight in weights)]
    found = [*of_keras, *more, model.loss.total_average]
    return list({id(variable): variable for variable in found if variable is not None}.values())


def _same(one, other):
    return one is other or (isinstance(one, _PLAIN) and one == other)
