"""Reading a folder in LJSpeech's layout: WAV files, spectrograms, durations, and what is left out by name."""

import struct
import wave

import numpy as np
import pytest
from xtts_demo import audio, features, text
from xtts_demo.clips import DataError, scan, token_durations


def tone(seconds=1.0, rate=22_050, frequency=440.0, level=0.5):
    """A sine, float32."""
    return (level * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def riff(encoding, channels, rate, bits, data, extra=b""):
    """A WAV file, byte by byte."""
    block = channels * bits // 8
    layout = struct.pack("<HHIIHH", encoding, channels, rate, rate * block, block, bits) + extra
    chunks = b"LIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<I", len(layout)) + layout
    chunks += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def packed(samples, bits):
    """Integers of so many bits, little endian."""
    numbers = np.round(samples * (2.0 ** (bits - 1) - 1)).astype(np.int64)
    if bits == 8:
        return (numbers + 128).astype(np.uint8).tobytes()
    return b"".join(int(number).to_bytes(bits // 8, "little", signed=True) for number in numbers)


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        pytest.param(lambda s: riff(1, 1, 22_050, 8, packed(s, 8)), 1e-2, id="8 bits"),
        pytest.param(lambda s: riff(1, 1, 22_050, 16, packed(s, 16)), 1e-4, id="16 bits"),
        pytest.param(lambda s: riff(1, 1, 22_050, 24, packed(s, 24)), 1e-6, id="24 bits"),
        pytest.param(lambda s: riff(1, 1, 22_050, 32, packed(s, 32)), 1e-6, id="32 bits"),
        pytest.param(lambda s: riff(3, 1, 22_050, 32, s.astype("<f4").tobytes()), 1e-7, id="float"),
        pytest.param(lambda s: riff(3, 1, 22_050, 64, s.astype("<f8").tobytes()), 1e-7, id="double"),
        pytest.param(
            lambda s: riff(0xFFFE, 1, 22_050, 16, packed(s, 16), struct.pack("<HHIH", 22, 16, 4, 1) + bytes(14)),
            1e-4,
            id="extensible",
        ),
        pytest.param(
            lambda s: riff(1, 2, 22_050, 16, packed(np.repeat(s, 2) * np.tile([2.0, 0.0], len(s)), 16)),
            1e-4,
            id="stereo",
        ),
    ],
)
def test_wav_files_of_every_usual_kind_read_the_same(tmp_path, content, tolerance):
    """Full scale is 1.0 and channels are averaged, whatever the encoding; other chunks are skipped."""
    samples = tone(0.1, level=0.4)
    (tmp_path / "a.wav").write_bytes(content(samples))
    read, rate = audio.read_wav(tmp_path / "a.wav")
    assert rate == 22_050
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, samples, atol=tolerance)


GOOD = riff(1, 1, 22_050, 16, packed(tone(0.5), 16))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"not audio at all, but text", "no RIFF WAVE header"),
        (GOOD[:52], "no samples"),
        (GOOD[:5000], "truncated"),
        (riff(1, 1, 22_050, 16, b""), "no samples"),
        (riff(1, 2, 22_050, 16, b"\0\0" * 3), "within a frame"),
        (riff(1, 1, 22_050, 16, b"\0\0\0"), "within a sample"),
        (riff(1, 0, 22_050, 16, b"\0\0"), "0 channels"),
        (riff(85, 1, 22_050, 16, b"\0\0"), "convert it to 16-bit PCM"),
        (riff(3, 1, 22_050, 32, struct.pack("<f", float("nan"))), "not finite"),
    ],
)
def test_a_bad_wav_file_says_what_is_wrong(tmp_path, content, reason):
    """The message has no file name: whoever reports it adds that."""
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(audio.ClipError, match=reason):
        audio.read_wav(tmp_path / "a.wav")


def test_written_files_are_ordinary_wav_files(tmp_path):
    """The standard library reads them."""
    audio.write_wav(tmp_path / "a.wav", np.array([0.0, 1.0, -1.0, 2.0]))
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (22_050, 1, 2)
        assert np.frombuffer(file.readframes(9), "<i2").tolist() == [0, 32767, -32767, 32767]


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_resampling_keeps_the_tone(rate):
    """A tone of another rate becomes the same tone of ours."""
    made = audio.resample(tone(0.5, rate), rate)
    expected = tone(0.5)
    assert len(made) == len(expected)
    middle = slice(1000, -1000)
    np.testing.assert_allclose(made[middle], expected[middle], atol=5e-3)


