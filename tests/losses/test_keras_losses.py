"""Losses as `compile` takes them, with an adaptive weight among the numbers: what Keras computes, to the last digit."""

from __future__ import annotations

import copy
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_adaptive_weights as kaw
from keras_adaptive_weights.losses.keras_losses import OutputLosses, from_compile

FROZEN = kaw.AdaptiveWeightConfig(enabled=False)
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables")  # of a head without a loss

SAMPLES, BATCH = 8, 5
RNG = np.random.default_rng(7)
X = RNG.normal(size=(SAMPLES, 5)).astype("float32")
TOKENS = RNG.integers(0, 6, size=(SAMPLES, 4))  # 0 is padding
PRICE = RNG.normal(size=(SAMPLES, 1)).astype("float32")
KIND = RNG.integers(0, 3, SAMPLES)
RAMP = np.linspace(0.0, 2.0, SAMPLES).astype("float32")


@keras.saving.register_keras_serializable(package="tests")
def relative_error(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred) / (1.0 + keras.ops.abs(y_true)), axis=-1)


def heads(cls, outputs):
    """A model of two heads, in any structure of outputs."""
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(6, activation="relu", kernel_regularizer="l2")(inputs)
    price = keras.layers.Dense(1, name="price")(hidden)
    kind = keras.layers.Dense(3, activation="softmax", name="kind")(hidden)
    return cls(inputs, outputs(price, kind))


def one(cls):
    inputs = keras.Input((5,))
    return cls(inputs, keras.layers.Dense(1, name="price")(inputs))


def sequential(cls):
    del cls
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, name="price")])


def masked(cls):
    inputs = keras.Input((4,), dtype="int32")
    hidden = keras.layers.Embedding(6, 3, mask_zero=True)(inputs)
    hidden = keras.layers.GRU(3, return_sequences=True)(hidden)
    return cls(inputs, {"a": keras.layers.Dense(1, name="a")(hidden), "b": keras.layers.Dense(1, name="b")(hidden)})


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.one, self.other = keras.layers.Dense(1), keras.layers.Dense(1)

    def call(self, x):
        return [self.one(x), self.other(x)]


class StableSubclassed(kaw.StableTrainStepMixin, Subclassed):
    pass


def subclassed(cls):
    return Subclassed() if cls is keras.Model else StableSubclassed()


