"""`kaw.stable`: the same layers, parameters and optimizer, behind a train step that skips bad batches."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_adaptive_weights as kaw

RNG = np.random.default_rng(2)
X, Y = RNG.normal(size=(8, 3)).astype("float32"), RNG.normal(size=(8, 1)).astype("float32")


def functional():
    inputs = keras.Input((3,), name="x")
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(4, name="trunk")(inputs))
    return keras.Model({"x": inputs}, {"price": keras.layers.Dense(1, name="price")(hidden)}, name="both")


def sequential():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)], name="row")


def unbuilt():
    return keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])


@pytest.mark.parametrize("build", [functional, sequential, unbuilt])
def test_layers_and_parameters_are_the_same_objects(build):
    model = build()
    made = kaw.stable(model)
    assert isinstance(made, kaw.StableTrainStepMixin)
    assert made.name == model.name
    assert [id(layer) for layer in made.layers] == [id(layer) for layer in model.layers]
    assert [id(variable) for variable in made.variables] == [id(variable) for variable in model.variables]
    assert kaw.stable(made) is made
    if build is not unbuilt:
        data = {"x": X} if build is functional else X
        one, other = model.predict(data, verbose=0), made.predict(data, verbose=0)
        assert keras.tree.flatten(one)[0].tolist() == keras.tree.flatten(other)[0].tolist()


def test_the_input_stays_what_it_was():
    tokens = keras.Input((2,), batch_size=4, dtype="int32", name="tokens")
    model = keras.Sequential([tokens, keras.layers.Embedding(5, 3)])
    (made,) = kaw.stable(model).inputs
    assert (made.name, made.dtype, made.shape) == ("tokens", "int32", (4, 2))


def test_frozen_layers_stay_frozen():
    model = functional()
    model.get_layer("trunk").trainable = False
    assert len(kaw.stable(model).trainable_variables) == len(model.trainable_variables) == 4
    model.trainable = False
    assert kaw.stable(model).trainable_variables == []


@pytest.mark.parametrize("loaded", [False, True])
def test_a_compiled_model_goes_on_with_its_optimizer_and_arguments(loaded, tmp_path):
    """Half the steps plain and half of them stable are all of them plain, bit for bit."""

    def build():
        keras.utils.set_random_seed(4)
        model = functional()
        model.compile(keras.optimizers.Adam(0.1), {"price": "mse"}, metrics={"price": ["mae"]}, run_eagerly=True)
        return model

    def fit(model):
        return model.fit({"x": X}, {"price": Y}, epochs=2, verbose=0, shuffle=False).history

    plain, model = build(), build()
    fit(plain), fit(model)
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    made = kaw.stable(model)
    made.run_eagerly = True  # which a file does not remember
    assert made.optimizer is model.optimizer
    plain_history, history = fit(plain), fit(made)
    assert {name: history[name] for name in plain_history} == plain_history
    for one, other in zip(plain.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(made.optimizer.iterations) == 4


def test_what_cannot_be_made_anew_says_which_line_to_change():
    class Mine(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"class Mine\(kaw.StableTrainStepMixin, Model\):"):
        kaw.stable(Mine())
    with pytest.raises(TypeError, match=r"keras\.Model"):
        kaw.stable(keras.layers.Dense(1))


def test_a_bad_batch_is_skipped_and_the_file_comes_back_stable(tmp_path):
    model = kaw.stable(sequential())
    model.compile("sgd", "mse", loss_weights=[kaw.AdaptiveWeight(2.0)])
    before = model.get_weights()
    with pytest.warns(RuntimeWarning, match="1 of 1 steps were skipped"):
        model.fit(np.full_like(X, np.nan), Y, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, kaw.StableTrainStepMixin)
    assert next(iter(loaded.loss.adaptive_weights.values())).step_count == 0