def test_resampling_leaves_no_alias():
    """A tone above the new Nyquist rate is gone."""
    assert np.abs(audio.resample(tone(0.5, 48_000, frequency=15_000.0), 48_000)[1000:-1000]).max() < 5e-3


def naive_log_mel(samples):
    """The definition, frame by frame, bin by bin and band by band."""
    padded = np.concatenate([samples[512:0:-1], samples, samples[-2:-514:-1]]).astype(np.float64)
    window = np.array([np.sin(np.pi * n / 1024) ** 2 for n in range(1024)])
    dft = np.exp(-2j * np.pi * np.outer(np.arange(513), np.arange(1024)) / 1024)
    top = 2595.0 * np.log10(1.0 + 8000.0 / 700.0)
    edges = [700.0 * (10.0 ** (top * n / 81 / 2595.0) - 1.0) for n in range(82)]
    rows = []
    for start in range(0, len(samples) + 1, 256):
        magnitudes = np.abs(dft @ (padded[start : start + 1024] * window))
        bands = []
        for low, centre, high in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
            weights = [
                (f - low) / (centre - low) if low <= f <= centre else (high - f) / (high - centre) if f <= high else 0.0
                for f in np.arange(513) * 22_050 / 1024
                if f >= low
            ]
            bands.append(sum(w * m for w, m in zip(weights, magnitudes[513 - len(weights) :], strict=True)))
        rows.append([(np.log(max(band, 1e-5)) + 1.0) / 2.5 for band in bands])
    return np.array(rows)


def test_log_mel_is_its_definition():
    """Against an independent computation without FFT, on noise with a silent stretch."""
    samples = np.random.default_rng(0).normal(scale=0.1, size=2500).astype(np.float32)
    samples[1200:] = 0.0
    made = features.log_mel(samples)
    assert made.shape == (features.frame_count(2500), 80) == (10, 80)
    np.testing.assert_allclose(made, naive_log_mel(samples), atol=2e-3)


def test_log_mel_of_silence_and_of_a_tone():
    """Silence is the floor; a tone is loudest in the band around it."""
    np.testing.assert_allclose(features.log_mel(np.zeros(3000, np.float32)), features.SILENCE, rtol=1e-6)
    top = 2595.0 * np.log10(1.0 + 8000.0 / 700.0)
    for frequency in (300.0, 1000.0, 4000.0):
        band = 2595.0 * np.log10(1.0 + frequency / 700.0) / top * 81 - 1
        assert abs(features.log_mel(tone(0.2, frequency=frequency))[8].argmax() - band) <= 1.0


@pytest.mark.parametrize(
    ("written", "spoken"),
    [("Hello, World!", "hello, world!"), ("Café - 12 años", "cafe -  anos"), ("日本", "")],
)
def test_text_becomes_tokens_and_back(written, spoken):
    """Lower case, no accents, and unknown characters left out."""
    tokens, positions = text.encode(written)
    assert text.decode(tokens) == spoken
    assert len(positions) == len(tokens)
    assert positions == sorted(positions)
    assert text.PADDING not in tokens
    assert all(0 < token < text.VOCABULARY_SIZE for token in tokens)


@pytest.mark.parametrize(
    ("positions", "words", "frames", "expected"),
    [
        pytest.param([0, 1, 2, 3], [], 10, [2.5, 2.5, 2.5, 2.5], id="no word times"),
        pytest.param([0, 1, 2, 3], [(0, 500), (2, 1024)], 10, [2.0, 2.0, 3.0, 3.0], id="two words"),
        pytest.param([0, 1, 4], [(0, 0), (2, 512), (4, 1024)], 10, [2.0, 2.0, 6.0], id="a word without a token"),
        pytest.param([2, 3], [(0, 0), (2, 1024)], 10, [5.0, 5.0], id="only the last word has tokens"),
        pytest.param([0, 1], [(0, 0), (1, 99_999)], 10, [10.0, 0.0], id="a word after the end"),
    ],
)
def test_frames_are_spread_over_the_tokens_of_each_word(positions, words, frames, expected):
    """The sum is always the number of frames."""
    made = token_durations(positions, words, frames)
    np.testing.assert_allclose(made, expected)


