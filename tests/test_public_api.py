"""The exact public surface, that importing it costs nothing, and the contract as a program."""

import ast
import importlib
import importlib.resources
import inspect
import pathlib
import pkgutil
import subprocess
import sys
import threading
import typing

import numpy as np
import pytest

import keras_adaptive_weights as kaw

PUBLIC = {
    "Action",
    "AdaptiveMelWeightCallback",
    "AdaptiveWeight",
    "AdaptiveWeightCallback",
    "AdaptiveWeightConfig",
    "CompositeLoss",
    "Constraint",
    "Decision",
    "DecisionLogger",
    "DecisionObserver",
    "GradientShare",
    "JointDecision",
    "JointObservation",
    "Journal",
    "JournalWriter",
    "LossTerm",
    "ModelRecovery",
    "Observation",
    "Proposal",
    "Reason",
    "SqrtLoss",
    "StableModel",
    "StableTrainStepMixin",
    "Strategy",
    "Target",
    "Term",
    "TrainingConfig",
    "TrainingStopped",
    "XTTSConfig",
    "XTTSLoss",
    "__version__",
    "calibrate",
    "read_journal",
    "replay",
    "stable",
}
NEED_TENSORFLOW = ("runtime", "losses", "training")  # the wings
WITHOUT_TENSORFLOW = ["AdaptiveWeightConfig", "Decision", "DecisionObserver", "Journal", "JournalWriter", "Observation"]
WITHOUT_TENSORFLOW += [
    "Constraint",
    "GradientShare",
    "SqrtLoss",
    "JointDecision",
    "JointObservation",
    "Strategy",
    "Proposal",
    "Term",
]
WITHOUT_TENSORFLOW += ["Action", "Reason", "XTTSConfig", "TrainingConfig", "read_journal", "replay", "__version__"]


def without_tensorflow():
    return [name for name in modules() if name.split(".")[1] not in NEED_TENSORFLOW]


def modules():
    """All modules of the package, found without importing them."""
    found = pkgutil.walk_packages(kaw.__path__, "keras_adaptive_weights.")
    return sorted(m.name for m in found if not m.name.endswith("__main__"))


