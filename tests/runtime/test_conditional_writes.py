"""Writing where a condition holds: in eager mode, in a graph, in one that XLA compiles."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adaptive_weights.runtime.conditional_writes import run_where
from keras_adaptive_weights.runtime.distribution import read_once

pytestmark = pytest.mark.usefixtures("all_tricks")
MODES = {
    "eager": lambda fn: fn,
    "graph": tf.function,
    "xla": lambda fn: tf.function(fn, jit_compile=True),
    "in an xla graph": lambda fn: tf.function(tf.function(fn), jit_compile=True),
}
IN_ANY_MODE = pytest.mark.parametrize("mode", MODES)
EITHER_WAY = pytest.mark.parametrize("holds", [True, False])


def variables(*values):
    return [tf.Variable(value) for value in values]


def numbers(*values):
    return [np.asarray(value).tolist() for value in values]


@IN_ANY_MODE
@EITHER_WAY
def test_what_is_done_is_done_where_the_condition_holds(mode, holds):
    moment, weight, state, count = variables(1.0, 10.0, 5.0, 0)

    def apply():
        moment.assign_add(2.0)
        weight.assign_sub(moment)  # of what it wrote
        count.assign_add(1)

    def step(condition):
        state.assign(6.0)
        run_where(condition, apply, lambda: state.assign(5.0))
        return moment + 0.0, weight + 0.0, state + 0.0, count + 0

    expected = [3.0, 7.0, 6.0, 1] if holds else [1.0, 10.0, 5.0, 0]
    assert numbers(*MODES[mode](step)(tf.constant(holds))) == expected, "read after it"
    assert numbers(moment, weight, state, count) == expected


@IN_ANY_MODE
def test_step_by_step_in_a_loop(mode):
    total, skipped = variables(0, 0)
    step = MODES[mode](
        lambda number: run_where(number % 3 > 0, lambda: total.assign_add(number), lambda: skipped.assign_add(1))
    )

    @(MODES["eager"] if mode == "eager" else tf.function(jit_compile="xla" in mode, autograph=False))
    def loop():
        tf.while_loop(lambda number: number < 8, lambda number: (step(number), number + 1)[1:], [tf.constant(0)])

    loop()
    assert numbers(total, skipped) == [1 + 2 + 4 + 5 + 7, 3]


@IN_ANY_MODE
@EITHER_WAY
def test_conditions_and_loops_within(mode, holds):
    """Gradient accumulation takes a condition inside the optimizer's `apply`."""
    count, total, updates = variables(0, 0, 0)

    def apply():
        count.assign_add(1)
        tf.cond(count % 2 == 0, lambda: updates.assign_add(1), lambda: tf.identity(updates))
        tf.while_loop(lambda i: i < 4, lambda i: [total.assign_add(i) * 0 + i + 1], [tf.constant(0)])

    @MODES[mode]
    def step(condition):
        run_where(condition, apply)
        count.assign_add(10)

    for _ in range(2):
        step(tf.constant(holds))
    assert numbers(count, total, updates) == ([22, 12, 1] if holds else [20, 0, 0])


@IN_ANY_MODE
@EITHER_WAY
def test_what_was_only_read_can_be_written_after_it(mode, holds):
    rate, weight = variables(0.5, 1.0)

    @MODES[mode]
    def step(condition):
        run_where(condition, lambda: weight.assign_add(rate))
        rate.assign(0.25)
        return rate * 2.0

    assert float(step(tf.constant(holds))) == 0.5
    assert numbers(rate, weight) == [0.25, 1.5 if holds else 1.0]


@IN_ANY_MODE
@EITHER_WAY
def test_a_counter_that_is_read_once(mode, holds):
    count, total = variables(1, 0)

    def apply():
        for _ in range(2):
            total.assign_add(count)
        count.assign_add(1)

    @MODES[mode]
    def step(condition):
        with read_once([count]):
            run_where(condition, apply)

    step(tf.constant(holds))
    assert numbers(count, total) == ([2, 2] if holds else [1, 0])


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("fails", [lambda number: tf.pow(2, number), lambda number: tf.fill([number], 2)[0]])
def test_arithmetic_that_fails_on_a_number_waits_too(mode, fails):
    count = tf.Variable(0)
    step = MODES[mode](lambda condition, number: run_where(condition, lambda: count.assign(fails(number))))
    step(tf.constant(False), tf.constant(-1))
    assert count.numpy() == 0
    step(tf.constant(True), tf.constant(1))
    assert count.numpy() == 2


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_what_can_fail_or_be_seen_waits_for_the_condition(mode):
    """An optimizer may invert a matrix of gradients, which fails where there is no inverse."""
    weight = tf.Variable(tf.eye(2))
    calls = []

    def apply(gradient):
        tf.py_function(lambda: calls.append(1), [], [])
        weight.assign(tf.linalg.inv(gradient))

    step = MODES[mode](lambda condition, gradient: run_where(condition, lambda: apply(gradient)))
    bad = tf.zeros([2, 2])
    step(tf.constant(False), bad)
    assert not calls
    np.testing.assert_array_equal(weight, np.eye(2))
    step(tf.constant(True), 0.5 * tf.eye(2))
    assert calls
    np.testing.assert_array_equal(weight, 2.0 * np.eye(2))
    with pytest.raises(tf.errors.InvalidArgumentError):
        step(tf.constant(True), bad)


