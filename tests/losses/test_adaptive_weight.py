"""The shared weight: what it takes, who may move it, and what travels in a checkpoint."""

import itertools
import json
import math
import signal
import sys
import threading
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adaptive_weights import Action, AdaptiveWeight, AdaptiveWeightConfig, Observation, Reason

QUICK = AdaptiveWeightConfig(
    warmup_steps=20, cooling_period=12, min_stable_steps=5, reference_steps=20, loss_smoothing_factor=0.3
)
LONG = 30.0


def raised(base=2.5, config=QUICK):
    """A weight that has just been increased: `base` times 1.05."""
    weight = AdaptiveWeight(base, config)
    for loss in [1.0, 1.02] * 20 + [1.5] * 4:
        decision = weight.update(loss, gradient_norm=1.0)
    assert decision.action == "increase"
    return weight


class Recorder:
    """An observer that remembers, and does something when an action is seen."""

    def __init__(self, on=None, do=lambda: None):
        self.got, self.on, self.do = [], on, do

    def observe(self, observations, decision):
        self.got.append((tuple(observations), decision))
        if decision.action == self.on:
            self.do()

    @property
    def actions(self):
        return [decision.action for _, decision in self.got]


# --- construction --------------------------------------------------------------------------------


def test_it_starts_at_the_base_weight():
    weight = AdaptiveWeight(3.0)
    assert (weight.weight, weight.base_weight, weight.step_count, weight.enabled) == (3.0, 3.0, 0, True)
    assert weight.decisions == []
    assert weight.config == AdaptiveWeightConfig()


def test_the_variable_is_a_scalar_that_no_optimizer_trains():
    variable = AdaptiveWeight(2.5).variable
    assert isinstance(variable, tf.Variable)
    assert (variable.shape.as_list(), variable.dtype, variable.trainable) == ([], tf.float32, False)
    assert variable.numpy() == np.float32(2.5)


@pytest.mark.parametrize(
    ("base", "config", "error", "message"),
    [
        (0.5, None, ValueError, r"AdaptiveWeight: argument `base_weight` must be a number in \[1, 5\].*=0\.5"),
        (math.nan, None, ValueError, r"`base_weight`.*=nan"),
        ("2.5", None, TypeError, r"`base_weight` must be a number.*='2\.5'"),
        (2.5, {"enabled": True}, TypeError, r"`config` must be an AdaptiveWeightConfig or None.*\{'enabled': True\}"),
    ],
)
def test_bad_arguments_are_refused(base, config, error, message):
    with pytest.raises(error, match=message):
        AdaptiveWeight(base, config)


def test_it_may_be_built_within_a_function_that_is_traced():
    built = []

    @tf.function
    def build(x):
        if not built:
            built.append(AdaptiveWeight(2.5))
        return x * built[0].variable

    assert build(tf.constant(2.0)).numpy() == 5.0


# --- update --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        0.75,
        np.float32(0.75),
        np.float64(0.75),
        np.float16(0.75),
        np.array(0.75),
        tf.constant(0.75),
        tf.constant(0.75, tf.float64),
        tf.constant(0.75, tf.float16),
        tf.constant(0.75, tf.bfloat16),
        tf.constant(0.75, tf.bfloat16).numpy(),
        tf.Variable(0.75),
        keras.Variable(0.75),
        keras.ops.convert_to_tensor(0.75),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', 'python')}",
)
@pytest.mark.parametrize("argument", ["loss", "gradient_norm", "total_loss"])
def test_real_scalars_of_every_kind_are_taken(value, argument):
    weight, recorder = AdaptiveWeight(2.5), Recorder()
    weight.subscribe(recorder)
    weight.update(**{"loss": 1.0, argument: value})
    ((seen,), _), = recorder.got  # fmt: skip
    assert getattr(seen, argument) == 0.75
    assert type(getattr(seen, argument)) is float


