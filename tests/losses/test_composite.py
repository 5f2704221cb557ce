"""Loss terms and their weighted sum, against NumPy and against Keras's own reductions."""

import json
import logging
import math
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adaptive_weights import AdaptiveWeight, AdaptiveWeightConfig, CompositeLoss, LossTerm, XTTSLoss

REDUCTIONS = ["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None]


@keras.saving.register_keras_serializable(package="test_losses")
def squared(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true["a"] - y_pred["a"]), axis=1)


@keras.saving.register_keras_serializable(package="test_losses")
def absolute(y_true, y_pred):
    return tf.reduce_mean(tf.abs(y_true["b"] - y_pred["b"]), axis=1)


def batch(n=5, seed=0):
    rng = np.random.default_rng(seed)
    return tuple({k: rng.normal(size=(n, 3)).astype("float32") for k in "ab"} for _ in range(2))


def two_terms(**kwargs):
    return CompositeLoss(
        {"a_loss": LossTerm(squared, 2.0, ("a",)), "b_loss": LossTerm(absolute, AdaptiveWeight(3.0), ("b",))}, **kwargs
    )


def numpy_terms(y_true, y_pred):
    a = [
        sum((t - p) ** 2 for t, p in zip(*rows, strict=True)) / 3 for rows in zip(y_true["a"], y_pred["a"], strict=True)
    ]
    b = [sum(abs(t - p) for t, p in zip(*rows, strict=True)) / 3 for rows in zip(y_true["b"], y_pred["b"], strict=True)]
    return np.array(a), np.array(b)


def numpy_reduce(values, reduction, weights=None):
    weighted = values if weights is None else values * weights
    if reduction in ("none", None):
        return weighted
    if reduction == "sum":
        return weighted.sum()
    if reduction == "mean_with_sample_weight" and weights is not None:
        return weighted.sum() / weights.sum()
    return weighted.sum() / len(values)


# --- LossTerm ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, "1", None, True])
def test_a_bad_weight_is_refused(weight):
    with pytest.raises((TypeError, ValueError), match=rf"LossTerm: argument `weight` must be .*weight={weight!r}"):
        LossTerm(squared, weight)


@pytest.mark.parametrize("weight", [np.float32(0.5), np.float64(0.5), np.float16(0.5), np.int64(2), np.uint8(2)])
def test_a_weight_of_numpy_is_a_number(weight):
    term = LossTerm(squared, weight)
    assert type(term.weight) in (int, float)
    assert term.weight == weight


@pytest.mark.parametrize("make", [tf.Variable, tf.constant, keras.Variable])
def test_a_variable_is_told_what_to_write_instead(make):
    with pytest.raises(TypeError, match=r"LossTerm: argument `weight`.*Write `AdaptiveWeight\(2\.5\)`"):
        LossTerm(squared, make(0.5))
    with pytest.raises(TypeError, match=r"XTTSLoss: argument `stop_loss_weight`.*Write `AdaptiveWeight\(2\.5\)`"):
        XTTSLoss(stop_loss_weight=make(0.5))


@pytest.mark.parametrize("weight", [0.0, 0, 3, 1e9])
def test_a_fixed_weight_is_taken(weight):
    assert LossTerm(squared, weight).weight_tensor == weight


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match=r"LossTerm: argument `fn` must be callable\. Received: fn=3\."):
        LossTerm(3)
    with pytest.raises(TypeError, match=r"fn='mse'\. Write `fn=keras\.losses\.get\('mse'\)`"):
        LossTerm("mse")
    with pytest.raises(TypeError, match=r"the class MeanSquaredError\. Write `MeanSquaredError\(\.\.\.\)`"):
        LossTerm(keras.losses.MeanSquaredError)
    with pytest.raises(TypeError, match=r"LossTerm: argument `measures` must be callable"):
        LossTerm(squared, measures=[True])


def test_a_composite_loss_is_no_term():
    with pytest.raises(TypeError, match=r"Received: a CompositeLoss\. Write its terms into the outer one"):
        LossTerm(two_terms())


def test_one_key_as_a_text_is_refused():
    """It would be taken for its letters, and the term would never take part."""
    with pytest.raises(TypeError, match=r"LossTerm: argument `requires`.*'mel'"):
        LossTerm(squared, requires="mel")


