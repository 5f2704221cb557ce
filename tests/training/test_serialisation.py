"""Saving and loading: model files, weights files, configurations, copies, and what old or plain files make of it."""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import pickle
import shutil
import subprocess
import sys
import textwrap
import zipfile

import h5py
import keras
import numpy as np
import processes
import pytest
from small_training import batches, fit, make_loss, make_model, values_of

import keras_adaptive_weights as kaw

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "traced_models")

QUICK = kaw.AdaptiveWeightConfig(warmup_steps=5, cooling_period=4, min_stable_steps=2, loss_smoothing_factor=0.4)


def speech_model(loss=None):
    """The smallest model that XTTSLoss trains."""
    keras.utils.set_random_seed(11)
    inputs = keras.Input((6, 4), name="frames")
    hidden = keras.layers.Dense(5, activation="tanh")(inputs)
    stop = keras.layers.Reshape((6,))(keras.layers.Dense(1)(hidden))
    model = kaw.StableModel(inputs, {"mel_output": keras.layers.Dense(3)(hidden), "stop_tokens": stop})
    model.compile(optimizer="adam", loss=kaw.XTTSLoss(config=QUICK) if loss is None else loss)
    return model


def speech(count, seed=0):
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((count * 4, 6, 4)).astype("float32")
    return x, {
        "mel_target": draw.standard_normal((count * 4, 6, 3)).astype("float32"),
        "stop_target": (draw.random((count * 4, 6)) < 0.2).astype("float32"),
        "mel_lengths": np.tile([6, 5, 4, 3], count),
    }


def train(model, count=12, seed=0):
    x, y = speech(count, seed)
    return model.fit(x, y, batch_size=4, shuffle=False, verbose=0, callbacks=[kaw.AdaptiveMelWeightCallback()])


def state_of(model):
    loss = model.loss
    return {
        name: weight.to_dict() for name, weight in loss.adaptive_weights.items()
    }, loss.total_average.numpy().tolist()


