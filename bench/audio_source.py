"""What `bench live` plays: files as 16 kHz mono s16le, and where their speech is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr

from clients.audio_file import AudioFile

from .pacing import RING_RATE_HZ
from .speech_edges import Interval, find_speech


@dataclass(frozen=True, slots=True)
class Recording:
    """One file, played `repeat` times in a row."""

    name: str
    pcm: bytes
    speech: tuple[Interval, ...]

    @property
    def num_samples(self) -> int:
        """At 16 kHz."""
        return len(self.pcm) // 2

    @property
    def duration_s(self) -> float:
        """Of the audio."""
        return self.num_samples / RING_RATE_HZ


def read_16k(path: str) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """Decode (in the decoder process) and resample. Raises ClientError."""
    with AudioFile(path) as audio:
        samples = np.frombuffer(b"".join(audio.blocks()), np.int16)
        rate_hz = audio.sample_rate_hz
    if rate_hz != RING_RATE_HZ:
        resampled = soxr.resample(samples.astype(np.float32), rate_hz, RING_RATE_HZ)
        samples = np.clip(np.rint(resampled), -32_768, 32_767).astype(np.int16)
    return samples


def load(path: str, repeat: int = 1, seconds: float | None = None) -> Recording:
    """A file, cut to `seconds` if given. Raises ClientError when it cannot be decoded."""
    samples = read_16k(path)
    if seconds is not None:
        samples = samples[: round(seconds * RING_RATE_HZ)]
    samples = np.tile(samples, repeat)
    return Recording(Path(path).name, samples.tobytes(), tuple(find_speech(samples)))
