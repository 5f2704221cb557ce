"""WAV files to mono float samples and back, and resampling. Needs nothing but NumPy."""

from __future__ import annotations

import math
import struct
import wave
from pathlib import Path

import numpy as np

SAMPLE_RATE = 22_050

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


class ClipError(Exception):
    """A clip that cannot be used; the message says why, without the clip's name."""


def read_wav(path: Path) -> tuple[np.ndarray, int]:
    """Read a WAV file: PCM of 8, 16, 24 or 32 bits or floating point, any number of channels.

    Args:
        path: The file.

    Returns:
        Samples [n], float32, full scale at 1.0, channels averaged; and the sample rate in Hz.

    Raises:
        ClipError: Missing, empty, truncated, no WAV file, or of another encoding.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ClipError(f"cannot be read: {error.strerror}") from None
    if not content:
        raise ClipError("empty file")
    encoding, channels, rate, bits, data = _parse(content)
    if not data:
        raise ClipError("empty: no samples")
    samples = _samples(encoding, bits, data)
    if len(samples) % channels:
        raise ClipError("corrupt: ends within a frame of its channels")
    mono = samples.reshape(-1, channels).mean(axis=1)
    if not np.isfinite(mono).all():
        raise ClipError("corrupt: samples that are not finite")
    return mono.astype(np.float32), rate


def _parse(content: bytes) -> tuple[int, int, int, int, bytes]:
    """Return encoding, channels, sample rate in Hz, bits per sample and the bytes of the samples."""
    if len(content) < 12 or content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise ClipError("corrupt: no RIFF WAVE header")
    layout: tuple[int, int, int, int] | None = None
    position = 12
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        body = content[position + 8 : position + 8 + size]
        if name == b"fmt ":
            if len(body) < 16:
                raise ClipError("corrupt: format chunk too small")
            encoding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
            if encoding == _EXTENSIBLE and len(body) >= 26:
                (encoding,) = struct.unpack_from("<H", body, 24)
            if not (channels and rate):
                raise ClipError(f"corrupt: {channels} channels at {rate} Hz")
            layout = encoding, channels, rate, bits
        elif name == b"data":
            if layout is None:
                raise ClipError("corrupt: samples before their format")
            if len(body) < size:
                raise ClipError(f"corrupt: truncated, {len(body)} of {size} bytes of samples")
            return *layout, body
        position += 8 + size + size % 2
    raise ClipError("corrupt: no samples in it")


def _samples(encoding: int, bits: int, data: bytes) -> np.ndarray:
    """Return the interleaved samples as float64, full scale at 1.0."""
    if len(data) % max(1, bits // 8):
        raise ClipError("corrupt: ends within a sample")
    if encoding == _FLOAT and bits in (32, 64):
        return np.frombuffer(data, f"<f{bits // 8}").astype(np.float64)
    if encoding == _PCM and bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float64) - 128.0) / 128.0
    if encoding == _PCM and bits == 24:
        widened = np.zeros((len(data) // 3, 4), np.uint8)
        widened[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return widened.view("<i4")[:, 0] / 2.0**31
    if encoding == _PCM and bits in (16, 32):
        return np.frombuffer(data, f"<i{bits // 8}") / 2.0 ** (bits - 1)
    raise ClipError(f"WAV encoding {encoding} with {bits} bits is not supported: convert it to 16-bit PCM")


def write_wav(path: Path, samples: np.ndarray, rate: int = SAMPLE_RATE) -> None:
    """Write a 16-bit mono WAV file.

    Args:
        path: The file.
        samples: Samples [n], int16 as they are, or floating point with full scale at 1.0 (clipped there).
        rate: Sample rate in Hz.
    """
    if samples.dtype != np.int16:
        samples = np.round(np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def resample(samples: np.ndarray, rate: int, new_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Change the sample rate by cutting or padding the spectrum: no alias and no loss below both Nyquist rates.

    Args:
        samples: Samples [n], float32.
        rate: Their sample rate in Hz.
        new_rate: The rate wanted, in Hz.

    Returns:
        Samples [ceil(n * new_rate / rate)], float32; the argument itself where the rates are equal.
    """
    if rate == new_rate:
        return samples
    count = math.ceil(len(samples) * new_rate / rate)
    spectrum = np.fft.rfft(samples)
    kept = np.zeros(count // 2 + 1, spectrum.dtype)
    shared = min(len(spectrum), len(kept))
    kept[:shared] = spectrum[:shared]
    return (np.fft.irfft(kept, count) * (count / len(samples))).astype(np.float32)
