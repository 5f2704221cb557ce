"""What the version before the wings wrote is read by today's: pickles, models, checkpoints, journals."""

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from given_losses import QUICK, error_to_target

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding.state import ControllerState

FOLDER = Path(__file__).parent / "data" / "before_the_wings"
CUSTOM = {"tests>error_to_target": error_to_target, "error_to_target": error_to_target}


@pytest.fixture(scope="module")
def expected():
    """What that version said of its own files."""
    return json.loads((FOLDER / "expected.json").read_text())


def unpickled(name):
    return pickle.loads((FOLDER / f"{name}.pickle").read_bytes())


def test_plain_records():
    assert unpickled("config") == QUICK
    assert unpickled("xtts_config") == kaw.XTTSConfig()
    assert unpickled("observation") == kaw.Observation(1, 0.5)
    (decision,) = kaw.replay([kaw.Observation(1, 0.5)], QUICK)
    then = unpickled("decision")
    known = {name: decision.evidence[name] for name in then.evidence}  # there may be more by now
    assert repr(then) == repr(decision._replace(evidence=known))


def test_a_pickle_finds_its_class_without_any_other_import():
    code = f"import pickle; print(pickle.load(open({str(FOLDER / 'config.pickle')!r}, 'rb')).warmup_steps)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["15"]


def test_weights_and_losses():
    import keras

    weight = unpickled("weight")
    assert (weight.step_count, weight.base_weight, weight.weight) == (30, 2.0, 2.1)
    assert float(weight.variable) == np.float32(2.1)
    with keras.saving.custom_object_scope(CUSTOM):
        loss = unpickled("loss")
    assert list(loss.terms) == ["mel_loss", "stop_loss"]
    assert loss.adaptive_weights["mel_loss"].step_count == 260
    assert unpickled("speech_loss").get_config() == kaw.XTTSLoss(config=QUICK).get_config()


@pytest.mark.parametrize("place", ["whole model", "weights"])
def test_checkpoints(place, expected):
    """The model goes on with its parameters, its weight and the controller's state."""
    import keras
    from given_losses import make_model

    if place == "whole model":
        model = keras.models.load_model(FOLDER / "step_200.keras", custom_objects=CUSTOM)
    else:
        model = make_model()
        model.compile("adam", model.loss)
        model.optimizer.build(model.trainable_variables)
        model.load_weights(FOLDER / "step_200.weights.h5", skip_mismatch=False)
    saved = expected["saved"]
    assert isinstance(model, kaw.StableModel)
    assert [values.tolist() for values in model.get_weights()] == saved["parameters"]
    weight = model.loss.adaptive_weights["mel_loss"]
    assert float(weight.variable) == saved["weight"]
    assert weight.state == ControllerState.from_dict(saved["state"])


@pytest.mark.parametrize("run", ["run", "shadow"])
def test_journals_are_decided_again_to_the_same_digits(run, expected):
    decisions = kaw.replay(FOLDER / run / "adaptive_weights" / "journal.jsonl")
    rows = [[d.step, d.action.value, d.reason.value, d.old_weight, d.new_weight] for d in decisions]
    assert len(rows) == expected["counts"][run]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest() == expected["all"][run]
    events = [d for d in decisions if d.is_event]
    for event, then in zip(events, expected["events"][run], strict=True):
        now = event.to_dict()
        then["evidence"] = {name: float(value) for name, value in then["evidence"].items()}
        now["evidence"] = {name: now["evidence"][name] for name in then["evidence"]}  # there may be more by now
        assert repr({name: now[name] for name in then if name != "advice"}) == repr(without_advice(then))


def without_advice(values):
    """Sentences may have been put better."""
    return {name: value for name, value in values.items() if name != "advice"}