def run_python(code):
    """Run a program of its own; it fails by an exception."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=False, timeout=120, capture_output=True, text=True
    )


# --- names ---------------------------------------------------------------------------------------------


def test_the_public_surface_is_exactly_this():
    """A name that is added is a promise: add it here too, and to the README."""
    assert set(kaw.__all__) == PUBLIC
    assert len(kaw.__all__) == len(PUBLIC)
    assert dir(kaw) == sorted(PUBLIC)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_is_there_and_documented(name):
    value = getattr(kaw, name)
    assert getattr(kaw, name) is value
    if name != "__version__":
        assert len(inspect.getdoc(value)) > 20
        assert value.__name__ == name


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_everything_public_about_a_class_is_documented(name):
    value = getattr(kaw, name)
    members = vars(value).items() if inspect.isclass(value) else ()
    for member, what in members:
        if not member.startswith("_") and (inspect.isroutine(what) or isinstance(what, property)):
            assert inspect.getdoc(getattr(value, member)), f"{name}.{member}"


def test_each_name_has_one_home():
    """What a type checker sees, what is imported lazily, and what is listed are the same."""
    tree = ast.parse(inspect.getsource(kaw))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    checked = {
        name.name: node.module for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for name in node.names
    }
    lazy = {name: f"keras_adaptive_weights.{home}" for name, home in kaw._HOME.items()}
    assert checked == lazy
    assert set(lazy) == PUBLIC - {"__version__"}
    for name, home in lazy.items():
        assert getattr(kaw, name).__module__ == home


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'keras_adaptive_weights' has no attribute 'AdaptiveWeights'"):
        kaw.AdaptiveWeights  # noqa: B018


def test_the_version_is_that_of_the_distribution():
    parts = kaw.__version__.split(".")
    assert len(parts) == 3
    assert all(part.isdigit() for part in parts)


def test_the_package_says_that_it_has_types():
    assert importlib.resources.files(kaw).joinpath("py.typed").is_file()


# --- what importing costs ----------------------------------------------------------------------------------


def test_importing_the_package_imports_neither_tensorflow_nor_keras_nor_numpy():
    done = run_python(
        "import sys, keras_adaptive_weights as kaw\n"
        "dir(kaw)\n"
        "loaded = {'tensorflow', 'keras', 'tensorboard', 'numpy'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    assert done.returncode == 0, done.stderr


def test_every_room_without_tensorflow_imports_without_it():
    rooms = without_tensorflow()
    assert {"keras_adaptive_weights.deciding.guide_rule", "keras_adaptive_weights.journal"} < set(rooms)
    done = run_python(
        "import importlib, sys\n"
        f"for name in {rooms!r}:\n"
        "    importlib.import_module(name)\n"
        "    loaded = {'tensorflow', 'keras'} & set(sys.modules)\n"
        "    assert not loaded, (name, loaded)"
    )
    assert done.returncode == 0, done.stderr


def test_every_name_without_tensorflow_is_had_without_it():
    done = run_python(
        "import sys, keras_adaptive_weights as kaw\n"
        f"for name in {WITHOUT_TENSORFLOW!r}:\n"
        "    getattr(kaw, name)\n"
        "    loaded = {'tensorflow', 'keras'} & set(sys.modules)\n"
        "    assert not loaded, (name, loaded)"
    )
    assert done.returncode == 0, done.stderr


def test_another_backend_of_keras_is_refused_by_name(monkeypatch):
    import keras

    from keras_adaptive_weights import runtime

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match=r"(?s)Keras on TensorFlow.*backend is 'jax'.*KERAS_BACKEND=tensorflow"):
        importlib.reload(runtime)


def test_every_name_is_itself_after_its_room_was_imported():
    """A room imported by its own name becomes an attribute of the package, also where a public name is the same."""
    done = run_python(
        "import importlib, sys\n"
        f"for name in {without_tensorflow()!r}:\n"
        "    importlib.import_module(name)\n"
        "import keras_adaptive_weights as kaw\n"
        f"for name in {WITHOUT_TENSORFLOW!r}:\n"
        "    assert type(getattr(kaw, name)) is not type(sys), name"
    )
    assert done.returncode == 0, done.stderr


# --- signatures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        (
            "XTTSLoss",
            (
                "mel_loss_weight use_adaptive_weights loss_smoothing_factor max_loss_spike_threshold "
                "gradient_norm_threshold"
            ),
        ),
        ("AdaptiveMelWeightCallback", "log_dir"),
        ("AdaptiveMelWeightCallback.emergency_disable", "self note"),
        ("AdaptiveMelWeightCallback.rollback", "self note"),
        ("AdaptiveMelWeightCallback.enable", "self"),
        ("AdaptiveMelWeightCallback.reset", "self"),
        ("AdaptiveWeightCallback", "term"),
        ("AdaptiveWeight", "base_weight config"),
        ("AdaptiveWeight.update", "self loss"),
        ("CompositeLoss", "terms"),
        ("LossTerm", "fn weight"),
        ("Observation", "step loss total_loss gradient_norm applied"),
        ("Decision", "step action reason old_weight new_weight evidence"),
        ("replay", "source config base_weight"),
        ("stable", "model"),
        ("XTTSLoss.from_training_config", "training"),
        ("XTTSLoss.disable_adaptive_weights", "self"),
        ("XTTSLoss.enable_adaptive_weights", "self"),
        ("XTTSLoss.reset_stability_state", "self"),
    ],
)
def test_arguments_that_may_be_given_by_position_begin_as_in_the_contract(path, parameters):
    value = kaw
    for part in path.split("."):
        value = getattr(value, part)
    got = [p.name for p in inspect.signature(value).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert got[: len(parameters.split())] == parameters.split()


@pytest.mark.parametrize(
    ("path", "keywords"),
    [
        ("AdaptiveWeight.update", {"gradient_norm", "total_loss", "applied"}),
        ("AdaptiveWeightCallback", {"term", "log_dir", "update_freq", "observers"}),
        (
            "AdaptiveWeightConfig",
            {
                "min_weight",
                "max_weight",
                "max_change_percent",
                "warmup_steps",
                "cooling_period",
                "min_stable_steps",
                "variance_threshold",
                "loss_smoothing_factor",
                "max_loss_spike_threshold",
                "gradient_norm_threshold",
            },
        ),
    ],
)
def test_arguments_that_may_be_given_by_name(path, keywords):
    value = kaw
    for part in path.split("."):
        value = getattr(value, part)
    assert keywords <= set(inspect.signature(value).parameters)


def test_the_public_types_can_be_read_by_a_program():
    for name in ("Observation", "Decision", "AdaptiveWeightConfig", "TrainingConfig", "XTTSConfig"):
        assert typing.get_type_hints(getattr(kaw, name))
    assert typing.get_type_hints(kaw.replay)["return"] == list[kaw.Decision]


def test_the_actions_of_the_contract():
    names = ["HOLD", "INCREASE", "DECREASE", "ROLLBACK", "REJECT", "DISABLE", "ENABLE", "RESET"]
    names += ["BALANCE", "CALIBRATE"]  # of a balance of several weights
    assert [action.name for action in kaw.Action] == names


# --- the contract, line by line ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The contract's first block, on a small model."""
    import keras

    keras.utils.set_random_seed(4)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(240, 5, 4)).astype("float32")
    y = {"mel_target": (x @ rng.normal(size=(4, 3))).astype("float32")}

    log_dir = tmp_path_factory.mktemp("runs")
    loss = kaw.XTTSLoss(mel_loss_weight=2.5)
    inputs = keras.Input((5, 4))
    outputs = {"mel_output": keras.layers.Dense(3)(inputs)}
    model = kaw.StableModel(inputs, outputs)
    model.compile(optimizer="adam", loss=loss)
    callback = kaw.AdaptiveMelWeightCallback(log_dir=log_dir)
    history = model.fit(
        x,
        y,
        batch_size=2,
        validation_data=(x[:20], {"mel_target": y["mel_target"][:20]}),
        verbose=0,
        callbacks=[callback],
    )
    return loss, model, callback, history.history, log_dir


