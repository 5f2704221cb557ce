"""The gradient norm is that of the summed gradient, of gradients only, of whatever size."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import make_loss

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding.config import FLOAT32_MAX
from keras_adaptive_weights.training.finiteness import first_non_finite

MODES = {"eager": None, "graph": False, "xla": True}


class Overwritten:
    overwrite_with_gradient = True


def slices(values, indices):
    return tf.IndexedSlices(tf.constant(values), tf.constant(indices), tf.constant([9, 2]))


def measure(gradients, mode, variables=(), scale=2.0):
    def run(gradients):
        return first_non_finite({"a_loss": tf.constant(1.0)}, tf.constant(2.0), gradients, scale, variables)

    if MODES[mode] is not None:
        run = tf.function(run, autograph=False, jit_compile=MODES[mode])
    norm, finite, index = run(gradients)
    return float(norm), bool(finite), int(index)


FINITE = {
    "nothing": ([], 0.0),
    "none": ([None], 0.0),
    "zero": ([tf.zeros(3)], 0.0),
    "two": ([tf.constant([3.0]), None, tf.constant([[4.0]])], 5.0),
    "an index several times": ([slices([[1.0, 2.0], [2.0, 2.0], [5.0, 0.0]], [4, 4, 1])], np.sqrt(50.0)),
    "slices that cancel out": ([slices([[1.0, 2.0], [-1.0, -2.0]], [4, 4])], 0.0),
    "square overflows": ([tf.constant([3e30, 4e30]), None], 5e30),
    "sum of squares overflows": ([tf.fill((300, 70), 3e18)] * 2, 3e18 * np.sqrt(42_000)),
    "slices overflow": ([slices([[3e30, 0.0], [0.0, 4e30]], [4, 4])], 5e30),
    "square underflows": ([tf.constant([3e-30, 4e-30])], 5e-30),
    "empty and tiny": ([tf.zeros((0, 3)), tf.constant([1e-25])], 1e-25),
    "half precision": ([tf.constant([300.0, 400.0], tf.float16), tf.constant([0.0], tf.bfloat16)], 500.0),
    "double precision": ([tf.constant([3e-50, 4e-50], tf.float64), tf.constant([1e-3])], 1e-3),
    "complex": ([tf.constant([3.0 + 4.0j])], 5.0),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FINITE)
def test_any_finite_gradient_has_its_norm(name, mode):
    gradients, norm = FINITE[name]
    assert measure(gradients, mode) == (pytest.approx(norm / 2.0, rel=1e-5), True, -1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("values", [tf.fill((100,), 3e38), tf.constant([1e300], tf.float64)])
def test_a_norm_beyond_float32_is_the_largest_there_is(values, mode):
    """Rather than infinite: the step is applied."""
    assert measure([values], mode) == (pytest.approx(FLOAT32_MAX, rel=1e-6), True, -1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("gradients", "index"),
    [
        ([tf.constant([1.0]), tf.constant([np.nan])], 3),
        ([tf.constant([3e30]), tf.constant([np.inf])], 3),
        ([slices([[np.inf, 0.0], [1.0, 0.0]], [4, 4])], 2),
        ([slices([[np.inf, 0.0], [-np.inf, 0.0]], [4, 4])], 2),
    ],
)
def test_the_first_that_is_not_finite_is_told_from_one_that_is_large(gradients, index, mode):
    norm, finite, found = measure(gradients, mode)
    assert (np.isnan(norm), finite, found) == (True, False, index)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_variable_is_overwritten_with_is_no_gradient(mode):
    variables = [Overwritten(), object()]
    assert measure([tf.constant(448.0), tf.constant([6.0, 8.0])], mode, variables) == (5.0, True, -1)
    assert measure([tf.constant(448.0)], mode, variables[:1]) == (0.0, True, -1)
    assert measure([tf.constant(np.inf), tf.constant([6.0, 8.0])], mode, variables)[1:] == (False, 2)


@pytest.mark.parametrize("mode", [{"run_eagerly": True}, {}, {"jit_compile": True}], ids=["eager", "graph", "xla"])
def test_a_token_that_repeats_counts_once(mode):
    """As padding and silence do: the slices of an embedding's gradient are summed first."""
    inputs = keras.Input((50,), dtype="int32")
    model = kaw.StableModel(inputs, keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(8, 3)(inputs)))
    model.compile(keras.optimizers.SGD(0.0), loss=make_loss(), **mode)
    x, y = np.zeros((4, 50), "int32"), np.ones((4, 3), "float32")
    norm = model.fit(x, y, verbose=0).history["gradient_norm"][-1]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, tf.constant(y), model(x, training=True))
    (gradient,) = tape.gradient(loss, model.trainable_variables)
    assert norm == pytest.approx(np.linalg.norm(tf.convert_to_tensor(gradient)), rel=1e-4)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
def test_scales_of_float8_are_no_part_of_the_norm():
    inputs = keras.Input((4,))
    model = kaw.StableModel(inputs, keras.layers.Dense(3, kernel_initializer="ones")(inputs))
    model.quantize("float8")
    model.compile(keras.optimizers.SGD(0.0), loss=make_loss())
    x, y = np.full((8, 4), 0.01, "float32"), np.zeros((8, 3), "float32")
    assert 0.0 < model.fit(x, y, epochs=2, verbose=0).history["gradient_norm"][-1] < 2.0


def test_a_large_finite_gradient_is_applied():
    model = kaw.StableModel(inputs := keras.Input((1,)), keras.layers.Dense(3, use_bias=False)(inputs))
    model.compile(keras.optimizers.SGD(1e-25), loss=make_loss())
    history = model.fit(np.full((4, 1), 1e12, "float32"), np.full((4, 3), 1e12, "float32"), verbose=0).history
    assert history["skipped_steps"] == [0.0]
    assert 1e20 < history["gradient_norm"][-1] < 1e30
