"""Files through the decoder process."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from clients.audio_file import AudioFile, AudioFileError


def write_wav(path: Path, pcm: bytes, rate_hz: int = 8_000) -> str:
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(rate_hz)
        wav.writeframes(pcm)
    return str(path)


def test_blocks_are_the_file(tmp_path: Path) -> None:
    pcm = bytes(range(256)) * 100
    with AudioFile(write_wav(tmp_path / "-a b.wav", pcm)) as audio:
        assert audio.sample_rate_hz == 8_000
        assert audio.duration_s == pytest.approx(len(pcm) / 16_000)
        blocks = list(audio.blocks(160))
    assert b"".join(blocks) == pcm
    assert {len(b) for b in blocks} == {320}


def test_a_file_that_is_not_audio(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"no")
    with pytest.raises(AudioFileError, match=r"a\.wav: not an audio file"):
        AudioFile(str(path))


def test_closing_early_ends_the_decoder(tmp_path: Path) -> None:
    with AudioFile(write_wav(tmp_path / "a.wav", bytes(4 << 20))) as audio:
        next(audio.blocks())
    assert audio._process.returncode is not None