TARGETS = RNG.normal(size=(SAMPLES, 4, 1)).astype("float32")
TWO = {"price": PRICE, "kind": KIND}
SPARSE = "sparse_categorical_crossentropy"
CASES = {
    # model, loss, weights: the first number becomes an AdaptiveWeight; the rest is of `fit` and `compile`
    "one output": (one, "mse", [2.5], {"y": PRICE}),
    "one output, one number": (one, relative_error, 2.5, {"y": PRICE}),
    "sequential": (sequential, "mae", [2.5], {"y": PRICE, "metrics": ["mse"]}),
    "dictionaries": (
        lambda c: heads(c, lambda p, k: {"price": p, "kind": k}), {"price": "mse", "kind": SPARSE},
        {"price": 2.5, "kind": 0.5},
        {"y": TWO, "metrics": {"kind": ["accuracy"]}, "weighted_metrics": {"price": ["mae"]}},
    ),
    "lists": (lambda c: heads(c, lambda p, k: [p, k]), ["mse", SPARSE], [2.5, 0.5], {"y": [PRICE, KIND]}),
    "tuples": (lambda c: heads(c, lambda p, k: (p, k)), ("mse", SPARSE), (2.5, 0.5), {"y": (PRICE, KIND)}),
    "lists, dictionaries of losses": (
        lambda c: heads(c, lambda p, k: [p, k]), {"kind": SPARSE, "price": "mse"}, {"price": 2.5, "kind": 0.5},
        {"y": [PRICE, KIND]},
    ),
    "nested": (
        lambda c: heads(c, lambda p, k: {"head": {"price": p}, "kind": k}), {"head": {"price": "mse"}, "kind": SPARSE},
        {"head": {"price": 2.5}, "kind": 0.5}, {"y": {"head": {"price": PRICE}, "kind": KIND}},
    ),
    "an output without a loss": (
        lambda c: heads(c, lambda p, k: {"price": p, "kind": k}), {"price": keras.losses.Huber(0.5), "kind": None},
        {"price": 2.5, "kind": None}, {"y": {"price": PRICE, "kind": KIND}},
    ),
    "partial targets": (lambda c: heads(c, lambda p, k: [p, k]), [None, SPARSE], [None, 2.5], {"y": [KIND]}),
    "objects and functions": (
        lambda c: heads(c, lambda p, k: {"price": p, "kind": k}),
        {"price": relative_error, "kind": keras.losses.SparseCategoricalCrossentropy(reduction="sum")},
        {"price": 2.5, "kind": 0.5}, {"y": TWO},
    ),
    "chosen by shape": (
        lambda c: heads(c, lambda p, k: {"price": p, "kind": k}), {"price": "mse", "kind": "crossentropy"},
        {"price": 0.5, "kind": 2.5}, {"y": TWO},
    ),
    "sample weights": (
        lambda c: heads(c, lambda p, k: {"price": p, "kind": k}), {"price": "mse", "kind": SPARSE},
        {"price": 2.5, "kind": 0.5}, {"y": TWO, "sample_weight": {"price": RAMP, "kind": RAMP[::-1].copy()}},
    ),
    "class weights": (
        lambda c: c(i := keras.Input((5,)), keras.layers.Dense(3, "softmax", name="kind")(i)), SPARSE, [2.5],
        {"y": KIND, "class_weight": {0: 1.0, 1: 3.0, 2: 0.2}},
    ),
    "masks": (masked, {"a": "mse", "b": "mae"}, {"a": 2.5, "b": 0.5}, {"x": TOKENS, "y": {"a": TARGETS, "b": TARGETS}}),
    "a class of one's own": (subclassed, ["mse", relative_error], [2.5, 0.5], {"y": [PRICE, PRICE]}),
}  # fmt: skip

STRUCTURES = {  # as above, with nothing else
    "a list of losses for a dictionary of outputs": (
        lambda c: heads(c, lambda p, k: {"q": p, "c": k}), [SPARSE, "mse"], [0.5, 2.5], {"y": {"q": PRICE, "c": KIND}},
    ),
    "weights in Keras's order": (
        lambda c: heads(c, lambda p, k: {"q": p, "c": k}), {"q": "mse", "c": SPARSE}, [0.5, 2.5],
        {"y": {"q": PRICE, "c": KIND}},
    ),
    "weights in the outputs' order": (
        lambda c: heads(c, lambda p, k: [p, k]), {"kind": SPARSE, "price": "mse"}, [2.5, 0.5], {"y": [PRICE, KIND]},
    ),
    "lists in a dictionary": (
        lambda c: heads(c, lambda p, k: {"two": [p, k], "one": (p,)}), {"two": ["mse", SPARSE], "one": ("mse",)},
        {"two": [2.5, 0.5], "one": (0.25,)}, {"y": {"two": [PRICE, KIND], "one": (PRICE,)}},
    ),
    "nested tuples": (
        lambda c: heads(c, lambda p, k: ((p, k), (p,))), (("mse", SPARSE), ("mae",)), ((2.5, 0.5), (0.25,)),
        {"y": ((PRICE, KIND), (PRICE,))},
    ),
    "an output that is one number": (
        lambda c: heads(c, lambda p, k: {"all": keras.ops.mean(k), "price": p}), {"price": "mse"}, {"price": 2.5},
        {"y": {"price": PRICE}},
    ),
}  # fmt: skip


def adaptive(weights):
    return keras.tree.map_structure(lambda w: kaw.AdaptiveWeight(w, FROZEN) if w == 2.5 else w, weights)


