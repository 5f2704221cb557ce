"""What a term is given and what it counts for: targets as they come, masks, Keras's losses, weights, nothing."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adaptive_weights import AdaptiveWeight, CompositeLoss, LossTerm
from keras_adaptive_weights.losses.per_sample import as_tensors, weights_of_samples

RNG = np.random.default_rng(0)


def squared(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)


def composite(fn, weight=1.0, **kwargs):
    return CompositeLoss({"a_loss": LossTerm(fn, weight, **kwargs)})


def value(got):
    return float(got.terms["a_loss"]), bool(got.measured["a_loss"])


# --- what a term is given ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.array([16_777_217]), "int64"),
        (tf.constant([16_777_217]), "int32"),
        (np.array([b"utterance"]), "string"),
        (np.array(["utterance"]), "string"),
        (np.array([True]), "bool"),
        (np.array([1j]), "complex128"),
        (np.array([1.0]), "float32"),
        (np.array([1.0], "float16"), "float32"),
        (keras.Variable([1.0]), "float32"),
        (tf.ragged.constant([[1, 2], [3]]), "int32"),
    ],
)
def test_floats_are_cast_and_all_else_comes_as_it_is(given, dtype):
    seen = []

    def fn(y_true, y_pred):
        seen.append(y_true["t"].dtype.name)
        return y_pred[:, 0]

    for call in (composite(fn), tf.function(composite(fn))):
        call({"t": given, "none": None}, np.ones((1, 2), "float32"))
    assert seen == [dtype] * 2


def test_a_label_beyond_float32_is_exact():
    loss = composite(lambda t, p: tf.cast(t - 16_777_216, tf.float32) + 0.0 * p)
    assert float(loss(np.array([16_777_217]), np.zeros(1, "float32"))) == 1.0


def test_where_integers_meet_floats_the_error_says_what_to_write():
    with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)) as error:
        composite(squared)(np.ones((2, 3), "int32"), np.ones((2, 3), "float32"))
    (note,) = error.value.__notes__
    assert note.startswith(
        "CompositeLoss: from the function of term 'a_loss'. It gets targets as they come, here some of"
    )
    assert note.endswith("some of int32: to compute with them, write `tf.cast(y_true, y_pred.dtype)`.")


def test_no_targets_are_none():
    assert float(composite(lambda t, p: p[:, 0] if t is None else t)(None, np.full((3, 2), 2.0))) == 2.0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_a_mask_survives_the_cast(dtype):
    tensor = tf.constant([[1.0, 2.0]], dtype)
    tensor._keras_mask = tf.constant([[True, False]])
    cast = as_tensors({"y": tensor}, "float32")["y"]
    assert cast.dtype == tf.float32
    assert cast._keras_mask is tensor._keras_mask


# --- losses of Keras's ---------------------------------------------------------------------------------

SHAPES = [(4, 3), (4, 5, 3), (4, 5, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "mean_with_sample_weight", None, "none"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_loss_of_keras_counts_as_keras_reduces_it(shape, reduction, masked):
    y_true, y_pred = (tf.constant(RNG.normal(size=shape), "float32") for _ in range(2))
    if masked:
        y_pred._keras_mask = tf.constant(RNG.random(shape[:-1]) < 0.6)
    keras_mean = keras.losses.MeanSquaredError()(y_true, y_pred)
    term = keras.losses.MeanSquaredError(reduction=reduction)
    got = composite(term).evaluate(y_true, y_pred)
    np.testing.assert_allclose(got.total, keras_mean, rtol=1e-5)
    assert term.reduction == reduction, "what was given is not changed"
    np.testing.assert_allclose(composite(keras.losses.mean_squared_error)(y_true, y_pred), keras_mean, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_sample_weights_of_such_a_term_are_those_of_keras(shape):
    y_true, y_pred = (tf.constant(RNG.normal(size=shape), "float32") for _ in range(2))
    weights = np.array([1.0, 0.0, 2.0, 0.5], "float32")
    expected = keras.losses.Huber()(y_true, y_pred, weights if len(shape) == 2 else np.tile(weights[:, None], (1, 5)))
    np.testing.assert_allclose(composite(keras.losses.Huber())(y_true, y_pred, weights), expected, rtol=1e-5)


def test_integer_labels_reach_a_loss_of_keras():
    y_true, y_pred = np.array([0, 2]), RNG.normal(size=(2, 3)).astype("float32")
    fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(composite(fn)(y_true, y_pred), fn(y_true, y_pred), rtol=1e-6)


def test_a_loss_of_keras_that_sums_is_told_what_to_write():
    with pytest.raises(ValueError, match=r"MeanSquaredError must have a mean or no reduction.*Write `reduction=None`"):
        composite(keras.losses.MeanSquaredError(reduction="sum"))(np.ones((2, 3)), np.ones((2, 3)))


@pytest.mark.parametrize("fn", [keras.losses.MeanSquaredError(), keras.losses.mean_squared_error])
def test_a_loss_of_keras_for_whole_structures_is_told_what_to_write(fn):
    y = {"a": np.ones((2, 3)), "b": np.ones((2, 3))}
    with pytest.raises(
        ValueError, match=r"takes one target and one output\. Received: the keys \['a', 'b'\] and .*Write `fn=lambda"
    ):
        composite(fn)(y, y)


def test_a_reduced_loss_within_a_function_is_told_what_to_write():
    fn = keras.losses.MeanSquaredError()
    with pytest.raises(
        ValueError, match=r"Received: shape \(\), dtype float32\. Do not reduce over the batch; .*`reduction=None`"
    ):
        composite(lambda t, p: 1.0 * fn(t, p))(np.ones((2, 3)), np.ones((2, 3)))


def test_a_loss_of_keras_survives_json():
    loss = composite(keras.losses.Huber(delta=0.5), AdaptiveWeight(2.0))
    again = keras.losses.deserialize(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert again.terms["a_loss"].fn.get_config() == loss.terms["a_loss"].fn.get_config()


# --- weights of samples --------------------------------------------------------------------------------

ONE, TWO = np.array([1.0, 0.0, 2.0]), np.array([3.0, 4.0, 0.0])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ([1.0, 0.0, 2.0], ONE),
        ([[1.0], [0.0], [2.0]], ONE),
        ((1, 0, 2), ONE),
        (np.array([True, False, True]), [1.0, 0.0, 1.0]),
        (tf.constant([[1], [0], [2]]), ONE),
        ({"x_loss": ONE, "x": TWO}, ONE),
        ({"x": ONE, "y": TWO}, ONE),
        ({"x_output": ONE, "y": TWO}, ONE),
        ({"y": ONE}, ONE),
        ({"y": ONE, "z": TWO}, (ONE + TWO) / 2),
        ({"y": ONE, "z": ONE, "w": ONE}, ONE),
        ({"x": None, "y": TWO}, None),
        ({"y": None, "z": TWO}, TWO),
        ([ONE, TWO], (ONE + TWO) / 2),
        ((ONE[:, None], None), ONE),
        ({"x": {"deep": ONE, "deeper": ONE}, "y": TWO}, ONE),
    ],
)
def test_each_term_finds_its_weights(given, expected):
    got = weights_of_samples(given, ("x_loss", "x", "x_target", "x_output"), tf.zeros(3))
    if expected is None:
        assert got is None
    else:
        np.testing.assert_array_equal(got, np.asarray(expected, "float32"))


@pytest.mark.parametrize("given", [2.0, np.ones(4), np.ones((3, 2)), np.ones((3, 1, 1)), np.array(["1", "1", "1"])])
def test_weights_that_fit_no_sample_are_refused(given):
    with pytest.raises(ValueError, match=r"`sample_weight` must have shape \[batch\] or \[batch, 1\], and numbers"):
        weights_of_samples(given, ("x",), tf.zeros(3))


# --- nothing to measure ----------------------------------------------------------------------------------


def batch(samples=3):
    return np.ones((samples, 2), "float32"), np.full((samples, 2), 3.0, "float32")


@pytest.mark.parametrize(
    ("samples", "weights", "valid", "expected"),
    [
        (3, None, None, (4.0, True)),
        (0, None, None, (0.0, False)),
        (3, [0.0, 0.0, 0.0], None, (0.0, False)),
        (3, [0.0, -1.0, 0.0], None, (-4.0 / 3.0, True)),
        (3, None, [False, False, False], (0.0, False)),
        (3, None, [True, False, False], (4.0, True)),
        (3, [0.0, 1.0, 1.0], [True, False, False], (0.0, False)),
        (3, [0.5, 9.0, 9.0], [True, False, False], (2.0, True)),
    ],
)
@pytest.mark.parametrize("static", [True, False])
def test_no_measurement_is_told_from_a_loss_of_zero(samples, weights, valid, expected, static):
    loss = composite(squared, measures=lambda t, p: valid)
    evaluate = lambda t, p: loss.evaluate(t, p, weights)  # noqa: E731
    if not static:
        evaluate = tf.function(evaluate, input_signature=[tf.TensorSpec((None, 2))] * 2)
    assert value(evaluate(*batch(samples))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reduction", "expected"), [("sum", 4.0), ("mean_with_sample_weight", 4.0), ("none", [0, 4, 0])]
)
def test_samples_without_a_measurement_are_left_out_of_any_reduction(reduction, expected):
    loss = CompositeLoss({"a_loss": LossTerm(squared, measures=lambda t, p: [False, True, False])}, reduction=reduction)
    np.testing.assert_allclose(loss(*batch(), sample_weight=[5.0, 1.0, 5.0]), expected)


@pytest.mark.parametrize(
    ("masks", "measured"), [([[0, 0]], False), ([[0, 1]], True), ([[0, 0], [1, 0]], True), ([[0, 0], None], True)]
)
def test_a_batch_that_keras_masks_whole_measures_nothing(masks, measured):
    outputs = [tf.ones((1, 2)) for _ in masks]
    for output, mask in zip(outputs, masks, strict=True):
        if mask is not None:
            output._keras_mask = tf.cast([mask], tf.bool)
    assert value(composite(lambda t, p: p[0][:, 0]).evaluate(None, outputs))[1] is measured


@pytest.mark.parametrize("measures", [lambda t, p: [1.0, 0.0, 1.0], lambda t, p: [True, False], lambda t, p: True])
def test_measures_must_be_a_bool_for_each_sample(measures):
    with pytest.raises(ValueError, match=r"`measures` of term 'a_loss' must return one bool per sample"):
        composite(squared, measures=measures)(*batch())