def test_contract_loss(trained):
    import keras
    import tensorflow as tf

    loss, *_ = trained
    assert isinstance(loss, keras.losses.Loss)
    assert isinstance(loss, kaw.CompositeLoss)
    assert isinstance(loss.mel_weight, kaw.AdaptiveWeight)
    assert isinstance(loss.mel_weight.variable, tf.Variable)
    assert type(keras.losses.deserialize(keras.losses.serialize(loss))) is kaw.XTTSLoss


def test_contract_model(trained):
    import keras

    _, model, *_ = trained
    assert isinstance(model, keras.Model)
    assert isinstance(model, kaw.StableTrainStepMixin)

    class MyXTTS(kaw.StableTrainStepMixin, keras.Model):
        pass

    inputs = keras.Input((2,))
    assert MyXTTS(inputs, inputs).train_step.__func__ is kaw.StableTrainStepMixin.train_step


def test_contract_logs(trained):
    _, _, _, history, log_dir = trained
    assert {"loss", "mel_loss", "mel_weight", "gradient_norm", "skipped_steps", "val_loss", "val_mel_loss"} <= set(
        history
    )
    assert history["mel_weight"] == [2.5]
    assert history["skipped_steps"] == [0.0]
    assert list((log_dir / "adaptive_weights").glob("events.out.tfevents.*"))
    assert (log_dir / "adaptive_weights" / "journal.jsonl").stat().st_size > 0


def test_contract_callback(trained):
    _, _, callback, *_ = trained
    assert isinstance(callback, kaw.AdaptiveWeightCallback)
    thread = threading.Thread(target=callback.emergency_disable, args=("operator saw clipping",))
    thread.start()
    thread.join(30.0)
    callback.enable()
    callback.rollback("...")
    callback.reset()
    decisions = [(d.action, d.reason) for d in callback.decisions[-4:]]
    assert decisions == [
        ("disable", "manual"),
        ("enable", "manual"),
        ("reject", "nothing_to_roll_back"),
        ("reset", "manual"),
    ]
    assert callback.get_adaptive_weight_metrics()["current_mel_weight"] == 2.5
    assert callback.get_stability_metrics()["step_count"] == 120


