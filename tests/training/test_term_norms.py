"""The gradient norm of each term: as a hand computes it, in every execution mode, and only on the steps it is due."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import absolute_error, assert_same, batches, fit, make_model, squared_error, values_of

import keras_adaptive_weights as kaw
from keras_adaptive_weights.training.term_norms import norms_of_terms

ALL_STEPS = {"measure_every": 1, "calibrate_steps": None}


def share_loss(*, shares=None, dampens=None, **settings):
    terms = {
        "mel_loss": kaw.LossTerm(squared_error, weight=kaw.AdaptiveWeight(2.5)),
        "stop_loss": kaw.LossTerm(absolute_error, weight=0.5),
    }
    settings = {**ALL_STEPS, **settings}
    return kaw.CompositeLoss(terms, balance=kaw.GradientShare(shares, **settings), max_loss_spike_threshold=dampens)


class Rows(keras.callbacks.Callback):
    """Keeps all rows of the telemetry."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_train_batch_end(self, batch, logs=None):
        self.rows += self.model.telemetry.read(self.rows[-1].number if self.rows else 0)


def rows_of(model, data, **kwargs):
    rows = Rows()
    fit(model, data, callbacks=[rows], **kwargs)
    return rows.rows


def by_hand(model, x, y, variables=None):
    """Return the norms of the gradients of both terms, each by a tape of its own."""
    norms = {}
    for name, fn in (("mel_loss", squared_error), ("stop_loss", absolute_error)):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(fn(tf.constant(y), tf.cast(model(x, training=True), tf.float32)))
        gradients = tape.gradient(value, variables or model.trainable_variables)
        norms[name] = np.sqrt(sum(np.sum(np.square(tf.convert_to_tensor(g))) for g in gradients if g is not None))
    return norms


def float16():
    optimizer = keras.optimizers.SGD(0.0)
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**12)


MODES = {
    "eager": {"run_eagerly": True},
    "eager, four steps": {"run_eagerly": True, "steps_per_execution": 4},
    "graph": {},
    "graph, four steps": {"steps_per_execution": 4},
    "xla, four steps": {"jit_compile": True, "steps_per_execution": 4},
    "accumulation": {"optimizer": keras.optimizers.SGD(0.0, gradient_accumulation_steps=4)},
    "loss scaling": {"optimizer": float16()},
    "a constant scale": {"optimizer": keras.optimizers.SGD(0.0, loss_scale_factor=256.0)},
    "clipped": {"optimizer": keras.optimizers.SGD(0.0, global_clipnorm=0.01)},
}


@pytest.mark.parametrize("mode", MODES)
def test_the_norms_are_those_a_hand_computes(mode):
    """Of the raw terms: neither weight nor loss scale nor clipping is in them."""
    settings = {"optimizer": keras.optimizers.SGD(0.0), **MODES[mode]}
    optimizer = settings["optimizer"]
    settings["optimizer"] = optimizer.from_config(optimizer.get_config())
    data = batches(6)
    model = make_model(loss=share_loss(), **settings)
    rows = rows_of(model, data)
    assert len(rows) == 6
    for row, (x, y) in zip(rows, data, strict=True):
        assert row.term_norms == pytest.approx(by_hand(model, x, y), rel=1e-4)


