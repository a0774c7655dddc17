"""Audio for system tests: real speech at any rate, one-word clips, silence, noise, hum."""

from __future__ import annotations

import functools
import subprocess
import wave
from pathlib import Path
from typing import TypeAlias

import jiwer
import numpy as np
import soxr
from numpy.typing import NDArray
from whisper_normalizer.english import EnglishTextNormalizer

from ..gpu_service.speech import TWO_CITIES_TEXT, two_cities

RATE_HZ = 16_000
DEMO_CLIP = Path(__file__).parents[2] / "clients" / "demo" / "clip.wav"
DEMO_TEXT = (
    "Hello, and welcome. These captions appear while I am still speaking. Every word goes through "
    "a real gateway, over shared memory, to a real speech model. When I stop talking, the final "
    "text is ready a moment later."
)
Samples: TypeAlias = NDArray[np.int16]
_normalize = EnglishTextNormalizer()

__all__ = ["DEMO_CLIP", "DEMO_TEXT", "RATE_HZ", "TWO_CITIES_TEXT", "Samples", "two_cities"]


def word_error_rate(reference: str, hypothesis: str) -> float:
    """Of normalised English texts; the reference must have words."""
    return float(jiwer.wer(_normalize(reference), _normalize(hypothesis)))


def words_of(text: str) -> list[str]:
    """Normalised."""
    return str(_normalize(text)).split()


@functools.cache
def demo_clip() -> Samples:
    """(n,) of the clip that `earwire demo` plays."""
    with wave.open(str(DEMO_CLIP)) as reader:
        assert (reader.getframerate(), reader.getnchannels()) == (RATE_HZ, 1)
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2").astype(np.int16)


@functools.cache
def short_clip() -> Samples:
    """The first 11 s of two_cities: two sentences' worth of real speech and a pause."""
    return two_cities()[: 11 * RATE_HZ]


@functools.cache
def at_rate(rate_hz: int) -> Samples:
    """short_clip as a client of that rate would send it."""
    floats = short_clip().astype(np.float32) / 32768.0
    if rate_hz == RATE_HZ:
        return short_clip()
    return to_s16(soxr.resample(floats, RATE_HZ, rate_hz))


def to_s16(floats: NDArray[np.float32]) -> Samples:
    """[-1, 1) to 16 bits."""
    samples: Samples = np.clip(np.rint(floats * 32768.0), -32768, 32767).astype(np.int16)
    return samples


def silence(seconds: float) -> Samples:
    """Digital silence."""
    return np.zeros(int(seconds * RATE_HZ), np.int16)


def white_noise(seconds: float, level: float = 0.1, seed: int = 1) -> Samples:
    """Gaussian, `level` RMS of full scale."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE_HZ))
    return to_s16((level * noise).astype(np.float32))


def hum(seconds: float, level: float = 0.1) -> Samples:
    """Mains: 50 Hz and its odd harmonics."""
    t = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    harmonics = np.stack([np.sin(2 * np.pi * 50 * k * t) / k for k in (1, 3, 5, 7)])
    return to_s16((level * harmonics.sum(axis=0)).astype(np.float32))


def without_pauses(audio: Samples, threshold: float = 0.01, keep_ms: int = 60) -> Samples:
    """The audio with every stretch quieter than `threshold` cut down to `keep_ms`."""
    frame = RATE_HZ // 100
    frames = audio[: len(audio) // frame * frame].reshape(-1, frame)
    level = np.sqrt(np.mean((frames.astype(np.float32) / 32768.0) ** 2, axis=1))
    kept, quiet = [], 0
    for loud, samples in zip(level > threshold, frames, strict=True):
        quiet = 0 if loud else quiet + 1
        if quiet * 10 <= keep_ms:
            kept.append(samples)
    return np.concatenate(kept)


def spoken(text: str, pad_s: float = 0.5, voice: str = "en-us") -> Samples:
    """`text` by espeak-ng, with silence around it."""
    run = subprocess.run(
        ["espeak-ng", "-v", voice, "-s", "140", "--stdout", text], capture_output=True, check=True
    )
    header, data = run.stdout.split(b"data", 1)  # the length in a piped header is no length
    rate_hz = int.from_bytes(header[24:28], "little")
    samples = np.frombuffer(data[4 : 4 + (len(data) - 4) // 2 * 2], "<i2")
    floats = soxr.resample(samples.astype(np.float32) / 32768.0, rate_hz, RATE_HZ)
    return np.concatenate([silence(pad_s), to_s16(floats), silence(pad_s)])


def write_wav(path: Path, audio: Samples, rate_hz: int = RATE_HZ) -> Path:
    """16-bit mono."""
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate_hz)
        writer.writeframes(audio.astype("<i2").tobytes())
    return path


def write_mp3(path: Path, audio: Samples, rate_hz: int = RATE_HZ) -> Path:
    """By PyAV, because Debian's sox writes none."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3", rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(audio.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = rate_hz
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return path
