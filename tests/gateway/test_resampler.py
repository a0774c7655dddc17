"""Resampler: the same ring samples in any chunking, and exact positions at every drain."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.resampler import (
    MIN_KEPT_SAMPLES,
    Resampler,
    new_converter,
    restart_converter,
    restart_sample,
)
from protocol.audio import AudioFormat, Encoding
from protocol.client_messages import Hello

RATES_HZ = (8_000, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000)
_noise = np.random.default_rng(7).normal(0, 0.2, 100_000).clip(-1, 1)
S16 = (_noise * 32767).astype("<i2")


def run(audio_format: AudioFormat, pcm: bytes, cuts: list[int], drains: list[int]) -> bytes:
    """Convert `pcm`, cut at client samples `cuts`, drained at `drains` and at the end."""
    resampler = Resampler(audio_format)
    width = audio_format.frame_bytes
    total = len(pcm) // width
    out = b""
    at = 0
    for cut in sorted({*cuts, *drains, total}):
        out += resampler.convert(pcm[at * width : cut * width])
        at = cut
        if cut in drains or cut == total:
            out += resampler.drain()
            assert len(out) // 2 == audio_format.ring_samples(cut)
        assert len(out) // 2 <= audio_format.ring_samples(cut) + 1
    return out


@settings(max_examples=40, deadline=None)
@given(
    rate_hz=st.sampled_from(RATES_HZ),
    cuts=st.lists(st.integers(0, 20_000), max_size=30),
    drains=st.lists(st.integers(0, 20_000), max_size=3),
)
def test_chunking_changes_nothing(rate_hz: int, cuts: list[int], drains: list[int]) -> None:
    audio_format = AudioFormat(sample_rate_hz=rate_hz)
    pcm = S16[:20_000].tobytes()
    assert run(audio_format, pcm, cuts, drains) == run(audio_format, pcm, [], drains)


def test_a_client_that_sends_single_samples_costs_no_memory_for_each() -> None:
    """What is kept of its input is as many pieces as what others send, and the same samples."""
    audio_format = AudioFormat(sample_rate_hz=12_347)
    pcm = S16[:15_000].tobytes()
    resampler = Resampler(audio_format)
    out = b"".join(resampler.convert(pcm[at : at + 2]) for at in range(0, len(pcm), 2))
    assert len(resampler._recent) <= 15_000 // MIN_KEPT_SAMPLES + 1
    out += resampler.drain()
    assert out == run(audio_format, pcm, [], [])
    assert resampler.convert(pcm) + resampler.drain() == run(
        audio_format, pcm + pcm, [], [15_000]
    ).removeprefix(out)


@pytest.mark.parametrize("rate_hz", [*RATES_HZ, 12_347, 191_999])
def test_a_drain_does_not_disturb_what_follows(rate_hz: int) -> None:
    """Away from the drain the filter's output is what an undisturbed stream gives."""
    audio_format = AudioFormat(sample_rate_hz=rate_hz)
    num_samples = rate_hz // 2
    pcm = S16[:num_samples].tobytes()
    drained_at = num_samples // 2
    plain = np.frombuffer(run(audio_format, pcm, [], []), "<i2").astype(int)
    drained = np.frombuffer(run(audio_format, pcm, [], [drained_at]), "<i2").astype(int)
    at = audio_format.ring_samples(drained_at)
    assert len(plain) == len(drained)
    difference = np.abs(plain - drained)
    assert difference[at:-800].max() <= 2
    assert difference[: at - 800].max() == 0  # 50 ms: the filter's reach


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_equals_soxr_in_one_piece(rate_hz: int) -> None:
    samples = S16[:rate_hz]
    expected = soxr.resample(samples.astype(np.float32) / 32768, rate_hz, 16_000, "HQ")
    ours = np.frombuffer(run(AudioFormat(sample_rate_hz=rate_hz), samples.tobytes(), [], []), "<i2")
    difference = np.abs(ours / 32768 - expected[: len(ours)])
    assert difference.max() < 1e-4


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_channels_are_averaged_and_floats_equal_s16(rate_hz: int) -> None:
    mono = S16[:8_000]
    stereo = np.repeat(mono, 2).tobytes()
    floats = (mono.astype("<f4") / 32768).tobytes()
    expected = run(AudioFormat(sample_rate_hz=rate_hz), mono.tobytes(), [], [])
    assert run(AudioFormat(sample_rate_hz=rate_hz, channels=2), stereo, [99], []) == expected
    f32 = AudioFormat(Encoding.PCM_F32LE, rate_hz)
    assert run(f32, floats, [99], []) == expected


