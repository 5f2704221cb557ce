"""Model rollback: when a snapshot is taken, when and how it is restored, and when training stops instead."""

from __future__ import annotations

import math
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from event_records import read as read_scalars
from given_losses import error_to_target
from given_losses import fit as fit_losses
from given_losses import make_model as make_loss_model
from small_training import assert_same, batches, fit, make_model, values_of

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding.health import CALM_STEPS
from keras_adaptive_weights.recording.what_if import what_if
from keras_adaptive_weights.training.recovery import Guard, ModelRecovery, TrainingStopped
from keras_adaptive_weights.training.snapshots import MemoryStore

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "traced_models")

NAN = math.nan
OFTEN = {"every": 20, "keep": 2, "after": 5}


class At(keras.callbacks.Callback):
    """Does something to the model after the step of that number, counted over all epochs."""

    def __init__(self, **actions):
        super().__init__()
        self.actions = {int(name.removeprefix("step")): action for name, action in actions.items()}
        self.count = 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count in self.actions:
            self.actions[self.count](self.model)


class Watch(keras.callbacks.Callback):
    """Remembers everything that training changes, after each step."""

    def __init__(self):
        super().__init__()
        self.values = {}

    def on_train_batch_end(self, batch, logs=None):
        self.values[len(self.values) + 1] = values_of(self.model)


def poison(model):
    kernel = model.trainable_variables[-2]  # of the last layer: a ReLU may hide a NaN
    kernel.assign(np.full(kernel.shape, NAN))


def blow_up(factor):
    def act(model):
        kernel = model.trainable_variables[-2]
        kernel.assign(np.asarray(kernel) * factor + factor)

    return act


def recovering(log_dir=None, **settings):
    return kaw.AdaptiveMelWeightCallback(log_dir=log_dir, recovery=ModelRecovery(**{**OFTEN, **settings}))


def names_in(folder):
    return sorted(path.name for path in pathlib.Path(folder).iterdir())


def recoveries(callback):
    return [d for d in callback.decisions if d.reason.value.startswith("recovered_")]


# --- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        *(({name: 0}, ValueError, name) for name in ("every", "keep", "after", "loss_steps", "max_recoveries")),
        *(({name: 2.5}, TypeError, name) for name in ("every", "keep", "after", "loss_steps", "max_recoveries")),
        ({"every": "200"}, TypeError, "every.*'200'"),
        ({"loss_factor": 1.5}, ValueError, "loss_factor"),
        ({"loss_factor": NAN}, ValueError, "loss_factor"),
        ({"learning_rate_factor": 0.0}, ValueError, "learning_rate_factor"),
        ({"learning_rate_factor": 1.1}, ValueError, "learning_rate_factor"),
        ({"directory": 3}, TypeError, "directory"),
    ],
)
def test_bad_settings_are_refused(arguments, error, message):
    with pytest.raises(error, match=f"ModelRecovery: argument `{message}"):
        ModelRecovery(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"recovery": True}, TypeError, "recovery"),
        ({"max_consecutive_skips": 0}, ValueError, "max_consecutive_skips"),
        ({"max_consecutive_skips": "20"}, TypeError, "max_consecutive_skips"),
        ({"max_consecutive_skips": 4, "recovery": ModelRecovery()}, ValueError, "at least the `after`"),
    ],
)
def test_bad_arguments_of_the_callback_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        kaw.AdaptiveMelWeightCallback(**arguments)


def test_a_learning_rate_schedule_cannot_be_lowered():
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 1000)
    model = make_model(optimizer=keras.optimizers.Adam(schedule))
    with pytest.raises(ValueError, match=r"learning_rate_factor` must be 1.0.*schedule.*0.5"):
        fit(model, batches(2), callbacks=[recovering(learning_rate_factor=0.5)])
    fit(model, batches(2), callbacks=[recovering()])


