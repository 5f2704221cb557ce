"""Everything that leans on private names of Keras or TensorFlow, and nothing else; and what is there for speed alone.

A trick is there for speed. The environment variable `KAW_PLAIN=1` turns all of them off, a list of names those: the
results are equal, and the steps slower (`plain`). `tests/benchmarks/trick_gains.py` prints what each gains.

| trick | what it is | private name that it takes | where that is gone |
|---|---|---|---|
| `train_function` | Keras's train function in fewer operations | none | - |
| `packed_logs` | logs and telemetry leave the graph as one tensor | none | - |
| `known_scalars` | TensorFlow sees at once that a log is no tensor | a class called `ObjectProxy` | it looks longer |
| `conditional_writes` | of a step that may be skipped only the writes wait | `Operation._add_control_input`; with XLA \
`Graph._create_op_internal`; to know which `tensorflow.python.ops.control_flow_util` | all of it waits, in a `tf.cond` |
| `read_once` | an optimizer's scalars are read once a step | `Variable._cached_value` | they are read as ever |
| `xla_norms` | XLA sums squares by products of matrices | `control_flow_util`, as above | by `tf.nn.l2_loss` |

The others are there because Keras has no public way. `KAW_PLAIN` leaves them on.

| private name | what it is for | where it is gone |
|---|---|---|
| `Optimizer._backend_apply_gradients`, `StrategyExtended._use_merge_call` | gradient accumulation over replicas, \
which plain Keras cannot do | an error says that it must be off |
| `Model._maybe_symbolic_build` | building over several workers, where Keras fails | Keras builds as it does then |
| `Model._compile_config` | `stable(model)` compiles as the model was compiled | as Keras saves it: what is a function \
must be registered with `keras.saving` |
| `Model._flatten_metrics_in_order` | in a list of metrics our weights come after all of Keras's | they stand among \
Keras's, sorted by name |
| `Model._symbolic_build` | the first step of a model finds all variables made | it makes them, and cannot undo them |
| `keras.src.backend.common.global_state.get_global_attribute` | a skipped step undoes Keras's global seeds | over \
replicas and in eager mode they stay as they are |
| `_read_only_resource_inputs` (of an operation), `tf.__internal__` | what a graph writes, to undo it | functions \
count as writing all that they take; and what is not the model's own stays as it is |
| `GradientTape._persistent` | a step of one's own with the wrong tape is told which | TensorFlow says it |
| `Tensor._keras_mask` | the mask of an output outlives a cast | nothing is masked |

Open `plain` first, then `train_function`.
"""

import keras

if (_backend := keras.backend.backend()) != "tensorflow":
    raise ImportError(
        f"keras_adaptive_weights needs Keras on TensorFlow. Received: Keras's backend is {_backend!r}. Set "
        "KERAS_BACKEND=tensorflow in the environment before Keras is imported. Decisions, journals, reports, replays "
        "need no Keras."
    )
