"""Speech from text through the eSpeak NG library that the package `espeakng-loader` brings (ctypes, no program).

Run as a program it reads a JSON list of requests and writes one WAV file for each, with the times of the words:
the library keeps state from one sentence to the next, so only a fresh process makes the same samples every time.
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import espeakng_loader
import numpy as np

_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_UTF8 = 1
_RATE, _VOLUME, _PITCH = 1, 2, 3
_LIST_END, _WORD = 0, 1


@dataclass(frozen=True, slots=True)
class Voice:
    """A speaker.

    Attributes:
        speaker: Name in the corpus.
        voice: eSpeak's name: an accent, and a variant of the vocal tract after the plus sign.
        pitch: Base pitch, 0 to 99, 50 is the variant's own.
        rate: Words per minute.
        volume: 100 is eSpeak's own, at which the loudest vowels of some variants clip.
    """

    speaker: str
    voice: str
    pitch: int
    rate: int
    volume: int = 70


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Synthesiser:
    """The library, loaded and seeded. Make one in a process, and use it from one thread.

    Args:
        seed: Seed of the library's noise, a non-negative integer.

    Raises:
        RuntimeError: The library does not find its data.
    """

    def __init__(self, seed: int) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
        self.sample_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data.encode(), _DO_NOT_EXIT)
        if self.sample_rate <= 0:
            raise RuntimeError(
                f"eSpeak NG cannot read its data in {data}: reinstall `espeakng-loader`; where the path is longer than "
                "150 characters, use an environment with a shorter one."
            )
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._library.espeak_ng_SetRandSeed(seed)
        self._blocks: list[bytes] = []
        self._words: list[tuple[int, int]] = []
        self._callback = _Callback(self._receive)  # kept alive as long as the library may call it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples, count, events) -> int:  # noqa: ANN001 - ctypes pointers
        """Take one block of samples and its events; 0 asks for more."""
        if samples and count > 0:
            self._blocks.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != _LIST_END:
            if events[index].type == _WORD:
                self._words.append((events[index].text_position - 1, events[index].sample))
            index += 1
        return 0

    def speak(self, text: str, voice: Voice) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Say a text.

        Args:
            text: ASCII text.
            voice: Who says it.

        Returns:
            Samples [n], int16, at `sample_rate`; and for each word the index of its first character in the text and
            of its first sample.

        Raises:
            RuntimeError: The library does not know the voice, or fails.
        """
        self._blocks, self._words = [], []
        if self._library.espeak_SetVoiceByName(voice.voice.encode()) != 0:
            raise RuntimeError(f"eSpeak NG has no voice {voice.voice!r} (speaker {voice.speaker!r}).")
        self._library.espeak_SetParameter(_VOLUME, voice.volume, 0)
        self._library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        self._library.espeak_SetParameter(_RATE, voice.rate, 0)
        encoded = text.encode("ascii")
        if self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None) != 0:
            raise RuntimeError(f"eSpeak NG could not speak {text!r}.")
        return np.frombuffer(b"".join(self._blocks), np.int16), self._words


def main() -> None:
    """Read requests from standard input: `{"seed", "items": [{"path", "text", "voice": {...}}]}`; print word times."""
    from audio import write_wav  # run as a file, so its folder is on the path

    request = json.load(sys.stdin)
    synthesiser = Synthesiser(request["seed"])
    times = []
    for item in request["items"]:
        samples, words = synthesiser.speak(item["text"], Voice(**item["voice"]))
        write_wav(Path(item["path"]), samples, synthesiser.sample_rate)
        times.append(words)
    json.dump(times, sys.stdout)


def request(items: list[tuple[Path, str, Voice]], seed: int) -> str:
    """Return what `main` reads: say each text with its voice into its file."""
    return json.dumps(
        {"seed": seed, "items": [{"path": str(path), "text": text, "voice": asdict(who)} for path, text, who in items]}
    )


if __name__ == "__main__":
    main()