# --- recovering ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "mode"), [("memory", {}), ("directory", {}), ("memory", {"jit_compile": True})], ids=str
)
def test_bad_parameters_are_replaced_by_the_last_good_ones(store, mode, tmp_path):
    """Parameters, batch norm and optimizer, bit for bit; neither rate nor seed, nor the weight's steps."""
    model, watch = make_model(dropout=0.3, optimizer=keras.optimizers.Adam(0.01), **mode), Watch()
    directory = tmp_path / "snapshots" if store == "directory" else None
    callback = recovering(tmp_path, directory=directory, learning_rate_factor=0.5)
    found = {}
    actions = At(step77=poison, step82=lambda model: found.update(values_of(model)))
    faster = At(step60=lambda model: setattr(model.optimizer, "learning_rate", 0.02))
    history = fit(model, batches(100), callbacks=[watch, faster, callback, actions])
    (event,) = recoveries(callback)
    assert (event.step, event.action, event.reason) == (82, kaw.Action.RESET, kaw.Reason.RECOVERED_FROM_SKIPS)
    assert event.note == "mel_loss not finite from step 78 on"
    assert event.old_weight == event.new_weight == 2.5
    assert event.evidence["snapshot_step"] == 50
    expected = watch.values[50]
    rate, seed = (
        next(name for name in expected if name.endswith(end)) for end in ("learning_rate", "seed_generator_state")
    )
    assert found[rate] == pytest.approx(0.01)  # 0.02 in force, halved
    assert (found[seed] != expected[seed]).any()
    same = expected.keys() - {rate, seed}
    assert_same({name: found[name] for name in same}, {name: expected[name] for name in same})
    assert len(same) > 15
    assert model.loss.terms["mel_loss"].weight.step_count == 100
    assert history.history["skipped_steps"] == [5.0]
    assert all(np.isfinite(value).all() for value in values_of(model).values())


def test_the_record_shows_it_and_its_steps_never_rewind(tmp_path):
    callback = recovering(tmp_path)
    fit(make_model(), batches(100), callbacks=[callback, At(step77=poison)])
    (event,) = recoveries(callback)
    journal = kaw.read_journal(tmp_path / "adaptive_weights" / "journal.jsonl")
    assert [o.step for o in journal.observations] == list(range(1, 101))
    assert journal.events[-1] == event
    assert "went back to step 50 (recovery 1 of 3)" in event.advice
    again = what_if(journal)
    assert [str(d) for d in again.decided] == [str(d) for d in callback.decisions]
    scalars = read_scalars(tmp_path / "adaptive_weights")
    assert event.step in scalars["adaptive_weights/mel_loss/decisions/reset"]
    assert list(scalars["adaptive_weights/mel_loss/weight"]) == sorted(scalars["adaptive_weights/mel_loss/weight"])
    assert callback.get_stability_metrics()["step_count"] == 100


def test_every_adaptive_weight_is_told():
    terms = {name: kaw.LossTerm(error_to_target, weight=kaw.AdaptiveWeight(2.0)) for name in ("mel_loss", "stop_loss")}
    model = make_loss_model(loss=kaw.CompositeLoss(terms))
    fit_losses(model, [1.0] * 80, [recovering(), At(step50=poison)])
    weight = model.loss.adaptive_weights["stop_loss"]  # the callback is for that of "mel_loss"
    assert [d.reason for d in weight.decisions if d.action is kaw.Action.RESET] == [kaw.Reason.RECOVERED_FROM_SKIPS]


@pytest.mark.parametrize("steps_per_execution", [1, 8])
def test_a_snapshot_younger_than_the_trouble_is_not_used(steps_per_execution):
    """Parameters of 1e30 are finite: only the steps after them show that they are bad."""
    model, watch = make_model(steps_per_execution=steps_per_execution), Watch()
    callback = recovering(every=1)
    fit(model, batches(80), callbacks=[At(**{f"step{48 // steps_per_execution}": blow_up(1e30)}), watch, callback])
    (event,) = recoveries(callback)
    assert 20 <= event.evidence["snapshot_step"] <= 48 - CALM_STEPS
    assert max(np.abs(value).max() for value in model.get_weights()) < 100.0


