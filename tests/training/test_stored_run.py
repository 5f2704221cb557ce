"""A fit whose run folder is a URL: TensorFlow's `ram://` is the store, which no other process sees."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import keras
import pytest
import tensorflow as tf
from given_losses import QUICK, RISING, fit, make_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from werkzeug.test import Client

import keras_adaptive_weights as kaw
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.places import Url
from keras_adaptive_weights.showing.dashboard.plugin import AdaptiveWeightsPlugin
from keras_adaptive_weights.showing.report import make_report
from keras_adaptive_weights.training.checkpoints import last_checkpoint

pytestmark = pytest.mark.usefixtures("traced_models")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test shows that nothing is made in the working directory, as a folder named "gs:"."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert [path for path in tmp_path.iterdir() if ":" in path.name] == []


def weight_steps(url):
    """Return the steps at which TensorBoard knows a weight, in its order."""
    accumulator = EventAccumulator(f"{url}/adaptive_weights", size_guidance={"tensors": 0})
    accumulator.Reload()
    return [event.step for event in accumulator.Tensors("adaptive_weights/mel_loss/weight")]


def journal_of(url):
    return f"{url}/adaptive_weights/journal.jsonl"


def test_a_fit_into_a_store_is_read_back_reported_replayed_and_shown(here):
    callback = kaw.AdaptiveWeightCallback(log_dir="ram://fit/run", update_freq=5)
    fit(make_model(), RISING, [callback])
    local = kaw.AdaptiveWeightCallback(log_dir=here / "run", update_freq=5)
    fit(make_model(), RISING, [local])
    journal, other = kaw.read_journal(journal_of("ram://fit/run")), kaw.read_journal(journal_of(here / "run"))
    assert journal.problems == []
    assert repr(journal.segments) == repr(other.segments)
    assert repr(kaw.replay(journal_of("ram://fit/run"))) == repr(kaw.replay(journal))
    assert repr([d for d in kaw.replay(journal) if d.is_event]) == repr(journal.events)
    (event,) = callback.decisions
    report = make_report("ram://fit/run")
    assert (report.last, report.weight, report.process, report.age) == (80, event.new_weight, "ended", None)
    plugin = AdaptiveWeightsPlugin(SimpleNamespace(logdir="ram://fit", flags=None))
    apps = plugin.get_plugin_apps()
    assert [run["run"] for run in Client(apps["/runs"]).get("/runs").json["runs"]] == ["run"]
    events = Client(apps["/events"]).get("/events", query_string={"run": "run"}).json["events"]
    assert [(shown["step"], shown["action"]) for shown in events] == [(event.step, "increase")]


def test_tensorboard_reads_the_event_files_where_they_are():
    callback = kaw.AdaptiveWeightCallback(log_dir="ram://events/run", update_freq=10)
    fit(make_model(), RISING, [callback])
    steps = weight_steps("ram://events/run")
    (event,) = callback.decisions
    assert steps[:2] == [1, 11]
    assert event.step in steps
    assert steps == sorted(set(steps))


def test_a_long_run_s_event_file_grows_in_place():
    """The file layer's `ram://` appends where others put a new object in the place of the old one."""
    callback = kaw.AdaptiveWeightCallback(log_dir="ram://grows/run", update_freq=1)

    class Store(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch % 10 == 9:
                for writer in callback._record._writers:
                    writer._backlog.flush()
                callback._record._writers[1]._events._file.flush()

    fit(make_model(), RISING, [callback, Store()])
    assert weight_steps("ram://grows/run") == list(range(1, 81))


def test_a_resumed_run_goes_on_in_one_journal(here):
    fit(model := make_model(), RISING[:40], [kaw.AdaptiveWeightCallback(log_dir="ram://resume/run")])
    model.save_weights(here / "model.weights.h5")
    fit(model, RISING[40:], [kaw.AdaptiveWeightCallback(log_dir="ram://resume/run")])  # this is lost
    resumed = make_model()
    resumed.optimizer.build(resumed.trainable_variables)
    resumed.load_weights(here / "model.weights.h5")
    fit(resumed, RISING[40:], [kaw.AdaptiveWeightCallback(log_dir="ram://resume/run")])
    journal = kaw.read_journal(journal_of("ram://resume/run"))
    assert ([seen.step for seen in journal.observations], journal.problems) == (list(range(1, 81)), [])
    assert len(tf.io.gfile.listdir("ram://resume/run/adaptive_weights/abandoned")) == 2
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(make_model(), RISING[:2], [kaw.AdaptiveWeightCallback(log_dir="ram://resume/run")])


def test_a_request_from_another_process_is_not_looked_for_in_a_store():
    callback = kaw.AdaptiveWeightCallback(log_dir="ram://switch/run")
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(callback._control)
            if batch == 3:
                callback.emergency_disable("from the process itself")

    fit(make_model(), RISING[:10], [callback, Watch()])
    assert set(seen) == {None}
    assert [event.note for event in kaw.read_journal(journal_of("ram://switch/run")).events] == [
        "from the process itself"
    ]


@pytest.mark.parametrize(
    ("log_dir", "told"),
    [
        (
            "s3://bucket/run",
            r"AdaptiveWeightCallback: argument `log_dir` .*log_dir='s3://bucket/run' with scheme 's3'; ",
        ),
        ("s3://bucket/run", r"there are \[.*'ram'.*\]\. Write `pip install tensorflow-io`"),
        ("nowhere://bucket/run", r"scheme 'nowhere'"),
        (Path("gs://bucket/run"), r"Write `log_dir='gs://bucket/run'`"),
        ("file://another.host/run", r"must be on this machine"),
    ],
)
def test_a_url_that_cannot_be_written_is_refused_at_construction(log_dir, told):
    with pytest.raises(ValueError, match=told):
        kaw.AdaptiveWeightCallback(log_dir=log_dir)


def test_what_else_takes_a_folder_refuses_a_url():
    with pytest.raises(ValueError, match=r"ModelRecovery: argument `directory` must be.*'ram://b/r'\. Leave it"):
        kaw.ModelRecovery(directory="ram://b/r")
    with pytest.raises(ValueError, match="scheme 's3'"):
        kaw.JournalWriter("s3://b/r", Header.of("a", "mel_loss", 2.5, QUICK, {"step": 0}))
    checkpoint = keras.callbacks.ModelCheckpoint("gs://b/{epoch}.keras")
    assert last_checkpoint([checkpoint], before=1e12).startswith("the checkpoints in a store were not looked at")


def test_a_url_of_this_machine_is_the_folder(here):
    callback = kaw.AdaptiveWeightCallback(log_dir=(here / "a run").as_uri())
    assert callback.log_dir == here / "a run"
    assert kaw.AdaptiveWeightCallback(log_dir="ram://b/run/").log_dir == Url("ram://b/run")
    fit(make_model(), RISING[:3], [callback])
    assert len(kaw.read_journal(journal_of((here / "a run").as_uri())).observations) == 3
