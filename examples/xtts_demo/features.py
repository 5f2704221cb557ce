"""Log-mel spectrograms: 80 bands, 22,050 Hz, windows of 1,024 samples every 256."""

from __future__ import annotations

import functools

import numpy as np

from .audio import SAMPLE_RATE

MEL_BANDS = 80
HOP = 256
WINDOW = 1024
TOP_FREQUENCY = 8_000.0
FLOOR = 1e-5
# Normalisation: natural logarithms of speech recorded at a usual level have about this mean and deviation. Constants
# rather than measurements, so that every corpus has the same scale and a spectrogram can be turned back.
LOG_MEAN = -1.0
LOG_DEVIATION = 2.5
SILENCE = float((np.log(FLOOR) - LOG_MEAN) / LOG_DEVIATION)
# Everything that decides what a spectrogram looks like; the first number counts changes of the code itself.
RECIPE = (1, SAMPLE_RATE, MEL_BANDS, HOP, WINDOW, TOP_FREQUENCY, FLOOR, LOG_MEAN, LOG_DEVIATION)


def frame_count(samples: int) -> int:
    """Return the number of frames of so many samples."""
    return 1 + samples // HOP


@functools.cache
def mel_filters() -> np.ndarray:
    """Return triangular filters [513, 80] with unit peaks, equally spaced on the HTK mel scale from 0 to 8 kHz."""

    def mel(hertz: float) -> float:
        return 2595.0 * np.log10(1.0 + hertz / 700.0)

    edges = 700.0 * (10.0 ** (np.linspace(0.0, mel(TOP_FREQUENCY), MEL_BANDS + 2) / 2595.0) - 1.0)
    bins = np.fft.rfftfreq(WINDOW, 1.0 / SAMPLE_RATE)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Return the normalised log-mel spectrogram of a signal.

    Magnitudes of Hann windows centred on multiples of the hop (the signal is reflected at its ends), through the mel
    filters, `log(max(., 1e-5))`, minus -1, divided by 2.5.

    Args:
        samples: Samples [n] at 22,050 Hz, full scale at 1.0, more than half a window long.

    Returns:
        Spectrogram [1 + n // 256, 80], float32; digital silence is `SILENCE`.
    """
    padded = np.pad(samples.astype(np.float32), WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(WINDOW) / WINDOW)
    magnitudes = np.abs(np.fft.rfft(frames * hann.astype(np.float32), axis=1))
    mels = np.log(np.maximum(magnitudes @ mel_filters(), FLOOR))
    return ((mels - LOG_MEAN) / LOG_DEVIATION).astype(np.float32)
