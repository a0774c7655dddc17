"""Slaney's mel filters: triangles over the bins of an FFT, each of unit area.

M. Slaney, Auditory Toolbox, 1998: the scale is linear below 1 kHz and logarithmic above. Both
Whisper and Parakeet are trained on them. Pure numpy; the feature modules call it.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 16_000
BREAK_HZ = 1000.0
LINEAR_STEP_HZ = 200.0 / 3.0  # a mel below the break
LOG_STEP = float(np.log(6.4)) / 27.0  # a mel above it, in log frequency


@functools.cache
def slaney_bank(num_bands: int, fft_samples: int) -> NDArray[np.float32]:
    """(num_bands, fft_samples / 2 + 1): bands evenly spaced in mels from 0 to 8 kHz. Read-only."""
    break_mel = BREAK_HZ / LINEAR_STEP_HZ
    top_mel = break_mel + np.log(SAMPLE_RATE_HZ / 2.0 / BREAK_HZ) / LOG_STEP
    mels = np.linspace(0.0, top_mel, num_bands + 2)
    corners_hz = np.where(
        mels < break_mel,
        mels * LINEAR_STEP_HZ,
        BREAK_HZ * np.exp(LOG_STEP * (mels - break_mel)),
    )
    bins_hz = np.fft.rfftfreq(fft_samples, 1.0 / SAMPLE_RATE_HZ)
    left, center, right = (corners_hz[i : i + num_bands, None] for i in range(3))
    rising = (bins_hz - left) / (center - left)
    falling = (right - bins_hz) / (right - center)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    bank: NDArray[np.float32] = (triangles * 2.0 / (right - left)).astype(np.float32)
    bank.flags.writeable = False
    return bank