def test_half_precision_gradients_are_scaled_as_those_of_the_total():
    """Those of the raw term would underflow without the scale, and overflow without the weight."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="tanh", dtype="mixed_float16")(inputs)
    model = kaw.StableModel(inputs, keras.layers.Dense(3, dtype="mixed_float16")(hidden))
    loss = kaw.CompositeLoss(
        {
            "mel_loss": kaw.LossTerm(squared_error, kaw.AdaptiveWeight(2.5)),
            "stop_loss": kaw.LossTerm(lambda t, p: 1e4 * absolute_error(t, p), 1e-4),
        },
        balance=kaw.GradientShare(**ALL_STEPS),
    )
    model.compile(float16(), loss=loss)
    x, y = batches(1)[0]
    (row,) = rows_of(model, [(x, y)])
    expected = by_hand(model, x, y)
    assert row.term_norms == pytest.approx(
        {"mel_loss": expected["mel_loss"], "stop_loss": 1e4 * expected["stop_loss"]}, rel=0.02
    )


def test_dampening_is_not_in_the_norms():
    model = make_model(loss=share_loss(dampens=2.0), optimizer=keras.optimizers.SGD(0.0))
    data = batches(13)
    data[-1] = (data[-1][0], 100.0 * data[-1][1])
    rows = rows_of(model, data)
    assert rows[-1].dampening < 0.1
    assert rows[-1].term_norms == pytest.approx(by_hand(model, *data[-1]), rel=1e-4)


@pytest.mark.parametrize("steps", [1, 4])
def test_norms_are_measured_where_they_are_due(steps):
    """Three in a row, one of which is skipped and so comes again; then every fifth."""
    data = batches(16)
    data[1] = (data[1][0], np.full_like(data[1][1], np.nan))
    model = make_model(loss=share_loss(measure_every=5, calibrate_steps=5), steps_per_execution=steps)
    rows = rows_of(model, data)
    assert [row.number for row in rows if row.term_norms] == [1, 3, 4, 5, 6, 11, 16]


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_measuring_changes_nothing_of_the_training(mode):
    """Bit for bit in eager mode; in a graph, where operations are fused otherwise, to the last digits."""
    data = batches(4)
    plain, measuring = make_model(dropout=0.3, **MODES[mode]), make_model(dropout=0.3, loss=share_loss(), **MODES[mode])
    fit(plain, data)
    fit(measuring, data)
    expected, actual = values_of(plain), values_of(measuring)
    if mode == "eager":
        assert_same(actual, expected)
    for one, other in zip(actual.values(), expected.values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_without_such_a_balance_the_tape_is_as_it_was():
    assert not make_model().gradient_tape()._persistent
    assert make_model(loss=share_loss()).gradient_tape()._persistent
    model = make_model()
    (row,) = rows_of(model, batches(1))
    assert row.term_norms is None


def test_a_norm_that_is_not_finite_is_infinite_and_leaves_the_others_be():
    variable = keras.Variable([0.0, 4.0])
    with tf.GradientTape(persistent=True) as tape:
        parts = {"mel_loss": tf.reduce_sum(tf.sqrt(variable)), "stop_loss": tf.reduce_sum(3.0 * variable)}
    measured = {"mel_loss": True, "stop_loss": tf.constant(True)}
    norms = norms_of_terms(share_loss(), tape, parts, measured, 1.0, [variable])
    assert norms.numpy().tolist() == [np.inf, pytest.approx(3.0 * np.sqrt(2.0))]


# --- where --------------------------------------------------------------------------------------------------


def two_heads(loss, *, shared=True, **compile_kwargs):
    """Return a model with a trunk, and heads "a" and "b" that reach it, or (not `shared`) only the first does."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((4,), name="x")
    trunk = keras.layers.Dense(6, name="trunk", activation="tanh")(inputs)
    outputs = {
        "a": keras.layers.Dense(2, name="a")(trunk),
        "b": keras.layers.Dense(2, name="b")(trunk if shared else inputs),
    }
    model = kaw.StableModel(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.0), loss=loss, **compile_kwargs)
    return model


def error_of(key):
    return lambda y_true, y_pred: tf.reduce_mean(tf.square(y_true[key] - y_pred[key]), axis=-1)


def head_loss(variables=None, *, b=0.5, **more):
    terms = {
        "a_loss": kaw.LossTerm(error_of("a"), kaw.AdaptiveWeight(2.0), ("a",)),
        "b_loss": kaw.LossTerm(error_of("b"), b, ("b",)),
        **more,
    }
    return kaw.CompositeLoss(terms, balance=kaw.GradientShare(variables=variables, **ALL_STEPS))


def head_data(keys="ab"):
    draw = np.random.default_rng(2)
    x = draw.standard_normal((8, 4)).astype("float32")
    return x, {key: draw.standard_normal((8, 2)).astype("float32") for key in keys}


def head_norms(model, x, y, variables):
    norms = {}
    for key in y:
        with tf.GradientTape() as tape:
            out = model(x, training=True)
            value = tf.reduce_mean(tf.square(y[key] - out[key]))
        gradients = tape.gradient(value, variables)
        norms[f"{key}_loss"] = np.sqrt(sum(np.sum(np.square(g)) for g in gradients if g is not None))
    return norms


