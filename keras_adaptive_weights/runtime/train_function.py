"""The train function of one replica: it does what Keras's does, in fewer operations.

Keras hands the result of each execution out as an optional, which it then opens by two operations outside the graph,
and of several steps puts each in a condition of its own, though its loop has the same one: together that costs more
than all that the mixin adds to a step. It also makes the logs anew after every step, of which those of the last one are
seen. And it creates variables while it traces, which makes TensorFlow trace a second time.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_adaptive_weights.runtime.packed_logs import PackedLogs, Ring
from keras_adaptive_weights.runtime.plain import plain
from keras_adaptive_weights.runtime.written_variables import TraceAgain, TracedAgain


def can_make_train_function(model: keras.Model) -> bool:
    """Whether a compiled model can have such a function: in a graph, on one replica, with one step in each round."""
    one_replica = model.distribute_strategy.num_replicas_in_sync == 1
    one_step = getattr(model, "unrolled_steps_per_execution", 1) == 1
    return one_replica and one_step and not model.run_eagerly and not plain("train_function")


def keras_train_function(model: keras.Model, make: Callable[[], Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Return Keras's train function, which is made anew where its step found that it has to be traced again.

    Args:
        model: Compiled.
        make: Makes Keras's.
    """
    if model.run_eagerly or model.distribute_strategy.num_replicas_in_sync > 1:
        return make()

    def of_an_iterator_or_a_list() -> Callable[[Any], Any]:
        function = make()
        return lambda batches: function(iter(batches) if isinstance(batches, list) else batches)

    function = TracedAgain(of_an_iterator_or_a_list)

    def train(iterator: Any) -> Any:
        if isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator):
            return function(iterator)
        return function([*itertools.islice(iterator, int(model.steps_per_execution))])  # to be had again

    return train


def make_train_function(model: keras.Model, telemetry: Ring) -> Callable[[Any], Any]:
    """Return the function that trains `model` for one execution on what an iterator gives.

    Args:
        model: Compiled; says what a step is, how many an execution has, whether XLA compiles them, and on which device.
        telemetry: Of the model; its rows come along with the logs.

    Returns:
        A function of an iterator, which returns the logs of the last step. Where the iterator ends, an execution has
        fewer steps.

    Raises:
        StopIteration, tf.errors.OutOfRangeError: From the function, where the iterator has nothing left.
    """
    steps = int(model.steps_per_execution)
    if plain("packed_logs"):
        return _make_function(model, model.train_step, model.get_metrics_result)
    logs = PackedLogs(telemetry, once=steps > 1)
    function = _make_function(model, logs.packing(model.train_step), logs.packing(model.get_metrics_result))
    return logs.unpacking(function)


def _make_function(
    model: keras.Model, step: Callable[[Any], Any], logs_so_far: Callable[[], Any]
) -> Callable[[Any], Any]:
    """Return the function for a step that returns logs, or None where they are to be `logs_so_far` after the last."""
    strategy, steps, at_once = model.distribute_strategy, int(model.steps_per_execution), True

    def on_device(batch: Any) -> Any:
        nonlocal at_once
        if not at_once:
            return strategy.run(step, args=(batch,))
        made: list[weakref.ref[Any]] = []
        with tf.variable_creator_scope(functools.partial(_before_the_graph, made)):
            logs = strategy.run(step, args=(batch,))
        if any(variable() is None for variable in made):  # nobody keeps it: TensorFlow says what it says of such
            at_once = False
            raise TraceAgain
        return logs

    traced = TracedAgain(
        lambda: tf.function(on_device, autograph=False, reduce_retracing=True, jit_compile=model.jit_compile)
    )

    def one_step(batch: Any) -> Any:
        return traced(keras.tree.map_structure(_none_if_optional, batch))

    def execution(iterator: Any) -> Any:
        logs = one_step(iterator.get_next()) if steps == 1 else _several(one_step, iterator, steps)
        return logs_so_far() if logs is None else logs

    from_dataset = tf.function(execution, autograph=False, reduce_retracing=True)

    def train(iterator: Any) -> Any:
        if isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
            return from_dataset(iterator)
        logs = one_step(next(iterator))  # of `train_on_batch`
        for _, batch in zip(range(steps - 1), iterator, strict=False):
            logs = one_step(batch)
        return logs_so_far() if logs is None else logs

    return train


def _before_the_graph(made: list[weakref.ref[Any]], create: Callable[..., Any], **given: Any) -> Any:
    """Create a variable at once: a function that is seen to create some while it is traced is traced a second time.

    Metrics, optimizers and layers that do not know the shape of their inputs wait for the first batch with that.
    """
    with contextlib.suppress(Exception), tf.init_scope():  # a first value out of the graph cannot be had before it
        variable = create(**{**given, "experimental_enable_variable_lifting": False})
        made.append(weakref.ref(variable))
        return variable
    return create(**given)


def _several(one_step: Callable[[Any], Any], iterator: Any, steps: int) -> Any:
    """Take up to so many steps, in the graph, and return what the last one returned."""
    returned: Any = None

    def go_on(number: Any, logs: Any, batch: Any) -> Any:
        del logs
        return tf.logical_and(number < steps, batch.has_value())

    def take(number: Any, logs: Any, batch: Any) -> tuple[Any, Any, Any]:
        nonlocal returned
        returned = one_step(batch.get_value())
        if returned is not None:
            logs = tf.raw_ops.OptionalFromValue(components=tf.nest.flatten(returned, expand_composites=True))
        following = tf.cond(number + 1 < steps, iterator.get_next_as_optional, lambda: batch)
        return number + 1, logs, following

    # what a step returns is known when the loop is traced: until then an optional can stand for it
    first = tf.experimental.Optional.from_value(iterator.get_next())
    _, logs, _ = tf.while_loop(go_on, take, [tf.constant(0), tf.raw_ops.OptionalNone(), first])
    if returned is None:
        return None
    flat = tf.nest.flatten(returned, expand_composites=True)
    values = tf.raw_ops.OptionalGetValue(
        optional=logs, output_types=[value.dtype for value in flat], output_shapes=[value.shape for value in flat]
    )
    return tf.nest.pack_sequence_as(returned, values, expand_composites=True)


def _none_if_optional(leaf: Any) -> Any:
    """Stand in for what a batch leaves out, as Keras does."""
    return None if isinstance(leaf, tf.experimental.Optional) else leaf
