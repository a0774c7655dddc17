"""Whisper's log-mel features of a short utterance, without computing the silence behind it.

Whisper hears 30 s: an utterance followed by zeros. Frames that lie in the zeros have one value
(the clamp), so only the frames that touch the utterance are computed. Formula: openai/whisper,
whisper/audio.py, log_mel_spectrogram: n_fft 400, hop 160, periodic Hann, reflected ends, Slaney
mel filters, log10 of at least 1e-10, at least the maximum - 8, (x + 4) / 4.

Pure numpy; whisper_encoder.py calls it. Shapes: M mel bands (80 or 128), T frames of 10 ms.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mel_bank import slaney_bank

FFT_SAMPLES = 400
HOP_SAMPLES = 160
WINDOW_FRAMES = 3000  # 30 s: what the encoder was trained on
WINDOW_SAMPLES = WINDOW_FRAMES * HOP_SAMPLES
SAMPLE_RATE_HZ = 16_000
FLOOR = np.float32(1e-10)


@dataclass(frozen=True, slots=True)
class LogMel:
    """Features of an utterance in a window of 30 s."""

    frames: NDArray[np.float32]  # (M, T): the frames that touch the utterance
    pad_value: float  # of every element of the other 3000 - T frames

    def padded(self, num_frames: int = WINDOW_FRAMES) -> NDArray[np.float32]:
        """The first `num_frames` frames of the window, (M, num_frames)."""
        out = np.full((self.frames.shape[0], num_frames), self.pad_value, np.float32)
        kept = min(num_frames, self.frames.shape[1])
        out[:, :kept] = self.frames[:, :kept]
        return out


@functools.cache
def _hann() -> NDArray[np.float32]:
    window: NDArray[np.float32] = np.hanning(FFT_SAMPLES + 1)[:-1].astype(np.float32)
    return window


def log_mel(samples: NDArray[np.int16], num_bands: int) -> LogMel:
    """Features of (n,) int16 samples at 16 kHz, n <= 480000, followed by zeros up to 30 s.

    Raises ValueError for more samples.
    """
    if len(samples) > WINDOW_SAMPLES:
        raise ValueError(f"{len(samples)} samples are more than a window of 30 s")
    # Frame t is centred on sample 160 t: 200 samples on each side reach into it.
    half = FFT_SAMPLES // 2
    num_frames = min(WINDOW_FRAMES, (len(samples) + half + HOP_SAMPLES - 1) // HOP_SAMPLES)
    num_needed = (num_frames - 1) * HOP_SAMPLES + FFT_SAMPLES
    signal = np.zeros(max(num_needed, FFT_SAMPLES), np.float32)
    audio = samples.astype(np.float32) / np.float32(32768.0)
    signal[half : half + len(audio)] = audio[: len(signal) - half]
    signal[:half] = signal[half + 1 : FFT_SAMPLES + 1][::-1]  # reflected, without the edge
    end = half + WINDOW_SAMPLES
    if len(signal) > end:  # what the last frames see of the window's other end
        signal[end:] = signal[2 * end - 1 - len(signal) : end - 1][::-1]
    windows = np.lib.stride_tricks.sliding_window_view(signal, FFT_SAMPLES)[::HOP_SAMPLES]
    spectrum = np.fft.rfft(windows[:num_frames] * _hann(), axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    mel = np.log10(np.maximum(slaney_bank(num_bands, FFT_SAMPLES) @ power.T, FLOOR))
    top = float(mel.max()) if mel.size else float(np.log10(FLOOR))
    floor = max(top, float(np.log10(FLOOR))) - 8.0
    pad_value = (max(floor, float(np.log10(FLOOR))) + 4.0) / 4.0
    return LogMel((np.maximum(mel, np.float32(floor)) + 4.0) / 4.0, pad_value)
