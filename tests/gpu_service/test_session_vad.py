"""A session's options: what it asked for, made consistent, over the server's defaults."""

from __future__ import annotations

from gpu_service.session_vad import vad_options
from gpu_service.speech_events import VadOptions
from protocol.client_messages import VadOptions as AskedVadOptions


def test_contradicting_vad_options_are_made_consistent() -> None:
    asked = AskedVadOptions(
        threshold=0.0, min_silence_ms=100, speech_pad_ms=2_000, max_utterance_ms=1_000,
        min_speech_ms=3_000,
    )  # fmt: skip
    options = vad_options(asked, VadOptions())
    assert options.speech_pad_ms == 100
    assert options.max_utterance_ms >= 6_200
    assert not vad_options(AskedVadOptions(), VadOptions(enabled=False)).enabled


def test_no_client_gets_utterances_longer_than_the_servers_ring_is_made_for() -> None:
    server = VadOptions(max_utterance_ms=5_000)
    for asked in (
        AskedVadOptions(max_utterance_ms=60_000),
        AskedVadOptions(min_silence_ms=10_000, min_speech_ms=10_000),
    ):
        options = vad_options(asked, server)
        assert options.max_utterance_ms == 5_000
        assert 2 * (options.min_silence_ms + options.min_speech_ms) <= 5_000


def test_turns_are_told_of_to_those_who_ask() -> None:
    assert vad_options(AskedVadOptions(), VadOptions(end_of_turn_ms=500)).end_of_turn_ms is None
    assert vad_options(AskedVadOptions(end_of_turn_ms=0), VadOptions()).end_of_turn_ms == 0
