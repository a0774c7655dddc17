"""stream_messages.py: what a client and a service are told when a stream begins."""

from __future__ import annotations

from gateway.admission import Admitted
from gateway.latency_classes import Promise
from gateway.recovery import Control
from gateway.stream import Stream
from gateway.stream_messages import effective_vad, open_message, started_message
from protocol.client_messages import Hello, LatencyClass, VadOptions
from protocol.ring import ArenaLayout
from protocol.service_messages import Checkpoint, Configure

from .rig import make_config
from .test_parking import Yard


def stream_of(hello: Hello) -> Stream:
    channel = Yard().channel()
    return Stream("s-1", hello, channel, None)


def test_started_says_what_holds() -> None:
    hello = Hello(language="en", hop_ms=320, vad=VadOptions(max_utterance_ms=10_000))
    config = make_config(resume_window_ms=7_000, max_utterance_ms=30_000)
    stream = stream_of(hello)
    stream.promise = Promise(LatencyClass.SLOW, 500)
    started = started_message(stream, config, "m")
    assert (started.session_id, started.model, started.language) == ("s-1", "m", "en")
    assert (started.hop_ms, started.latency_class) == (500, LatencyClass.SLOW)
    assert (started.limits.max_utterance_ms, started.limits.ring_ms) == (10_000, 1_000)
    assert started.limits.resume_window_ms == 7_000
    assert started.resume_token == "", "that is the parking's to make"


def test_started_names_the_model_that_was_asked_for() -> None:
    started = started_message(stream_of(Hello(model="other")), make_config(), "m")
    assert started.model == "other"
    assert started.limits.max_utterance_ms == 30_000


def test_a_service_is_told_the_stream_from_its_checkpoint_on() -> None:
    hello = Hello(
        language="en", model="m", prompt="p", hotwords=("h",), tokens=True, partials=False,
        hop_ms=400,
    )  # fmt: skip
    stream = stream_of(hello)
    layout = ArenaLayout(8, 100)
    stream.attach(5, 3, layout.ring(memoryview(bytearray(layout.size_bytes)), 5))
    stream.admitted = Admitted(hello, frozenset({2, 3}), {}, 0)
    first = open_message(stream, 2)
    assert not first.was_admitted
    assert (first.slot, first.generation, first.first_sample, first.checkpoint) == (5, 3, 0, b"")
    assert (first.language, first.model, first.prompt, first.hotwords) == ("en", "m", "p", ("h",))
    assert (first.tokens, first.partials, first.hop_ms, first.alone) == (True, False, 400, False)
    changed: Control = Configure(5, 3, 60, VadOptions(threshold=0.9))
    stream.history.remember(changed)
    stream.history.commit(Checkpoint(5, 3, 1, 80, b"state", 1))
    stream.suspicion.strikes = 1
    again = open_message(stream, 4)
    assert again.was_admitted
    assert (again.first_sample, again.checkpoint, again.alone) == (80, b"state", True)
    assert again.vad == VadOptions(threshold=0.9)


def test_the_server_may_know_no_voice_activity() -> None:
    wished = VadOptions(threshold=0.4, max_utterance_ms=9_000)
    off = VadOptions(enabled=False, max_utterance_ms=9_000)
    assert effective_vad(wished, make_config(vad=True)) == wished
    assert effective_vad(wished, make_config(vad=False)) == off
    assert effective_vad(off, make_config(vad=False)) == off
