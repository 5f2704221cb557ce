"""What is refused where a model is compiled or a step is applied says what to write; nothing accepted is ignored."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import absolute_error, make_loss, make_model, squared_error

import keras_adaptive_weights as kaw

pytestmark = pytest.mark.usefixtures("graphs_as_traced")


def model_of(**kwargs):
    inputs = keras.Input((4,))
    model = kaw.StableModel(inputs, keras.layers.Dense(3)(inputs))
    model.compile("sgd", **kwargs)
    return model


X, Y = np.ones((8, 4), "float32"), np.ones((8, 3), "float32")
TERM = kaw.LossTerm(squared_error, 1.0)


@pytest.mark.parametrize("loss_weights", [[0.0], {"a": 1.0}, 1.0, []])
def test_loss_weights_beside_a_composite_loss_are_refused(loss_weights):
    with pytest.raises(
        ValueError, match=r"`loss_weights` must be None beside a CompositeLoss.*Write the weights there"
    ):
        model_of(loss=make_loss(), loss_weights=loss_weights)


def test_a_model_that_an_earlier_version_saved_with_loss_weights_loads(tmp_path):
    model = make_model()
    config = {**model.get_compile_config(), "loss_weights": [0.5]}
    model.compile_from_config(config)
    assert isinstance(model.loss, kaw.CompositeLoss)


@pytest.mark.parametrize(
    ("loss", "error", "remedy"),
    [
        (TERM, TypeError, r"Write `loss=CompositeLoss\("),
        ({"a_loss": TERM}, TypeError, r"Write `loss=CompositeLoss\("),
        (kaw.AdaptiveWeight(2.5), TypeError, r"loss_weights=\{'a': AdaptiveWeight\(2\.5\)\}"),
        ([make_loss()], ValueError, r"must be the only loss.*Write `loss=CompositeLoss\("),
        ({"a": kaw.XTTSLoss(), "b": "mse"}, ValueError, r"a XTTSLoss must be the only loss"),
    ],
)
def test_what_is_no_loss_for_a_model_is_told_what_to_write(loss, error, remedy):
    with pytest.raises(error, match=remedy):
        model_of(loss=loss)


def test_a_class_of_losses_is_one_of_its_objects():
    assert isinstance(model_of(loss=kaw.XTTSLoss).loss, kaw.XTTSLoss)


@pytest.mark.parametrize("name", ["mel_loss", "mel_weight", "gradient_norm", "skipped_steps", "empty_steps"])
def test_a_metric_with_a_name_of_ours_is_refused(name):
    model = make_model(metrics=[keras.metrics.MeanAbsoluteError(name=name)])
    with pytest.raises(
        ValueError, match=rf"each name in the logs must stand for one thing\. Received: a metric of the name '{name}'"
    ):
        model.fit(X, Y, verbose=0)


def test_any_other_metric_is_welcome():
    model = make_model(metrics=["mae", keras.metrics.MeanAbsoluteError(name="mel")])
    assert {"mae", "mel", "mel_loss"} <= set(model.fit(X, Y, verbose=0).history)


@pytest.mark.parametrize(
    ("weight", "call"),
    [
        (2.0, r"AdaptiveWeight\(2\.0\)"),
        (0, r"AdaptiveWeight\(1\.0\)"),
        (0.5, r"AdaptiveWeight\(0\.5, AdaptiveWeightConfig\(min_weight=0\.2, max_weight=1\.0\)\)"),
    ],
)
def test_a_fixed_weight_is_told_the_call_that_lets_it_adapt(weight, call):
    model = model_of(loss=kaw.CompositeLoss({"a_loss": kaw.LossTerm(absolute_error, weight)}))
    with pytest.raises(ValueError, match=rf"Write `LossTerm\(fn, weight={call}\)`"):
        model.fit(X, Y, verbose=0, callbacks=[kaw.AdaptiveWeightCallback("a_loss")])


class Halves(kaw.StableTrainStepMixin, keras.Model):
    """A step of one's own on the second layer only."""

    def __init__(self, give, ask):
        super().__init__()
        self.first, self.second = keras.layers.Dense(4), keras.layers.Dense(3)
        self._give, self._ask = give, ask

    def call(self, x):
        return self.second(self.first(x))

    def train_step(self, data):
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        before = self.remember_state()
        with tf.GradientTape() as tape:
            measured = self.measure_losses(x, y, self(x))
        gradients = tape.gradient(measured.objective, self._ask(self).trainable_variables)
        given = {} if self._give is None else {"variables": self._give(self).trainable_variables}
        return self.apply_if_finite(measured, gradients, before, **given)


@pytest.mark.parametrize("eagerly", [False, True])
def test_gradients_of_a_part_of_the_model_move_that_part(eagerly):
    model = Halves(lambda m: m.second, lambda m: m.second)
    model(X)
    model.compile(keras.optimizers.Adam(0.1), loss=make_loss(), run_eagerly=eagerly)
    before = [value.copy() for value in model.get_weights()]
    history = model.fit(X, 5.0 * Y, verbose=0).history
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert moved == [False, False, True, True]
    assert history["gradient_norm"][-1] > 0.0


@pytest.mark.parametrize("give", [None, lambda m: m.first])
def test_gradients_of_others_than_the_variables_are_refused(give):
    model = Halves(give, lambda m: m.second)
    model(X)
    model.compile("sgd", loss=make_loss())
    with pytest.raises(
        ValueError,
        match=r"`gradients` must hold one gradient for each of `variables`\. Received: 2 gradients for [24]",
    ):
        model.fit(X, Y, verbose=0)
