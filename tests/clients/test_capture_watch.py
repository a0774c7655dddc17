"""Telling a device without a clock, and a mute one, from a microphone."""

from __future__ import annotations

from clients.capture_watch import MAX_AHEAD_S, PaceWatch, SilenceWatch

BLOCK = 320
BLOCK_NS = 20_000_000


def test_a_real_device_never_waits() -> None:
    watch = PaceWatch(16_000)
    # Blocks come in bursts of ten, as some drivers deliver them.
    waits = [watch.wait_s(BLOCK, i // 10 * 10 * BLOCK_NS) for i in range(5_000)]
    assert max(waits) == 0.0
    assert not watch.is_unpaced


def test_a_device_without_a_clock_is_held_to_real_time() -> None:
    watch, now_ns = PaceWatch(16_000), 0
    for _ in range(500):  # 10 s of audio
        now_ns += int(watch.wait_s(BLOCK, now_ns) * 1e9)
    assert watch.is_unpaced
    assert abs(now_ns / 1e9 - (10.0 - MAX_AHEAD_S)) < 0.05


def test_digital_silence_is_reported_once() -> None:
    watch = SilenceWatch(16_000)
    reports = [watch.is_mute(bytes(2 * BLOCK)) for _ in range(400)]
    assert reports.index(True) == 149  # the block that completes 3 s
    assert sum(reports) == 1


def test_any_sound_is_a_working_device() -> None:
    watch = SilenceWatch(16_000)
    assert not watch.is_mute(bytes(639) + b"\1")
    assert not any(watch.is_mute(bytes(2 * BLOCK)) for _ in range(400))
