"""The synthetic corpus: sentences, eSpeak NG, and the cache."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from xtts_demo import audio, corpus, sentences
from xtts_demo.clips import DataError, scan

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_sentences_all_differ_and_are_the_same_for_a_seed():
    """Enough of them, short enough, in the characters that are promised."""
    made = sentences.make_sentences(400, seed=3)
    assert len(set(made)) == 400
    assert made == sentences.make_sentences(400, seed=3)
    assert made != sentences.make_sentences(400, seed=4)
    assert all(
        len(sentence) <= sentences.LONGEST and re.fullmatch(r"[A-Z][A-Za-z ,]+[.?]", sentence) for sentence in made
    )


def test_the_default_corpus_is_large_enough():
    """At least 200 utterances of 4 voices with different accents and pitches."""
    assert corpus.UTTERANCES >= 200
    assert len({voice.speaker for voice in corpus.VOICES}) == len({voice.voice for voice in corpus.VOICES}) == 4
    assert len({voice.pitch for voice in corpus.VOICES}) == 4


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    """Eight utterances, two of each voice."""
    return corpus.synthetic_corpus(tmp_path_factory.mktemp("cache"), seed=5, utterances=8)


def test_synthesis_makes_real_speech_in_ljspeech_layout(small_corpus):
    """Every line has its file of one to five seconds at 22,050 Hz, neither silent nor clipped."""
    lines = [line.split("|") for line in (small_corpus / "metadata.csv").read_text().splitlines()]
    assert len(lines) == 8
    assert {speaker for *_, speaker in lines} == {voice.speaker for voice in corpus.VOICES}
    for name, text, normalised, _ in lines:
        samples, rate = audio.read_wav(small_corpus / "wavs" / f"{name}.wav")
        assert rate == 22_050
        assert text == normalised
        assert 1.0 < len(samples) / rate < 5.0
        assert 0.1 < np.abs(samples).max() < 1.0


def test_word_times_are_those_of_the_text(small_corpus):
    """Each word time points to the beginning of a word, and later words are spoken later."""
    texts = dict(line.split("|")[:2] for line in (small_corpus / "metadata.csv").read_text().splitlines())
    for line in (small_corpus / "words.csv").read_text().splitlines():
        name, _, pairs = line.partition("|")
        times = [tuple(map(int, pair.split(":"))) for pair in pairs.split()]
        begins = {match.start() for match in re.finditer(r"\S+", texts[name])}
        assert len(times) >= len(begins) / 2
        assert {character for character, _ in times} <= begins
        assert times == sorted(times)


def test_synthesis_is_the_same_byte_for_byte(small_corpus, tmp_path):
    """A second cache gets the same files; another seed gets others."""
    again = corpus.synthetic_corpus(tmp_path, seed=5, utterances=8)
    assert again.name == small_corpus.name
    first = {path.relative_to(small_corpus): path.read_bytes() for path in small_corpus.rglob("*.*")}
    assert first == {path.relative_to(again): path.read_bytes() for path in again.rglob("*.*")}
    other = corpus.synthetic_corpus(tmp_path, seed=6, utterances=8)
    assert (other / "metadata.csv").read_bytes() != (again / "metadata.csv").read_bytes()


def test_a_cached_corpus_is_not_made_again(small_corpus, monkeypatch):
    """The second call starts no process."""
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_kwargs: pytest.fail("synthesised again"))
    assert corpus.synthetic_corpus(small_corpus.parent, seed=5, utterances=8) == small_corpus


def test_a_half_written_corpus_is_never_used(small_corpus, monkeypatch):
    """A build that fails half-way leaves nothing behind, and the next one is whole."""
    cache, real = small_corpus.parent / "broken", corpus._build

    def fail_late(folder, *arguments):
        real(folder, *arguments)
        (folder / "metadata.csv").unlink()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus, "_build", fail_late)
    with pytest.raises(DataError, match="No space left"):
        corpus.synthetic_corpus(cache, seed=5, utterances=8)
    assert list(cache.iterdir()) == []
    monkeypatch.undo()
    folder = corpus.synthetic_corpus(cache, seed=5, utterances=8)
    assert [path.name for path in cache.iterdir()] == [folder.name]
    assert len(scan(folder, cache, max_seconds=12.0).clips) == 8


def test_a_corpus_made_by_another_process_meanwhile_is_taken(small_corpus, monkeypatch):
    """Where the name is taken at the end of the build, the other's corpus is returned and ours removed."""
    cache, real = small_corpus.parent / "race", corpus._build

    def lose_the_race(folder, *arguments):
        real(folder, *arguments)
        winner = cache / small_corpus_name
        winner.mkdir()
        (winner / "metadata.csv").write_text("winner")

    small_corpus_name = corpus.synthetic_corpus(small_corpus.parent, seed=9, utterances=2).name
    monkeypatch.setattr(corpus, "_build", lose_the_race)
    assert (corpus.synthetic_corpus(cache, seed=9, utterances=2) / "metadata.csv").read_text() == "winner"
    assert len(list(cache.iterdir())) == 1


def test_a_synthesis_that_fails_says_why(tmp_path, monkeypatch):
    """An unknown voice is named."""
    monkeypatch.setattr(corpus, "VOICES", (corpus.Voice("nobody", "xx-nothing", pitch=50, rate=175),))
    with pytest.raises(DataError, match="no voice 'xx-nothing'"):
        corpus.synthetic_corpus(tmp_path, seed=0, utterances=1)


def test_an_unwritable_cache_says_what_to_do(tmp_path):
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="--cache-dir"):
        corpus.synthetic_corpus(tmp_path / "file", seed=0, utterances=1)


def test_the_parts_before_training_need_no_tensorflow():
    """Options and corpus are there at once."""
    code = (
        "import sys; from xtts_demo import options, corpus, clips, features\n"
        "sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES, check=False, timeout=60)
    assert done.returncode == 0