@pytest.fixture
def folder(tmp_path):
    """A folder with three good clips and one of every bad kind."""
    place = tmp_path / "data"
    (place / "wavs").mkdir(parents=True)
    contents = {
        "good1": GOOD,
        "good2": riff(1, 2, 44_100, 16, packed(np.repeat(tone(0.5, 44_100), 2), 16)),
        "good3": GOOD,
        "corrupt": b"RIFF but nothing else",
        "truncated": GOOD[:3000],
        "silent": riff(1, 1, 22_050, 16, bytes(30_000)),
        "empty": b"",
        "short": riff(1, 1, 22_050, 16, packed(tone(0.1), 16)),
        "long": riff(1, 1, 22_050, 16, packed(tone(3.0), 16)),
        "mute": GOOD,
        "foreign": GOOD,
        "unlisted": GOOD,
    }
    for name, content in contents.items():
        (place / "wavs" / f"{name}.wav").write_bytes(content)
    lines = [f"{name}|Some words, {name}.|some words, {name}." for name in contents if name not in ("mute", "unlisted")]
    lines[lines.index("foreign|Some words, foreign.|some words, foreign.")] = "foreign|日本|日本"
    lines += ["mute||", "missing|There is no file.|There is no file.", lines[0], "", "good2_no_columns"]
    (place / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    return place


def test_what_cannot_be_used_is_named_with_the_reason(folder, tmp_path):
    """Every bad file has its line, every good one is there, and nothing stops the reading."""
    found = scan(folder, tmp_path / "cache", max_seconds=2.0)
    assert [clip.name for clip in found.clips] == ["good1", "good2", "good3"]
    assert found.resampled == 1
    assert not found.aligned
    expected = {
        "corrupt": "no RIFF",
        "truncated": "truncated",
        "silent": "silent",
        "empty": "empty file",
        "short": "too short: 0.10 s",
        "long": "too long: 3.0 s",
        "mute": "no transcript",
        "foreign": "no character",
        "unlisted": "no line in metadata.csv",
        "missing": "no such file",
        "good1": "listed twice",
        "good2_no_columns": "no transcript",
    }
    reasons = dict(found.skipped)
    assert reasons.keys() == expected.keys()
    assert [name for name, reason in expected.items() if reason not in reasons[name]] == []


def test_clips_hold_what_the_files_say(folder, tmp_path):
    """Stereo of 44,100 Hz gives the spectrogram of the same tone in mono at 22,050 Hz."""
    first, second, _ = scan(folder, tmp_path / "cache", max_seconds=2.0).clips
    assert text.decode(list(first.tokens)) == "some words, good."
    assert first.frames == len(first.mel()) == features.frame_count(11_025)
    np.testing.assert_allclose(first.durations.sum(), first.frames, rtol=1e-6)
    np.testing.assert_allclose(first.mel(), features.log_mel(audio.read_wav(folder / "wavs" / "good1.wav")[0]))
    assert np.abs(second.mel()[5:-5] - first.mel()[5:-5]).mean() < 0.3


def test_a_changed_file_is_read_anew(folder, tmp_path):
    """The cached spectrogram belongs to the file's content, not to its name."""
    before = scan(folder, tmp_path / "cache", max_seconds=2.0).clips[0].mel()
    (folder / "wavs" / "good1.wav").write_bytes(riff(1, 1, 22_050, 16, packed(tone(0.6), 16)))
    assert len(scan(folder, tmp_path / "cache", max_seconds=2.0).clips[0].mel()) > len(before)


def test_a_speaker_column_is_read_and_the_only_clip_of_a_speaker_left_out(folder, tmp_path):
    """The fourth column names the speaker."""
    lines = ["good1|Hello.|Hello.|ann", "good2|Hello.||ann", "good3|Hello.|Hello.|bob"]
    (folder / "metadata.csv").write_text("\n".join(lines))
    found = scan(folder, tmp_path / "cache", max_seconds=2.0, max_clips=3)
    assert [(clip.name, clip.speaker) for clip in found.clips] == [("good1", "ann"), ("good2", "ann")]
    assert found.skipped == [("good3", "the only usable clip of 'bob': no reference for it")]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda place: place / "nowhere", "is no folder"),
        (lambda place: (place / "metadata.csv").unlink() or place, "no metadata.csv"),
        (lambda place: (place / "metadata.csv").write_bytes(b"a|\xff\xfe|b") and place, "UTF-8"),
    ],
)
def test_a_folder_of_another_kind_is_a_clear_error(folder, tmp_path, prepare, message):
    """The message says what is expected."""
    with pytest.raises(DataError, match=message):
        scan(prepare(folder), tmp_path / "cache", max_seconds=2.0)


def test_an_unwritable_cache_is_a_clear_error(folder, tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--cache-dir"):
        scan(folder, tmp_path / "file", max_seconds=2.0)
