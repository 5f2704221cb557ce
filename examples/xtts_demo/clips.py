"""A folder in LJSpeech's layout, read into clips; what cannot be used is named, with the reason, and left out."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import features, text
from .audio import SAMPLE_RATE, ClipError, read_wav, resample

SHORTEST_SECONDS = 0.3
SILENT_PEAK = 1e-3
_ONLY_SPEAKER = "speaker"


class DataError(Exception):
    """A folder that cannot be trained on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance that can be used.

    Attributes:
        name: Its id in `metadata.csv`.
        speaker: Who says it.
        tokens: Characters, int32 [n].
        durations: Frames of each token, float32 [n]; their sum is `frames`.
        mel_path: File with the normalised log-mel spectrogram, float32 [frames, 80].
        frames: Number of frames.
    """

    name: str
    speaker: str
    tokens: np.ndarray
    durations: np.ndarray
    mel_path: Path
    frames: int

    def mel(self) -> np.ndarray:
        """Return the spectrogram."""
        return np.load(self.mel_path)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a folder holds.

    Attributes:
        clips: The usable ones, in the order of `metadata.csv`.
        skipped: Name and reason of each of the others.
        aligned: Whether the durations come from word times (`words.csv`); else each text is spread evenly.
        resampled: Number of clips that had another sample rate.
    """

    clips: list[Clip]
    skipped: list[tuple[str, str]]
    aligned: bool
    resampled: int


def scan(
    folder: Path,
    cache_dir: Path,
    *,
    max_seconds: float,
    max_clips: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Read a folder: `metadata.csv` with lines `id|text|normalised text`, and `wavs/<id>.wav`.

    A fourth column names the speaker; without it all clips are one speaker's. Where the third is empty or missing the
    second is taken. Audio of any sample rate and number of channels becomes 22,050 Hz mono. Spectrograms are kept in
    the cache, so that a second run starts sooner.

    Args:
        folder: The folder.
        cache_dir: Where spectrograms are kept.
        max_seconds: Longer clips are left out.
        max_clips: Only look at that many lines of the metadata. `None`: all.
        progress: Called with the number of clips read and the number there are, after each.

    Returns:
        The usable clips, possibly none, and what was skipped.

    Raises:
        DataError: No such folder, no metadata in it, or an unwritable cache.
    """
    rows = _read_metadata(folder)[:max_clips]
    words = _read_words(folder)
    clips, skipped, resampled = [], [], 0
    listed: set[str] = set()
    for number, (name, transcript, speaker) in enumerate(rows, 1):
        if progress is not None:
            progress(number, len(rows))
        if name in listed:
            skipped.append((name, "listed twice; the first line counts"))
            continue
        listed.add(name)
        try:
            tokens, positions = _encode(transcript)
            path, frames, rate = _spectrogram(folder / "wavs" / f"{name}.wav", cache_dir, max_seconds)
        except ClipError as problem:
            skipped.append((name, str(problem)))
            continue
        resampled += rate != SAMPLE_RATE
        durations = token_durations(positions, words.get(name, []), frames)
        clips.append(Clip(name, speaker, np.array(tokens, np.int32), durations, path, frames))
    if max_clips is None:
        skipped += [(name, "no line in metadata.csv") for name in _audio_names(folder) if name not in listed]
    return _without_lonely(Scan(clips, skipped, bool(words), resampled))


def token_durations(positions: list[int], words: list[tuple[int, int]], frames: int) -> np.ndarray:
    """Spread the frames over the tokens: between word times evenly, and without word times over the whole text.

    Args:
        positions: Index in the text of each token's character, ascending.
        words: For each word the index of its first character and of its first sample.
        frames: Frames of the clip.

    Returns:
        Frames of each token, float32, not whole numbers; the sum is `frames`.
    """
    starts = [(0, 0.0)]
    for character, sample in sorted(words)[1:]:
        frame = min(sample / features.HOP, float(frames))
        if character > starts[-1][0] and frame > starts[-1][1]:
            starts.append((character, frame))
    owners = np.searchsorted([character for character, _ in starts], positions, side="right") - 1
    edges = np.append([frame for _, frame in starts], float(frames))
    used, owners, counts = np.unique(owners, return_inverse=True, return_counts=True)
    begins = np.append(0.0, edges[used][1:])  # a span without a token goes to the one before it
    spans = np.diff(np.append(begins, float(frames)))
    return (spans / counts)[owners].astype(np.float32)


def _without_lonely(found: Scan) -> Scan:
    """Leave out the clips of speakers that have only one: there is no other clip for the reference."""
    counts = Counter(clip.speaker for clip in found.clips)
    lonely = [clip for clip in found.clips if counts[clip.speaker] < 2]
    reasons = [(clip.name, f"the only usable clip of {clip.speaker!r}: no reference for it") for clip in lonely]
    kept = [clip for clip in found.clips if counts[clip.speaker] >= 2]
    return Scan(kept, found.skipped + reasons, found.aligned, found.resampled)


def _read_metadata(folder: Path) -> list[tuple[str, str, str]]:
    """Return id, transcript and speaker of each line."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder. Expected one in LJSpeech's layout: metadata.csv and wavs/.")
    try:
        content = (folder / "metadata.csv").read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(
            f"{folder} holds no metadata.csv. Expected LJSpeech's layout: lines `id|text|normalised text` there, and "
            "the audio in wavs/<id>.wav."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder / 'metadata.csv'} cannot be read as UTF-8 text: {error}") from None
    rows = []
    for line in content.splitlines():
        name, *columns = (column.strip() for column in line.split("|"))
        if name:
            columns += [""] * (3 - len(columns))
            rows.append((name, columns[1] or columns[0], columns[2] or _ONLY_SPEAKER))
    return rows