@IN_ANY_MODE
def test_a_resource_that_is_no_variable_here(mode):
    """What writes through a bare handle is left out, too."""
    weight = tf.Variable(1.0)
    handle = weight.handle

    @MODES[mode]
    def step(condition):
        run_where(condition, lambda: tf.raw_ops.AssignAddVariableOp(resource=handle, value=tf.constant(1.0)))

    step(tf.constant(False))
    assert weight.numpy() == 1.0
    step(tf.constant(True))
    assert weight.numpy() == 2.0


@pytest.mark.parametrize(("size", "waits"), [(256, False), (257, True)])
def test_only_writes_wait_and_what_takes_much_memory(size, waits):
    moment = tf.Variable(tf.zeros([size, size]))

    @tf.function
    def step(condition, gradient):
        run_where(condition, lambda: moment.assign_add(gradient * 0.5))

    graph = step.get_concrete_function(tf.TensorSpec([], tf.bool), tf.TensorSpec([size, size])).graph
    (function,) = graph.as_graph_def().library.function
    waiting = {node.op: any(name.startswith("^") for name in node.input) for node in function.node_def}
    assert waiting["AssignAddVariableOp"]
    assert waiting["Mul"] is waits


@pytest.mark.parametrize(("size", "in_turn"), [(1024, False), (1025, True)])
def test_what_takes_very_much_memory_is_done_in_turn(size, in_turn):
    moments = [tf.Variable(tf.zeros([size, size])) for _ in range(3)]

    @tf.function
    def step(condition, gradient):
        run_where(condition, lambda: [moment.assign_add(gradient * 0.5) for moment in moments])

    concrete = step.get_concrete_function(tf.TensorSpec([], tf.bool), tf.TensorSpec([size, size]))
    (function,) = concrete.graph.as_graph_def().library.function
    products = [node for node in function.node_def if node.op == "Mul"]
    waited_for = [[name[1:] for name in node.input if name.startswith("^AssignAdd")] for node in products]
    writes = [node.name for node in function.node_def if node.op == "AssignAddVariableOp"]
    assert waited_for == ([[], [writes[0]], [writes[1]]] if in_turn else [[]] * 3)
    for holds in (False, True):
        concrete(tf.constant(holds), tf.ones([size, size]))
        assert [float(tf.reduce_max(moment)) for moment in moments] == [0.5 * holds] * 3


@IN_ANY_MODE
@EITHER_WAY
def test_a_part_of_a_variable(mode, holds):
    """Gradients of an embedding change its rows only."""
    moment, rows = variables(1.0, [1.0, 2.0, 3.0])

    def apply():
        moment.assign_add(1.0)
        rows.scatter_sub(tf.IndexedSlices(tf.stack([moment, moment]), tf.constant([0, 2])))

    step = MODES[mode](lambda condition: run_where(condition, apply))
    step(tf.constant(holds))
    assert numbers(moment, rows) == ([2.0, [-1.0, 2.0, 1.0]] if holds else [1.0, [1.0, 2.0, 3.0]])


def test_xla_writes_in_place():
    """Where a weight is written from a moment's new value, XLA would copy the moment, and of a large model all."""
    optimizer = keras.optimizers.Adam()
    weight = keras.Variable(tf.ones([64, 96]))
    optimizer.build([weight])

    @tf.function(jit_compile=True)
    def step(gradient):
        finite = tf.math.is_finite(tf.reduce_sum(gradient))
        run_where(finite, lambda: optimizer.apply([gradient], [weight]))

    compiled = step.experimental_get_compiler_ir(tf.ones([64, 96]))(stage="optimized_hlo")
    assert len(re.findall(r"f32\[64,96\]\S* fusion\(", compiled)) >= 3, "two moments and the weight"
    assert not re.findall(r"f32\[64,96\]\S* copy\(", compiled)
