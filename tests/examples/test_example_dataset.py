"""From clips to batches: split, references, padding, and injected faults."""

import argparse
import math

import numpy as np
import pytest
import tensorflow as tf
from xtts_demo import dataset, faults, features, inject
from xtts_demo.clips import Clip, DataError


@pytest.fixture
def make_clips(tmp_path):
    """Make clips whose frames all hold the clip's number."""

    def make(counts):
        clips = []
        for speaker, count in counts.items():
            for _ in range(count):
                number = len(clips)
                frames = 20 + number
                path = tmp_path / f"{number}.npy"
                np.save(path, np.full((frames, features.MEL_BANDS), number, np.float32))
                tokens = np.arange(1, 4 + number % 3, dtype=np.int32)
                durations = np.full(len(tokens), frames / len(tokens), np.float32)
                clips.append(Clip(f"clip{number}", speaker, tokens, durations, path, frames))
        return clips

    return make


@pytest.mark.parametrize(
    ("counts", "batch_size", "validation"),
    [
        pytest.param({"a": 40, "b": 40}, 4, 8, id="a tenth of each"),
        pytest.param({"a": 45, "b": 45}, 5, 5, id="whole batches only"),
        pytest.param({"a": 16}, 16, 2, id="few clips"),
        pytest.param({"a": 3}, 16, 1, id="fewest clips"),
        pytest.param({"a": 3, "b": 2}, 16, 1, id="a speaker too small to give one"),
    ],
)
def test_the_split_is_by_utterance_and_leaves_references(make_clips, counts, batch_size, validation):
    """No clip is in both parts, none is lost, and every speaker keeps two clips for training."""
    clips = make_clips(counts)
    training, held_out = dataset.split(clips, seed=1, batch_size=batch_size)
    assert len(held_out) == validation
    names = [clip.name for clip in (*training, *held_out)]
    assert sorted(names) == sorted(clip.name for clip in clips)
    for speaker in counts:
        assert sum(clip.speaker == speaker for clip in training) >= 2
    again = dataset.split(clips, seed=1, batch_size=batch_size)
    assert [clip.name for clip in again[1]] == [clip.name for clip in held_out]


def test_another_seed_splits_otherwise(make_clips):
    """The seed decides."""
    clips = make_clips({"a": 60})
    parts = {tuple(clip.name for clip in dataset.split(clips, seed, 4)[1]) for seed in range(3)}
    assert len(parts) == 3


@pytest.mark.parametrize("counts", [{}, {"a": 2, "b": 2}])
def test_too_few_clips_are_a_clear_error(make_clips, counts):
    """Three of one speaker are the least."""
    with pytest.raises(DataError, match=f"{sum(counts.values())} usable clips are too few"):
        dataset.split(make_clips(counts), seed=0, batch_size=4)


@pytest.fixture
def batches(make_clips):
    """Batches of four from two speakers with six clips each, clips 0-5 and 6-11; the clips with them."""
    clips = make_clips({"a": 6, "b": 6})
    shape = dataset.common_shape(clips, reduction=4)
    return dataset.Batches(clips, shape, batch_size=4, seed=3), clips, shape


def test_the_common_shape_fits_every_clip(batches):
    """In multiples of four decoder steps and eight characters."""
    _, clips, shape = batches
    assert shape == dataset.Shape(frames=32, characters=8)
    assert max(clip.frames for clip in clips) == 31
    assert shape.seconds == pytest.approx(32 * 256 / 22_050)


def test_an_example_is_its_clip_padded_with_silence(batches):
    """Targets and lengths are those of the clip; the stop is 1 from its last frame on."""
    made, clips, _ = batches
    inputs, targets = made.example(clips[7], np.random.default_rng(0))
    assert (inputs["mel"][:27] == 7).all()
    np.testing.assert_allclose(inputs["mel"][27:], features.SILENCE)
    np.testing.assert_array_equal(inputs["mel"], targets["mel_target"])
    assert inputs["text"].tolist() == [1, 2, 3, 4, 0, 0, 0, 0]
    assert (targets["mel_lengths"], targets["text_lengths"]) == (27, 4)
    assert targets["stop_target"].tolist() == [0.0] * 26 + [1.0] * 6
    assert targets["duration_target"].sum() == pytest.approx(27)