def trained(cls, case, **compile_arguments):
    build, loss, weights, more = CASES[case]
    more = {"x": X, **more}
    given = {name: more.pop(name) for name in ("metrics", "weighted_metrics") if name in more}
    keras.utils.set_random_seed(5)
    model = build(cls)
    if cls is not keras.Model:
        model = kaw.stable(model)
        weights = adaptive(weights)
    elif not isinstance(weights, dict) and not isinstance(weights, float):
        weights = list(weights)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)  # of fewer operations than Adam, one by one in eager mode
    model.compile(optimizer, loss=copy.deepcopy(loss), loss_weights=weights, **given, **compile_arguments)
    history = model.fit(**more, batch_size=BATCH, shuffle=False, epochs=2, verbose=0).history
    validation = {name: more[name] for name in ("x", "y", "sample_weight") if name in more}
    return model, history, model.evaluate(**validation, batch_size=BATCH, verbose=0, return_dict=True)


@pytest.mark.parametrize("case", CASES)
def test_a_frozen_weight_trains_as_a_number(case):
    plain, plain_history, plain_scores = trained(keras.Model, case, run_eagerly=True)
    model, history, scores = trained(kaw.StableModel, case, run_eagerly=True)
    for one, other in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    (weight,) = (f"{name.removesuffix('_loss')}_weight" for name in model.loss.adaptive_weights)
    assert history.pop(weight) == [2.5, 2.5]
    assert list(history.items()) == list(plain_history.items())
    assert list(scores.items()) == list(plain_scores.items())
    assert model.metrics_names == [*plain.metrics_names, weight]


@pytest.mark.parametrize("case", STRUCTURES)
def test_weights_and_names_find_their_losses_in_any_structure(case):
    build, loss, weights, targets = STRUCTURES[case]
    plain, model = build(keras.Model), build(kaw.StableModel)
    model.set_weights(plain.get_weights())
    plain.compile(loss=loss, loss_weights=weights, run_eagerly=True)
    model.compile(loss=loss, loss_weights=adaptive(weights), run_eagerly=True)
    of_plain, of_ours = (each.evaluate(X, **targets, verbose=0, return_dict=True) for each in (plain, model))
    assert list(of_ours.items()) == list(of_plain.items())


@pytest.mark.parametrize("mode", [{"jit_compile": False, "steps_per_execution": 2}, {"jit_compile": True}])
def test_in_a_graph_and_with_xla(mode):
    plain, plain_history, _ = trained(keras.Model, "sample weights", **mode)
    model, history, _ = trained(kaw.StableModel, "sample weights", **mode)
    for one, other in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert sorted(history) == list(history) == sorted([*plain_history, "price_weight"])
    for name, values in plain_history.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-6)


def test_what_keras_counts_for_nobody_does_not_make_a_step_be_traced_again():
    """The means of several losses that it keeps; a skip need not undo them."""
    inputs = keras.Input((5,))
    model = kaw.StableModel(inputs, {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")})
    weights = {"a": kaw.AdaptiveWeight(2.5), "b": 1.0}
    model.compile("sgd", loss={"a": "mse", "b": "mae"}, loss_weights=weights, jit_compile=False)
    y = {"a": PRICE, "b": PRICE}
    model.fit(X, y, batch_size=BATCH, verbose=0)
    assert model.telemetry.found == []
    with pytest.warns(RuntimeWarning, match="1 of 1 steps were skipped"):
        model.fit(np.full_like(X, np.nan), y, batch_size=SAMPLES, verbose=0)
    assert np.isfinite(model.fit(X, y, batch_size=SAMPLES, verbose=0).history["a_loss"][0])


def lists_and_progress(cls, capsys):
    model, *_ = trained(cls, "dictionaries", jit_compile=False)
    capsys.readouterr()
    model.fit(X, TWO, epochs=1, verbose=2, validation_data=(X, TWO))
    shown = re.findall(r"- (\w+): [\d.e+-]+", capsys.readouterr().out)
    return model.evaluate(X, TWO, verbose=0), model.train_on_batch(X, TWO), model.test_on_batch(X, TWO), shown


def test_lists_and_progress_are_as_keras_makes_them_and_weights_come_last(capsys):
    plain, ours = lists_and_progress(keras.Model, capsys), lists_and_progress(kaw.StableModel, capsys)
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], [*plain[1], 2.5], rtol=1e-5)
    np.testing.assert_allclose(ours[2], plain[2], rtol=1e-5)
    assert [name for name in ours[3] if name != "price_weight"] == plain[3]


