"""What people try first with Keras's losses and adaptive weights, and what they are told to write instead."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_adaptive_weights as kaw

pytestmark = pytest.mark.usefixtures("graphs_as_traced")

X = np.zeros((4, 5), "float32")
Y = {"price": np.zeros((4, 1), "float32"), "kind": np.zeros(4, "int32")}
LOSS = {"price": "mse", "kind": "sparse_categorical_crossentropy"}


def two_heads(
    cls=kaw.StableModel, loss=LOSS, loss_weights=None, outputs=lambda price, kind: {"price": price, "kind": kind}
):
    inputs = keras.Input((5,))
    price = keras.layers.Dense(1, name="price")(inputs)
    kind = keras.layers.Dense(3, activation="softmax", name="kind")(inputs)
    model = cls(inputs, outputs(price, kind))
    model.compile("sgd", loss=loss, loss_weights=loss_weights, run_eagerly=True)
    return model


def row():
    model = kaw.stable(keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, name="price")]))
    model.compile("sgd", "mse", run_eagerly=True)
    return model


def fit(model, *callbacks):
    model.fit(X, Y, verbose=0, callbacks=list(callbacks))


def adaptive(weight=2.5):
    return {"price": kaw.AdaptiveWeight(weight)}


class OwnStep(kaw.StableModel):
    def train_step(self, data):
        return keras.Model.train_step(self, data)


WRONG_TURNS = {
    "a weight out of bounds": (
        lambda: two_heads(loss_weights=adaptive(0.5)),
        r"AdaptiveWeight\(0\.5, config=AdaptiveWeightConfig\(min_weight=0\.2, max_weight=1\.0\)\)",
    ),
    "a loss of no output": (
        lambda: two_heads(loss={**LOSS, "prise": "mse"}, loss_weights=adaptive()),
        r"`loss` must name outputs.*'prise'; there are \['price', 'kind'\]\. Write `loss=\{'price': \.\.\.\}`",
    ),
    "a weight of no output": (
        lambda: two_heads(loss_weights={"prise": kaw.AdaptiveWeight(2.5)}),
        r"`loss_weights` must name outputs that have a loss\. Received: 'prise'; there are \['kind', 'price'\]",
    ),
    "one weight for two losses": (
        lambda: two_heads(loss_weights=[kaw.AdaptiveWeight(2.5)]),
        r"a weight for each loss.*`loss_weights=\{'price': AdaptiveWeight\(1\.0\)\}`",
    ),
    "no adaptive weight": (
        lambda: fit(two_heads(), kaw.AdaptiveWeightCallback()),
        r"loss=\{'price': 'mse'.*`model\.compile\(\.\.\., loss_weights=\{'price': kaw\.AdaptiveWeight\(1\.0\)\}\)`",
    ),
    "no adaptive weight, one output": (
        lambda: fit(row(), kaw.AdaptiveMelWeightCallback()),
        r"Received: loss='mse'.*`model\.compile\(\.\.\., loss_weights=\{'price': kaw\.AdaptiveWeight\(1\.0\)\}\)`",
    ),
    "a fixed weight": (
        lambda: fit(two_heads(loss_weights={**adaptive(), "kind": 0.5}), kaw.AdaptiveWeightCallback("kind_loss")),
        r"\{'kind': kaw\.AdaptiveWeight\(0\.5, AdaptiveWeightConfig\(min_weight=0\.2, max_weight=1\.0\)\)\}",
    ),
    "an output's name for its term": (
        lambda: fit(two_heads(loss_weights=adaptive()), kaw.AdaptiveWeightCallback("price")),
        r"there are \['kind_loss', 'price_loss'\]\. Write `term='price_loss'`",
    ),
    "the callback on a plain model": (
        lambda: fit(two_heads(keras.Model), kaw.AdaptiveWeightCallback()),
        r"Write `model = kaw\.stable\(model\)`",
    ),
    "a train step of one's own": (
        lambda: fit(two_heads(OwnStep, loss_weights=adaptive()), kaw.AdaptiveWeightCallback()),
        r"OwnStep\.train_step leaves no telemetry.*Write it with `self\.remember_state`",
    ),
    "two callbacks": (
        lambda: fit(two_heads(loss_weights=adaptive()), kaw.AdaptiveWeightCallback(), kaw.AdaptiveWeightCallback()),
        r"one callback of this kind.*Write `callbacks=\[AdaptiveWeightCallback\(\)\]`",
    ),
    "a weight in a plain model": (
        lambda: fit(two_heads(keras.Model, loss_weights={**adaptive(), "kind": 1.0})),
        r"`model = kaw\.stable\(model\)`",
    ),
}


@pytest.mark.parametrize("turn", WRONG_TURNS)
def test_each_wrong_turn_is_told_what_to_write(turn):
    go, message = WRONG_TURNS[turn]
    with pytest.raises((TypeError, ValueError), match=message):
        go()


def test_a_compile_that_takes_the_advice_trains():
    model = two_heads(loss_weights={"price": kaw.AdaptiveWeight(1.0)})
    history = model.fit(X, Y, verbose=0, callbacks=[kaw.AdaptiveWeightCallback()]).history
    assert history["price_weight"] == [1.0]
    assert history["skipped_steps"] == [0.0]
