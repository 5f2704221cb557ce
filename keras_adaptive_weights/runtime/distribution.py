"""What exists only because of `tf.distribute`, each with the fact that makes it necessary.

On one replica every function here is the identity or a plain call, so that a train step is written once. With several,
a step reduces losses and gradients itself, once: every replica then holds the same numbers, takes the same branch, and
the optimizer's own reduction is left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_adaptive_weights.runtime.conditional_writes import branch, run_where
from keras_adaptive_weights.runtime.plain import plain


def replicas() -> int:
    """Return the number of replicas that a step runs on, over all workers."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def within_replica() -> bool:
    """Whether this code runs on each of several replicas, rather than once for all of them."""
    return tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()


def divide_by_replicas(loss: Any) -> Any:
    """Divide a replica's loss by the number of replicas: optimizers sum the gradients of all of them."""
    return loss if replicas() == 1 else loss / replicas()


def mean_over_replicas(scalars: Sequence[Any], vector: Any = None) -> tuple[list[Any], Any]:
    """Return the means of some scalars and of a vector over all replicas, by one reduction; `None` stays `None`."""
    if replicas() == 1:
        return list(scalars), vector
    parts = [tf.stack(scalars)] if vector is None else [tf.stack(scalars), tf.cast(vector, scalars[0].dtype)]
    values = tf.stop_gradient(tf.concat(parts, axis=0))
    means = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, values)
    return tf.unstack(means[: len(scalars)]), None if vector is None else means[len(scalars) :]


def mean_where_measured(
    scalars: Sequence[Any], measured: Sequence[Any], vector: Any = None
) -> tuple[list[Any], list[Any], Any]:
    """Return the means of some scalars over the replicas that had something to measure of them.

    Args:
        scalars: Scalars of this replica.
        measured: Of each, whether there was anything to measure: True, or a scalar bool tensor.
        vector: See `mean_over_replicas`.

    Returns:
        The means; of each, whether any replica measured it; and the mean of the vector over all replicas.
    """
    unsure = [i for i, there in enumerate(measured) if there is not True]
    if replicas() == 1 or not unsure:
        means, vector = mean_over_replicas(scalars, vector)
        return means, list(measured), vector
    shares = [tf.cast(measured[i], scalars[0].dtype) for i in unsure]
    counted = [
        value if there is True else tf.where(there, value, tf.zeros_like(value))
        for value, there in zip(scalars, measured, strict=True)
    ]
    means, vector = mean_over_replicas([*counted, *shares], vector)
    means, shares, anywhere = means[: len(scalars)], means[len(scalars) :], list(measured)
    for i, share in zip(unsure, shares, strict=True):
        means[i], anywhere[i] = tf.math.divide_no_nan(means[i], share), share > 0.0
    return means, anywhere, vector


def sum_gradients(gradients: Sequence[Any]) -> list[Any]:
    """Return the sum of each gradient over all replicas; None stays None."""
    if replicas() == 1:
        return list(gradients)
    present = [gradient for gradient in gradients if gradient is not None]
    summed = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, present))
    return [None if gradient is None else next(summed) for gradient in gradients]


def on_every_replica(
    fn: Callable[[], None], optimizer: Any, *, finite: Any = None, otherwise: Sequence[tuple[Any, Any]] = ()
) -> None:
    """Call `fn` on every replica, with the optimizer's own reduction left out.

    Args:
        fn: What to do, in replica context. May use tensors of its replica.
        optimizer: The optimizer that `fn` applies gradients with, which are summed already.
        finite: Scalar bool, the same on all replicas: where it is false `fn` is not called, and ...
        otherwise: ... these variables get back these values.

    A condition around an optimizer's `apply` must be taken in cross-replica context: a `merge_call` within a condition
    in replica context fails (Keras's `LossScaleOptimizer` does the same).
    """
    if not within_replica():
        restore = (lambda: [variable.assign(value) for variable, value in otherwise]) if otherwise else None
        fn() if finite is None else run_where(finite, fn, restore)
        return
    variables, values = [], []
    for variable, value in otherwise:
        if variable.value.synchronization == tf.VariableSynchronization.ON_READ:  # a metric: a part on every replica
            variable.assign(tf.where(finite, variable, value))
        else:
            variables.append(variable.value)
            values.append(value)

    def across(strategy: Any, fns: Any, values: Any, *finite: Any) -> None:
        def apply() -> None:
            with _gradients_summed(optimizer):
                strategy.extended.call_for_each_replica(lambda fn: fn(), args=(fns,))

        def undo() -> None:
            for variable, value in zip(variables, values, strict=True):
                strategy.extended.update(variable, lambda v, old: v.assign(old), args=(value,), group=False)

        if finite:
            branch(strategy.experimental_local_results(finite[0])[0], apply, undo)
        else:
            apply()

    condition = () if finite is None else (finite,)
    tf.distribute.get_replica_context().merge_call(across, args=(fn, values, *condition))


