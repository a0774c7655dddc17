"""A stream as its Open asks for it."""

from __future__ import annotations

from gpu_service.config import ServiceConfig
from gpu_service.session import default_vad, new_stream
from gpu_service.speech_events import CutRule, VadOptions
from protocol.client_messages import VadOptions as AskedVadOptions
from protocol.service_messages import Open

CONFIG = ServiceConfig(index=0, control_fd=-1, hop_ms=320, max_utterance_ms=9_000, guard_ms=100)


def test_what_nobody_asked_for_is_the_servers() -> None:
    rule = CutRule(1_280, 2, 3)
    stream = new_stream(Open(3, 7, "s"), CONFIG, rule)
    assert (stream.slot, stream.generation) == (3, 7)
    assert stream.options == default_vad(CONFIG) == VadOptions(max_utterance_ms=9_000)
    assert stream.defaults == stream.options
    assert (stream.hop_samples, stream.cut_rule) == (320 * 16, rule)
    assert (stream.partials, stream.tokens, stream.alone) == (True, False, False)
    assert stream.transcript.hold_samples == 1_600


def test_what_was_asked_for() -> None:
    asked = Open(
        0, 1, "s", tokens=True, partials=False, hop_ms=100, alone=True,
        vad=AskedVadOptions(threshold=0.9),
    )  # fmt: skip
    stream = new_stream(asked, CONFIG, CutRule())
    assert (stream.partials, stream.tokens, stream.alone) == (False, True, True)
    assert stream.hop_samples == 1_600
    assert stream.options.threshold == 0.9
    assert stream.model == ""
    assert new_stream(asked, CONFIG, CutRule(), "tiny.en").model == "tiny.en"


def test_a_server_without_detection_has_none_for_anybody() -> None:
    config = ServiceConfig(index=0, control_fd=-1, vad=False)
    assert not new_stream(Open(0, 1, "s"), config, CutRule()).options.enabled
