"""Audio files for tests, made by PyAV: any container and codec."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

av = pytest.importorskip("av")

TONE_HZ = 440


def tone(rate_hz: int, seconds: float = 1.0) -> npt.NDArray[np.int16]:
    phase = 2 * np.pi * TONE_HZ * np.arange(int(rate_hz * seconds)) / rate_hz
    return (8000 * np.sin(phase)).astype(np.int16)


def write_wav(
    path: Path, samples: npt.NDArray[Any], rate_hz: int, channels: int = 1, width: int = 2
) -> Path:
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(channels)
        wav.setsampwidth(width)
        wav.setframerate(rate_hz)
        wav.writeframes(samples.tobytes())
    return path


def encode(
    path: Path,
    codec: str,
    rate_hz: int,
    layout: str,
    with_video: bool = False,
    seconds: float = 1.0,
    samples: npt.NDArray[np.int16] | None = None,
) -> Path:
    """The tone, or these samples, as a file; the container is by the path's suffix."""
    if samples is None:
        samples = tone(rate_hz, seconds)
    with av.open(str(path), "w") as container:
        if with_video:
            video = container.add_stream("mpeg4", rate=5)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        audio = container.add_stream(codec, rate=rate_hz, layout=layout)
        if with_video:
            container.mux([*video.encode(av.VideoFrame(64, 64, "yuv420p")), *video.encode(None)])
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.rate = rate_hz
        resampler = av.AudioResampler(
            audio.format.name, layout, rate_hz, audio.codec_context.frame_size or 0
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))
    return path
