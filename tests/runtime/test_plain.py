"""Without a private name, without a trick, and without any of them the same is trained."""

from __future__ import annotations

import functools
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import batches, fit, make_model, values_of

from keras_adaptive_weights.runtime import conditional_writes, packed_logs, written_variables
from keras_adaptive_weights.runtime.compiled import compile_arguments
from keras_adaptive_weights.runtime.plain import TRICKS, plain

DATA = batches(7)
DATA[4] = (DATA[4][0], np.full_like(DATA[4][1], np.nan))  # to be skipped
MODES = {"graph": {}, "several steps": {"steps_per_execution": 3}, "xla": {"jit_compile": True}}
IN_ANY_MODE = pytest.mark.parametrize("mode", MODES)


class GoneForUs:
    """An attribute of a class of TensorFlow's that is gone for our code, while TensorFlow's own goes on using it."""

    def __init__(self, owner, name):
        self.name, self.kept = name, getattr(owner, name)
        self.asked = []

    def __get__(self, instance, owner=None):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.startswith("keras_adaptive_weights"):
            self.asked.append(caller)
            raise AttributeError(self.name)
        return self.kept.__get__(instance, owner)


class WithoutInternal:
    """TensorFlow without `tf.__internal__`, which Keras needs itself."""

    def __getattr__(self, name):
        if name == "__internal__":
            raise AttributeError(name)
        return getattr(tf, name)


def train(mode):
    model = make_model(dropout=0.2, optimizer=keras.optimizers.Adam(0.01), **MODES[mode])
    history = fit(model, DATA, epochs=2).history
    return [*values_of(model).values()], history


trained_with_all = functools.cache(train)


@pytest.fixture
def expected(all_tricks, mode):
    """What is trained with all of them."""
    return trained_with_all(mode)


def assert_trains_the_same(mode, expected):
    values, history = train(mode)
    for value, other in zip(values, expected[0], strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-7)
    assert history == {name: pytest.approx(shown, rel=1e-5) for name, shown in expected[1].items()}
    assert history["skipped_steps"] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("asked", "mode"),
    [
        *(("1", mode) for mode in MODES),
        ("train_function", "several steps"),
        ("packed_logs", "several steps"),
        ("known_scalars", "graph"),
        ("conditional_writes", "graph"),
        ("conditional_writes", "xla"),
        ("read_once", "graph"),
        ("xla_norms", "xla"),
    ],
)
def test_without_a_trick_the_same_is_trained(monkeypatch, expected, asked, mode):
    monkeypatch.setenv("KAW_PLAIN", asked)
    assert_trains_the_same(mode, expected)


@pytest.mark.parametrize(
    ("owner", "name", "mode"),
    [
        (tf.Operation, "_add_control_input", "graph"),
        (tf.Operation, "_add_control_input", "several steps"),
        (tf.Graph, "_create_op_internal", "xla"),
    ],
)
def test_without_a_private_method_of_tensorflow_s(monkeypatch, expected, owner, name, mode):
    gone = GoneForUs(owner, name)
    monkeypatch.setattr(owner, name, gone)
    assert_trains_the_same(mode, expected)
    assert gone.asked


@IN_ANY_MODE
def test_where_nobody_says_whether_xla_compiles(monkeypatch, expected, mode):
    for module in (tf, None):  # it has not the function, or the module is gone
        monkeypatch.setattr(conditional_writes, "control_flow_util", module)
        assert conditional_writes.in_xla() is None
    assert_trains_the_same(mode, expected)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.usefixtures("all_tricks")
def test_with_these_versions_no_name_is_gone_unnoticed(jit):
    ways = []
    tf.function(lambda: ways.append(conditional_writes._way_to_write()), jit_compile=jit)()
    assert ways == [conditional_writes._write_chosen if jit else conditional_writes._write_where]


@pytest.mark.parametrize("mode", ["graph"])
def test_where_tensorflow_knows_a_proxy_by_another_name(monkeypatch, expected, mode):
    monkeypatch.setattr(packed_logs, "ObjectProxy", type("Proxy", (packed_logs.LoggedScalar,), {}))
    assert_trains_the_same(mode, expected)


def test_where_keras_does_not_keep_what_a_model_was_compiled_with():
    """What it saves of that compiles a model alike."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"], steps_per_execution=2)
    later = SimpleNamespace(optimizer=model.optimizer, get_compile_config=model.get_compile_config)
    assert compile_arguments(later) == compile_arguments(model)


@IN_ANY_MODE
def test_where_nothing_can_be_undone_but_what_is_the_model_s_own(monkeypatch, expected, mode):
    """Neither a model's private build, nor Keras's global seeds, nor what a graph says that it writes."""
    monkeypatch.setattr(keras.Model, "_symbolic_build", None)
    monkeypatch.setitem(sys.modules, "keras.src.backend.common.global_state", None)
    monkeypatch.setattr(written_variables, "tf", WithoutInternal())
    assert written_variables.global_seed_state() == []
    assert_trains_the_same(mode, expected)


@pytest.mark.parametrize(
    ("asked", "value"), [("", False), ("0", False), ("1", True), ("read_once", True), ("xla_norms,read_once", True)]
)
def test_what_the_switch_says(monkeypatch, asked, value):
    monkeypatch.setenv("KAW_PLAIN", asked)
    assert plain("read_once") is value
    assert plain("packed_logs") is (asked == "1")


@pytest.mark.parametrize("asked", ["yes", "read_once,nothing", "1,read_once"])
def test_what_the_switch_does_not_know_it_refuses(monkeypatch, asked):
    monkeypatch.setenv("KAW_PLAIN", asked)
    with pytest.raises(ValueError, match=rf"KAW_PLAIN must be 1 .*{', '.join(TRICKS)}.*Received: KAW_PLAIN={asked}"):
        make_model().make_train_function()
