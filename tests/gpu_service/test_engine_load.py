"""EngineLoad: late finals take time from drafts, and audio has a price."""

from __future__ import annotations

import pytest

from gpu_service.engine_load import (
    LATE_FINAL_NS,
    MAX_DRAFT_SHARE,
    PRIOR_SECONDS,
    WINDOW_SECONDS,
    EngineLoad,
)

FRAMES_A_MINUTE = 1_875  # of 32 ms
HOP_NS = 3e9


def test_late_finals_halve_the_share_of_drafts_until_there_are_none() -> None:
    load = EngineLoad()
    shares = []
    for _ in range(6):
        load.final_waits(LATE_FINAL_NS + 1)
        load.final_waits(5)
        load.review()
        shares.append(load.draft_share)
    assert shares == pytest.approx([0.3, 0.15, 0.075, 0.0, 0.0, 0.0])


def test_the_share_is_back_within_seconds() -> None:
    load = EngineLoad(draft_share=0.0)
    for _ in range(12):  # six seconds
        load.final_waits(LATE_FINAL_NS)
        load.review()
    assert load.draft_share == pytest.approx(MAX_DRAFT_SHARE)
    load.review()
    assert load.draft_share == MAX_DRAFT_SHARE


def test_nobody_else_comes_in_until_half_of_it_is_back() -> None:
    load = EngineLoad()
    assert not load.is_strained
    load.final_waits(2 * LATE_FINAL_NS)
    load.review()
    assert (load.is_strained, load.is_late) == (True, False)
    load.final_waits(2 * LATE_FINAL_NS)
    load.review()
    assert load.is_late
    for _ in range(4):
        load.review()
    assert not load.is_late


def test_nothing_is_known_at_first() -> None:
    load = EngineLoad()
    assert load.bearable_streams(1e6, HOP_NS) is None
    load.heard(1, is_speech=True)
    assert load.bearable_streams(1e6, HOP_NS) is None


def test_a_probe_is_a_guess_that_audio_soon_outweighs() -> None:
    load = EngineLoad()
    load.probed(400e6)
    load.probed(40e6)
    load.probed(80e6)
    guess = load.bearable_streams(0.0, HOP_NS)
    assert guess == int(0.8 / (0.04 + 0.04 / 3))
    load.heard(FRAMES_A_MINUTE // 2, is_speech=True)
    load.finals_took(3e9)
    load.probed(10e6)  # too late to count for anything but a draft's cost
    assert load.bearable_streams(0.0, HOP_NS) == int(
        0.8 / ((3 + PRIOR_SECONDS * 0.04) / (30 + PRIOR_SECONDS) + 0.01 / 3)
    )


def test_silence_makes_audio_cheaper() -> None:
    costs = []
    for is_speech in (True, False):
        load = EngineLoad()
        load.heard(FRAMES_A_MINUTE, is_speech=is_speech)
        costs.append(load.bearable_streams(60e6, HOP_NS))
    assert costs == [40, None]


def test_what_was_long_ago_counts_less() -> None:
    load = EngineLoad()
    for minute in range(6):
        for _ in range(FRAMES_A_MINUTE):
            load.heard(1, is_speech=True)
            load.finals_took((6e9 if minute == 0 else 1e9) / FRAMES_A_MINUTE)
    bearable = load.bearable_streams(0.0, HOP_NS)
    assert bearable is not None
    assert bearable == pytest.approx(0.8 / (1 / WINDOW_SECONDS), rel=0.2)
