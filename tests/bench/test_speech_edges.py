"""bench/speech_edges.py on signals whose edges are known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.speech_edges import Interval, find_speech, inside, merge

RATE = 16_000
TOLERANCE = 320


def tones(*spans_ms: tuple[int, int], length_ms: int, noise: float) -> npt.NDArray[np.int16]:
    """Tone bursts at these places over noise of that amplitude."""
    rng = np.random.default_rng(1)
    signal = rng.normal(0, noise, length_ms * RATE // 1000)
    for begin_ms, end_ms in spans_ms:
        begin, end = begin_ms * 16, end_ms * 16
        signal[begin:end] += 8_000 * np.sin(np.arange(end - begin) * 2 * np.pi * 220 / RATE)
    return np.clip(signal, -32_768, 32_767).astype(np.int16)


def assert_edges(found: list[Interval], *spans_ms: tuple[int, int]) -> None:
    assert len(found) == len(spans_ms)
    for run, (begin_ms, end_ms) in zip(found, spans_ms, strict=True):
        assert abs(run.start - begin_ms * 16) <= TOLERANCE
        assert abs(run.end - end_ms * 16) <= TOLERANCE


def test_bursts_are_found_in_silence_and_in_noise() -> None:
    for noise in (0.0, 30.0):
        pcm = tones((500, 1_200), (2_000, 2_900), length_ms=4_000, noise=noise)
        assert_edges(find_speech(pcm), (500, 1_200), (2_000, 2_900))


def test_short_gaps_belong_to_the_speech() -> None:
    pcm = tones((500, 800), (900, 1_200), length_ms=3_000, noise=10)
    assert_edges(find_speech(pcm), (500, 1_200))


def test_a_click_is_not_speech() -> None:
    pcm = tones((500, 530), (1_500, 2_000), length_ms=3_000, noise=10)
    assert_edges(find_speech(pcm), (1_500, 2_000))


def test_silence_and_steady_noise_hold_no_speech() -> None:
    assert find_speech(np.zeros(RATE, np.int16)) == []
    assert find_speech(tones(length_ms=2_000, noise=500)) == []
    assert find_speech(np.zeros(10, np.int16)) == []


def test_an_offset_is_not_speech() -> None:
    assert find_speech(np.full(RATE, 5_000, np.int16)) == []


def test_merge_keeps_order_and_drops_blips() -> None:
    runs = [Interval(0, 800), Interval(10_000, 14_000), Interval(15_000, 20_000)]
    assert merge(runs) == [Interval(10_000, 20_000)]


def test_inside_takes_what_overlaps() -> None:
    speech = [Interval(0, 100), Interval(200, 300), Interval(400, 500)]
    assert inside(speech, 100, 401) == speech[1:]