def head_row(model, data=None):
    x, y = data or head_data()
    model.train_on_batch(x, y)
    return model.telemetry.read()[-1]


def trunk_of(variables):
    return [variable for variable in variables if "trunk" in variable.path]


PLACES = {
    "by default what two terms reach": (lambda m: None, ["trunk/kernel", "trunk/bias"]),
    "a layer's name": (lambda m: "trunk", ["trunk/kernel", "trunk/bias"]),
    "a variable's name": (lambda m: ["trunk/kernel"], ["trunk/kernel"]),
    "a layer": (lambda m: m.get_layer("trunk"), ["trunk/kernel", "trunk/bias"]),
    "a variable": (lambda m: [m.get_layer("trunk").bias], ["trunk/bias"]),
    "a function": (lambda m: trunk_of, ["trunk/kernel", "trunk/bias"]),
    "also what one term reaches": (lambda m: ("trunk", "a"), ["trunk/kernel", "trunk/bias", "a/kernel", "a/bias"]),
}


@pytest.mark.parametrize(("name", "eager"), [*((name, True) for name in PLACES), ("also what one term reaches", False)])
def test_the_variables_are_picked_by(name, eager):
    """While a step is traced they are picked as in any eager step."""
    places, names = PLACES[name]
    model = two_heads("mse")
    model.compile(keras.optimizers.SGD(0.0), loss=head_loss(places(model)), run_eagerly=eager)
    variables = [variable for variable in model.trainable_variables if variable.path in names]
    assert len(variables) == len(names)
    assert head_row(model).term_norms == pytest.approx(head_norms(model, *head_data(), variables), rel=1e-5)


@pytest.mark.parametrize(
    ("variables", "error", "message"),
    [
        ("trank", ValueError, r"GradientShare: argument `variables`.*'trank', which picks none of \['trunk/kernel'"),
        (["trunk", "trunk/kern"], ValueError, r"Received: 'trunk/kern'"),
        ([], ValueError, r"Received: \[\]"),
        (lambda variables: [], ValueError, r"Received: <function"),
        (lambda variables: None, TypeError, r"must return a list of variables\. Received: None"),
        ([3], TypeError, r"must hold names, layers or variables\. Received: 3 of type int"),
    ],
)
def test_places_that_are_none_are_refused(variables, error, message):
    with pytest.raises(error, match=message):
        head_row(two_heads(head_loss(variables), run_eagerly=True))


def test_a_frozen_layer_is_not_measured():
    model = two_heads("mse")
    model.get_layer("trunk").trainable = False
    for variables in ("trunk", model.get_layer("trunk")):
        model.compile("sgd", loss=head_loss(variables), run_eagerly=True)
        with pytest.raises(ValueError, match=r"must pick variables that are trained.*a layer that is not frozen"):
            head_row(model)
    model.compile("sgd", loss=head_loss(), run_eagerly=True)
    with pytest.raises(ValueError, match=r"no two of the terms \['a_loss', 'b_loss'\] reach a common variable"):
        head_row(model)


@pytest.mark.parametrize("eager", [True, False])
def test_terms_that_share_nothing_are_refused(eager):
    with pytest.raises(ValueError, match=r"GradientShare: no two of the terms.*Write `GradientShare\(\.\.\., variab"):
        head_row(two_heads(head_loss(), shared=False, run_eagerly=eager))


def penalty(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_pred["b"]), axis=-1)


def test_a_term_out_of_reach_has_a_norm_of_0_where_its_weight_is_fixed():
    """It makes no part of the gradient there."""
    more = {"c_loss": kaw.LossTerm(lambda t, p: tf.reduce_mean(tf.square(p["a"]), axis=-1), 0.1)}
    row = head_row(two_heads(head_loss(**more), shared=False))
    assert row.term_norms["b_loss"] == 0.0
    assert min(row.term_norms["a_loss"], row.term_norms["c_loss"]) > 0.0


def test_a_term_out_of_reach_is_refused_where_its_weight_is_adaptive():
    more = {"c_loss": kaw.LossTerm(lambda t, p: tf.reduce_mean(tf.square(p["a"]), axis=-1), 0.1)}
    loss = head_loss(b=kaw.AdaptiveWeight(1.0), **more)
    with pytest.raises(ValueError, match=r"the term 'b_loss' has an adaptive weight, and reaches none of the variab"):
        head_row(two_heads(loss, shared=False, run_eagerly=True))