def test_a_speech_model_comes_back_whole_and_goes_on_as_if_never_saved(tmp_path):
    model = speech_model()
    train(model)
    model.loss.mel_weight.disable("by hand")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, kaw.StableModel)
    assert type(loaded.loss) is kaw.XTTSLoss
    assert loaded.loss.mel_weight is loaded.loss.adaptive_weights["mel_loss"]
    assert not loaded.loss.mel_weight.enabled
    assert state_of(loaded) == state_of(model)
    assert float(loaded.loss.mel_weight.variable) == model.loss.mel_weight.weight
    for one in (model, loaded):
        one.loss.mel_weight.enable()
        train(one, seed=1)
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(value, list(values_of(loaded).values())[list(values_of(model)).index(name)], name)
    assert state_of(loaded) == state_of(model)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A speech model of 12 steps, and one with a loss of Keras's, saved."""
    folder = tmp_path_factory.mktemp("files")
    model = speech_model()
    train(model)
    model.save(folder / "speech.keras")
    row = kaw.stable(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    row.compile("adam", "mse", loss_weights=[kaw.AdaptiveWeight(2.5)])
    row.save(folder / "row.keras")
    return folder


@pytest.mark.parametrize(
    ("imports", "run"),
    [
        ("import keras, keras_adaptive_weights", processes.run),
        ("import keras_adaptive_weights as kaw; kaw.AdaptiveWeightConfig, kaw.StableModel", processes.run),
        ("import keras_adaptive_weights, keras", functools.partial(subprocess.run, capture_output=True, text=True)),
    ],
)
def test_model_files_are_read_by_a_process_that_only_imports_the_package(imports, run, files):
    script = f"""
        {imports}
        import keras, sys
        for name in ("speech", "row"):
            model = keras.models.load_model(f"{{sys.argv[1]}}/{{name}}.keras")
            (weight,) = model.loss.adaptive_weights.values()
            print(type(model).__name__, type(model.loss).__name__, weight.step_count)
    """
    result = run([sys.executable, "-c", textwrap.dedent(script), str(files)])
    expected = ["StableModel XTTSLoss 12", "StableSequential OutputLosses 0"]
    assert result.stdout.splitlines() == expected, result.stderr[-2000:]


def test_where_the_package_was_not_imported_keras_names_it(files):
    script = "import keras, sys\nkeras.models.load_model(sys.argv[1])"
    result = processes.run([sys.executable, "-c", script, str(files / "speech.keras")])
    assert "make sure they are all imported" in result.stderr
    assert "'module': 'keras_adaptive_weights." in result.stderr


@pytest.mark.parametrize("optimizer", ["adam", "accumulating"])
def test_weights_files_bring_optimizer_and_controller_back(optimizer, tmp_path):
    def build():
        steps = 4 if optimizer == "accumulating" else None
        model = make_model(optimizer=keras.optimizers.Adam(0.01, gradient_accumulation_steps=steps))
        model.optimizer.build(model.trainable_variables)
        return model

    data, more = batches(10), batches(9, seed=8)
    model = build()
    fit(model, data, callbacks=[kaw.AdaptiveMelWeightCallback()])
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = build()
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) > 0
    assert state_of(loaded) == state_of(model)
    for one in (model, loaded):
        fit(one, more, callbacks=[kaw.AdaptiveMelWeightCallback()])
    for one, other in zip(values_of(model).values(), values_of(loaded).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert state_of(loaded) == state_of(model)


def test_a_plain_model_reads_our_weights_file_and_we_read_a_plain_one(tmp_path, caplog):
    ours = make_model()
    fit(ours, batches(6), callbacks=[kaw.AdaptiveMelWeightCallback()])
    ours.save_weights(tmp_path / "ours.weights.h5")
    plain = make_model(keras.Model, loss="mse")
    plain.optimizer.build(plain.trainable_variables)  # as Keras asks for, before it loads an optimizer's variables
    plain.load_weights(tmp_path / "ours.weights.h5")
    for one, other in zip(plain.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    fit(plain, batches(2))
    plain.save_weights(tmp_path / "plain.weights.h5")
    before = state_of(ours)
    with caplog.at_level(logging.INFO, "keras_adaptive_weights"):
        ours.load_weights(tmp_path / "plain.weights.h5")
    for one, other in zip(plain.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert state_of(ours) == before
    assert "no state of the weight of 'mel_loss': it goes on from 2.5" in caplog.text


def test_a_checkpoint_of_another_term_leaves_this_one_as_it_is(tmp_path, caplog):
    model = make_model()
    fit(model, batches(3), callbacks=[kaw.AdaptiveMelWeightCallback()])
    model.save_weights(tmp_path / "model.weights.h5")
    terms = {name: kaw.LossTerm(term.fn, kaw.AdaptiveWeight(1.5)) for name, term in model.loss.terms.items()}
    both = make_model(loss=kaw.CompositeLoss(terms))
    both.optimizer.build(both.trainable_variables)
    with caplog.at_level(logging.INFO, "keras_adaptive_weights"):
        both.load_weights(tmp_path / "model.weights.h5")
    states = both.loss.adaptive_weights
    assert (states["mel_loss"].step_count, states["stop_loss"].step_count) == (3, 0)
    assert "weight of 'stop_loss': it goes on from 1.5" in caplog.text
    assert "'mel_loss'" not in caplog.text


def tampered(path, change, name="mel_loss"):
    """Change what a weights file holds of an adaptive weight, or put bytes in its place."""
    with h5py.File(path, "r+") as file:
        places = []
        file.visit(places.append)
        (place,) = [found for found in places if found.endswith(f"/{name}")]
        stored = change(json.loads(bytes(file[place][()]))) if name != "total_average" else change(file[place][()])
        del file[place]
        file[place] = np.frombuffer(json.dumps(stored).encode(), np.uint8) if isinstance(stored, dict) else stored


def with_state(**changes):
    return lambda values: {**values, "state": values["state"] | changes}


def as_bytes(data):
    return lambda _: np.frombuffer(data, np.uint8)


@pytest.fixture(scope="module")
def disabled(tmp_path_factory):
    """A weights file of a model whose weight a person disabled, and another model that trained a while."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.weights.h5"
    model, other = make_model(), make_model()
    fit(model, batches(6), callbacks=[ours := kaw.AdaptiveMelWeightCallback()])
    ours.emergency_disable("operator")
    model.save_weights(path)
    fit(other, batches(2), callbacks=[kaw.AdaptiveMelWeightCallback()])
    return path, other


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            with_state(field_of_next_version=0),
            r"unknown fields \['field_of_next_version'\]: written by a newer version",
        ),
        (with_state(weight=math.nan), "field `weight` must be a finite number. Received: nan"),
        (with_state(base_weight=math.nan), "field `base_weight` must be a finite number"),
        (with_state(step="7"), "field `step` must be an integer"),
        (with_state(disabled="no"), "field `disabled` must be true or false"),
        (with_state(losses={"recent": 3}), "field `losses.recent` must be a list"),
        (lambda values: {"run": values["run"]}, "expected `run` and `state`"),
        (lambda values: {**values, "run": None}, "field `run` must be the id of a run"),
        (lambda values: {**values, "balance": {}}, "expected `run` and `state`"),
        (as_bytes(b"not JSON"), "Expecting value"),
        (as_bytes(b"\xff\xfe"), "decode|Expecting value"),
        (as_bytes(b"[" * 100_000), "recursion"),
        (as_bytes(b""), "Expecting value"),
        (lambda _: np.zeros(3, "float32"), "expected bytes, found float32"),
        (lambda _: np.uint8(7), r"expected bytes, found uint8 of shape \(\)"),
    ],
)
def test_a_checkpoint_s_state_that_cannot_be_used_is_an_error_and_changes_nothing(change, said, disabled, tmp_path):
    """Term, field and file are named, though Keras visits the loss twice and then forgets what failed."""
    path, model = tmp_path / "model.weights.h5", disabled[1]
    shutil.copy(disabled[0], path)
    tampered(path, change)
    before = state_of(model)
    for _ in range(2):
        with pytest.raises(ValueError, match=said) as caught:
            model.load_weights(path)
        assert "adaptive weight of 'mel_loss'" in str(caught.value)
        assert str(path) in str(caught.value)
        assert state_of(model) == before
    assert float(model.loss.adaptive_weights["mel_loss"].variable) == model.loss.adaptive_weights["mel_loss"].weight


@pytest.mark.parametrize("average", [np.zeros(3, "float32"), np.full(2, np.nan, "float32"), np.zeros(2, "S3")])
def test_a_checkpoint_s_average_that_cannot_be_used_is_an_error_and_changes_nothing(average, disabled, tmp_path):
    path, model = tmp_path / "model.weights.h5", disabled[1]
    shutil.copy(disabled[0], path)
    tampered(path, lambda _: average, "total_average")
    before = state_of(model)
    with pytest.raises(ValueError, match=r"field `total_average` of the loss in the checkpoint .*model\.weights\.h5"):
        model.load_weights(path)
    assert state_of(model) == before


def test_of_two_weights_both_come_back_or_none(tmp_path):
    def build():
        terms = {name: kaw.LossTerm(term.fn, kaw.AdaptiveWeight(1.5)) for name, term in make_loss().terms.items()}
        return make_model(loss=kaw.CompositeLoss(terms))

    model, other = build(), build()
    fit(model, batches(3), callbacks=[kaw.AdaptiveWeightCallback()])
    other.optimizer.build(other.trainable_variables)
    model.save_weights(tmp_path / "model.weights.h5")
    tampered(tmp_path / "model.weights.h5", with_state(weight=math.nan), "stop_loss")
    before = state_of(other)
    with pytest.raises(ValueError, match="adaptive weight of 'stop_loss'"):
        other.load_weights(tmp_path / "model.weights.h5")
    assert state_of(other) == before


def test_after_a_refused_checkpoint_another_one_loads(disabled, tmp_path):
    path, model = tmp_path / "model.weights.h5", make_model()
    model.optimizer.build(model.trainable_variables)
    shutil.copy(disabled[0], path)
    tampered(path, with_state(step=-1))
    with pytest.raises(ValueError, match="field `step`"):
        model.load_weights(path)
    plain = make_model(keras.Model, loss="mse")
    plain.optimizer.build(plain.trainable_variables)
    plain.save_weights(tmp_path / "plain.weights.h5")
    model.load_weights(tmp_path / "plain.weights.h5")
    model.load_weights(disabled[0])
    weight = model.loss.adaptive_weights["mel_loss"]
    assert (weight.step_count, weight.enabled) == (6, False)


def test_a_resumed_fit_refuses_a_backup_whose_state_cannot_be_used(disabled, tmp_path):
    """And a model file: a disable by hand is never lost in silence."""
    model = make_model()
    fit(model, batches(6), callbacks=[kaw.AdaptiveMelWeightCallback()])
    model.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        archive.extractall(tmp_path / "parts")
    tampered(tmp_path / "parts" / "model.weights.h5", with_state(weight=math.nan))
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for part in sorted((tmp_path / "parts").iterdir()):
            archive.write(part, part.name)
    with pytest.raises(ValueError, match=r"adaptive weight of 'mel_loss' .*field `weight`"):
        keras.models.load_model(tmp_path / "model.keras")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    fit(make_model(), batches(6), callbacks=[kaw.AdaptiveMelWeightCallback(), backup])
    tampered(tmp_path / "backup" / "latest.weights.h5", with_state(weight=math.nan))
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(ValueError, match=r"adaptive weight of 'mel_loss' .*latest\.weights\.h5"):
        fit(make_model(), batches(6), epochs=2, callbacks=[kaw.AdaptiveMelWeightCallback(), backup])


def test_a_state_under_another_name_is_not_passed_over_in_silence(disabled, tmp_path, caplog):
    terms = {"tone_loss" if name == "mel_loss" else name: term for name, term in make_loss().terms.items()}
    model = make_model(loss=kaw.CompositeLoss(terms))
    model.optimizer.build(model.trainable_variables)
    model.load_weights(disabled[0])
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "no state of the weight of 'tone_loss': it goes on from 2.5. It holds those of mel_loss, which" in said


def test_a_copied_model_is_compiled_anew_and_trains_by_itself():
    model = make_model()
    fit(model, batches(3), callbacks=[kaw.AdaptiveMelWeightCallback()])
    twin = keras.models.clone_model(model)
    assert isinstance(twin, kaw.StableModel)
    if twin.compiled:  # newer versions of Keras compile it with a loss of its own
        assert twin.loss.adaptive_weights["mel_loss"].step_count == 0
    twin.compile(optimizer="adam", loss=make_loss())
    fit(twin, batches(2), callbacks=[kaw.AdaptiveMelWeightCallback()])
    assert twin.loss.adaptive_weights["mel_loss"].step_count == 2
    assert model.loss.adaptive_weights["mel_loss"].step_count == 3


@pytest.mark.parametrize(
    "build",
    [
        lambda: kaw.AdaptiveWeight(1.5, QUICK),
        lambda: make_loss(max_loss_spike_threshold=3.0, name="other", dtype="float64", reduction="sum"),
        lambda: kaw.XTTSLoss(2.0, config=QUICK, mel_loss="l1", stop_loss_weight=0.3, name="speech"),
        lambda: kaw.XTTSLoss(use_adaptive_weights=False, huber_delta=0.5),
    ],
    ids=["AdaptiveWeight", "CompositeLoss", "XTTSLoss", "XTTSLoss, switched off"],
)
def test_get_config_and_from_config_agree(build):
    made = build()
    again = type(made).from_config(made.get_config())
    assert again.get_config() == made.get_config()
    if isinstance(made, keras.losses.Loss):
        through_keras = keras.losses.deserialize(keras.losses.serialize(made))
        assert type(through_keras) is type(made)
        assert through_keras.get_config() == made.get_config()
        assert through_keras.terms.keys() == made.terms.keys()


def test_plain_records_go_through_their_dictionaries_and_pickle():
    assert kaw.AdaptiveWeightConfig.from_dict(QUICK.to_dict()) == QUICK
    config, seen = kaw.XTTSConfig(), kaw.Observation(1, 0.5)
    (decision,) = kaw.replay([seen], QUICK)
    for record in (QUICK, config, config.training, seen, decision):
        assert repr(pickle.loads(pickle.dumps(record))) == repr(record)
        assert repr(copy.deepcopy(record)) == repr(record)
    assert repr(kaw.Decision.from_dict(decision.to_dict())) == repr(decision)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
@pytest.mark.parametrize("kind", ["weight", "loss", "speech loss"])
def test_copies_have_a_state_of_their_own(kind, duplicate):
    """A copy goes on from where the original is, with another variable; observers and pending requests stay behind."""
    original = {
        "weight": lambda: kaw.AdaptiveWeight(2.0, QUICK),
        "loss": make_loss,
        "speech loss": lambda: kaw.XTTSLoss(config=QUICK),
    }[kind]()

    def weight_of(thing):
        return thing if kind == "weight" else thing.adaptive_weights["mel_loss"]

    one = weight_of(original)
    for step in range(5):
        one.update(1.0 + 0.1 * step, gradient_norm=1.0)
    one.disable("by hand")
    other = weight_of(duplicate(original))
    assert other.variable is not one.variable
    assert other.state == one.state
    assert float(other.variable) == one.weight
    other.enable()
    other.update(1.0)
    assert (one.step_count, other.step_count) == (5, 6)
    assert not one.enabled
    if kind == "speech loss":
        assert duplicate(original).mel_weight is not original.mel_weight


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_models_are_copied_and_pickled_as_keras_models_are(duplicate):
    for model in (make_model(), kaw.stable(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))):
        other = duplicate(model)
        assert isinstance(other, kaw.StableTrainStepMixin)
        assert other.loss is None or other.loss.terms.keys() == model.loss.terms.keys()
        assert [v.numpy().tolist() for v in other.variables] == [v.numpy().tolist() for v in model.variables]
