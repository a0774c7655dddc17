"""session.py, a session that goes on at another connection: what Resumed sets, what bye means then,
and which acknowledgements are still heard when all is said.
"""

from __future__ import annotations

import pytest

from protocol.client_messages import (
    NUMBERED,
    Ack,
    Audio,
    Bye,
    Error,
    Finalize,
    Hello,
    Message,
    MessageType,
    Ping,
    Resume,
    Resumed,
    encode_message,
)
from protocol.errors import RETRYABLE, ErrorCode
from protocol.session import Failed, Role, Session, State
from tests.harness import SessionPair, feed

from .examples import CLIENT_MESSAGES

RESUME = Resume(resume_token="0.s-1.00", events_received=3)
CLOSED = CLIENT_MESSAGES[MessageType.CLOSED]
ERROR = Error(code=ErrorCode.SERVICE_LOST, message="gone", retryable=True)


def resumed(client_samples: int = 0, *, bye_received: bool = False) -> Resumed:
    return Resumed(
        session_id="s-1", client_samples=client_samples, finalizes_received=0,
        bye_received=bye_received, hop_ms=320,
    )  # fmt: skip


def a_resumed_pair(answer: Resumed) -> SessionPair:
    pair = SessionPair()
    assert pair.from_client(RESUME) == [RESUME]
    assert pair.from_server(answer) == [answer]
    return pair


def test_audio_goes_on_where_the_server_says() -> None:
    pair = a_resumed_pair(resumed(48_000))
    assert (pair.client.state, pair.server.state) == (State.ACTIVE, State.ACTIVE)
    pair.client.send_audio(b"ab")
    assert pair.carry_to_server() == [Audio(48_000, b"ab")]
    assert pair.from_client(Audio(47_999, b"xxcd")) == []  # the server has this sample already
    assert pair.from_client(Audio(48_000, b"xxcd")) == [Audio(48_001, b"cd")]


def test_a_gap_behind_the_place_is_a_gap() -> None:
    pair = a_resumed_pair(resumed(48_000))
    (event,) = pair.from_client(Audio(48_001, b"ab"))
    assert isinstance(event, Failed)
    assert event.code is ErrorCode.AUDIO_GAP


def test_after_bye_only_results_come() -> None:
    pair = a_resumed_pair(resumed(bye_received=True))
    assert (pair.client.state, pair.server.state) == (State.ENDING, State.ENDING)
    assert pair.from_client(Ack(4)) == [Ack(4)]
    assert pair.from_server(CLOSED) == [CLOSED]


def test_before_the_answer_a_client_may_ping() -> None:
    pair = SessionPair()
    assert pair.from_client(RESUME, Ping(1)) == [RESUME, Ping(1)]
    pong = CLIENT_MESSAGES[MessageType.PONG]
    assert pair.from_server(pong, resumed(), CLOSED) == [pong, resumed(), CLOSED]


@pytest.mark.parametrize("message", [Hello(), Audio(0, b"ab"), Finalize(), Bye(), Ack(0), RESUME])
def test_before_the_answer_a_client_may_do_nothing_else(message: Message) -> None:
    server = Session(Role.SERVER)
    (resume, event) = feed(server, [encode_message(RESUME, 0) + encode_message(message, 1)])
    assert resume == RESUME
    assert isinstance(event, Failed)
    assert event.code is ErrorCode.UNEXPECTED_MESSAGE


def test_a_refused_resume_ends_the_connection() -> None:
    pair = SessionPair()
    pair.from_client(RESUME)
    refusal = Error(code=ErrorCode.RESUME_FAILED, message="no such session")
    assert pair.from_server(refusal) == [refusal]
    assert pair.client.state is State.FAILED


@pytest.mark.parametrize("begin", [Hello(resumable=True), RESUME])
@pytest.mark.parametrize("last", [[CLOSED], [ERROR], [ERROR, CLOSED]])
def test_the_last_events_can_be_acknowledged(begin: Message, last: list[Message]) -> None:
    pair = SessionPair()
    pair.from_client(begin)
    if begin is RESUME:
        pair.from_server(resumed())
    else:
        pair.from_server(CLIENT_MESSAGES[MessageType.STARTED])
    pair.client.send_audio(bytes(20))
    pair.client.send(Ping(7))
    under_way = pair.client.data_to_send()
    pair.from_server(*last)
    assert feed(pair.server, [under_way]) == [], "what was under way is no mistake"
    assert pair.from_client(Ack(5)) == [Ack(5)]
    state = pair.server.state
    assert feed(pair.server, [b"no frame at all"]) == []
    assert pair.from_client(Ack(6)) == [], "after nonsense nothing is believed"
    assert (pair.server.state, pair.server.data_to_send()) == (state, b"")


def test_a_session_that_is_not_resumable_is_deaf_when_it_is_over() -> None:
    pair = SessionPair()
    pair.start()
    pair.from_server(CLOSED)
    assert pair.from_client(Ack(1)) == []
    assert pair.server.decoder.buffered_bytes == 0


def test_what_is_numbered_is_what_must_not_be_lost() -> None:
    assert {type_.name for type_ in NUMBERED} == {
        "SPEECH_STARTED", "SPEECH_STOPPED", "NON_SPEECH", "FINAL", "OVERFLOW", "END_OF_TURN",
        "ERROR", "CLOSED",
    }  # fmt: skip


def test_who_may_try_again() -> None:
    assert ErrorCode.RESUME_LATER in RETRYABLE
    assert ErrorCode.RESUME_FAILED not in RETRYABLE