@pytest.mark.parametrize(
    ("y_true", "y_pred", "takes_part"),
    [
        ({"a": 1}, {"b": 1}, True),
        ({"a": 1, "b": 1}, {}, True),
        ({"a": 1}, {"a": 1}, False),
        ({}, {}, False),
        ([1], [1], False),
        (1, 1, False),
    ],
)
def test_a_term_takes_part_where_all_its_keys_are(y_true, y_pred, takes_part):
    assert LossTerm(squared, requires=("a", "b")).takes_part(y_true, y_pred) is takes_part
    assert LossTerm(squared).takes_part(y_true, y_pred), "nothing is required"


# --- CompositeLoss: construction ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({}, ValueError, r"`terms` must hold at least one term"),
        ([LossTerm(squared)], TypeError, r"`terms` must map names to LossTerm objects"),
        ({"a": squared}, TypeError, r"`terms` must map names to LossTerm objects"),
        ({1: LossTerm(squared)}, TypeError, r"`terms` must map names to LossTerm objects"),
        ({"loss": LossTerm(squared)}, ValueError, r"\['loss'\] are taken"),
        ({"gradient_norm": LossTerm(squared)}, ValueError, r"\['gradient_norm'\] are taken"),
        ({"skipped_steps": LossTerm(squared)}, ValueError, r"\['skipped_steps'\] are taken"),
    ],
)
def test_bad_terms_are_refused(terms, error, message):
    with pytest.raises(error, match=rf"CompositeLoss: .*{message}"):
        CompositeLoss(terms)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_loss_spike_threshold", 1.0),
        ("max_loss_spike_threshold", math.nan),
        ("max_loss_spike_threshold", "2"),
        ("loss_smoothing_factor", 0.0),
        ("loss_smoothing_factor", 1.1),
        ("loss_smoothing_factor", None),
        ("reduction", "average"),
    ],
)
def test_bad_settings_are_refused(name, value):
    with pytest.raises((TypeError, ValueError), match=rf"{name}"):
        two_terms(**{name: value})


def test_it_is_a_keras_loss_with_its_adaptive_weights_by_name():
    loss = two_terms()
    assert isinstance(loss, keras.losses.Loss)
    assert list(loss.terms) == ["a_loss", "b_loss"]
    assert list(loss.adaptive_weights) == ["b_loss"]
    assert isinstance(loss.adaptive_weights["b_loss"], AdaptiveWeight)


def test_the_terms_given_are_copied():
    given = {"a_loss": LossTerm(squared)}
    loss = CompositeLoss(given)
    given["b_loss"] = LossTerm(absolute)
    assert list(loss.terms) == ["a_loss"]


