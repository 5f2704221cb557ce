"""What a train function hands out: the logs as Keras has them, and the step's telemetry along with them."""

import copy
import json
import math
import numbers
import pickle
import statistics
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import batches, fit, make_model, squared_error

import keras_adaptive_weights as kaw
from keras_adaptive_weights.runtime.packed_logs import PackedLogs

pytestmark = pytest.mark.usefixtures("all_tricks", "traced_models")
FIRST, *OTHERS = batches(4)
VARIABLE = keras.Variable(3.0)


class OwnLogs(kaw.StableModel):
    """Adds logs of its own, given with `own`."""

    own = staticmethod(dict)

    def train_step(self, data):
        return {**super().train_step(data), **self.own()}


def least_model(cls, **compile_kwargs):
    """As little as can be trained, and so to be traced, for what hangs on the class alone."""
    inputs = keras.Input((4,))
    model = cls(inputs, keras.layers.Dense(3)(inputs))
    model.compile(keras.optimizers.SGD(0.01), loss="mse", **compile_kwargs)
    return model


def train_function(model, data=FIRST):
    """Return the model's train function and an iterator for it, after one step."""
    fit(model, [data])
    return model.train_function, iter(tf.data.Dataset.from_tensors(data).repeat())


def test_the_logs_are_numbers_that_are_fetched_when_looked_at(monkeypatch):
    function, iterator = train_function(model := make_model())
    fetched = []
    fetch = type(tf.constant(0.0)).numpy
    monkeypatch.setattr(type(tf.constant(0.0)), "numpy", lambda tensor: fetched.append(tensor) or fetch(tensor))
    logs = function(iterator)
    assert not fetched
    values = {name: float(value) for name, value in logs.items()}
    assert len(fetched) == 1, "all of them at once"
    monkeypatch.undo()
    assert values == {name: float(value) for name, value in model.get_metrics_result().items()}
    assert {*values} == {"loss", "mel_loss", "stop_loss", "mel_weight", "gradient_norm", "skipped_steps"}
    loss = logs["loss"]
    for array in (np.array(loss), loss.numpy(), np.asarray(loss, "float64")):
        assert array.shape == ()
        assert array == values["loss"]
    assert np.array(loss).dtype == np.float32
    assert repr(loss) == f"LoggedScalar({values['loss']!r})"
    assert tf.convert_to_tensor(loss) == values["loss"]
    assert not tf.is_tensor(loss)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin == values["loss"]


def test_callbacks_and_history_get_what_keras_gives_them():
    seen = []
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs))
    history = fit(make_model(), [FIRST, *OTHERS], callbacks=[keep]).history
    eagerly = fit(make_model(run_eagerly=True), [FIRST, *OTHERS]).history
    assert len(seen) == 4
    assert all(type(value) is float for logs in seen for value in logs.values())
    assert {name: [value] for name, value in seen[-1].items()} == history
    assert history == {name: pytest.approx(value, rel=1e-5) for name, value in eagerly.items()}


@pytest.mark.parametrize("steps", [1, 3])
def test_the_rows_come_along_with_the_logs(monkeypatch, steps):
    """Instead of being looked up in the ring, which takes longer; they are the same."""
    function, iterator = train_function(model := make_model(steps_per_execution=steps))
    function(iterator)
    monkeypatch.setattr(type(model.telemetry), "_held", lambda _: pytest.fail("looked up"))
    rows = model.telemetry.read(after=1)
    assert [row.number for row in rows] == [*range(2, 2 + steps)]
    monkeypatch.undo()
    assert model.telemetry.read(after=1) == rows, "and from the ring, when asked for again"


@pytest.mark.parametrize("steps", [1, 3])
def test_a_callback_reads_them_after_every_execution_without_looking_them_up(monkeypatch, steps):
    model = make_model(steps_per_execution=steps)
    looked_up = []
    monkeypatch.setattr(
        "keras_adaptive_weights.training.telemetry.Telemetry._held", lambda self: looked_up.append(1) or [[0.0] * 8]
    )
    callback = kaw.AdaptiveMelWeightCallback()
    fit(model, [FIRST, *OTHERS], callbacks=[callback])
    assert callback.get_stability_metrics()["step_count"] == 4
    assert len(looked_up) <= 4, "where `fit` and its epoch begin, and where they end"