@pytest.mark.parametrize("value", [1, np.int64(1), tf.constant(1)])
def test_integers_are_taken(value):
    assert AdaptiveWeight(2.5).update(value).evidence["loss"] == 1.0


NO_SCALARS = [
    "1.0",
    b"1.0",
    True,
    1j,
    [1.0],
    [1, [2, 3]],
    {"loss": 1.0},
    np.ones(1),
    np.ones((2, 2)),
    np.void(b"ab"),
    np.datetime64("2020-01-01"),
    object(),
]


@pytest.mark.parametrize("value", NO_SCALARS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("argument", ["loss", "gradient_norm", "total_loss"])
def test_what_is_no_real_scalar_is_refused(value, argument):
    weight = AdaptiveWeight(2.5)
    with pytest.raises(
        TypeError, match=rf"argument `{argument}` must be a number or a scalar tensor\. Received: {argument}="
    ):
        weight.update(**{"loss": 1.0, argument: value})
    assert weight.step_count == 0, "nothing was taken in"


@pytest.mark.parametrize(
    "make", [lambda: None, lambda: tf.constant([1.0]), lambda: tf.constant("1"), lambda: tf.constant(True)]
)
def test_a_loss_that_is_no_real_scalar_is_refused(make):
    with pytest.raises(TypeError, match=r"argument `loss` must be a number or a scalar tensor\. Received: loss="):
        AdaptiveWeight(2.5).update(make())


def test_a_keras_tensor_is_refused():
    with pytest.raises(TypeError, match=r"argument `loss` must .*Received: loss=<KerasTensor"):
        AdaptiveWeight(2.5).update(keras.Input(()))


def test_a_symbolic_tensor_is_refused_with_the_way_out():
    weight = AdaptiveWeight(2.5)

    @tf.function(autograph=False)
    def step(loss):
        weight.update(loss)

    with pytest.raises(
        TypeError, match=r"Inside a tf\.function there is none: return the loss .* call `update` outside"
    ):
        step(tf.constant(1.0))


def test_each_update_is_one_observed_step():
    weight, recorder = AdaptiveWeight(2.5), Recorder()
    weight.subscribe(recorder)
    weight.update(0.8, gradient_norm=3.0, total_loss=2.1)
    weight.update(0.4)
    weight.update(math.nan, applied=tf.constant(False))
    got = [observations for observations, _ in recorder.got]
    assert got[0] == (Observation(1, 0.8, 2.1, 3.0),)
    assert got[1] == (Observation(2, 0.4, 2.5 * 0.4, None),)
    assert (got[2][0].step, got[2][0].applied) == (3, False)
    assert weight.step_count == 3


def test_a_change_is_in_the_variable_when_update_returns():
    weight = raised()
    assert weight.weight == 2.5 * 1.05
    assert weight.variable.numpy() == np.float32(2.5 * 1.05)


def test_a_loss_that_reads_the_variable_sees_the_change():
    """Also where the function was traced before it."""
    weight = AdaptiveWeight(2.5, QUICK)
    weighted = tf.function(lambda x: x * weight.variable)
    assert weighted(tf.constant(1.0)).numpy() == np.float32(2.5)
    for loss in [1.0, 1.02] * 20 + [1.5] * 4:
        weight.update(loss)
    assert weighted(tf.constant(1.0)).numpy() == np.float32(2.625)


def test_several_steps_are_decided_on_once():
    weight, recorder = AdaptiveWeight(2.5), Recorder()
    weight.subscribe(recorder)
    decision = weight.observe([Observation(i, 1.0) for i in (1, 2, 3)])
    assert decision.step == weight.step_count == 3
    assert len(recorder.got) == 1
    with pytest.raises(ValueError, match=r"at least one Observation"):
        weight.observe([])
    assert weight.step_count == 3


def test_decisions_hold_no_holds_and_are_bounded():
    weight = raised()
    for i in range(1200):
        weight.reset(str(i))
    assert len(weight.decisions) == 1000
    assert weight.decisions[-1].note == "1199"
    assert weight.decisions[0].note == "200", "the oldest go first"
    assert all(decision.action is not Action.HOLD for decision in weight.decisions)
    weight.decisions.clear()
    assert len(weight.decisions) == 1000, "what is returned is a copy"


# --- control by hand -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "action", "reason", "after"),
    [
        ("disable", "disable", "manual", 2.5),
        ("rollback", "rollback", "manual", 2.5),
        ("enable", "enable", "manual", 2.625),
        ("reset", "reset", "manual", 2.625),
    ],
)
def test_requests_take_effect_at_once(request_, action, reason, after):
    weight, recorder = raised(), Recorder()
    weight.subscribe(recorder)
    getattr(weight, request_)("asked for")
    ((observations, decision),) = recorder.got
    assert (observations, decision.action, decision.reason, decision.note) == ((), action, reason, "asked for")
    assert weight.weight == after
    assert weight.variable.numpy() == np.float32(after)
    assert weight.decisions[-1] == decision


