"""What `bench live` plays: files as 16 kHz mono s16le, and where their speech is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import soxr

from clients.audio_file import AudioFile
from protocol.client_messages import Word

from .pacing import RING_RATE_HZ
from .speech_edges import Interval, find_speech

SHORT_PAUSE_SAMPLES = RING_RATE_HZ // 5  # shorter than the pause that ends an utterance
LONG_PAUSE_SAMPLES = RING_RATE_HZ  # longer
SHIFT_SAMPLES, NUM_SHIFTS = 37, 80  # of a round of distinct(): all fit into a short pause
QUIETER, NUM_GAINS = 0.93, 12  # of a round; then as loud as at first
Samples: TypeAlias = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Recording:
    """One file, played `repeat` times in a row."""

    name: str
    pcm: bytes
    speech: tuple[Interval, ...]
    heard: tuple[Word, ...] | None = None  # by a server, where it was asked (live_reference.py)

    @property
    def num_samples(self) -> int:
        """At 16 kHz."""
        return len(self.pcm) // 2

    @property
    def duration_s(self) -> float:
        """Of the audio."""
        return self.num_samples / RING_RATE_HZ


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """The same sound at another rate."""
    if from_hz == to_hz:
        return samples
    resampled = soxr.resample(samples.astype(np.float32), from_hz, to_hz)
    whole: Samples = np.clip(np.rint(resampled), -32_768, 32_767).astype(np.int16)
    return whole


def read_16k(path: str) -> Samples:
    """Decode (in the decoder process) and resample. Raises ClientError."""
    with AudioFile(path) as audio:
        samples = np.frombuffer(b"".join(audio.blocks()), np.int16)
        rate_hz = audio.sample_rate_hz
    return resample(samples, rate_hz, RING_RATE_HZ)


def load(path: str, repeat: int = 1, seconds: float | None = None) -> Recording:
    """A file, cut to `seconds` if given. Raises ClientError when it cannot be decoded."""
    samples = read_16k(path)
    if seconds is not None:
        samples = samples[: round(seconds * RING_RATE_HZ)]
    samples = np.tile(samples, repeat)
    return Recording(Path(path).name, samples.tobytes(), tuple(find_speech(samples)))


def with_utterances(base: Recording, seconds: float) -> Recording:
    """The same speech with pauses that do not end an utterance before it has so many seconds."""
    samples = np.frombuffer(base.pcm, np.int16)
    silence = np.zeros(LONG_PAUSE_SAMPLES, np.int16)
    pieces, speech = [silence], []
    spoken, place = 0, len(silence)
    for edge, following in zip(base.speech, (*base.speech[1:], None), strict=True):
        end = base.num_samples if following is None else following.start
        length = edge.end - edge.start
        spoken += length
        is_long = spoken >= seconds * RING_RATE_HZ
        pause = min(end - edge.end, LONG_PAUSE_SAMPLES if is_long else SHORT_PAUSE_SAMPLES)
        pieces.append(samples[edge.start : edge.end + pause])
        speech.append(Interval(place, place + length))
        place += length + pause
        spoken = 0 if is_long else spoken
    joined = np.concatenate([*pieces, silence])
    return Recording(base.name, joined.tobytes(), tuple(speech))


def distinct(recordings: Sequence[Recording], count: int) -> tuple[Recording, ...]:
    """`count` recordings no two of which are alike, from a few.

    Each begins in another gap of its recording's speech, and goes on at the recording's beginning
    where it ends. Once the gaps are used up, each next round begins a little later in them, at no
    whole frame of any feature, and is somewhat quieter.
    """
    made = []
    for index in range(count):
        base = recordings[index % len(recordings)]
        gaps = _gaps(base)
        turn, place = divmod(index // len(recordings), len(gaps))
        gain = QUIETER ** (turn % NUM_GAINS)
        shift = turn % NUM_SHIFTS * SHIFT_SAMPLES
        made.append(_begun_at(base, gaps[place] + shift, gain))
    return tuple(made)


def _gaps(recording: Recording) -> list[int]:
    """Samples at the beginning of the gaps between speech; at least that of the recording."""
    return [0, *(edge.end for edge in recording.speech[:-1])]


def _begun_at(base: Recording, start: int, gain: float) -> Recording:
    samples = np.roll(np.frombuffer(base.pcm, np.int16), -start)
    quieter = np.rint(samples * gain).astype(np.int16)
    places = [((edge.start - start) % base.num_samples, edge) for edge in base.speech]
    moved = sorted(Interval(at, at + edge.end - edge.start) for at, edge in places)
    name = f"{base.name} from {start / RING_RATE_HZ:.3f} s, x {gain:.2f}"
    return Recording(name, quieter.tobytes(), tuple(moved))