def test_a_term_that_a_batch_lacks_is_left_out():
    """Shares then are those among the others; of one term alone nothing is measured."""
    more = {"c_loss": kaw.LossTerm(penalty, 0.1)}
    model = two_heads(head_loss(**more))
    x, y = head_data()
    row = head_row(model, (x, {"a": y["a"], "b": y["b"]}))
    assert set(row.term_norms) == {"a_loss", "b_loss", "c_loss"}
    loss = kaw.CompositeLoss(
        {
            "a_loss": kaw.LossTerm(error_of("a"), kaw.AdaptiveWeight(2.0), ("a",)),
            "c_loss": kaw.LossTerm(penalty, 0.1),
            "d_loss": kaw.LossTerm(error_of("d"), 0.1, ("d",)),
        },
        balance=kaw.GradientShare(**ALL_STEPS),
    )
    assert set(head_row(two_heads(loss), (x, y)).term_norms) == {"a_loss", "c_loss"}


def test_a_term_with_nothing_to_measure_is_left_out():
    more = {
        "c_loss": kaw.LossTerm(penalty, 0.1, measures=lambda t, p: tf.zeros(tf.shape(p["a"])[:1], tf.bool)),
    }
    row = head_row(two_heads(head_loss(**more)))
    assert set(row.term_norms) == {"a_loss", "b_loss"}


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_slices_of_an_embedding_are_summed(mode):
    """A token that repeats counts once."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((50,), dtype="int32")
    model = kaw.StableModel(inputs, keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(8, 3)(inputs)))
    model.compile(keras.optimizers.SGD(0.0), loss=share_loss(), **MODES[mode])
    x, y = np.arange(200, dtype="int32").reshape(4, 50) % 5, np.ones((4, 3), "float32")
    model.train_on_batch(x, y)
    assert model.telemetry.read()[-1].term_norms == pytest.approx(by_hand(model, x, y), rel=1e-4)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_recurrent_layer_is_measured(mode):
    """Its loop in the graph is differentiated once for the total and once for each term."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((7, 4))
    model = kaw.StableModel(inputs, keras.layers.Dense(3)(keras.layers.LSTM(5)(inputs)))
    model.compile(keras.optimizers.SGD(0.0), loss=share_loss(), **MODES[mode])
    draw = np.random.default_rng(1)
    x, y = draw.standard_normal((8, 7, 4)).astype("float32"), draw.standard_normal((8, 3)).astype("float32")
    model.train_on_batch(x, y)
    assert model.telemetry.read()[-1].term_norms == pytest.approx(by_hand(model, x, y), rel=1e-4)


# --- a step of one's own ------------------------------------------------------------------------------------


class Own(kaw.StableModel):
    """The step of the documentation; its tape is what a test makes it."""

    tape_of = kaw.StableModel.gradient_tape
    hands_it_on = True

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        before = self.remember_state()
        with self.tape_of() as tape:
            measured = self.measure_losses(x, y, self(x, training=True), sample_weight)
        gradients = tape.gradient(measured.objective, self.trainable_variables)
        return self.apply_if_finite(measured, gradients, before, tape=tape if self.hands_it_on else None)


class WithoutTape(Own):
    hands_it_on = False


class TapeOfOnce(Own):
    def tape_of(self):
        return tf.GradientTape()


def test_a_step_of_ones_own_measures_with_its_tape():
    model = make_model(Own, loss=share_loss(), optimizer=keras.optimizers.SGD(0.0))
    x, y = batches(1)[0]
    model.train_on_batch(x, y)
    assert model.telemetry.read()[-1].term_norms == pytest.approx(by_hand(model, x, y), rel=1e-4)


@pytest.mark.parametrize(("cls", "received"), [(WithoutTape, "None"), (TapeOfOnce, "a tape that is not persistent")])
def test_a_step_of_ones_own_without_a_tape_is_told_what_to_write(cls, received):
    with pytest.raises(ValueError, match=rf"apply_if_finite: argument `tape`.*{received}.*self\.gradient_tape\(\) as"):
        make_model(cls, loss=share_loss()).train_on_batch(*batches(1)[0])
    make_model(cls).train_on_batch(*batches(1)[0])  # without a balance nothing more is asked for