def test_a_rollback_with_nothing_to_undo_is_recorded_as_refused():
    weight = AdaptiveWeight(2.5)
    weight.rollback("why not")
    assert [(d.action, d.reason, d.note) for d in weight.decisions] == [
        (Action.REJECT, Reason.NOTHING_TO_ROLL_BACK, "why not")
    ]


def test_disabled_until_enabled():
    weight = raised()
    weight.disable()
    assert not weight.enabled
    weight.reset()
    assert not weight.enabled, "reset never re-enables"
    for loss in [1.0, 1.02] * 20 + [1.5] * 4:
        weight.update(loss)
    assert weight.weight == 2.5
    weight.enable()
    assert weight.enabled


def test_a_weight_switched_off_in_its_settings_is_not_enabled_by_hand():
    weight = AdaptiveWeight(2.5, AdaptiveWeightConfig(enabled=False))
    weight.enable()
    assert not weight.enabled


@pytest.fixture
def eager_threads():
    """Threads that take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_a_request_from_another_thread_is_in_force_when_the_call_returns():
    """While training goes on."""
    weight, stop = raised(), threading.Event()

    def train():
        while not stop.is_set():
            weight.update(1.5, gradient_norm=1.0)

    trainer = threading.Thread(target=train, daemon=True)
    trainer.start()
    for _ in range(300):
        weight.disable("from the main thread")
        assert (weight.weight, weight.enabled) == (2.5, False)
        weight.enable()
        assert weight.enabled
    stop.set()
    trainer.join(LONG)
    assert not trainer.is_alive()
    assert weight.variable.numpy() == np.float32(2.5)


@pytest.mark.usefixtures("eager_threads")
def test_no_request_of_many_threads_is_lost_and_each_decision_starts_where_the_last_ended():
    weight, recorder = AdaptiveWeight(2.5, QUICK), Recorder()
    weight.subscribe(recorder)

    def ask(name):
        for i in range(50):
            getattr(weight, name)(f"{name} {i}")
            weight.update(1.0 + 0.01 * i)

    names = ("disable", "enable", "reset", "rollback") * 2
    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in names]
    end = time.monotonic() + LONG
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads)
    decisions = [decision for _, decision in recorder.got]
    assert len(decisions) == 8 * 50 * 2
    assert weight.step_count == 8 * 50
    steps = [o.step for observations, _ in recorder.got for o in observations]
    assert steps == list(range(1, 401)), "in the order of the steps"
    assert all(b.old_weight == a.new_weight for a, b in itertools.pairwise(decisions))


def test_a_request_waits_for_the_step_that_is_being_taken():
    """Another thread asks while an observer is still at work: the step is finished first."""
    weight, order, asked = raised(), [], threading.Event()

    class Slow:
        def observe(self, observations, decision):
            order.append(decision.action.value)
            if observations:
                asked.set()
                time.sleep(0.1)
                order.append("step over")

    weight.subscribe(Slow())
    other = threading.Thread(target=lambda: (asked.wait(LONG), weight.disable()), daemon=True)
    other.start()
    weight.update(1.5)
    other.join(LONG)
    assert order == ["hold", "step over", "disable"]


@pytest.mark.parametrize("request_", ["disable", "rollback", "reset", "enable"])
def test_a_request_from_within_an_observer_is_carried_out_after_the_step(request_):
    weight = AdaptiveWeight(2.5, QUICK)
    recorder = Recorder(on="increase", do=lambda: getattr(weight, request_)("from an observer"))
    weight.subscribe(recorder)
    for loss in [1.0, 1.02] * 20 + [1.5] * 4:
        last = weight.update(loss)
    assert last.action == "increase", "the caller gets the decision of the step"
    assert recorder.actions[-2:] == ["increase", request_]
    assert weight.weight == (2.5 if request_ in ("disable", "rollback") else 2.625)
    assert weight.variable.numpy() == np.float32(weight.weight)


def test_an_observer_that_takes_a_step_itself_disturbs_nothing():
    weight = AdaptiveWeight(2.5, QUICK)
    inner = Recorder(on="increase", do=lambda: (weight.update(1.5), weight.disable("after both")))
    outer = Recorder()
    weight.subscribe(inner)
    weight.subscribe(outer)
    for loss in [1.0, 1.02] * 20 + [1.5] * 4:
        last = weight.update(loss)
    assert last.action == "increase"
    assert sorted(o.step for observations, _ in outer.got for o in observations) == list(range(1, 46))
    assert (outer.actions[-1], inner.actions[-1]) == ("disable", "disable")
    assert (weight.weight, weight.variable.numpy()) == (2.5, np.float32(2.5))


def test_observers_that_ask_each_time_they_are_told_do_not_recurse():
    weight, left = AdaptiveWeight(2.5), iter(range(2000))
    recorder = Recorder(on="reset", do=lambda: next(left, None) is not None and weight.reset())
    weight.subscribe(recorder)
    weight.reset()
    assert recorder.actions == ["reset"] * 2001


@pytest.fixture
def on_signal():
    """Install a handler for SIGUSR1 and SIGVTALRM, and take it away again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGVTALRM)}

    def install(handler):
        for number in before:
            signal.signal(number, lambda *_: handler())

    yield install
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_handler_that_interrupts_a_step_is_served_right_after_it(on_signal):
    """The handler runs in the very thread that holds the lock: waiting for it would be for ever."""
    weight = raised()
    on_signal(lambda: weight.disable("SIGUSR1"))
    recorder = Recorder(on="hold", do=lambda: signal.raise_signal(signal.SIGUSR1))
    weight.subscribe(recorder)
    decision = weight.update(1.5)
    assert decision.action == "hold"
    assert recorder.actions == ["hold", "disable"]
    assert (weight.weight, weight.enabled) == (2.5, False)