def test_hostile_floats_are_finite_and_leave_no_trace() -> None:
    f32 = AudioFormat(Encoding.PCM_F32LE, 48_000)
    bad = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38] * 100, "<f4")
    resampler = Resampler(f32)
    resampler.convert(bad.tobytes())
    quiet = resampler.convert(np.zeros(48_000, "<f4").tobytes())
    assert not any(quiet[-2_000:])


def test_sixteen_kilohertz_mono_is_passed_through_exactly() -> None:
    data = S16[:1_000].tobytes()
    assert Resampler(AudioFormat()).convert(data) == data


def test_nothing_in_nothing_out() -> None:
    resampler = Resampler(AudioFormat(sample_rate_hz=48_000))
    assert resampler.convert(b"") == b""
    assert resampler.drain() == b""
    resampler.convert(S16[:4_800].tobytes())
    assert resampler.drain()
    assert resampler.drain() == b""


@pytest.mark.parametrize("rate_hz", [8_000, 12_347, 44_100, 192_000])
def test_output_of_a_piece_is_bounded(rate_hz: int) -> None:
    resampler = Resampler(AudioFormat(sample_rate_hz=rate_hz))
    for start in range(0, 40_000, 700):
        piece = S16[start : start + 700]
        assert len(resampler.convert(piece.tobytes())) // 2 <= resampler.max_ring_samples(700)


# Another process goes on


@settings(max_examples=60, deadline=None)
@given(
    rate_hz=st.sampled_from([*RATES_HZ, 12_347]),
    lost_at=st.integers(0, 20_000),
    later=st.integers(0, 20_000),
    drains=st.lists(st.integers(0, 20_000), max_size=3),
)
def test_a_successor_goes_on_where_the_ring_is(
    rate_hz: int, lost_at: int, later: int, drains: list[int]
) -> None:
    """It hears from the place that it names, and the ring gets what it would have got."""
    audio_format = AudioFormat(sample_rate_hz=rate_hz)
    pcm = S16[:20_000].tobytes()
    first = Resampler(audio_format)
    before = b""
    at = 0
    for cut in sorted({*(d for d in drains if d < lost_at), lost_at}):
        before += first.convert(pcm[2 * at : 2 * cut])
        before += first.drain() if cut in drains else b""
        at = cut
    ring_samples = len(before) // 2
    second = Resampler.restart(audio_format, ring_samples)
    start = second.client_samples
    assert start == first.restart_sample(ring_samples) == restart_sample(audio_format, ring_samples)
    assert start <= first.client_samples == lost_at
    behind, at = b"", start
    not_taken = [d for d in drains if audio_format.ring_samples(d) >= ring_samples and d >= lost_at]
    for cut in sorted({*not_taken, max(later, lost_at), 20_000}):
        behind += second.convert(pcm[2 * at : 2 * cut])
        behind += second.drain() if cut in not_taken or cut == 20_000 else b""
        at = cut
    assert second.client_samples == 20_000
    got = np.frombuffer(before + behind, "<i2").astype(int)
    expected = np.frombuffer(run(audio_format, pcm, [], drains), "<i2").astype(int)
    assert len(got) == len(expected)
    assert np.abs(got - expected).max() <= 2


def test_a_successor_of_sixteen_kilohertz_hears_nothing_twice() -> None:
    stereo = AudioFormat(channels=2)
    assert restart_sample(stereo, 12_345) == 12_345
    second = Resampler.restart(stereo, 12_345)
    assert len(second.convert(bytes(400))) == 200


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_client_may_end_before_the_place_where_a_successor_goes_on(rate_hz: int) -> None:
    audio_format = AudioFormat(sample_rate_hz=rate_hz)
    second = Resampler.restart(audio_format, 8_000)
    assert second.convert(S16[:10].tobytes()) == second.drain() == b""
    start = second.client_samples - 10
    rest = second.convert(S16[10 : rate_hz // 2].tobytes()) + second.drain()
    assert len(rest) // 2 == audio_format.ring_samples(start + rate_hz // 2) - 8_000


def test_who_speaks_as_the_ring_does_needs_none() -> None:
    assert new_converter(Hello()) is restart_converter(Hello(), 8_000) is None
    begun = new_converter(Hello(sample_rate_hz=48_000))
    assert isinstance(begun, Resampler)
    assert begun.client_samples == 0
    restarted = restart_converter(Hello(sample_rate_hz=48_000), 8_000)
    assert isinstance(restarted, Resampler)
    assert restarted.client_samples == restart_sample(AudioFormat(sample_rate_hz=48_000), 8_000)
