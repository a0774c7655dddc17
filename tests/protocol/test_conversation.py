"""A whole life of a connection between two Sessions joined in memory, in pieces of several sizes:
what one side says is what the other hears, in order, and both end in the same state.
"""

from __future__ import annotations

from typing import Any

import pytest

from protocol.client_messages import (
    Audio,
    Bye,
    Closed,
    EndOfTurn,
    Error,
    Final,
    Finalize,
    Hello,
    NonSpeech,
    Partial,
    Ping,
    Pong,
    SpeechStarted,
    SpeechStopped,
    Watermark,
)
from protocol.errors import ErrorCode
from protocol.session import State
from tests.harness import STARTED, SessionPair

COUNTS: dict[str, Any] = {"audio_received": 6_400, "audio_decoded": 6_400}
SPEECH = (
    NonSpeech(**COUNTS, start_sample=0, end_sample=1_600),
    SpeechStarted(**COUNTS, utterance=0, start_sample=1_600),
    Partial(**COUNTS, utterance=0, start_sample=1_600, end_sample=4_800, stable="", volatile="two"),
    SpeechStopped(**COUNTS, utterance=0, end_sample=6_400),
    Final(**COUNTS, utterance=0, start_sample=1_600, end_sample=6_400, text="two.", finalize_id=1),
    EndOfTurn(**COUNTS, utterance=0, end_sample=6_400),
)
CLOSED = Closed(
    reason="bye",
    client_samples=6_400,
    socket_samples=6_400,
    ring_samples=6_400,
    engine_samples=6_400,
)


@pytest.mark.parametrize("chunk_bytes", [1, 3, 16, 17, 1_000, 1 << 20])
def test_a_whole_life(chunk_bytes: int) -> None:
    pair = SessionPair(chunk_bytes)
    assert pair.from_client(Hello(client="tests")) == [Hello(client="tests")]
    assert pair.from_server(STARTED) == [STARTED]
    pair.client.send_audio(bytes(12_800))
    assert pair.carry_to_server() == [Audio(0, bytes(12_800))]
    watermark = Watermark(client_samples=6_400, audio_received=6_400, audio_decoded=0)
    assert pair.from_server(watermark) == [watermark]
    assert pair.from_client(Ping(7), Finalize(finalize_id=1)) == [Ping(7), Finalize(finalize_id=1)]
    assert pair.from_server(Pong(7), *SPEECH) == [Pong(7), *SPEECH]
    assert pair.from_client(Bye(), Ping(8)) == [Bye(), Ping(8)]
    assert pair.from_server(Pong(8), CLOSED) == [Pong(8), CLOSED]
    assert (pair.client.state, pair.server.state) == (State.CLOSED, State.CLOSED)


def test_results_may_cross_a_bye_in_flight() -> None:
    pair = SessionPair()
    pair.start()
    pair.client.send(Bye())
    assert pair.from_server(*SPEECH) == list(SPEECH), "the client has said bye, the server not read"
    assert pair.carry_to_server() == [Bye()]
    assert pair.from_server(CLOSED) == [CLOSED]


def test_a_refused_session_ends_with_one_error() -> None:
    pair = SessionPair(chunk_bytes=1)
    pair.from_client(Hello(token="wrong"))
    error = Error(code=ErrorCode.UNAUTHORIZED, message="no such token")
    assert pair.from_server(error) == [error]
    assert (pair.client.state, pair.server.state) == (State.FAILED, State.FAILED)


def test_a_server_may_close_first() -> None:
    pair = SessionPair()
    pair.start()
    assert pair.from_server(CLOSED) == [CLOSED]
    assert pair.from_client() == []
    assert pair.client.state is State.CLOSED