def test_contract_custom_loop():
    loss = kaw.XTTSLoss(mel_loss_weight=2.5)
    decision = loss.mel_weight.update(0.8, gradient_norm=3.0, total_loss=2.1)
    assert isinstance(decision, kaw.Decision)
    assert loss.get_stability_metrics()["step_count"] == loss.step_count == 1
    assert loss.get_adaptive_weight_metrics()["current_mel_weight"] == 2.5
    loss.disable_adaptive_weights()
    loss.enable_adaptive_weights()
    loss.reset_stability_state()


def test_contract_configuration():
    config = kaw.AdaptiveWeightConfig(
        min_weight=1.0,
        max_weight=5.0,
        max_change_percent=0.05,
        warmup_steps=100,
        cooling_period=50,
        min_stable_steps=10,
        variance_threshold=0.5,
        loss_smoothing_factor=0.1,
        max_loss_spike_threshold=2.0,
        gradient_norm_threshold=5.0,
    )
    assert config == kaw.AdaptiveWeightConfig()
    assert kaw.XTTSConfig().training.adaptive_weight_cooling_period == 50
    assert kaw.XTTSLoss.from_training_config(kaw.XTTSConfig().training).mel_weight.config == config


def test_contract_replay():
    observations = [
        kaw.Observation(step=1, loss=0.8, total_loss=2.1, gradient_norm=3.0, applied=True),
        kaw.Observation(step=2, loss=0.8, gradient_norm=None),
    ]
    first, d = kaw.replay(observations, kaw.AdaptiveWeightConfig(), base_weight=2.5)
    assert (first.step, d.step, d.action, d.reason, d.old_weight, d.new_weight) == (1, 2, "hold", "warmup", 2.5, 2.5)
    assert d.evidence["loss"] == 0.8


def test_contract_composite_loss():
    def fn(y_true, y_pred):
        return abs(y_true["a"] - y_pred["a"])[:, 0]

    loss = kaw.CompositeLoss(
        {
            "mel_loss": kaw.LossTerm(fn, weight=kaw.AdaptiveWeight(2.5)),
            "stop_loss": kaw.LossTerm(fn, weight=1.0),
        }
    )
    assert float(loss({"a": np.array([[1.0]])}, {"a": np.array([[3.0]])})) == 7.0
    assert kaw.AdaptiveWeightCallback(term="stop_loss").term == "stop_loss"


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: kaw.replay(3), "source"),
        (lambda: kaw.replay([1, 2]), "source"),
        (lambda: kaw.replay(kaw.Observation(1, 0.5)), "source"),
        (lambda: kaw.replay([], {"min_weight": 1.0}), "config"),
        (lambda: kaw.replay([], base_weight="2.5"), "base_weight"),
        (lambda: kaw.JournalWriter("journal.jsonl", "mel_loss"), "header"),
        (lambda: kaw.AdaptiveWeight(2.5).observe(3), "observations"),
        (lambda: kaw.AdaptiveWeight(2.5).observe(kaw.Observation(1, 0.5)), "observations"),
        (lambda: kaw.AdaptiveWeightCallback(observers=3), "observers"),
        (lambda: kaw.AdaptiveWeightCallback(observers=[print]), "observers"),
        (lambda: kaw.AdaptiveWeightCallback(term=3), "term"),
        (lambda: kaw.AdaptiveWeightCallback().enable(3), "note"),
        (lambda: kaw.stable(3), "model"),
        (lambda: kaw.ModelRecovery(after="five"), "after"),
        (lambda: kaw.CompositeLoss(3), "terms"),
        (lambda: kaw.LossTerm(3), "fn"),
        (lambda: kaw.XTTSLoss("2.5"), "mel_loss_weight"),
        (lambda: kaw.XTTSConfig(training=3), "training"),
        (lambda: kaw.GradientShare(0.6), "shares"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(call, argument):
    with pytest.raises(TypeError, match=f"argument `{argument}` must .*Received: "):
        call()


def test_no_public_name_is_that_of_a_room():
    """Importing a room makes it an attribute of the package, which would hide the name."""
    rooms = {path.stem for path in pathlib.Path(kaw.__file__).parent.iterdir()}
    assert rooms & set(kaw.__all__) == set()