# --- CompositeLoss: arithmetic ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights", [None, [1.0, 0.0, 2.0, 0.5, 1.0], [[1.0], [0.0], [2.0], [0.5], [1.0]], [0, 0, 0, 0, 0]]
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_terms_and_total_equal_numpy(reduction, weights):
    y_true, y_pred = batch()
    a, b = numpy_terms(y_true, y_pred)
    flat = None if weights is None else np.ravel(weights).astype(float)
    if flat is not None and not flat.any() and reduction == "mean_with_sample_weight":
        expected = (0.0, 0.0)  # rather than NaN
    else:
        expected = tuple(numpy_reduce(values, reduction, flat) for values in (a, b))
    got = two_terms(reduction=reduction).evaluate(y_true, y_pred, weights)
    assert list(got.terms) == ["a_loss", "b_loss"]
    np.testing.assert_allclose(got.terms["a_loss"], expected[0], rtol=1e-5)
    np.testing.assert_allclose(got.terms["b_loss"], expected[1], rtol=1e-5)
    np.testing.assert_allclose(got.total, 2.0 * expected[0] + 3.0 * expected[1], rtol=1e-5)


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.0, 0.5, 1.0]])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_reduction_is_that_of_keras(reduction, weights):
    class Plain(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return squared(y_true, y_pred)

    y_true, y_pred = batch()
    ours = CompositeLoss({"a_loss": LossTerm(squared)}, reduction=reduction)(y_true, y_pred, weights)
    sample_weight = None if weights is None else np.array(weights)
    np.testing.assert_allclose(ours, Plain(reduction=reduction)(y_true, y_pred, sample_weight), rtol=1e-6)


def test_called_as_a_loss_it_is_the_total():
    y_true, y_pred = batch()
    loss = two_terms()
    np.testing.assert_allclose(loss(y_true, y_pred), loss.evaluate(y_true, y_pred).total)
    a, b = numpy_terms(y_true, y_pred)
    np.testing.assert_allclose(loss.call(y_true, y_pred), 2.0 * a + 3.0 * b, rtol=1e-5)


def test_a_changed_weight_is_read_also_in_a_function_traced_before():
    y_true, y_pred = batch()
    loss = two_terms()
    a, b = numpy_terms(y_true, y_pred)
    for function in (loss, tf.function(loss), tf.function(loss, jit_compile=True)):
        for weight in (3.0, 4.5):
            loss.terms["b_loss"].weight.variable.assign(weight)
            np.testing.assert_allclose(function(y_true, y_pred), 2.0 * a.mean() + weight * b.mean(), rtol=1e-5)


def test_a_function_of_ones_own_takes_it_as_it_is():
    """AutoGraph would rewrite it and all that it calls, which takes seconds; in `fit` nothing is rewritten either."""
    files = []

    def term(y_true, y_pred):
        files.append(sys._getframe().f_code.co_filename)
        return absolute(y_true, y_pred)

    loss = CompositeLoss({"b_loss": LossTerm(term)})
    y_true, y_pred = batch()
    total = tf.function(lambda y_true, y_pred: loss.evaluate(y_true, y_pred).total)(y_true, y_pred)
    np.testing.assert_allclose(total, loss.evaluate(y_true, y_pred).total, rtol=1e-6)
    assert {*files} == {__file__}


def test_no_gradient_flows_into_the_weight():
    """Or the optimizer would have an opinion on it."""
    y_true, y_pred = batch()
    loss = two_terms()
    outputs = {key: tf.Variable(value) for key, value in y_pred.items()}
    with tf.GradientTape() as tape:
        tape.watch(loss.terms["b_loss"].weight.variable)
        total = loss(y_true, outputs)
    gradients = tape.gradient(total, outputs)
    expected = 3.0 * np.sign(y_pred["b"] - y_true["b"]) / 3 / 5
    np.testing.assert_allclose(gradients["b"], expected, rtol=1e-5)
    assert not loss.terms["b_loss"].weight.variable.trainable


def test_only_the_terms_whose_keys_are_there_take_part():
    y_true, y_pred = batch()
    del y_true["b"], y_pred["b"]
    got = two_terms().evaluate(y_true, y_pred)
    assert list(got.terms) == ["a_loss"]
    np.testing.assert_allclose(got.total, 2.0 * numpy_terms(*batch())[0].mean(), rtol=1e-5)


def test_no_term_at_all_is_an_error_that_lists_the_keys():
    with pytest.raises(
        ValueError, match=r"no term takes part.*'a_loss': \('a',\).*y_true with \['c'\].*y_pred with \['d'\]"
    ):
        two_terms()({"c": np.ones((2, 3))}, {"d": np.ones((2, 3))})
    with pytest.raises(ValueError, match=r"y_true with ndarray|y_true with \w*Tensor"):
        two_terms()(np.ones((2, 3)), np.ones((2, 3)))


def test_structures_other_than_dictionaries_are_taken():
    def fn(y_true, y_pred):
        return tf.reduce_mean(tf.abs(y_true[0] - y_pred[1]), axis=1)

    loss = CompositeLoss({"x_loss": LossTerm(fn)})
    got = loss([np.array([[1.0, 2.0]])], (np.zeros(1), np.array([[0.5, 0.0]])))
    assert got.numpy() == pytest.approx(1.25)


@pytest.mark.parametrize(
    ("fn", "received"),
    [
        (lambda t, p: tf.reduce_mean(p["a"]) + 0.0 * t["a"][0, 0], r"shape \(\), dtype float32"),
        (lambda t, p: p["a"] - t["a"], r"shape \(5, 3\), dtype float32"),
        (lambda t, p: tf.cast(p["a"][:, 0] > t["a"][:, 0], tf.int32), r"shape \(5,\), dtype int32"),
        (lambda t, p: p["a"][:, 0] > t["a"][:, 0], r"shape \(5,\), dtype bool"),
    ],
)
def test_a_term_that_returns_another_shape_or_type_is_refused_by_name(fn, received):
    loss = CompositeLoss({"odd_loss": LossTerm(fn)})
    with pytest.raises(ValueError, match=rf"term 'odd_loss' must return one float per sample.*Received: {received}"):
        loss(*batch())


@pytest.mark.parametrize("weights", [2.0, np.ones((5, 3)), np.ones((5, 1, 1)), np.ones((2, 2))])
def test_sample_weights_of_another_shape_are_refused(weights):
    with pytest.raises(ValueError, match=r"`sample_weight` must have shape \[batch\] or \[batch, 1\]"):
        two_terms()(*batch(), sample_weight=weights)


def test_a_sample_without_weight_counts_for_nothing():
    y_true, y_pred = batch()
    other = {key: value.copy() for key, value in y_pred.items()}
    other["a"][1] += 100.0
    weights = [1.0, 0.0, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(two_terms()(y_true, y_pred, weights), two_terms()(y_true, other, weights))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_dtype_is_that_of_the_computation(dtype):
    y_true, y_pred = batch()
    loss = two_terms(dtype=dtype)
    got = loss.evaluate(y_true, y_pred)
    assert {got.total.dtype, *(term.dtype for term in got.terms.values())} == {tf.as_dtype(dtype)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_enough_for_no_length(dtype):
    """301 is 300 in bfloat16."""
    length = CompositeLoss({"x_loss": LossTerm(lambda t, p: t["n"] + 0.0 * p["n"])}, dtype=dtype)
    assert float(length({"n": np.array([2049.0])}, {"n": np.array([0.0])})) == 2049.0


def test_dampening_is_asked_for():
    assert two_terms().max_loss_spike_threshold is None
    assert (
        CompositeLoss.from_config({**two_terms().get_config(), "max_loss_spike_threshold": 2.0}).get_config()[
            "max_loss_spike_threshold"
        ]
        == 2.0
    ), "as models of earlier versions have it"


# --- serialisation and checkpoints --------------------------------------------------------------------------


def test_the_configuration_survives_json():
    config = AdaptiveWeightConfig(warmup_steps=7, gradient_norm_threshold=None)
    loss = CompositeLoss(
        {"a_loss": LossTerm(squared, 2.0, ("a",)), "b_loss": LossTerm(absolute, AdaptiveWeight(3.0, config), ("b",))},
        max_loss_spike_threshold=None,
        loss_smoothing_factor=0.3,
        reduction="sum",
        name="mine",
        dtype="float64",
    )
    again = keras.losses.deserialize(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert type(again) is CompositeLoss
    assert again.get_config() == loss.get_config()
    assert (again.name, again.reduction, again.dtype) == ("mine", "sum", "float64")
    assert (again.max_loss_spike_threshold, again.loss_smoothing_factor) == (None, 0.3)
    assert again.terms["a_loss"] == loss.terms["a_loss"]
    assert again.terms["b_loss"].weight.config == config
    assert again.terms["b_loss"].weight.base_weight == 3.0
    np.testing.assert_allclose(again(*batch()), loss(*batch()))


def test_a_rebuilt_loss_shares_no_weight_with_the_first():
    loss = two_terms()
    again = CompositeLoss.from_config(loss.get_config())
    again.adaptive_weights["b_loss"].disable()
    assert loss.adaptive_weights["b_loss"].enabled


def test_weights_states_and_recent_total_travel_in_the_store():
    loss, store = two_terms(), {}
    for i in range(150):
        loss.adaptive_weights["b_loss"].update(1.0 + 0.01 * (i % 7), gradient_norm=2.0)
    loss.total_average.assign([4.5, 33.0])
    loss.save_own_variables(store)
    other = two_terms()
    other.load_own_variables(store)
    assert other.adaptive_weights["b_loss"].state == loss.adaptive_weights["b_loss"].state
    assert other.adaptive_weights["b_loss"].run == loss.adaptive_weights["b_loss"].run
    np.testing.assert_array_equal(other.total_average, [4.5, 33.0])


def test_a_checkpoint_without_our_state_loads_with_a_log_line(caplog):
    loss = two_terms()
    with caplog.at_level(logging.INFO, "keras_adaptive_weights"):
        loss.load_own_variables({})
    assert "holds no state of the weight of 'b_loss': it goes on from 3" in caplog.text
    assert loss.adaptive_weights["b_loss"].weight == 3.0


def test_a_checkpoint_of_another_set_of_terms_gives_what_it_has():
    store = {}
    two_terms().save_own_variables(store)
    other = CompositeLoss(
        {"c_loss": LossTerm(squared, AdaptiveWeight(2.0)), "b_loss": LossTerm(absolute, AdaptiveWeight(3.0))}
    )
    other.load_own_variables(store)
    assert other.adaptive_weights["c_loss"].step_count == 0