def test_in_eager_mode_the_ring_is_read():
    model = make_model(run_eagerly=True)
    fit(model, [FIRST, *OTHERS])
    assert model.telemetry.handed_out is None
    assert [row.number for row in model.telemetry.read()] == [4]


def test_what_was_handed_out_is_forgotten_when_the_fit_ends_or_a_step_fails():
    """A loop of one's own may follow, whose steps only the ring has."""
    function, iterator = train_function(model := make_model())
    assert model.telemetry.handed_out is None
    function(iterator)
    assert model.telemetry.handed_out is not None
    with pytest.raises(tf.errors.OutOfRangeError):
        function(iter(tf.data.Dataset.from_tensors(FIRST).take(0)))
    assert model.telemetry.handed_out is None
    fit(model, [FIRST])
    tf.function(model.train_step)(tuple(map(tf.constant, FIRST)))
    assert [row.number for row in model.telemetry.read()] == [4]


def test_a_function_traced_for_another_batch_keeps_its_names():
    """A term takes part where its keys are there: each batch gets the logs of its own kind."""

    def error(key):
        return lambda y_true, y_pred: squared_error(y_true[key], y_pred["mel"])

    loss = kaw.CompositeLoss(
        {
            "mel_loss": kaw.LossTerm(error("mel"), weight=kaw.AdaptiveWeight(2.5)),
            "pitch_loss": kaw.LossTerm(error("pitch"), weight=0.5, requires=("pitch",)),
        }
    )
    inputs = keras.Input((4,))
    model = kaw.StableModel(inputs, {"mel": keras.layers.Dense(3)(inputs)})
    model.compile(keras.optimizers.Adam(), loss=loss)
    x, y = FIRST
    one, both = {"mel": y}, {"mel": y, "pitch": 2.0 * y}
    logs = [model.train_on_batch(x, target, return_dict=True) for target in (one, both, one)]
    assert [sorted(names) for names in logs[::2]] == [sorted({*logs[1]} - {"pitch_loss"})] * 2
    assert all(names["mel_weight"] == 2.5 for names in logs)


@pytest.mark.parametrize(
    ("own", "packed"),
    [
        (lambda: {"more": tf.constant(3.0)}, True),
        (lambda: {"more": tf.constant(3.0, tf.float16)}, True),
        (lambda: {"more": tf.constant(3.0, tf.float64)}, True),
        (lambda: {"more": VARIABLE}, True),
        (lambda: {"more": tf.constant(3)}, False),
        (lambda: {"more": tf.constant([3.0, 4.0])}, False),
        (lambda: {"more": {"inner": tf.constant(3.0)}}, False),
    ],
)
def test_logs_of_ones_own(own, packed):
    """Scalars are packed along; with anything else among them all stay as they are."""
    model = least_model(OwnLogs)
    model.own = own
    function, iterator = train_function(model)
    logs = function(iterator)
    assert tf.is_tensor(logs["loss"]) is not packed
    more = logs["more"]["inner"] if isinstance(logs["more"], dict) else logs["more"]
    assert np.ravel(np.asarray(more))[0] == 3.0
    assert [row.number for row in model.telemetry.read()] == [2]


