"""Saving and loading: model files, weights files, configurations, copies, and what old or plain files make of it."""

from __future__ import annotations

import copy
import logging
import pickle
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from small_training import batches, fit, make_loss, make_model, values_of

import keras_adaptive_weights as kaw

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
    assert type(loaded) is kaw.StableModel
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


def test_a_model_file_is_read_by_a_process_that_only_imports_the_package(tmp_path):
    model = speech_model()
    train(model)
    model.save(tmp_path / "model.keras")
    script = """
        import sys, keras, keras_adaptive_weights as kaw
        kaw.StableModel, kaw.XTTSLoss
        model = keras.models.load_model(sys.argv[1])
        print(type(model).__name__, model.loss.mel_weight.step_count)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "model.keras")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert result.stdout.split() == ["StableModel", "12"], result.stderr[-2000:]


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


def test_a_copied_model_is_compiled_anew_and_trains_by_itself():
    model = make_model()
    fit(model, batches(3), callbacks=[kaw.AdaptiveMelWeightCallback()])
    twin = keras.models.clone_model(model)
    assert type(twin) is kaw.StableModel
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
