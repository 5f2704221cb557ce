"""The contestants: the same model, data and batches, and another way to come to the weights of the terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive_weights as kaw

from .grid import CONSTRAINT, DWA, EQUAL, GUIDE, INVERSE, PROBLEMS, SHARE, SQRT

_ROOM = kaw.AdaptiveWeightConfig(min_weight=0.01, max_weight=100.0)
_DWA_STEPS, _TEMPERATURE = 50, 2.0
_Terms = Mapping[str, Callable[[Any, Any], Any]]


def loss_and_callbacks(contestant: str, problem: str, terms: _Terms) -> tuple[kaw.CompositeLoss, list[Any]]:
    """Return what a contestant compiles with, and the callbacks it trains with."""
    if contestant == EQUAL:
        return _loss({name: kaw.LossTerm(fn, 1.0) for name, fn in terms.items()}), []
    if contestant == INVERSE:
        return _loss({name: kaw.LossTerm(_over_its_mean(fn), 1.0) for name, fn in terms.items()}), []
    if contestant == DWA:
        averaging = DynamicWeightAverage(terms)
        return _loss({name: kaw.LossTerm(averaging.weighted(name, fn)) for name, fn in terms.items()}), [averaging]
    if contestant == CONSTRAINT:
        constrained, *others = terms
        balance = kaw.Constraint(constrained, at_most=float(PROBLEMS[problem].limit or math.nan))
        weighted = {constrained: kaw.LossTerm(terms[constrained], kaw.AdaptiveWeight(1.0, _ROOM))}
        weighted |= {name: kaw.LossTerm(terms[name], 1.0) for name in others}
        return _loss(weighted, balance), [kaw.AdaptiveWeightCallback()]
    balance = {GUIDE: None, SHARE: kaw.GradientShare(), SQRT: kaw.SqrtLoss()}[contestant]
    adaptive = {name: kaw.LossTerm(fn, kaw.AdaptiveWeight(1.0, _ROOM)) for name, fn in terms.items()}
    return _loss(adaptive, balance), [kaw.AdaptiveWeightCallback()]


def _loss(terms: Mapping[str, kaw.LossTerm], balance: Any = None) -> kaw.CompositeLoss:
    return kaw.CompositeLoss(terms, balance=balance)


def _over_its_mean(fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return a term divided by what it comes to on the batch: the closed form of uncertainty weighting, and IMTL-L."""

    def divided(y: Any, out: Any) -> Any:
        values = fn(y, out)
        return values / tf.stop_gradient(tf.reduce_mean(values))

    return divided


class DynamicWeightAverage(keras.callbacks.Callback):
    """DWA (arXiv 1803.10704): a term whose loss falls slowly gets more weight; an epoch is taken as 50 steps.

    Args:
        terms: The terms by name.
    """

    def __init__(self, terms: _Terms) -> None:
        super().__init__()
        self._weights = {name: tf.Variable(1.0, trainable=False) for name in terms}
        self._sums = dict.fromkeys(terms, 0.0)
        self._means: list[dict[str, float]] = []
        self._seen = self._rows = 0

    def weighted(self, name: str, fn: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Return a term with its weight."""
        return lambda y, out: self._weights[name] * fn(y, out)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Take in the losses, and set the weights after each epoch."""
        del batch, logs
        for row in self.model.telemetry.read(self._seen):
            self._seen = row.number
            self._rows += 1
            for name, value in row.terms.items():
                self._sums[name] += value / float(self._weights[name])
        if self._rows >= _DWA_STEPS:
            self._means = [*self._means[-1:], {name: value / self._rows for name, value in self._sums.items()}]
            self._sums, self._rows = dict.fromkeys(self._sums, 0.0), 0
            if len(self._means) == 2:
                rates = np.array([self._means[1][name] / self._means[0][name] for name in self._sums]) / _TEMPERATURE
                powers = np.exp(rates - rates.max())
                for name, power in zip(self._sums, powers / powers.sum(), strict=True):
                    self._weights[name].assign(len(powers) * power)
