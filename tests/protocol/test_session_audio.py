"""session.py, the offset contract: audio the server has is dropped, audio it half has is trimmed,
missing audio is an error, and a torn sample is one too.

A client that re-sends from its last watermark after a reconnect depends on the first two.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.client_messages import (
    MAX_AUDIO_BYTES,
    Audio,
    Finalize,
    Hello,
    encode_message,
)
from protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from protocol.session import Failed, Role, Session, State
from tests.harness import STARTED, SessionPair, feed


def started_server(hello: Hello | None = None) -> Session:
    session = Session(Role.SERVER)
    feed(session, [encode_message(hello or Hello(), 0)])
    session.send(STARTED)
    return session


def taken(session: Session, *pieces: Audio) -> list[Audio]:
    events = feed(session, [encode_message(p, i + 1) for i, p in enumerate(pieces)])
    audio = [event for event in events if isinstance(event, Audio)]
    assert len(audio) == len(events), "nothing else happened"
    return audio


def test_audio_in_order_is_taken_as_it_is() -> None:
    session = started_server()
    pieces = [Audio(0, b"aabb"), Audio(2, b"cc")]
    assert taken(session, *pieces) == pieces
    assert session.next_client_sample == 3


def test_a_repetition_is_dropped() -> None:
    session = started_server()
    assert taken(session, Audio(0, b"aabb"), Audio(0, b"aabb"), Audio(1, b"bb")) == [
        Audio(0, b"aabb")
    ]
    assert session.next_client_sample == 2


def test_an_overlap_is_trimmed_to_what_is_new() -> None:
    session = started_server()
    assert taken(session, Audio(0, b"aabb"), Audio(1, b"bbccdd")) == [
        Audio(0, b"aabb"),
        Audio(2, b"ccdd"),
    ]


def test_an_overlap_of_several_channels_is_trimmed_by_whole_samples() -> None:
    session = started_server(Hello(channels=2))
    assert taken(session, Audio(0, b"LLRR"), Audio(0, b"LLRRllrr"))[1] == Audio(1, b"llrr")


def test_empty_audio_is_nothing() -> None:
    assert taken(started_server(), Audio(0, b"")) == []


def test_a_gap_is_refused_and_measured() -> None:
    session = started_server()
    (event,) = feed(session, [encode_message(Audio(5, b"aa"), 1)])
    assert event == Failed(
        ErrorCode.AUDIO_GAP, "audio at client sample 5, 0 was due: 5 samples are missing"
    )


@pytest.mark.parametrize(
    ("hello", "pcm"),
    [(Hello(), b"aab"), (Hello(channels=2), b"LLR" * 2), (Hello(channels=2), b"LL")],
)
def test_a_torn_sample_is_refused(hello: Hello, pcm: bytes) -> None:
    (event,) = feed(started_server(hello), [encode_message(Audio(0, pcm), 1)])
    assert isinstance(event, Failed)
    assert event.code is ErrorCode.BAD_MESSAGE
    assert event.message.startswith(f"{len(pcm)} audio bytes are not whole samples")


def test_a_shell_that_reads_audio_itself_uses_the_same_check() -> None:
    session = started_server()
    assert session.check_audio(Audio(0, b"aa")) == Audio(0, b"aa")
    assert session.check_audio(Audio(0, b"aa")) is None
    with pytest.raises(RemoteProtocolError, match="audio_gap"):
        session.check_audio(Audio(2, b"aa"))
    assert session.next_client_sample == 1, "a refusal moves nothing"


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=20))
def test_what_is_taken_is_the_stream_once_however_often_it_is_sent(
    ranges: list[tuple[int, int]],
) -> None:
    stream = b"".join(i.to_bytes(2, "little") for i in range(200))
    session = started_server()
    received = b""
    for start, count in ranges:
        audio = Audio(start, stream[2 * start : 2 * (start + count)])
        if start > session.next_client_sample:
            with pytest.raises(RemoteProtocolError):
                session.check_audio(audio)
        elif (new := session.check_audio(audio)) is not None:
            assert 2 * new.client_offset == len(received)
            received += new.pcm
    assert received == stream[: 2 * session.next_client_sample]


def test_a_client_cuts_long_audio_at_the_limit_and_counts_on() -> None:
    pair = SessionPair()
    pair.start()
    pcm = bytes(range(250)) * 2 * (MAX_AUDIO_BYTES // 400)
    pair.client.send_audio(pcm)
    pieces = [event for event in pair.carry_to_server() if isinstance(event, Audio)]
    assert [len(p.pcm) for p in pieces] == [MAX_AUDIO_BYTES, len(pcm) - MAX_AUDIO_BYTES]
    assert b"".join(p.pcm for p in pieces) == pcm
    assert pair.client.next_client_sample == pair.server.next_client_sample == len(pcm) // 2


def test_a_limit_that_is_no_multiple_of_the_sample_tears_none() -> None:
    pair = SessionPair()
    pair.start(Hello(channels=3))
    pair.client.send_audio(bytes(6 * 50_000))
    assert [type(event) for event in pair.carry_to_server()] == [Audio, Audio]
    assert pair.server.next_client_sample == 50_000


def test_a_client_does_not_send_half_a_sample() -> None:
    pair = SessionPair()
    pair.start()
    with pytest.raises(LocalProtocolError, match="3 bytes are not whole samples"):
        pair.client.send_audio(b"abc")
    assert pair.client.data_to_send() == b""


def test_audio_before_hello_counts_nothing() -> None:
    session = Session(Role.CLIENT)
    with pytest.raises(LocalProtocolError):
        session.send_audio(b"aa")
    assert session.next_client_sample == 0


def test_a_client_need_not_wait_for_started() -> None:
    pair = SessionPair()
    pair.client.send(Hello())
    pair.client.send_audio(b"aabb")
    pair.client.send(Finalize(finalize_id=1))
    assert pair.carry_to_server() == [Hello(), Audio(0, b"aabb"), Finalize(finalize_id=1)]
    assert pair.from_server(STARTED) == [STARTED]
    assert (pair.client.state, pair.server.state) == (State.ACTIVE, State.ACTIVE)
