"""The default corpus: sentences spoken by four eSpeak NG voices, in LJSpeech's layout, made once and cached."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .clips import DataError
from .espeak import Voice, request
from .sentences import make_sentences

UTTERANCES = 320
VOICES = (
    Voice("american", "en-us+m3", pitch=45, rate=175),
    Voice("british", "en-gb-x-rp+f4", pitch=55, rate=180),
    Voice("scottish", "en-gb-scotland+m7", pitch=38, rate=170),
    Voice("new_yorker", "en-us-nyc+f2", pitch=60, rate=185),
)
_VERSION = 1
_SYNTHESIS_TIMEOUT = 600.0


def synthetic_corpus(cache_dir: Path, seed: int, utterances: int = UTTERANCES) -> Path:
    """Return a folder with the corpus for this seed, synthesising it where the cache does not hold it.

    The folder's name is a digest of everything that decides its content. It is built under another name and renamed
    when it is complete, so what is found under its own name is whole.

    Args:
        cache_dir: Where corpora are kept.
        seed: Seed of the sentences and of the voices' noise.
        utterances: How many, spoken by the voices in turn.

    Returns:
        Folder with `metadata.csv` (`id|text|text|speaker`), `words.csv` (`id|character:sample ...`, the beginning of
        each word in the text and in the audio) and `wavs/` (22,050 Hz, 16 bits, mono).

    Raises:
        DataError: The cache cannot be written, or the synthesis fails.
    """
    texts = make_sentences(utterances, seed)
    voices = [VOICES[index % len(VOICES)] for index in range(utterances)]
    names = [f"{voice.speaker}-{index:04d}" for index, voice in enumerate(voices)]
    folder = cache_dir / f"espeak-{_digest(request(list(zip(map(Path, names), texts, voices, strict=True)), seed))}"
    if folder.is_dir():
        return folder
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=cache_dir))
        try:
            _build(building, names, texts, voices, seed)
            _publish(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot write to {cache_dir}: {error.strerror}. Give another folder with --cache-dir."
        ) from None
    return folder


def _digest(content: str) -> str:
    """Return a short digest of the content of a corpus and of the library that speaks it."""
    try:
        library = version("espeakng-loader")
    except PackageNotFoundError:
        library = "unknown"
    return hashlib.sha256(f"{_VERSION} {library} {content}".encode()).hexdigest()[:16]


def _build(folder: Path, names: list[str], texts: list[str], voices: list[Voice], seed: int) -> None:
    """Speak all texts in a process of their own and write the tables."""
    wavs = folder / "wavs"
    wavs.mkdir()
    items = [(wavs / f"{name}.wav", text, voice) for name, text, voice in zip(names, texts, voices, strict=True)]
    program = [sys.executable, str(Path(__file__).with_name("espeak.py"))]
    try:
        done = subprocess.run(
            program, input=request(items, seed), capture_output=True, text=True, timeout=_SYNTHESIS_TIMEOUT, check=True
        )
    except subprocess.CalledProcessError as error:
        last_line = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        raise DataError(f"speech synthesis failed: {last_line}") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"speech synthesis took longer than {_SYNTHESIS_TIMEOUT:.0f} seconds.") from None
    rows = zip(names, texts, voices, json.loads(done.stdout), strict=True)
    metadata, words = [], []
    for name, text, voice, times in rows:
        metadata.append(f"{name}|{text}|{text}|{voice.speaker}\n")
        words.append(f"{name}|{' '.join(f'{character}:{sample}' for character, sample in times)}\n")
    (folder / "metadata.csv").write_text("".join(metadata), encoding="utf-8")
    (folder / "words.csv").write_text("".join(words), encoding="utf-8")


def _publish(building: Path, folder: Path) -> None:
    """Give a complete corpus its name, unless another process was faster."""
    try:
        building.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
