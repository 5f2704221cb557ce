"""The XTTS-style model: its size, what it may and may not see, and that it speaks."""

import keras
import numpy as np
import pytest
from xtts_demo.model import XTTSModel

import keras_adaptive_weights as kaw

BATCH, FRAMES, CHARACTERS, BANDS = 2, 24, 10, 80
KEYS = ("mel_output", "stop_tokens", "attention_weights", "duration_pred")


def random_inputs(seed=0):
    """Inputs of two examples, the first text padded from character 6 on."""
    random = np.random.default_rng(seed)
    text = random.integers(1, 30, (BATCH, CHARACTERS)).astype(np.int32)
    text[0, 6:] = 0
    return {
        "text": text,
        "mel": random.normal(size=(BATCH, FRAMES, BANDS)).astype(np.float32),
        "reference_mel": random.normal(size=(BATCH, 32, BANDS)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def model():
    """A narrow model with random weights; no layer is zero, so every path through it is open."""
    keras.utils.set_random_seed(1)
    made = XTTSModel(width=32, heads=2, encoder_blocks=1, decoder_blocks=2)
    made(random_inputs())
    return made


def outputs(model, **changes):
    """Outputs for the random inputs with some of them changed."""
    return {key: value.numpy() for key, value in model({**random_inputs(), **changes}, training=False).items()}


def test_shapes_and_attention(model):
    """One attention row per decoder step, a distribution over the characters that are no padding."""
    made = outputs(model)
    assert {key: made[key].shape for key in KEYS} == {
        "mel_output": (BATCH, FRAMES, BANDS),
        "stop_tokens": (BATCH, FRAMES),
        "attention_weights": (BATCH, FRAMES // model.reduction, CHARACTERS),
        "duration_pred": (BATCH, CHARACTERS),
    }
    np.testing.assert_allclose(made["attention_weights"].sum(-1), 1.0, rtol=1e-5)
    assert (made["attention_weights"][0, :, 6:] == 0.0).all()
    assert isinstance(model, kaw.StableTrainStepMixin)


@pytest.mark.parametrize("group", [0, 3, 5])
def test_no_frame_sees_itself_or_the_future(model, group):
    """Changing a group of frames leaves every output up to that group unchanged, and changes later ones."""
    mel = random_inputs()["mel"].copy()
    begin, end = group * model.reduction, (group + 1) * model.reduction
    mel[:, begin:end] += 1.0
    before, after = outputs(model), outputs(model, mel=mel)
    for key in ("mel_output", "stop_tokens"):
        np.testing.assert_allclose(after[key][:, :end], before[key][:, :end], atol=1e-6)
        assert end == FRAMES or np.abs(after[key][:, end:] - before[key][:, end:]).max() > 1e-3
    np.testing.assert_allclose(
        after["attention_weights"][:, : group + 1], before["attention_weights"][:, : group + 1], atol=1e-6
    )


def test_padding_of_the_text_changes_nothing(model):
    """Four more characters of padding leave all outputs as they were."""
    text = random_inputs()["text"]
    before = outputs(model)
    after = outputs(model, text=np.pad(text, ((0, 0), (0, 4))))
    for key in ("mel_output", "stop_tokens"):
        np.testing.assert_allclose(after[key], before[key], atol=1e-5)
    for key in ("attention_weights", "duration_pred"):
        np.testing.assert_allclose(after[key][..., :CHARACTERS], before[key], atol=1e-5)
        np.testing.assert_array_equal(after[key][..., CHARACTERS:], 0.0)


def test_text_and_reference_are_heard(model):
    """Another character changes the speech of its example only; so does another reference."""
    inputs = random_inputs()
    text, reference = inputs["text"].copy(), inputs["reference_mel"].copy()
    text[1, 2] = 1 + text[1, 2] % 29
    reference[1] += 1.0
    before = outputs(model)["mel_output"]
    for change in ({"text": text}, {"reference_mel": reference}):
        after = outputs(model, **change)["mel_output"]
        np.testing.assert_allclose(after[0], before[0], atol=1e-6)
        assert np.abs(after[1] - before[1]).max() > 1e-3


def test_the_default_model_has_one_to_three_million_parameters():
    """Counted after building it."""
    made = XTTSModel()
    made(random_inputs(), training=False)
    assert 1e6 < made.count_params() < 3e6
    assert made.trainable_weights


def test_speaking_ends_at_the_latest_at_the_limit(model):
    """Lengths are within the limit, and what comes after them is silence."""
    inputs = random_inputs()
    mel, lengths = model.synthesise(inputs["text"], inputs["reference_mel"], max_frames=16)
    assert mel.shape == (BATCH, 16, BANDS)
    assert np.isfinite(mel).all()
    assert ((lengths >= 1) & (lengths <= 16)).all()


def test_speaking_is_what_the_decoder_says_about_its_own_frames(model):
    """Teacher forcing with the frames it made gives these frames again: the loop feeds back what it should."""
    inputs = random_inputs()
    mel, _ = model.synthesise(inputs["text"], inputs["reference_mel"], max_frames=FRAMES, stop_threshold=2.0)
    np.testing.assert_allclose(outputs(model, mel=mel)["mel_output"], mel, atol=1e-4)


def test_speaking_ends_where_the_model_says_stop(model):
    """With a threshold that everything passes, the first frame is the last."""
    inputs = random_inputs()
    mel, lengths = model.synthesise(inputs["text"], inputs["reference_mel"], max_frames=FRAMES, stop_threshold=0.0)
    assert lengths.tolist() == [1, 1]
    assert np.ptp(mel[:, 1:]) == 0.0


@pytest.mark.parametrize("frames", [0, -4, 6])
def test_a_limit_of_broken_groups_is_refused(model, frames):
    """The message says what it must be a multiple of."""
    inputs = random_inputs()
    with pytest.raises(ValueError, match=r"positive multiple of reduction=4\. Received: max_frames"):
        model.synthesise(inputs["text"], inputs["reference_mel"], max_frames=frames)
