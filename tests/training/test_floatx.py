"""Models whose floats are not float32 (`keras.config.set_floatx`): the same training, nothing left of a bad step."""

import keras
import numpy as np
import pytest

import keras_adaptive_weights as kaw

pytestmark = pytest.mark.usefixtures("fresh_session")


@pytest.fixture
def floatx(request):
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def error(y_true, y_pred):
    return keras.ops.mean(abs(y_true["price"] - y_pred["price"]), axis=-1)


def squared_error(y_true, y_pred):
    return keras.ops.mean((y_true["price"] - y_pred["price"]) ** 2, axis=-1)


def make_model():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    hidden = keras.layers.BatchNormalization()(inputs)
    return keras.Model(inputs, {"price": keras.layers.Dense(1, name="price")(hidden)})


def compiled(model, loss, weights=None, mode=None):
    model.compile(keras.optimizers.SGD(0.05, 0.9), loss=loss, loss_weights=weights, **(mode or {}))
    return model


def fit(model, x, **arguments):
    return model.fit(x, {"price": np.nan_to_num(x[:, :1])}, batch_size=8, verbose=0, shuffle=False, **arguments)


@pytest.mark.parametrize(
    ("floatx", "mode"),
    [("float64", {"jit_compile": False}), ("float16", {"jit_compile": False}), ("bfloat16", {"run_eagerly": True})],
    indirect=["floatx"],
)
def test_floats_of_another_size_train_as_in_plain_keras(floatx, mode):
    x = np.random.default_rng(1).normal(size=(32, 4)).astype("float64" if floatx == "float64" else "float32")
    callback = kaw.AdaptiveWeightCallback("price_loss")
    model = compiled(kaw.stable(make_model()), {"price": "mse"}, {"price": kaw.AdaptiveWeight(2.5)}, mode)
    plain = compiled(make_model(), {"price": "mse"}, {"price": 2.5}, mode)
    ours, theirs = fit(model, x, epochs=2, callbacks=[callback]), fit(plain, x, epochs=2)
    for one, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        assert one.dtype == other.dtype == keras.backend.standardize_dtype(floatx)
        np.testing.assert_array_equal(one, other)
    assert ours.history["loss"] == theirs.history["loss"]
    assert model.loss.adaptive_weights["price_loss"].step_count == 8

    x[20, 0] = np.nan
    terms = {
        "price_loss": kaw.LossTerm(squared_error, kaw.AdaptiveWeight(2.5)),
        "error_loss": kaw.LossTerm(error),
    }
    before = model.get_weights()
    bad = fit(compiled(model, kaw.CompositeLoss(terms), mode=mode), x[16:24])
    assert bad.history["skipped_steps"] == [1.0]
    assert np.isnan(bad.history["price_loss"]).all()
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    good = fit(model, x[:16])
    assert good.history["skipped_steps"] == [0.0]
    assert 0 < good.history["gradient_norm"][0] < np.inf