def test_a_loss_that_stays_high_is_a_reason():
    model = make_model(optimizer=keras.optimizers.SGD(1e-6))
    callback = recovering(loss_steps=15)
    data = batches(20)
    fit(model, data * 8, callbacks=[At(step60=blow_up(50.0)), callback])
    (event,) = recoveries(callback)
    assert event.reason is kaw.Reason.RECOVERED_FROM_HIGH_LOSS
    assert 75 < event.step < 95
    assert event.evidence["snapshot_step"] == 50
    assert event.evidence["total_loss_average"] > 5.0 * event.evidence["snapshot_loss"]
    assert model.evaluate(*data[0], verbose=0, return_dict=True)["loss"] < 2.0 * event.evidence["snapshot_loss"]


def test_no_loss_is_too_high_where_that_is_switched_off():
    callback = recovering(loss_factor=None)
    fit(make_model(optimizer=keras.optimizers.SGD(1e-6)), batches(150), callbacks=[At(step60=blow_up(50.0)), callback])
    assert recoveries(callback) == []


def test_single_bad_batches_and_spikes_are_no_reason():
    losses = [1.0] * 300
    losses[40::25] = [NAN] * len(losses[40::25])
    losses[50::25] = [100.0] * len(losses[50::25])
    losses[200:204] = [NAN] * 4
    callback = recovering()
    fit_losses(make_loss_model(), losses, [callback])
    assert recoveries(callback) == []


def test_trouble_that_comes_back_leads_further_back_and_ends():
    callback = recovering(every=15, max_recoveries=2)
    poisons = {f"step{step}": poison for step in (80, 90, 100)}
    with (
        pytest.warns(RuntimeWarning, match="no snapshot is used: 2 recoveries were made, the most allowed"),
        pytest.raises(TrainingStopped, match=r"ModelRecovery went back 2 times, and it came back.*are not finite"),
    ):
        fit(make_model(), batches(150), callbacks=[callback, At(**poisons)])
    first, second = (event.evidence["snapshot_step"] for event in recoveries(callback))
    assert second < first < 80


def test_without_a_snapshot_yet_training_stops():
    callback = recovering()
    with (
        pytest.warns(RuntimeWarning, match="trouble at step 10, but no snapshot is used: none is trusted yet"),
        pytest.raises(TrainingStopped, match=r"20 steps in a row were skipped \(steps 6 to 25"),
    ):
        fit(make_model(), batches(60), callbacks=[callback, At(step5=poison)])


def test_each_recovery_lowers_the_learning_rate():
    model, callback = make_model(), recovering(learning_rate_factor=0.5)
    fit(model, batches(150), callbacks=[callback, At(step60=poison, step110=poison)])
    assert [event.evidence["learning_rate"] for event in recoveries(callback)] == pytest.approx([0.005, 0.0025])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.0025)


def test_what_is_kept_is_bounded():
    """`keep` trusted snapshots, and one on probation."""
    model = make_model()
    guard = Guard(model, ModelRecovery(every=1, keep=2), None)
    fit(model, batches(2))
    most = 0
    for step in range(1, 200):
        guard.look([kaw.Observation(step, 1.0, 1.0, 1.0)])
        assert set(guard._store._kept) == {snapshot.step for snapshot in guard._snapshots}
        most = max(most, len(guard._store._kept))
    assert most == 3


def test_variables_that_are_bad_without_a_sign_are_found_when_a_snapshot_is_due():
    """Activations such as a ReLU may turn a NaN into a zero: all losses and gradients are finite."""
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(3)(inputs)
    hidden = keras.layers.Activation(lambda x: tf.where(tf.math.is_finite(x), x, 0.0))(hidden)
    model, callback = kaw.StableModel(inputs, keras.layers.Dense(1)(hidden)), recovering()
    loss = kaw.CompositeLoss({"mel_loss": kaw.LossTerm(error_to_target, weight=kaw.AdaptiveWeight(2.5))})
    model.compile(optimizer="adam", loss=loss)

    def poison_hidden(model):
        model.layers[1].kernel.assign(np.full((2, 3), NAN))

    fit_losses(model, [1.0] * 100, [callback, At(step65=poison_hidden)])
    (event,) = recoveries(callback)
    assert (event.step, event.reason) == (70, kaw.Reason.RECOVERED_FROM_BAD_VARIABLES)
    assert event.evidence["snapshot_step"] == 50
    assert all(np.isfinite(value).all() for value in values_of(model).values())