def test_a_metric_may_have_any_name_that_keras_does_not_use():
    model = heads(kaw.StableModel, lambda p, k: {"price": p, "kind": k})
    metrics = [keras.metrics.MeanAbsoluteError(name=name) for name in ("gradient_norm", "skipped_steps")]
    model.compile(
        "sgd", {"price": "mse", "kind": SPARSE}, {"price": kaw.AdaptiveWeight(2.5)}, metrics={"price": metrics}
    )
    history = model.fit(X, TWO, verbose=0).history
    assert history["price_gradient_norm"] == history["price_skipped_steps"]
    model = one(kaw.StableModel)
    model.compile("sgd", "mse", loss_weights=[kaw.AdaptiveWeight(2.5)], metrics=metrics)
    assert list(model.fit(X, PRICE, verbose=0).history) == ["gradient_norm", "loss", "price_weight", "skipped_steps"]


def test_what_the_model_adds_is_a_term_in_the_telemetry_and_none_in_the_logs():
    model, history, _ = trained(kaw.StableModel, "dictionaries", run_eagerly=True)
    row = model.telemetry.read()[-1]
    assert list(row.terms) == ["price_loss", "kind_loss", "regularization_loss"]
    assert "regularization_loss" not in history
    weighted = row.terms["regularization_loss"] + 2.5 * row.terms["price_loss"] + 0.5 * row.terms["kind_loss"]
    assert row.total == pytest.approx(weighted, rel=1e-6)
    alone, *_ = trained(kaw.StableModel, "one output", run_eagerly=True)
    assert list(alone.telemetry.read()[-1].terms) == ["price_loss"]


def test_what_the_model_adds_is_named_where_it_is_not_finite():
    class Adds(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.log(keras.ops.min(x)))
            return x

    inputs = keras.Input((5,))
    model = kaw.StableModel(inputs, keras.layers.Dense(1, name="price")(Adds()(inputs)))
    model.compile("sgd", "mse", loss_weights=[kaw.AdaptiveWeight(2.5)], run_eagerly=True)
    with pytest.warns(RuntimeWarning, match=r"1 of 1 steps were skipped.*Not finite in the first.*regularization_loss"):
        model.fit(X * 0.0, PRICE, verbose=0)


def test_the_weight_in_force_is_the_variables():
    model, *_ = trained(kaw.StableModel, "dictionaries", run_eagerly=True)
    y_pred = model(X)
    losses = model.loss.evaluate(TWO, y_pred)
    assert list(losses.terms) == ["price_loss", "kind_loss"]
    price, kind = (float(value) for value in losses.terms.values())
    model.loss.adaptive_weights["price_loss"].variable.assign(4.0)
    assert float(model.loss.evaluate(TWO, y_pred).total) == pytest.approx(4.0 * price + 0.5 * kind, rel=1e-6)
    assert float(model.compute_loss(X, TWO, y_pred)) == pytest.approx(4.0 * price + 0.5 * kind + sum(model.losses))


def test_state_and_losses_travel_with_the_model(tmp_path):
    model, *_ = trained(kaw.StableModel, "objects and functions", run_eagerly=True)
    model.loss.adaptive_weights["price_loss"].update(1.0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.loss, OutputLosses)
    assert loaded.loss.get_config() == model.loss.get_config()
    assert loaded.loss.adaptive_weights["price_loss"].step_count == 1
    assert loaded.evaluate(X, TWO, verbose=0) == model.evaluate(X, TWO, verbose=0)
    twin = copy.deepcopy(loaded.loss)
    assert twin.adaptive_weights["price_loss"].variable is not loaded.loss.adaptive_weights["price_loss"].variable
    assert float(twin(TWO, loaded(X))) == float(loaded.loss(TWO, loaded(X)))