def test_signals_at_any_moment_lose_no_request(on_signal):
    """A timer interrupts steps and requests wherever they are."""
    weight, recorder, asked = AdaptiveWeight(2.5, QUICK), Recorder(), []
    weight.subscribe(recorder)

    def handler():
        note = f"signal {len(asked)}"
        asked.append(note)
        weight.disable(note)

    on_signal(handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.001, 0.001)
    steps, end = 0, time.monotonic() + LONG
    while len(asked) < 150 and time.monotonic() < end:
        weight.update(1.0)
        weight.enable("main")
        steps += 1
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    weight.update(1.0)  # serves what came in the very last moment of a step
    served = [decision.note for _, decision in recorder.got if decision.action is Action.DISABLE]
    assert len(asked) >= 150
    assert sorted(served) == sorted(asked)
    assert weight.step_count == steps + 1


# --- observers ---------------------------------------------------------------------------------------


def test_observers_are_told_of_every_decision_until_they_leave():
    weight, recorder = AdaptiveWeight(2.5), Recorder()
    weight.subscribe(recorder)
    weight.update(1.0)
    weight.reset()
    weight.unsubscribe(recorder)
    weight.unsubscribe(recorder)
    weight.update(1.0)
    assert recorder.actions == ["hold", "reset"]


