"""audio.py: the format limits, and positions that convert without drift."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.audio import (
    MAX_CHANNELS,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    RING_RATE_HZ,
    AudioFormat,
    Encoding,
    ms_to_samples,
    samples_to_ms,
)

RATES = st.one_of(
    st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000]),
    st.integers(MIN_RATE_HZ, MAX_RATE_HZ),
)
POSITIONS = st.integers(0, 2**50)


@pytest.mark.parametrize("rate", [MIN_RATE_HZ - 1, MAX_RATE_HZ + 1, 0, -16_000])
def test_a_rate_outside_the_limits_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match=f"sample rate {rate} Hz"):
        AudioFormat(sample_rate_hz=rate)


@pytest.mark.parametrize("channels", [0, -1, MAX_CHANNELS + 1])
def test_a_channel_count_outside_the_limits_is_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"{channels} channels"):
        AudioFormat(channels=channels)


def test_the_limits_themselves_are_accepted() -> None:
    AudioFormat(sample_rate_hz=MIN_RATE_HZ, channels=1)
    AudioFormat(sample_rate_hz=MAX_RATE_HZ, channels=MAX_CHANNELS)


@pytest.mark.parametrize(
    ("encoding", "channels", "frame_bytes"),
    [
        (Encoding.PCM_S16LE, 1, 2),
        (Encoding.PCM_S16LE, 2, 4),
        (Encoding.PCM_F32LE, 1, 4),
        (Encoding.PCM_F32LE, 8, 32),
    ],
)
def test_one_client_sample_spans_all_channels(
    encoding: Encoding, channels: int, frame_bytes: int
) -> None:
    assert AudioFormat(encoding, 16_000, channels).frame_bytes == frame_bytes


def test_only_the_ring_format_goes_to_the_ring_as_it_is() -> None:
    assert AudioFormat().is_ring_format
    assert not AudioFormat(encoding=Encoding.PCM_F32LE).is_ring_format
    assert not AudioFormat(sample_rate_hz=8_000).is_ring_format
    assert not AudioFormat(channels=2).is_ring_format


@given(RATES, POSITIONS)
def test_a_ring_position_is_the_floor_of_the_exact_one(rate: int, client: int) -> None:
    ring = AudioFormat(sample_rate_hz=rate).ring_samples(client)
    assert ring * rate <= client * RING_RATE_HZ < (ring + 1) * rate


@given(RATES, POSITIONS)
def test_the_ceiling_is_the_first_client_sample_that_reaches_a_position(
    rate: int, ring: int
) -> None:
    audio = AudioFormat(sample_rate_hz=rate)
    client = audio.client_samples(ring)
    assert audio.ring_samples(client) >= ring
    assert client == 0 or audio.ring_samples(client - 1) < ring


@given(RATES, st.lists(st.integers(0, 10_000), max_size=20))
def test_pieces_add_up_to_the_position_of_the_whole(rate: int, pieces: list[int]) -> None:
    audio = AudioFormat(sample_rate_hz=rate)
    position = taken = 0
    for piece in pieces:
        before, position = audio.ring_samples(position), position + piece
        taken += audio.ring_samples(position) - before
    assert taken == audio.ring_samples(sum(pieces))


@given(POSITIONS)
def test_at_the_ring_rate_both_positions_are_one(position: int) -> None:
    audio = AudioFormat()
    assert audio.ring_samples(position) == audio.client_samples(position) == position


@given(st.integers(0, 10**9))
def test_whole_milliseconds_survive_the_way_there_and_back(ms: int) -> None:
    assert samples_to_ms(ms_to_samples(ms)) == ms


def test_a_part_of_a_sample_is_rounded_down() -> None:
    assert ms_to_samples(0.99 / 16) == 0
    assert ms_to_samples(1.5) == 24