WRONG = {
    "an output that is not there": ({"a": "mse"}, {"b": 1.0}, ["a"], "loss_weights.*'b'.*'a'"),
    "too many": (["mse", "mae"], [1.0, 1.0, 1.0], ["a", "b"], "a weight for each loss"),
    "one for several outputs": ("mse", [1.0], ["a", "b"], "dictionaries.*'a': AdaptiveWeight"),
    "two of one name": (
        {"a/b": "mse", "a": {"b": "mse"}, "a/b_1": "mse"},
        {"a/b": 1.0},
        None,
        "name of its own.*a/b_1_loss",
    ),
    "for an output without a loss": (
        {"a": "mse", "b": None},
        {"b": 1.0},
        ["a", "b"],
        "only where there is a loss.*'b'",
    ),
    "one for a list of losses": ({"a": ["mse", "mae"]}, {"a": 1.0}, ["a", "b"], "'a'; its loss is \\['mse', 'mae'\\]"),
    "no loss": (None, {"a": 1.0}, ["a"], "`loss` must hold a loss.*loss=None"),
    "only losses of None": ({"a": None}, {"a": 1.0}, ["a"], "`loss` must hold a loss"),
    "a number below 0": ({"a": "mse", "b": "mse"}, {"a": 1.0, "b": -1.0}, ["a", "b"], "loss_weights.*-1.0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_with_the_remedy(case):
    loss, weights, names, message = WRONG[case]
    weights = keras.tree.map_structure(lambda w: kaw.AdaptiveWeight(w) if w == 1.0 else w, weights)
    with pytest.raises(ValueError, match=message):
        from_compile(loss, weights, names)


def test_a_loss_may_be_given_by_its_class():
    model = one(kaw.StableModel)
    model.compile("sgd", keras.losses.MeanSquaredError, kaw.AdaptiveWeight(2.0), run_eagerly=True)
    assert model.evaluate(X, PRICE, verbose=0) == pytest.approx(2.0 * np.mean((model(X) - PRICE) ** 2), rel=1e-5)


def test_a_class_of_ones_own_may_name_its_outputs():
    model = StableSubclassed()
    model.output_names = ["first", "second"]
    model.compile("sgd", ["mse", "mse"], [kaw.AdaptiveWeight(2.0), 1.0])
    assert list(model.loss.terms) == ["first_loss", "second_loss"]


def test_a_dictionary_of_weights_names_outputs_beside_a_list_of_losses():
    weight = kaw.AdaptiveWeight(2.0)
    loss = from_compile(["mse", "mae"], {"k2": weight}, {"k1": "a", "k2": "b"})
    assert {name: term.weight for name, term in loss.terms.items()} == {"k1_loss": 1.0, "k2_loss": weight}


def test_what_a_dictionary_of_weights_leaves_out_counts_one():
    loss = from_compile({"a": "mse", "b": "mae"}, {"b": kaw.AdaptiveWeight(2.0)}, ["a", "b"])
    assert [term.weight for term in loss.terms.values()] == [1.0, loss.adaptive_weights["b_loss"]]


@pytest.mark.parametrize("weight", [tf.Variable(0.5), keras.Variable(0.5), tf.constant(0.5), kaw.AdaptiveWeight])
def test_what_is_neither_number_nor_adaptive_weight_is_told_what_to_write(weight):
    with pytest.raises(TypeError, match=r"compile: argument `loss_weights`.*Write `AdaptiveWeight\(2.5\)`"):
        from_compile({"a": "mse", "b": "mae"}, {"a": kaw.AdaptiveWeight(2.5), "b": weight}, ["a", "b"])


def test_losses_of_one_name_are_told_apart_and_the_last_is_the_one_of_keras():
    def scores(model, weights):
        model.compile("sgd", ["mse", "mse", "mse"], weights, run_eagerly=True)
        return model.evaluate(X, [PRICE, PRICE + 1.0, PRICE + 2.0], verbose=0, return_dict=True)

    class Three(keras.Model):
        def call(self, x):
            return [x[:, :1], x[:, 1:2], x[:, 2:3]]

    class StableThree(kaw.StableTrainStepMixin, Three):
        pass

    plain = scores(Three(), [1.0, 1.0, 1.0])
    ours = scores(model := StableThree(), [1.0, kaw.AdaptiveWeight(1.0), 1.0])
    assert list(model.loss.adaptive_weights) == ["mse_2_loss"]
    assert {name: ours.pop(name) for name in plain} == plain
    assert list(ours) == ["mse_1_loss", "mse_2_loss"]