def test_an_observer_that_raises_is_left_out_with_one_warning():
    weight, recorder = raised(), Recorder()

    class Broken:
        def observe(self, observations, decision):
            raise OSError("disk full")

    weight.subscribe(Broken())
    weight.subscribe(recorder)
    with pytest.warns(RuntimeWarning, match=r"Broken failed and is left out from step 45 on.*OSError: disk full"):
        weight.update(1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weight.update(1.5)
        weight.disable()
    assert recorder.actions == ["hold", "hold", "disable"], "the others hear of everything"
    assert weight.weight == 2.5


def test_an_observer_may_leave_and_raise_at_once():
    weight = AdaptiveWeight(2.5)

    class Leaving:
        def observe(self, observations, decision):
            weight.unsubscribe(self)
            raise ValueError("enough")

    weight.subscribe(Leaving())
    with pytest.warns(RuntimeWarning, match=r"Leaving failed"):
        weight.update(1.0)
    assert weight.step_count == 1


def test_an_interrupt_within_an_observer_leaves_a_weight_that_works():
    weight = AdaptiveWeight(2.5)

    class Interrupted:
        def observe(self, observations, decision):
            raise KeyboardInterrupt

    interrupted = Interrupted()
    weight.subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        weight.update(1.0)
    weight.unsubscribe(interrupted)
    weight.disable()
    assert not weight.enabled
    assert weight.update(1.0).step == 2


# --- checkpoints ----------------------------------------------------------------------------------------


def stream(start, n=60):
    return [1.0 + 0.5 * math.sin(i / 9.0) for i in range(start, start + n)]


def test_a_restored_weight_goes_on_as_if_nothing_had_been():
    one = raised()
    saved = json.loads(json.dumps(one.to_dict()))
    other = AdaptiveWeight(2.5, QUICK)
    other.restore(saved)
    assert (other.state, other.run) == (one.state, one.run)
    assert other.variable.numpy() == one.variable.numpy() == np.float32(2.625)
    after = [[w.update(loss, gradient_norm=1.0) for loss in stream(0)] for w in (one, other)]
    assert repr(after[0]) == repr(after[1])
    assert one.state == other.state


def test_a_disable_and_the_step_count_travel():
    one = raised()
    one.disable()
    other = AdaptiveWeight(2.5, QUICK)
    other.restore(one.to_dict())
    assert (other.enabled, other.step_count, other.weight) == (False, 44, 2.5)


def test_every_weight_has_a_run_of_its_own():
    assert AdaptiveWeight(2.5).run != AdaptiveWeight(2.5).run


@pytest.mark.parametrize("request_", [None, "disable", "rollback"])
@pytest.mark.parametrize("bounds", [(1.0, 2.0), (4.0, 5.0)])
def test_a_weight_restored_under_other_bounds_stays_within_them(bounds, request_):
    low, high = bounds
    other = AdaptiveWeight(low, AdaptiveWeightConfig(min_weight=low, max_weight=high))
    other.restore(raised(3.0).to_dict())
    if request_:
        getattr(other, request_)()
    assert low <= other.weight <= high
    assert other.variable.numpy() == np.float32(other.weight)


def test_a_state_restored_under_other_spans_takes_them_on():
    other = AdaptiveWeight(2.5, AdaptiveWeightConfig(loss_smoothing_factor=0.5, reference_steps=10))
    one = AdaptiveWeight(2.5)
    for loss in stream(0, 150):
        one.update(loss)
    other.restore(one.to_dict())
    for loss in stream(0, 3):
        other.update(loss)
    assert (len(other.state.losses.recent), len(other.state.losses.reference)) == (3, 10)


def test_what_is_loaded_within_unchanged_does_not_count():
    """For a model that goes back to a snapshot: its weight's history goes on."""
    weight, before = raised(), AdaptiveWeight(2.5, QUICK).to_dict()
    state, run = weight.state, weight.run
    with weight.unchanged():
        weight.restore(before)
        assert weight.weight == 2.5
        weight.rollback("asked meanwhile")
        assert weight.decisions[-1].action == "increase", "not yet"
    assert (weight.decisions[-1].action, weight.decisions[-1].old_weight) == ("rollback", 2.625)
    assert (weight.run, weight.step_count) == (run, state.step)
    assert weight.variable.numpy() == np.float32(2.5)


def test_what_is_loaded_within_unchanged_does_not_count_even_if_loading_fails():
    weight, before = raised(), AdaptiveWeight(2.5, QUICK).to_dict()

    def load():
        with weight.unchanged():
            weight.restore(before)
            raise OSError("torn")

    with pytest.raises(OSError, match="torn"):
        load()
    assert (weight.weight, weight.variable.numpy()) == (2.625, np.float32(2.625))


def test_a_checkpoint_is_written_of_what_was_observed_up_to_it():
    weight = AdaptiveWeight(2.5)
    weight.before_saving(lambda: weight.update(1.0))
    assert weight.to_dict()["state"]["step"] == 1
    weight.before_saving(None)
    assert weight.to_dict()["state"]["step"] == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (None, "expected `run` and `state`"),
        ([], "expected `run` and `state`"),
        ({"run": "r"}, r"expected `run` and `state`.*Received: \['run'\]"),
        ({"run": "r", "state": {}, "moon": 1}, "expected `run` and `state`"),
        ({"run": 7, "state": {}}, "field `run` must be the id of a run"),
        ({"run": "", "state": {}}, "field `run` must be the id of a run"),
        ({"run": "x" * 1000, "state": {}}, "field `run` must be the id of a run"),
        ({"run": "r", "state": {}}, "field `weight` is missing"),
        ({"run": "r", "state": {"weight": 1.0, "moon": 1}}, "written by a newer version"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_changes_nothing(values, said):
    weight = raised()
    before = weight.to_dict()
    with pytest.raises(ValueError, match=said):
        weight.restore(values)
    assert weight.to_dict() == before, "neither the run nor the state"
    assert weight.variable.numpy() == np.float32(2.625)


def test_the_run_is_taken_over_with_the_state():
    weight, other = AdaptiveWeight(2.5, QUICK), raised()
    weight.restore(other.to_dict())
    assert (weight.run, weight.state) == (other.run, other.state)


@pytest.mark.parametrize("method", ["disable", "enable", "rollback", "reset"])
def test_a_note_is_text(method):
    weight = AdaptiveWeight()
    with pytest.raises(TypeError, match=rf"AdaptiveWeight.{method}: argument `note` must be text. .*ValueError"):
        getattr(weight, method)(ValueError("x"))
    assert weight.decisions == []
    getattr(weight, method)("n" * 5000)
    assert weight.decisions[-1].note == "n" * 999 + "…", "what is asked for in need is not refused"


# --- interrupts ----------------------------------------------------------------------------------


def check_whole(weight):
    """State and variable agree, and nobody holds the weight."""
    assert weight.variable.numpy() == np.float32(weight.weight)
    done = []
    thread = threading.Thread(target=lambda: done.append(weight.disable("from a thread")), daemon=True)
    thread.start()
    thread.join(LONG)
    assert done, "a lock was left behind"
    assert not weight.enabled
    assert weight.variable.numpy() == np.float32(2.5)


@pytest.mark.parametrize("place", ["before the variable", "after the variable", "in the rule", "in an observer"])
@pytest.mark.parametrize("asked", ["update", "disable"])
def test_an_interrupt_leaves_weight_and_variable_equal(place, asked, monkeypatch):
    weight = AdaptiveWeight(2.5, QUICK)
    for loss in [1.0, 1.02] * 20 + [1.5] * 3:
        weight.update(loss, gradient_norm=1.0)
    if asked == "disable":
        weight = raised()
    left, assign = [1], weight.variable.assign

    def interrupt(*_):
        if left:
            left.pop()
            raise KeyboardInterrupt

    def interrupted_assign(value):
        if place == "before the variable":
            interrupt()
        assign(value)
        interrupt()

    if place == "in an observer":
        weight.subscribe(Recorder(on="increase" if asked == "update" else "disable", do=interrupt))
    elif place == "in the rule":
        from keras_adaptive_weights.deciding import envelope

        name = "step" if asked == "update" else "disable"
        decide = getattr(envelope, name)
        monkeypatch.setattr(envelope, name, lambda *args: (interrupt(), decide(*args))[1])
    else:
        monkeypatch.setattr(weight.variable, "assign", interrupted_assign)
    with pytest.raises(KeyboardInterrupt):
        weight.update(1.5, gradient_norm=1.0) if asked == "update" else weight.disable("by hand")
    check_whole(weight)


def test_an_operator_s_request_that_an_interrupt_met_is_carried_out(monkeypatch):
    weight = raised()
    assign, left = weight.variable.assign, [1]

    def interrupted(value):
        assign(value)
        if left:
            left.pop()
            raise KeyboardInterrupt

    monkeypatch.setattr(weight.variable, "assign", interrupted)
    with pytest.raises(KeyboardInterrupt):
        weight.disable("operator")
    weight.update(1.0)
    assert [decision.note for decision in weight.decisions if decision.action == "disable"] == ["operator"]
    assert weight.variable.numpy() == np.float32(2.5)


def interrupted_at(number, work, weight):
    """Do `work`, interrupted at a numbered moment: where Python looks for signals, as a function begins or ended."""
    rooms = {method.__code__.co_filename for method in (AdaptiveWeight.update, AdaptiveWeight.disable)}
    left = number

    def look(frame, event, arg):
        nonlocal left
        ours = rooms & {frame.f_code.co_filename, frame.f_back and frame.f_back.f_code.co_filename}
        if ours and event != "c_call":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    sys.setprofile(look)
    try:
        work(weight)
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("asked", ["update", "disable", "restore", "set_shadow"])
def test_an_interrupt_at_any_moment_leaves_weight_and_variable_equal(asked):
    last = raised()
    work = {
        "update": lambda weight: weight.update(1.5, gradient_norm=1.0),
        "disable": lambda weight: weight.disable("operator"),
        "restore": lambda weight: weight.restore(last.to_dict()),
        "set_shadow": lambda weight: weight.set_shadow(True),
    }[asked]
    number, interrupted = 0, True
    while interrupted:
        weight = AdaptiveWeight(2.5, QUICK)
        for loss in [1.0, 1.02] * 20 + [1.5] * 3:
            weight.update(loss, gradient_norm=1.0)
        before = (weight.run, weight.state)
        number += 1
        try:
            interrupted_at(number, work, weight)
            interrupted = False
        except KeyboardInterrupt:
            pass
        assert weight.variable.numpy() == np.float32(weight.weight), number
        if asked == "restore":
            assert (weight.run, weight.state) in (before, (last.run, last.state)), number
        check_whole(weight)
    assert number > 10


def test_constructor_arguments_survive_json():
    weight = AdaptiveWeight(3.0, QUICK)
    again = AdaptiveWeight.from_config(json.loads(json.dumps(weight.get_config())))
    assert (again.base_weight, again.config) == (3.0, QUICK)
