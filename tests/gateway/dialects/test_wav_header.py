"""Headerless audio, as files that a decoder reads."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest

from gateway.dialects.g711 import alaw_to_pcm16, ulaw_to_pcm16
from gateway.dialects.raw_audio import Coding
from gateway.dialects.wav_header import wav_header

av = pytest.importorskip("av")


def test_the_standard_library_reads_linear_samples() -> None:
    with wave.open(io.BytesIO(wav_header(Coding.LINEAR16, 16_000, 2) + bytes(400))) as wav:
        assert (wav.getframerate(), wav.getnchannels(), wav.getsampwidth()) == (16_000, 2, 2)
        assert len(wav.readframes(1_000)) == 400


@pytest.mark.parametrize("coding", list(Coding))
def test_ffmpeg_reads_every_coding_to_the_end_of_the_data(coding: Coding) -> None:
    data = bytes(range(256)) * 40
    if coding is Coding.LINEAR32:
        data = np.linspace(-0.5, 0.5, 2_560, dtype="<f4").tobytes()
    container = av.open(io.BytesIO(wav_header(coding, 8_000, 1) + data))
    frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    expanded = {Coding.ULAW: ulaw_to_pcm16, Coding.ALAW: alaw_to_pcm16}.get(coding, bytes)(data)
    assert (
        np.concatenate(frames).astype("<f4" if coding is Coding.LINEAR32 else "<i2").tobytes()
        == expanded
    )
    assert container.streams.audio[0].rate == 8_000
