"""A run folder in a bucket of Google's: TensorFlow's own `gs://`, of which only the hosts are stood in for."""

from __future__ import annotations

import os
import sys

import google_storage
import processes
import pytest
import tensorflow as tf
from given_losses import RISING, fit, make_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import keras_adaptive_weights as kaw
from keras_adaptive_weights.showing.report import make_report

pytestmark = pytest.mark.usefixtures("traced_models", "bucket")

KILLED = """
import os, signal, time
import keras
from given_losses import RISING, fit, make_model
import keras_adaptive_weights as kaw

callback = kaw.AdaptiveWeightCallback(log_dir="gs://bucket/killed/run")

class Killed(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 29:
            callback.emergency_disable("by hand")
        if batch == 40:
            time.sleep(2.0)
            os.kill(os.getpid(), signal.SIGKILL)

fit(make_model(), RISING, [callback, Killed()])
"""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    made = google_storage.Bucket("bucket")
    with (
        google_storage.served(made, tmp_path_factory.mktemp("authority")) as environment,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        yield made


def journal_of(folder):
    return f"{folder}/adaptive_weights/journal.jsonl"


def test_a_run_in_a_bucket_is_read_replayed_reported_and_shown_as_one_in_a_folder(bucket, tmp_path):
    there, here = "gs://bucket/fit/run", str(tmp_path / "run")
    for folder in (there, here):
        fit(make_model(), RISING, [kaw.AdaptiveWeightCallback(log_dir=folder, update_freq=5)])
    journal, other = (kaw.read_journal(journal_of(folder)) for folder in (there, here))
    assert (journal.problems, repr(journal.segments)) == ([], repr(other.segments))
    assert repr(kaw.replay(journal_of(there))) == repr(kaw.replay(journal_of(here)))
    reports = [make_report(folder) for folder in (there, here)]
    assert [(report.last, report.weight) for report in reports] == [(80, journal.events[-1].new_weight)] * 2
    accumulator = EventAccumulator(f"{there}/adaptive_weights", size_guidance={"tensors": 0})
    accumulator.Reload()
    assert [event.step for event in accumulator.Tensors("adaptive_weights/mel_loss/weight")][:3] == [1, 6, 11]
    assert sum("/journal.jsonl." in name for name in bucket.objects) > 1, "pieces, each an object"


def test_a_resumed_run_goes_on_in_one_journal(tmp_path):
    folder, weights = "gs://bucket/resumed/run", tmp_path / "model.weights.h5"
    fit(model := make_model(), RISING[:40], [kaw.AdaptiveWeightCallback(log_dir=folder)])
    model.save_weights(weights)
    fit(model, RISING[40:], [kaw.AdaptiveWeightCallback(log_dir=folder)])  # this is lost
    resumed = make_model()
    resumed.optimizer.build(resumed.trainable_variables)
    resumed.load_weights(weights)
    fit(resumed, RISING[40:], [kaw.AdaptiveWeightCallback(log_dir=folder)])
    journal = kaw.read_journal(journal_of(folder))
    assert ([seen.step for seen in journal.observations], journal.problems) == (list(range(1, 81)), [])
    assert len(tf.io.gfile.listdir(f"{folder}/adaptive_weights/abandoned")) == 2
    with pytest.raises(ValueError, match="belongs to another run"):
        fit(make_model(), RISING[:2], [kaw.AdaptiveWeightCallback(log_dir=folder)])


def test_of_a_killed_run_there_is_all_until_the_last_event_at_least():
    paths = os.pathsep.join(path for path in sys.path if path)
    done = processes.run([sys.executable, "-c", KILLED], env={**os.environ, "PYTHONPATH": paths}, timeout=120)
    assert done.returncode == -9, done.stderr[-3000:]
    journal = kaw.read_journal(journal_of("gs://bucket/killed/run"))
    assert [event.note for event in journal.events] == ["by hand"]
    steps = [seen.step for seen in journal.observations]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= 30
    assert journal.problems == []


def test_without_a_bucket_training_goes_on_and_says_why_it_has_no_record():
    """As on a disk that fails; TensorFlow's `makedirs` would look for the bucket for ever."""
    model, callback = make_model(), kaw.AdaptiveWeightCallback(log_dir="gs://nobody/run")
    with pytest.warns(RuntimeWarning, match="there is no bucket 'gs://nobody', or it is not to be seen"):
        fit(model, RISING, [callback])
    assert model.optimizer.iterations == len(RISING)
    assert len(callback.decisions) == 1
