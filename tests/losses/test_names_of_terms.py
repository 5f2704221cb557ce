"""Names of terms: what the logs and a checkpoint can hold, each for one thing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adaptive_weights import AdaptiveWeight, CompositeLoss, LossTerm


def loss_of(*names, adaptive=True):
    def fn(y_true, y_pred):
        return tf.reduce_mean(tf.abs(y_true - y_pred), axis=-1)

    return CompositeLoss({n: LossTerm(fn, AdaptiveWeight(2.0) if adaptive else 1.0) for n in names})


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a\nb", "a\x00b", "\x1b[31m", "\ud800", "x" * 101])
def test_a_name_that_cannot_be_shown_or_stored_is_refused(name):
    with pytest.raises(ValueError, match=r"CompositeLoss: the name of a term must have 1 to 100 printable characters"):
        loss_of(name)


@pytest.mark.parametrize("name", ["loss", "gradient_norm", "skipped_steps", "dampened_steps", "empty_steps"])
def test_a_name_of_the_logs_is_refused(name):
    with pytest.raises(ValueError, match=rf"CompositeLoss: the names \['{name}'\] are taken"):
        loss_of(name, "mel_loss")


@pytest.mark.parametrize(
    ("names", "twice"),
    [
        (("mel", "mel_loss"), "'mel_weight' for the weight of term 'mel' and the weight of term 'mel_loss'"),
        (("mel_weight", "mel_loss"), "'mel_weight' for term 'mel_weight' and the weight of term 'mel_loss'"),
        (("val_mel_loss", "mel_loss"), "'val_mel_loss' for term 'val_mel_loss' and for 'mel_loss' of the validation"),
        (("val_loss",), "'val_loss' for term 'val_loss' and for 'loss' of the validation"),
    ],
)
def test_a_name_stands_for_one_thing(names, twice):
    with pytest.raises(ValueError, match=rf"each name in the logs must stand for one thing\. Received: {twice}"):
        loss_of(*names)


def test_a_fixed_weight_takes_no_name():
    assert list(loss_of("mel", "mel_loss", "mel_weight", adaptive=False).terms) == ["mel", "mel_loss", "mel_weight"]


@pytest.mark.parametrize("name", ["train/mel", "/", "a%2Fb", ".hidden", "mel loss", "زیان_مل", "損失", "a\\b"])
def test_any_other_name_comes_back_from_a_checkpoint(name, tmp_path):
    """A name with a slash is a path in an HDF5 file."""
    inputs = keras.Input((3,))
    models = [keras.Model(inputs, keras.layers.Dense(2)(inputs)) for _ in range(2)]
    for model in models:
        model.compile("sgd", loss=loss_of(name, "other_loss"))
    weight = models[0].loss.adaptive_weights[name]
    for _ in range(3):
        weight.update(1.0, gradient_norm=1.0)
    models[0].save_weights(tmp_path / "model.weights.h5")
    models[1].load_weights(tmp_path / "model.weights.h5")
    restored = models[1].loss.adaptive_weights[name]
    assert (restored.step_count, restored.run) == (3, weight.run)
    assert models[1].loss.adaptive_weights["other_loss"].step_count == 0


@pytest.mark.parametrize("name", ["50%", "a b", "損失"])
def test_a_state_that_was_stored_under_the_name_as_it_is_loads(name):
    loss, store = loss_of(name), {}
    loss.adaptive_weights[name].update(1.0)
    loss.save_own_variables(store)
    old = {name if key != "total_average" else key: value for key, value in store.items()}
    other = loss_of(name)
    other.load_own_variables(old)
    assert other.adaptive_weights[name].step_count == 1
    np.testing.assert_array_equal(other.total_average, loss.total_average)
