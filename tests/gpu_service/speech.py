"""Real speech for tests: two_cities.wav out of the moonshine-voice wheel, at 16 kHz.

The opening of Dickens' A Tale of Two Cities, 44.4 s, read at 48 kHz; the wheel is a dev dependency.
"""

from __future__ import annotations

import functools
import importlib.metadata
import wave
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

TWO_CITIES_TEXT = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    "age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was "
    "the season of Light, it was the season of Darkness, it was the spring of hope, it was the "
    "winter of despair, we had everything before us, we had nothing before us, we were all "
    "going direct to Heaven, we were all going direct the other way. In short, the period was "
    "so far like the present period, that some of its noisiest authorities insisted on its "
    "being received, for good or for evil, in the superlative degree of comparison only. "
)


def write_two_cities(path: str) -> None:
    """As a 16 kHz WAV file, for programs that have none of the project's packages."""
    with wave.open(path, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(two_cities().astype("<i2").tobytes())


@functools.cache
def two_cities() -> NDArray[np.int16]:
    """(n,) int16, 16 kHz mono."""
    files = importlib.metadata.files("moonshine-voice") or []
    path = next(Path(str(f.locate())) for f in files if f.name == "two_cities.wav")
    with wave.open(str(path)) as reader:
        rate, channels = reader.getframerate(), reader.getnchannels()
        data = np.frombuffer(reader.readframes(reader.getnframes()), "<i2").reshape(-1, channels)
    mono = data.astype(np.float32).mean(axis=1) / 32768.0
    resampled = soxr.resample(mono, rate, 16_000)
    return np.clip(np.rint(resampled * 32768.0), -32768, 32767).astype(np.int16)
