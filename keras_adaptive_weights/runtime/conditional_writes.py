"""Code whose effects depend on a condition, while most of what it computes need not wait for it.

`tf.cond` begins a branch when its condition is known. An optimizer in one stands still during the whole backward pass,
though it could compute the update of a layer's moments as soon as that layer's gradient is there, and all that it uses
passes through operations of the condition's: for a small model that takes as long as the update itself. Here only the
writes wait, and whatever is not known to be harmless.

XLA makes a choice within each operation of a condition, which costs little but for one thing: a weight is written from
a moment's new value, and the moment from a choice between that and the old one, so that the old one is needed twice and
XLA copies all of them. Here each write makes its choice where it is, and what is read after it is what was chosen: then
all are written in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_adaptive_weights.runtime.plain import plain

try:
    from tensorflow.python.ops import control_flow_util
except ImportError:  # a later TensorFlow: see `in_xla`
    control_flow_util = None

# fmt: off
_HARMLESS = frozenset({
    "Abs", "AddN", "AddV2", "Cast", "Const", "Equal", "Greater", "Identity", "IdentityN", "L2Loss", "Maximum",
    "Minimum", "Mul", "Neg", "NotEqual", "ReadVariableOp", "RealDiv", "Rsqrt", "Select", "SelectV2", "Sign", "Sqrt",
    "Square", "Sub",
})
# fmt: on
"""Operations without an effect that cannot fail, whatever the numbers: they need not wait. Not so `Pow`, which fails on
negative integers, nor what takes a shape or an axis."""
_WRITTEN: dict[str, Callable[[Any, Any], Any]] = {
    "AssignVariableOp": lambda _, value: value,
    "AssignAddVariableOp": tf.add,
    "AssignSubVariableOp": tf.subtract,
}
"""What an operation writes into a variable, from what is there and what it was given."""
_LARGE = 2**16  # elements; what is computed before the condition is known takes memory until then
_HUGE = 2**20  # of these one is computed and written after the other: together they would take the more memory


def run_where(condition: Any, fn: Callable[[], Any], otherwise: Callable[[], Any] | None = None) -> None:
    """Call `fn` for its effects where a condition holds.

    Args:
        condition: Scalar bool.
        fn: What to do: any TensorFlow code of one replica. Tensors that it makes must not be used outside it.
        otherwise: What to do where the condition does not hold. `None`: nothing.
    """
    write = _way_to_write()
    if write is None:
        branch(condition, fn, otherwise)
        return
    write(condition, fn)
    if otherwise is not None:
        write(tf.logical_not(condition), otherwise)


def branch(condition: Any, fn: Callable[[], Any], otherwise: Callable[[], Any] | None = None) -> None:
    """As `run_where`, by a `tf.cond`: all that `fn` does waits for the condition."""
    tf.cond(condition, _effects(fn), _effects(otherwise))


def _way_to_write() -> Callable[[Any, Callable[[], Any]], None] | None:
    """Return how only the writes wait, by what is being traced. `None`: not at all, or TensorFlow has not the names."""
    xla = in_xla()
    if tf.executing_eagerly() or xla is None or plain("conditional_writes"):
        return None
    if xla:
        return _write_chosen if hasattr(tf.Graph, "_create_op_internal") else None
    return _write_where if hasattr(tf.Operation, "_add_control_input") else None


def _effects(fn: Callable[[], Any] | None) -> Callable[[], Any]:
    """Return `fn` with one tensor as its result: a condition's branches must return alike."""

    def run() -> Any:
        if fn is not None:
            fn()
        return tf.constant(0)

    return run


def _write_where(condition: Any, fn: Callable[[], Any]) -> None:
    """Call `fn` in a graph: where the condition does not hold, its operations with an effect are left out.

    A switch gives out a value on one side only, and an operation runs only if all that it waits for gave out a value, a
    merge excepted. What fn's operations have to wait for in each other's place TensorFlow adds as it does for any
    function, and it lets the merge wait for all of them. The function is there so that nothing outside can come to wait
    for an operation that was left out.
    """

    @tf.function(autograph=False)
    def guarded(condition: Any) -> Any:
        skipped, taken = tf.raw_ops.Switch(data=condition, pred=condition)
        held = tf.identity(taken).op
        graph = held.graph
        before = len(graph.get_operations())
        fn()
        last_write = held
        for operation in graph.get_operations()[before:]:
            if operation.type not in _HARMLESS or _is_large(operation):  # `tf.control_dependencies` holds for all
                operation._add_control_input(last_write if _any_huge(operation.outputs) else held)  # noqa: SLF001
            if operation.type in _WRITTEN and _any_huge(operation.inputs[1:]):
                last_write = operation
        return tf.raw_ops.Merge(inputs=[skipped, taken]).output

    guarded(condition)


def _write_chosen(condition: Any, fn: Callable[[], Any]) -> None:
    """Call `fn` for XLA: where the condition does not hold, each write writes what is there.

    Only where `fn` does nothing but read and write whole variables: for anything else its effects are in a `tf.cond`.
    """

    @tf.function(autograph=False)
    def chosen() -> Any:
        graph = tf.compat.v1.get_default_graph()
        create = graph._create_op_internal  # noqa: SLF001 - all that makes operations in a graph does it there

        def create_chosen(op_type: str, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if op_type not in _WRITTEN:
                return create(op_type, inputs, *args, **kwargs)
            handle, value = inputs
            old = tf.raw_ops.ReadVariableOp(resource=handle, dtype=value.dtype)
            new = tf.where(condition, _WRITTEN[op_type](old, value), old)
            attributes = {"dtype": tf.compat.v1.AttrValue(type=value.dtype.as_datatype_enum)}
            return create("AssignVariableOp", [handle, new], [], attrs=attributes)

        graph._create_op_internal = create_chosen  # noqa: SLF001
        try:
            fn()
        finally:
            del graph._create_op_internal  # noqa: SLF001
        return tf.constant(0)

    traced = chosen.get_concrete_function()
    effects = {operation.type for operation in traced.graph.get_operations() if operation.op_def.is_stateful}
    if effects <= {"ReadVariableOp", "AssignVariableOp"}:
        traced()
    else:
        branch(condition, fn)


def _is_large(operation: Any) -> bool:
    """Whether an operation makes a large tensor, or one of which that is not known. Reading a variable makes none."""
    sizes = [tensor.shape.num_elements() for tensor in operation.outputs]
    return operation.type != "ReadVariableOp" and any(size is None or size > _LARGE for size in sizes)


def _any_huge(tensors: Any) -> bool:
    return any((tensor.shape.num_elements() or 0) > _HUGE for tensor in tensors)


def in_xla() -> bool | None:
    """Whether XLA compiles what is being traced, asked as TensorFlow's `tf.cond` asks. `None`: nobody can be asked."""
    ask = getattr(control_flow_util, "GraphOrParentsInXlaContext", None)
    return None if ask is None else bool(ask(tf.compat.v1.get_default_graph()))
