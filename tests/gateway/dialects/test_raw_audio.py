"""Samples come out whole, in order and on their channel, however the bytes are cut."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects.g711 import alaw_to_pcm16, ulaw_to_pcm16
from gateway.dialects.raw_audio import Coding, RawAudio
from protocol.audio import Encoding
from protocol.client_messages import MAX_AUDIO_BYTES
from tests.harness import chunkings, random_cuts


def collected(audio: RawAudio, chunks: list[bytes]) -> list[bytes]:
    streams = [b""] * audio.num_streams
    for chunk in chunks:
        for pieces in audio.pieces(chunk):
            assert len(pieces) == audio.num_streams
            streams = [have + new for have, new in zip(streams, pieces, strict=True)]
    return streams


@pytest.mark.parametrize("chunks", list(chunkings(bytes(range(12)))))
def test_linear16_is_passed_on_in_whole_samples(chunks: list[bytes]) -> None:
    audio = RawAudio(Coding.LINEAR16)
    assert collected(audio, chunks) == [bytes(range(12))]
    assert audio.is_between_samples
    assert audio.encoding is Encoding.PCM_S16LE


def test_a_torn_sample_waits_for_its_rest() -> None:
    audio = RawAudio(Coding.LINEAR16, channels=2)
    assert list(audio.pieces(b"1234567")) == [[b"1234"]]
    assert not audio.is_between_samples
    assert list(audio.pieces(b"8")) == [[b"5678"]]
    assert list(audio.pieces(b"")) == []


def test_floats_are_passed_on_as_such() -> None:
    audio = RawAudio(Coding.LINEAR32)
    data = struct.pack("<3f", 0.5, -1.0, 0.25)
    assert collected(audio, [data[:5], data[5:]]) == [data]
    assert audio.encoding is Encoding.PCM_F32LE


def test_telephone_audio_is_expanded() -> None:
    data = bytes(range(256))
    for coding, expand in ((Coding.ULAW, ulaw_to_pcm16), (Coding.ALAW, alaw_to_pcm16)):
        audio = RawAudio(coding)
        assert collected(audio, [data[:7], data[7:]]) == [expand(data)]
        assert audio.encoding is Encoding.PCM_S16LE


@pytest.mark.parametrize("channels", [2, 3, 8])
@pytest.mark.parametrize("coding", list(Coding))
def test_channels_are_taken_apart(coding: Coding, channels: int) -> None:
    sample_bytes = {Coding.LINEAR16: 2, Coding.LINEAR32: 4}.get(coding, 1)
    frames = 50
    apart = [bytes([channel + 1]) * sample_bytes * frames for channel in range(channels)]
    together = b"".join(bytes([c + 1]) * sample_bytes for c in range(channels)) * frames
    audio = RawAudio(coding, channels, is_split=True)
    assert audio.num_streams == channels
    expand = {Coding.ULAW: ulaw_to_pcm16, Coding.ALAW: alaw_to_pcm16}.get(coding, bytes)
    for chunks in ([together], [together[:5], together[5:]]):
        assert collected(audio, chunks) == [expand(channel) for channel in apart]


def test_what_is_plain_goes_on_as_it_comes() -> None:
    assert RawAudio(Coding.LINEAR16).is_plain
    assert RawAudio(Coding.LINEAR16, 2).is_plain
    assert not RawAudio(Coding.LINEAR16, 2, is_split=True).is_plain
    assert not RawAudio(Coding.ULAW).is_plain


def test_one_channel_needs_no_splitting() -> None:
    audio = RawAudio(Coding.LINEAR16, 1, is_split=True)
    assert audio.num_streams == 1
    assert collected(audio, [b"1234"]) == [b"1234"]


@pytest.mark.parametrize("coding", list(Coding))
@pytest.mark.parametrize("channels", [1, 3])
def test_long_messages_come_in_pieces(coding: Coding, channels: int) -> None:
    audio = RawAudio(coding, channels, is_split=True)
    data = bytes(12 * MAX_AUDIO_BYTES // 4)
    sizes = [len(piece) for pieces in audio.pieces(data) for piece in pieces]
    assert max(sizes) <= MAX_AUDIO_BYTES
    factor = 2 if coding in (Coding.ULAW, Coding.ALAW) else 1
    assert sum(sizes) == factor * len(data)


@given(st.binary(min_size=24, max_size=240).flatmap(random_cuts), st.sampled_from(Coding))
def test_any_cut_gives_the_same(chunks: list[bytes], coding: Coding) -> None:
    whole = RawAudio(coding, 3, is_split=True)
    cut = RawAudio(coding, 3, is_split=True)
    assert collected(cut, chunks) == collected(whole, [b"".join(chunks)])