def _read_words(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """Return the word times of each clip, where the folder has them."""
    path = folder / "words.csv"
    if not path.is_file():
        return {}
    times = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, pairs = line.partition("|")
        split = (pair.partition(":") for pair in pairs.split())
        times[name] = [(int(character), int(sample)) for character, _, sample in split]
    return times


def _encode(transcript: str) -> tuple[list[int], list[int]]:
    """Return tokens and positions of a transcript that has some."""
    if not transcript:
        raise ClipError("no transcript")
    tokens, positions = text.encode(transcript)
    if not tokens:
        raise ClipError(f"no character of its transcript is known: {transcript[:40]!r}")
    return tokens, positions


def _audio_names(folder: Path) -> list[str]:
    """Return the ids of all audio files in a folder."""
    wavs = folder / "wavs"
    return sorted(path.relative_to(wavs).with_suffix("").as_posix() for path in wavs.rglob("*.wav"))


def _spectrogram(path: Path, cache_dir: Path, max_seconds: float) -> tuple[Path, int, int]:
    """Return the file with the spectrogram, its frames, and the sample rate of the audio."""
    try:
        status = path.stat()
    except OSError:
        raise ClipError("no such file") from None
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns} {features.RECIPE}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    samples, rate = read_wav(path)
    seconds = len(samples) / rate
    if seconds < SHORTEST_SECONDS:
        raise ClipError(f"too short: {seconds:.2f} s, at least {SHORTEST_SECONDS} s are needed")
    if seconds > max_seconds:
        raise ClipError(f"too long: {seconds:.1f} s, --max-seconds is {max_seconds:g}")
    peak = float(np.abs(samples).max())
    if peak < SILENT_PEAK:
        raise ClipError(f"silent: its peak is {peak:.1g} of full scale")
    target = cache_dir / "mels" / digest[:2] / f"{digest}.npy"
    samples = resample(samples, rate)
    if not target.exists():
        _save(target, features.log_mel(samples))
    return target, features.frame_count(len(samples)), rate


def _save(target: Path, mel: np.ndarray) -> None:
    """Write the file as a whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".partial", delete=False) as file:
            np.save(file, mel)
        Path(file.name).replace(target)
    except OSError as error:
        raise DataError(f"cannot write to {target.parent}: {error.strerror}. Give another --cache-dir.") from None