def value_where(condition: Any, fn: Callable[[], Any], otherwise: Any) -> Any:
    """Return what `fn` returns where a condition holds, and compute it only there.

    In a graph `fn` stays a function of its own. A condition is taken apart into operations that all run in every step,
    to say that they have nothing to say: with the 5,000 of a small speech model's backward passes 3 % of its time.

    On several replicas, in a graph, all the same on every step where it cannot wait in a condition: to differentiate a
    synchronized layer is to reduce over the replicas by the context in which the layer was called.

    Args:
        condition: Scalar bool, the same on all replicas.
        fn: Makes a tensor, the same on all replicas; it may reduce over them.
        otherwise: The value where the condition does not hold.
    """
    if tf.executing_eagerly():
        return fn() if condition else otherwise
    if replicas() == 1:
        apart = tf.function(fn, autograph=False, experimental_attributes={"_noinline": True})
        return tf.cond(condition, apart, lambda: otherwise)

    def across(strategy: Any, fns: Any, condition: Any, otherwise: Any) -> Any:
        def of_first(values: Any) -> Any:
            return strategy.experimental_local_results(values)[0]

        def on_each() -> Any:
            return of_first(strategy.extended.call_for_each_replica(lambda fn: fn(), args=(fns,)))

        try:
            return tf.cond(of_first(condition), on_each, lambda: of_first(otherwise))
        except RuntimeError:  # of another context; what else may be wrong with `fn` comes up again below
            return None

    value = tf.distribute.get_replica_context().merge_call(across, args=(fn, condition, otherwise))
    return tf.where(condition, fn(), otherwise) if value is None else value


@contextlib.contextmanager
def read_once(variables: Sequence[tf.Variable]) -> Iterator[None]:
    """Let some variables be read here, and not anew wherever they are used while something is traced.

    What stands in a condition waits for it. Adam alone reads its step counter and learning rate for every variable,
    and computes the same few scalars from them each time; read outside, they are recognised as the same. On one
    replica only. Uses how TensorFlow keeps the value of a variable with a `caching_device`.
    """
    if replicas() > 1 or plain("read_once"):
        variables = ()
    for variable in variables:
        variable._cached_value = tf.identity(variable)  # noqa: SLF001
    try:
        yield
    finally:
        for variable in variables:
            variable._cached_value = None  # noqa: SLF001


@contextlib.contextmanager
def _gradients_summed(optimizer: Any) -> Iterator[None]:
    """Let an optimizer take gradients that are already summed, while its `apply` is traced.

    Keras has no argument for it (tf.keras's `experimental_aggregate_gradients` did not come along to Keras 3). The
    optimizer asks the context of its replica for the sum, which gives back what it gets.

    Raises:
        RuntimeError: It asked nobody, and may have summed them again by other means.
    """
    optimizer = _inner(optimizer)
    apply = optimizer.apply

    def apply_summed(*args: Any, **kwargs: Any) -> None:
        context, asked = tf.distribute.get_replica_context(), []

        def summed(operation: Any, gradients: Any) -> Any:
            asked.append(operation)
            return gradients

        context.all_reduce = summed
        try:
            apply(*args, **kwargs)
        finally:
            del context.all_reduce
        if not asked and not optimizer.gradient_accumulation_steps:  # which need not sum them in every step
            raise RuntimeError(
                f"{type(optimizer).__name__}.apply did not sum its gradients over {replicas()} replicas by "
                f"`ReplicaContext.all_reduce`, so that it cannot be left out. Received: keras {keras.__version__}. "
                "Train on one replica, or with an earlier Keras."
            )

    optimizer.apply = apply_summed
    try:
        with _each_its_copy(optimizer):
            yield
    finally:
        del optimizer.apply