# --- snapshots as files --------------------------------------------------------------------------


def test_snapshot_files_are_ordinary_weights_files(tmp_path):
    model, watch = make_model(), Watch()
    fit(model, batches(100), callbacks=[watch, recovering(directory=tmp_path, every=30)])
    names = names_in(tmp_path)
    assert names == ["step-000000040.weights.h5", "step-000000070.weights.h5", "step-000000100.weights.h5"]
    other = make_model()
    other.optimizer.build(other.trainable_variables)
    other.load_weights(tmp_path / names[1])
    assert_same(values_of(other), watch.values[70])
    assert other.loss.terms["mel_loss"].weight.step_count == 70


def test_a_disable_during_a_restore_from_a_file_is_not_lost(tmp_path, monkeypatch):
    """Loading the file brings the state of the weight at that step; what is asked meanwhile must outlive it."""
    model, callback = make_model(), recovering(directory=tmp_path)
    load = model.load_weights

    def load_and_be_interrupted(path):
        load(path)
        callback.emergency_disable("while loading")

    monkeypatch.setattr(model, "load_weights", load_and_be_interrupted)
    fit(model, batches(100), callbacks=[callback, At(step77=poison)])
    assert [d.action for d in callback.decisions if d.note] == [kaw.Action.DISABLE, kaw.Action.RESET]
    assert callback.get_adaptive_weight_metrics()["weight_adjustment_enabled"] is False
    assert callback.get_stability_metrics()["step_count"] == 100


def test_a_directory_that_cannot_be_written_is_one_warning(tmp_path):
    (tmp_path / "file").write_text("")
    callback = recovering(directory=tmp_path / "file" / "snapshots")
    with pytest.warns(RuntimeWarning, match="ModelRecovery: no snapshot at step 10, training goes on") as caught:
        history = fit(make_model(), batches(100), callbacks=[callback])
    assert len([warning for warning in caught if warning.category is RuntimeWarning]) == 1
    assert history.history["skipped_steps"] == [0.0]


def test_a_change_of_the_working_directory_takes_nothing_along(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    leave = At(step5=lambda model: monkeypatch.chdir(tmp_path / "other"))
    fit(make_model(), batches(12), callbacks=[recovering("run", directory="snapshots"), leave])
    assert names_in(tmp_path / "snapshots") == ["step-000000010.weights.h5"]
    journal = kaw.read_journal(tmp_path / "run" / "adaptive_weights" / "journal.jsonl")
    assert [seen.step for seen in journal.observations] == list(range(1, 13))
    assert names_in(".") == []


def test_a_snapshot_that_was_lost_is_passed_over(tmp_path):
    def lose(model):
        (tmp_path / "step-000000050.weights.h5").unlink()
        poison(model)

    callback = recovering(directory=tmp_path)
    with pytest.warns(RuntimeWarning, match="ModelRecovery: step 50 cannot be restored"):
        fit(make_model(), batches(100), callbacks=[callback, At(step77=lose)])
    (event,) = recoveries(callback)
    assert (event.step, event.evidence["snapshot_step"]) == (83, 30)


# --- stopping ------------------------------------------------------------------------------------


def bad_from(start, count=60):
    return [1.0] * (start - 1) + [NAN] * (count - start + 1)


@pytest.mark.parametrize(("steps_per_execution", "last"), [(1, 31), (8, 32)])
def test_training_stops_instead_of_skipping_for_ever(steps_per_execution, last, tmp_path):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)
    model = make_loss_model(steps_per_execution=steps_per_execution)
    with pytest.raises(TrainingStopped) as caught:
        fit_losses(model, bad_from(12), [callback])
    message = str(caught.value)
    assert f"{last - 11} steps in a row were skipped (steps 12 to {last}; max_consecutive_skips=20)" in message
    assert "First seen: mel_loss was not finite. The model's variables are finite: look at the batches." in message
    assert "no checkpoint callback is in use" in message
    file = tmp_path / "adaptive_weights" / "journal.jsonl"
    assert [o.step for o in kaw.read_journal(file).observations] == list(range(1, last + 1))
    assert '"kind": "end"' in file.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("limit", "losses"),
    [(20, [1.0, *[NAN] * 19] * 3), (3, [1.0, NAN, NAN] * 10), (None, [NAN] * 100)],
)
def test_fewer_in_a_row_or_no_limit_do_not_stop_it(limit, losses):
    history = fit_losses(make_loss_model(), losses, [kaw.AdaptiveMelWeightCallback(max_consecutive_skips=limit)])
    assert history.history["skipped_steps"] == [sum(map(math.isnan, losses))]