def test_the_reference_is_another_clip_of_the_same_speaker(batches):
    """Over many draws: never the clip itself, never the other speaker, and every other clip at some time."""
    made, clips, _ = batches
    chooser = np.random.default_rng(0)
    drawn = {int(made.example(clips[7], chooser)[0]["reference_mel"].max()) for _ in range(200)}
    assert drawn == {6, 8, 9, 10, 11}
    assert made.example(clips[7], chooser)[0]["reference_mel"].shape == (dataset.REFERENCE_FRAMES, 80)


def test_training_batches_have_static_shapes_and_go_on_over_epochs(batches):
    """XLA needs the shapes; every clip comes once in an epoch, in another order each time."""
    made, clips, _ = batches
    data = made.training({})
    assert data.element_spec[0]["mel"].shape == (4, 32, 80)
    assert all(spec.shape.is_fully_defined() for spec in tf.nest.flatten(data.element_spec))
    numbers = [[int(mel[0, 0]) for mel in inputs["mel"].numpy()] for inputs, _ in data.take(6)]
    first, second = np.concatenate(numbers[:3]).tolist(), np.concatenate(numbers[3:]).tolist()
    assert sorted(first) == sorted(second) == list(range(len(clips)))
    assert first != second


def test_the_same_seed_gives_the_same_batches(batches):
    """Order, references and all."""
    made, clips, shape = batches
    other = dataset.Batches(clips, shape, batch_size=4, seed=3)
    for one, two in zip(made.training({}).take(5), other.training({}).take(5), strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("done", [2, 4])
def test_a_resumed_run_has_the_batches_it_would_have_had(batches, done):
    """Within an epoch of three batches and in the next one; faults are counted from the beginning of the run."""
    made, _, _ = batches
    planned = faults.parse("nan@5")
    whole, resumed = list(made.training(planned).take(6)), made.training(planned, done).take(6 - done)
    for one, two in zip(whole[done:], resumed, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, two)


def test_validation_batches_are_the_same_each_time(batches):
    """Every clip once, with the same reference."""
    made, clips, _ = batches
    data = made.validation(clips[:8])
    first, second = list(data), list(data)
    assert len(first) == 2
    tf.nest.map_structure(np.testing.assert_array_equal, first, second)
    assert [int(mel[0, 0]) for inputs, _ in first for mel in inputs["mel"].numpy()] == list(range(8))


def test_faults_are_at_their_steps_and_nowhere_else(batches):
    """Steps count from 1 through the epochs (three batches each); everything but the mel target is left alone."""
    made, _, _ = batches
    planned = faults.parse("nan@2,spike@5,nan@8")
    faulty = list(made.training(planned).take(9))
    clean = list(made.training({}).take(9))
    for step, ((_, spoilt), (_, good)) in enumerate(zip(faulty, clean, strict=True), 1):
        mel, expected = spoilt["mel_target"].numpy(), good["mel_target"].numpy()
        if step in (2, 8):
            assert np.isnan(mel[0, 0]).all()
            assert np.isnan(mel).sum() == 80
        elif step == 5:
            np.testing.assert_allclose(mel, inject.SPIKE_FACTOR * expected)
        else:
            np.testing.assert_array_equal(mel, expected)
        np.testing.assert_array_equal(spoilt["stop_target"], good["stop_target"])


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("nan@150,spike@220", {150: "nan", 220: "spike"}),
        (" spike@3 , nan@1 ", {1: "nan", 3: "spike"}),
    ],
)
def test_faults_are_read(argument, expected):
    """In the order of the steps."""
    assert list(faults.parse(argument).items()) == list(expected.items())


@pytest.mark.parametrize(
    "argument", ["", "nan", "nan@", "nan@0", "nan@-1", "nan@1.5", "boom@3", "nan@1,", "nan@1,spike@1", "@3", "nan@²"]
)
def test_malformed_faults_are_refused(argument):
    """With what was expected and what came."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected nan@STEP|named twice"):
        faults.parse(argument)


def test_a_spike_is_many_times_the_loss():
    """An untrained model is off by about the targets themselves, a spike by twenty times that."""
    mel = tf.random.stateless_normal((2, 8, 80), seed=(1, 2))
    spiked = inject.corrupt({1: "spike"}, tf.constant(1, tf.int64), {"mel_target": mel})["mel_target"]
    huber = tf.keras.losses.Huber()
    assert float(huber(spiked, mel)) > 10 * float(huber(mel, tf.zeros_like(mel)))
    assert math.isfinite(float(tf.reduce_sum(spiked)))