@contextlib.contextmanager
def _each_its_copy(optimizer: Any) -> Iterator[None]:
    """Let each replica write its own copy of the variables, where an optimizer accumulates gradients.

    All copies get the same. For that it takes a condition in replica context, where Keras's way of writing, a
    `merge_call`, fails (so that plain Keras cannot accumulate gradients over replicas).
    """
    if not optimizer.gradient_accumulation_steps:
        yield
        return
    update, extended = optimizer._backend_apply_gradients, tf.distribute.get_strategy().extended  # noqa: SLF001

    def update_copies(*args: Any, **kwargs: Any) -> None:
        extended._use_merge_call = lambda: False  # noqa: SLF001 - how TensorFlow's own tests ask for it
        try:
            update(*args, **kwargs)
        finally:
            del extended._use_merge_call  # noqa: SLF001

    optimizer._backend_apply_gradients = update_copies  # noqa: SLF001
    try:
        yield
    finally:
        del optimizer._backend_apply_gradients  # noqa: SLF001


def _inner(optimizer: Any) -> Any:
    """Return the optimizer that updates variables: loss scaling is one around it."""
    return optimizer.inner_optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else optimizer


def once(fn: Callable[..., None], *tensors: Any) -> None:
    """Call `fn` once per worker, with the tensors of its first replica: all replicas hold the same."""
    if replicas() == 1:
        fn(*tensors)
        return

    def across(strategy: Any, *tensors: Any) -> None:
        fn(*(strategy.experimental_local_results(tensor)[0] for tensor in tensors))

    tf.distribute.get_replica_context().merge_call(across, args=tensors)


def several_workers(strategy: Any) -> bool:
    """Whether the strategy spans several processes."""
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return several and strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)  # those of this worker


def is_chief(strategy: Any) -> bool:
    """Whether this process is the one that writes files."""
    return bool(strategy.extended.should_save_summary)


def on_any_worker(strategy: Any, holds: bool) -> bool:
    """Return whether something holds on any worker, which takes several of them some milliseconds.

    What is only known on one worker (the batch statistics of its replicas, say) must not set it apart from the others.
    All workers must ask, after the same step, or they wait for each other for ever.
    """
    if not several_workers(strategy):
        return holds

    def count(value: Any) -> Any:
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)

    found = strategy.run(count, args=(tf.constant(float(holds)),))
    return bool(strategy.experimental_local_results(found)[0] > 0.0)


def check_replicas(model: Any) -> None:
    """Refuse what Keras cannot do over replicas, and we cannot either.

    Raises:
        ValueError: Several steps per execution, at which Keras's loop over them fails; or gradient accumulation with a
            Keras or TensorFlow without the private names that it takes.
    """
    strategy, owner = model.distribute_strategy, f"{type(model).__name__}.compile"
    replicas, steps = strategy.num_replicas_in_sync, model.steps_per_execution
    if replicas == 1:
        return
    if steps > 1 and not model.run_eagerly:
        raise ValueError(
            f"{owner}: argument `steps_per_execution` must be 1 over several replicas, where Keras cannot run several "
            f"steps in one execution. Received: steps_per_execution={steps} with {replicas} replicas."
        )
    optimizer = _inner(model.optimizer)
    accumulated = optimizer.gradient_accumulation_steps
    possible = hasattr(optimizer, "_backend_apply_gradients") and hasattr(strategy.extended, "_use_merge_call")
    if accumulated and not possible:
        raise ValueError(
            f"{owner}: the optimizer's argument `gradient_accumulation_steps` must be None over several replicas, "
            "where Keras cannot accumulate gradients, and we can only by private names of Keras and TensorFlow, which "
            f"keras {keras.__version__} and tensorflow {tf.__version__} do not have. Received: "
            f"gradient_accumulation_steps={accumulated} with {replicas} replicas."
        )


class BuildsFromLocalBatch:
    """A mixin for a model: over several workers it is built from the batch of the first local replica.

    Keras reduces a batch over the workers to learn its shapes, which fails (keras-team/keras#20585) and has no way
    around it on public API. Should Keras not ask for `_maybe_symbolic_build` any more, what it does instead is done.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        strategy = self.distribute_strategy  # type: ignore[attr-defined]
        if several_workers(strategy):
            batch = data_batch if iterator is None else next(next(iter(iterator))[2])
            local = strategy.experimental_local_results
            iterator, data_batch = None, keras.tree.map_structure(lambda leaf: local(leaf)[0], batch)
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)  # type: ignore[misc]


def logs_for_reduction(strategy: Any, logs: dict[str, Any]) -> dict[str, Any]:
    """Give scalars an axis where Keras reduces logs along axis 0: over several workers (keras-team/keras#20585)."""
    if not several_workers(strategy):
        return logs
    return {name: tf.reshape(value, [1]) for name, value in logs.items()}