def test_the_message_names_the_gradient():
    def root(y_true, y_pred):
        """Finite losses with gradients that are not."""
        return tf.sqrt(tf.reduce_sum(tf.square(0.0 * y_pred), axis=-1))

    model = make_loss_model(loss=kaw.CompositeLoss({"mel_loss": kaw.LossTerm(root, weight=kaw.AdaptiveWeight(2.5))}))
    with pytest.raises(TrainingStopped, match=r"First seen: gradient of .*kernel was not finite"):
        fit_losses(model, [1.0] * 30, [kaw.AdaptiveMelWeightCallback()])


@pytest.mark.parametrize("ours_first", [True, False])
def test_the_message_names_the_last_checkpoint_from_before_the_trouble(ours_first, tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}.weights.h5", save_weights_only=True)
    ours = kaw.AdaptiveMelWeightCallback()
    poisoned = At(step35=poison)
    callbacks = [ours, checkpoint, poisoned] if ours_first else [poisoned, checkpoint, ours]
    with pytest.raises(TrainingStopped, match=r"before the trouble: ModelCheckpoint '.*03\.weights\.h5'\.$"):
        fit(make_model(), batches(10), epochs=6, callbacks=callbacks)
    assert names_in(tmp_path) == [f"{epoch:02d}.weights.h5" for epoch in (1, 2, 3, 4, 5)]


def test_the_message_names_backups_and_snapshots(tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    callback = recovering(directory=tmp_path / "snapshots", max_recoveries=1)
    with pytest.warns(RuntimeWarning, match="most allowed"), pytest.raises(TrainingStopped) as caught:
        fit(make_model(), batches(25), epochs=9, callbacks=[callback, backup, At(step60=poison, step70=poison)])
    message = str(caught.value)
    assert f"BackupAndRestore '{tmp_path / 'backup'}" in message
    assert f"snapshot of ModelRecovery: '{tmp_path / 'snapshots' / 'step-'}" in message


def test_a_checkpoint_that_was_never_written_is_said_to_be_none(tmp_path):
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras")
    with pytest.raises(TrainingStopped, match=r"no checkpoint was written before the trouble began .*best\.keras"):
        fit_losses(make_loss_model(), [NAN] * 30, [kaw.AdaptiveMelWeightCallback(), checkpoint])


def test_a_loss_scale_that_has_to_be_halved_often_does_not_stop_it():
    """2**45 instead of about 2**15: more overflows in a row than skips are allowed, and then training goes on."""
    keras.config.set_dtype_policy("mixed_float16")
    try:
        optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=2.0**45)
        model = make_model(optimizer=optimizer)
        history = fit(model, batches(60), callbacks=[kaw.AdaptiveMelWeightCallback()])
    finally:
        keras.config.set_dtype_policy("float32")
    assert 20 < history.history["skipped_steps"][0] < 40
    assert float(optimizer.dynamic_scale) < 2.0**25


def test_the_recent_mean_of_the_loss_goes_back_too():
    """Or else the losses of the trouble decide what counts as a spike after it."""
    model = make_model()
    fit(model, batches(3))
    store = MemoryStore()
    model.loss.total_average.assign([2.0, 30.0])
    store.save(model, 3)
    model.loss.total_average.assign([900.0, 60.0])
    store.restore(model, 3)
    assert model.loss.total_average.numpy().tolist() == [2.0, 30.0]