def test_a_log_is_a_real_number():
    """Whatever is done with it gives what is done with the float of the same value."""
    logs = train_function(make_model())[0]
    value = logs(iter(tf.data.Dataset.from_tensors(FIRST)))["loss"]
    number, other = float(value), logs(iter(tf.data.Dataset.from_tensors(FIRST)))["loss"]
    assert 0.0 < number != float(other) > 0.0
    vector, tensor = np.array([1.0, 2.0]), tf.constant([1.0, 2.0])
    for of in (
        lambda x: [x == number, number == x, x != number, x < 1e9, x <= number, x > 1, x >= number, x in {number: 0}],
        lambda x: [x + 1, 1 + x, x - 1.5, 1.5 - x, 2 * x, x / 3, 3 / x, x // 0.1, 5 // x, x % 0.1, 5 % x, x**2, 2**x],
        lambda x: [-x, +x, abs(x), round(x, 2), round(x), int(x), bool(x), math.floor(x), math.ceil(x), math.trunc(x)],
        lambda x: [divmod(x, 0.1), divmod(5, x), hash(x), str(x), f"{x:.3f}", f"{x:>12}", json.dumps(x + 0)],
        lambda x: [x.real, x.imag, x.conjugate(), x.is_integer(), x.as_integer_ratio()],
        lambda x: [math.isfinite(x), math.sqrt(x), sum([x, x]), max(x, 0.0), statistics.fmean([x, x]), sorted([2, x])],
        lambda x: [(x + vector).tolist(), (vector * x).tolist(), np.isfinite(x), np.mean([x, x]), np.float64(2.0) * x],
        lambda x: [(x + tensor).numpy().tolist(), (tensor / x).numpy().tolist(), tf.square(x).numpy().tolist()],
    ):
        assert of(value) == of(number)
    assert value + other == number + float(other)
    assert (value < other) is (number < float(other))
    assert value == value  # noqa: PLR0124
    assert value != other
    assert isinstance(value, numbers.Real)


class TargetSum(keras.metrics.Metric):
    """Its result is its variable, as in the example in Keras's documentation."""

    def __init__(self):
        super().__init__(name="target_sum")
        self.total = self.add_variable(shape=(), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(keras.ops.sum(y_true))

    def result(self):
        return self.total


class LogsItsRate(kaw.StableModel):
    """An own train step that adds a variable to the logs."""

    def train_step(self, data):
        logs = super().train_step(data)
        logs["rate"] = self.optimizer.learning_rate
        return logs


@pytest.mark.parametrize(
    "arguments", [{}, {"jit_compile": True}, {"steps_per_execution": 3}, {"run_eagerly": True}], ids=str
)
@pytest.mark.parametrize("plain", ["0", "1"])
def test_logs_that_hold_variables(monkeypatch, arguments, plain):
    """What they hold after the step is in the logs of each batch, and in the history."""
    monkeypatch.setenv("KAW_PLAIN", plain)
    seen = []
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs))
    model = least_model(LogsItsRate, metrics=[TargetSum()], **arguments)
    history = fit(model, [FIRST, *OTHERS], callbacks=[keep]).history
    sums = np.cumsum([np.sum(y) for _, y in (FIRST, *OTHERS)])
    steps = arguments.get("steps_per_execution", 1)
    expected = sums if steps == 1 else sums[[2, 3]]
    assert [logs["target_sum"] for logs in seen] == pytest.approx(expected, rel=1e-5)
    assert history["target_sum"] == pytest.approx(sums[-1:], rel=1e-5)
    assert history["rate"] == pytest.approx([0.01])


@pytest.mark.parametrize("returned", [{}, None])
def test_a_step_without_logs_stays_one(returned):
    logs = PackedLogs(types.SimpleNamespace(), once=True)
    assert logs.unpacking(logs.packing(lambda _: returned))(None) == {}


class ChangesLogs(kaw.StableModel):
    """Changes the logs that the mixin returned, or leaves them; and counts how often they are made."""

    change = staticmethod(lambda logs: None)
    made = 0

    def train_step(self, data):
        logs = super().train_step(data)
        self.change(logs)
        return logs

    def get_metrics_result(self):
        self.made += 1
        return super().get_metrics_result()


@pytest.mark.parametrize(
    ("change", "times"),
    [(lambda logs: None, 2), (lambda logs: logs.update(more=tf.constant(3.0)), 1), (lambda logs: logs.pop("loss"), 1)],
)
def test_of_several_steps_the_logs_are_made_once_if_the_metrics_hold_them(change, times):
    model = make_model(ChangesLogs, steps_per_execution=3)
    model.change = change
    fit(model, OTHERS)
    model.make_train_function(force=True)
    model.made = 0
    logs = model.train_function(iterator := iter(tf.data.Dataset.from_tensors(FIRST).repeat()))
    assert model.made == times, "in a step, where its trace needs them; and after the last one"
    shown = {name: float(value) for name, value in logs.items()}
    expected = {name: float(value) for name, value in model.get_metrics_result().items()}
    change(expected)
    assert shown == {name: float(value) for name, value in expected.items()}
    assert [row.number for row in model.telemetry.read()] == [4, 5, 6]
    model.train_function(iterator)
    assert [row.number for row in model.telemetry.read()] == [7, 8, 9]


def test_with_keras_s_train_function_all_works_as_before(monkeypatch):
    monkeypatch.setenv("KAW_PLAIN", "train_function")
    callback = kaw.AdaptiveMelWeightCallback()
    model = make_model()
    fit(model, [FIRST, *OTHERS], callbacks=[callback])
    assert callback.get_stability_metrics()["step_count"] == 4
