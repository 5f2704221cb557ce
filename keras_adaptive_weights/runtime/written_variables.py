"""What a step has written, so that it can be undone: whatever that is, not only what a model says it has.

A model tells of its own variables, as many as it has when it is asked. Its forward pass may write others: the state of
Keras's global seed generator, somebody's counter, the statistics of a layer that it builds as it goes. A graph shows
all that it writes, but only when it is too late to read what was there before. So what was found is remembered, and the
step is traced once more. In eager mode, and over several replicas, only what is known beforehand can be undone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_adaptive_weights.runtime.distribution import replicas

_READING = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "VarIsInitializedOp"})
_ATTEMPTS = 3
_this_thread = threading.local()


class TraceAgain(Exception):  # noqa: N818 - what is to be done
    """Variables were found that should have been remembered."""


class FoundVariable:
    """A variable of which only its handle is known."""

    def __init__(self, handle: Any, dtype: Any) -> None:
        self.handle = handle
        self._dtype = dtype

    def read_value(self) -> Any:
        """Return what it holds."""
        return tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self._dtype)

    def assign(self, value: Any) -> None:
        """Let it hold something else."""
        tf.raw_ops.AssignVariableOp(resource=self.handle, value=value)


class Remembered:
    """What some variables held at a moment of a step.

    Args:
        variables: Variables of Keras or TensorFlow.
        found: Further ones, which an earlier attempt to trace the step found; more may come to it.
        unread: Returns, after the step, variables that nobody ever reads: to them anything may be written.
    """

    def __init__(
        self, variables: Iterable[Any], found: list[FoundVariable], unread: Callable[[], Iterable[Any]] = tuple
    ) -> None:
        self._found = found
        self._unread = unread
        self._graph: Any = None
        if not tf.executing_eagerly() and replicas() == 1:
            self._graph = tf.compat.v1.get_default_graph()
            self._before = len(self._graph.get_operations())
        self._values = [(variable, tf.convert_to_tensor(variable)) for variable in variables]
        if self._graph is not None:
            known = {id(_handle(variable)) for variable, _ in self._values}
            self._values += [(v, v.read_value()) for v in found if id(v.handle) not in known]

    def to_restore(self) -> list[tuple[Any, Any]]:
        """Return variables and what they held; in a graph those that have been written since.

        Raises:
            TraceAgain: One was written that was not remembered. The next attempt will remember it.
        """
        written = self._written()
        if written is None:
            return self._values
        remembered = [(v, value) for v, value in self._values if id(_handle(v)) in written]
        missing = written.keys() - {id(_handle(variable)) for variable, _ in remembered}
        if missing and getattr(_this_thread, "traces_again", False) and self._all_initialized():
            self._found += [written[key] for key in missing]
            raise TraceAgain
        return remembered

    def _written(self) -> dict[int, FoundVariable] | None:
        """Return the variables that the graph writes since, by the id of their handle; `None`: that is not known."""
        if self._graph is None or self._graph is not tf.compat.v1.get_default_graph() or _handle_data() is None:
            return None
        since = set(self._graph.get_operations()[self._before :])
        written, unread = {}, {id(_handle(variable)) for variable in self._unread()}
        for handle, inside in self._captured():
            if id(handle) not in unread and any(op in since and _writes(op, inside) for op in inside.consumers()):
                dtype = _dtype_of_variable(inside)
                if dtype is not None:
                    written[id(handle)] = FoundVariable(handle, dtype)
        return written

    def _captured(self) -> list[tuple[Any, Any]]:
        """Return the resources from outside that the graph uses, and what they are in it."""
        captured = getattr(self._graph, "captures", ())
        return [(o, i) for o, i in captured if i.dtype == tf.resource and not tf.is_symbolic_tensor(o)]

    def _all_initialized(self) -> bool:
        """Whether no variable waits for the end of the trace to get its first value, and would not get it."""
        with tf.init_scope():
            handles = [outside for outside, inside in self._captured() if _dtype_of_variable(inside) is not None]
            return all(bool(tf.raw_ops.VarIsInitializedOp(resource=handle)) for handle in handles)


class TracedAgain:
    """A function of TensorFlow that is made anew, and traced, as long as the step in it finds what it did not remember.

    Made anew, since one whose first trace failed after it had made variables does nothing from then on.

    Args:
        make: Makes the function.
    """

    def __init__(self, make: Callable[[], Callable[..., Any]]) -> None:
        self._make = make
        self._function = make()

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        for _ in range(_ATTEMPTS):
            _this_thread.traces_again = True
            try:
                return self._function(*args)
            except TraceAgain:
                self._function = self._make()
            finally:
                _this_thread.traces_again = False
        return self._function(*args)


def build_if_not_traced_again(model: keras.Model, batch: Any) -> None:
    """Create what the first step of a compiled model would create, where that step could not remember it otherwise.

    A model that Keras cannot build without data is left to its first step. Over several replicas Keras does it itself.
    """
    if replicas() == 1 and not getattr(_this_thread, "traces_again", False):
        with contextlib.suppress(Exception):
            model._symbolic_build(data_batch=batch)  # noqa: SLF001 - of what is public, nothing builds metrics


def global_seed_state() -> list[keras.Variable]:
    """Return the state of Keras's global seed generator, if there is one: what `seed=None` takes seeds from."""
    try:
        from keras.src.backend.common.global_state import get_global_attribute  # noqa: PLC0415 - it has no public name
    except ImportError:
        return []
    generator = get_global_attribute("global_seed_generator")
    return [] if generator is None else [generator.state]


def _handle(variable: Any) -> Any:
    """Return what stands for a variable in a graph."""
    return getattr(variable.value if isinstance(variable, keras.Variable) else variable, "handle", variable)


def _writes(operation: Any, resource: Any) -> bool:
    """Whether an operation writes a resource that it takes; of functions and conditions TensorFlow notes what reads."""
    if operation.type in _READING:
        return False
    try:
        reads = operation.get_attr("_read_only_resource_inputs")
    except ValueError:
        return True
    return any(tensor is resource and place not in reads for place, tensor in enumerate(operation.inputs))


def _handle_data() -> Callable[[Any], Any] | None:
    """Return TensorFlow's function that tells what a resource holds; `None` where it has none."""
    try:
        return tf.__internal__.ops.get_resource_handle_data
    except AttributeError:
        return None


def _dtype_of_variable(resource: Any) -> tf.DType | None:
    """Return the type of what a resource holds in a graph, `None` where it is no variable but a table, say."""
    ask = _handle_data()
    data = ask(resource) if ask else None
    return tf.as_dtype(data.shape_and_type[0].dtype) if data and data.is_set and len(data.shape_and_type) == 1 else None
