"""session.py, table and failures: every message in every state, in both directions, at both ends,
does what TRANSITIONS says and nothing else; no bytes raise into the loop; one error is one error.

The contract of audio offsets is in test_session_audio.py, a whole life in test_conversation.py.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.client_messages import (
    FROM_CLIENT,
    FROM_SERVER,
    Audio,
    Error,
    Hello,
    Message,
    MessageType,
    Ping,
    decode_payload,
    encode_message,
)
from protocol.errors import ErrorCode, LocalProtocolError
from protocol.framing import CLIENT_MAGIC, HEADER, VERSION, FrameDecoder
from protocol.session import TRANSITIONS, Failed, Role, Session, State
from tests.harness import SessionPair, all_events, chunkings, feed, random_cuts

from .examples import CLIENT_MESSAGES

EXAMPLES = CLIENT_MESSAGES | {
    MessageType.HELLO: Hello(),
    MessageType.AUDIO: Audio(0, bytes(640)),
}
CASES = list(itertools.product(Role, State, MessageType))
SENDABLE = {Role.CLIENT: FROM_CLIENT, Role.SERVER: FROM_SERVER}
RECEIVABLE = {Role.CLIENT: FROM_SERVER, Role.SERVER: FROM_CLIENT}


def session_in(role: Role, state: State) -> Session:
    session = Session(role)
    session.state = state
    return session


def sent_messages(session: Session) -> list[Message]:
    decoder = FrameDecoder(CLIENT_MAGIC)
    decoder.receive_data(session.data_to_send())
    messages: list[Message] = []
    while (frame := decoder.next_frame()) is not None:
        message = decode_payload(frame.type, frame.payload)
        assert message is not None
        messages.append(message)
    return messages


def frame_of(type_: int, minor: int = 0, payload: bytes = b"{}", sequence: int = 0) -> bytes:
    header = HEADER.pack(CLIENT_MAGIC, VERSION + minor, type_, 0, 0, len(payload), sequence)
    return header + payload


def failure(session: Session, data: bytes) -> Failed:
    (event,) = feed(session, [data])
    assert isinstance(event, Failed)
    assert session.state is State.FAILED
    return event


@pytest.mark.parametrize(("role", "state", "type_"), CASES, ids=lambda v: v.name)
def test_what_the_table_allows_is_received_and_nothing_else(
    role: Role, state: State, type_: MessageType
) -> None:
    session = session_in(role, state)
    events = feed(session, [encode_message(EXAMPLES[type_], 0)])
    if state is State.CLOSED or (state is State.FAILED and role is Role.SERVER):
        assert (events, session.state) == ([], state), "what comes after the end does not matter"
    elif type_ in RECEIVABLE[role] and type_ in TRANSITIONS[state]:
        assert (events, session.state) == ([EXAMPLES[type_]], TRANSITIONS[state][type_])
    else:
        (event,) = events
        assert isinstance(event, Failed)
        known = type_ in RECEIVABLE[role]
        assert event.code is (ErrorCode.UNEXPECTED_MESSAGE if known else ErrorCode.UNKNOWN_TYPE)
        assert session.state is State.FAILED


@pytest.mark.parametrize(("role", "state", "type_"), CASES, ids=lambda v: v.name)
def test_what_the_table_allows_is_sent_and_nothing_else(
    role: Role, state: State, type_: MessageType
) -> None:
    session = session_in(role, state)
    if type_ in SENDABLE[role] and type_ in TRANSITIONS[state]:
        session.send(EXAMPLES[type_])
        assert session.state is TRANSITIONS[state][type_]
        assert sent_messages(session) == [EXAMPLES[type_]]
    else:
        with pytest.raises(LocalProtocolError, match=type_.name):
            session.send(EXAMPLES[type_])
        assert (session.state, session.data_to_send()) == (state, b""), "nothing happened"


def test_the_table_has_a_row_for_every_state_and_no_way_out_of_closed() -> None:
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.CLOSED] == {MessageType.ACK: State.CLOSED}


def test_an_unknown_type_of_a_newer_minor_is_skipped() -> None:
    session = Session(Role.SERVER)
    events = feed(session, [frame_of(0x3F, minor=1), encode_message(Hello(), 1)])
    assert events == [Hello()]


@pytest.mark.parametrize("type_", [0x00, 0x08, 0x3F, 0x40, 0xFF])
def test_an_unknown_type_of_our_minor_is_refused(type_: int) -> None:
    failed = failure(Session(Role.SERVER), frame_of(type_))
    assert failed == Failed(
        ErrorCode.UNKNOWN_TYPE, f"message type 0x{type_:02x} means nothing here"
    )


def test_a_known_message_of_a_newer_minor_is_taken() -> None:
    assert feed(Session(Role.SERVER), [frame_of(MessageType.HELLO, minor=7)]) == [Hello()]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET /", ErrorCode.BAD_MAGIC),
        (HEADER.pack(CLIENT_MAGIC, 0x20, 1, 0, 0, 0, 0), ErrorCode.BAD_VERSION),
        (HEADER.pack(CLIENT_MAGIC, VERSION, 1, 0, 0, 1 << 31, 0), ErrorCode.FRAME_TOO_LARGE),
        (encode_message(Hello(), 1), ErrorCode.BAD_SEQUENCE),
        (frame_of(MessageType.HELLO, payload=b"[" * 60_000), ErrorCode.BAD_MESSAGE),
        (frame_of(MessageType.HELLO, payload=b'{"channels":9}'), ErrorCode.UNSUPPORTED_FORMAT),
        (frame_of(MessageType.BYE), ErrorCode.UNEXPECTED_MESSAGE),
    ],
    ids=lambda v: v.value if isinstance(v, ErrorCode) else "",
)
def test_a_broken_client_is_told_exactly_once(data: bytes, code: ErrorCode) -> None:
    session = Session(Role.SERVER)
    failed = failure(session, data)
    assert failed.code is code
    assert feed(session, [data, b""]) == [], "one mistake is one event"
    (error,) = sent_messages(session)
    assert error == Error(code=code, message=failed.message, retryable=False)


def test_a_broken_server_is_not_answered() -> None:
    session = Session(Role.CLIENT)
    assert failure(session, b"HTTP/1.1 400").code is ErrorCode.BAD_MAGIC
    assert session.data_to_send() == b""


def test_what_a_refused_client_had_already_sent_is_no_second_mistake() -> None:
    pair = SessionPair()
    pair.from_client(Hello())
    pair.server.send(Error(code=ErrorCode.AT_CAPACITY, message="full", retryable=True))
    assert pair.from_client(Audio(0, bytes(2))) == []
    assert [type(event) for event in pair.carry_to_client()] == [Error]


@pytest.mark.parametrize("state", [State.CLOSED, State.FAILED])
def test_nothing_is_kept_after_the_end(state: State) -> None:
    session = session_in(Role.SERVER, state)
    session.receive_data(bytes(1_000))
    assert session.decoder.buffered_bytes == 0


def test_the_close_record_still_follows_an_error() -> None:
    pair = SessionPair()
    pair.start()
    events = pair.from_server(EXAMPLES[MessageType.ERROR], closed := EXAMPLES[MessageType.CLOSED])
    assert events[-1] == closed
    assert (pair.client.state, pair.server.state) == (State.CLOSED, State.CLOSED)


@pytest.mark.parametrize("size", range(1, 16 + 10))
def test_an_end_inside_a_frame_is_a_failure(size: int) -> None:
    session = Session(Role.SERVER)
    whole = encode_message(Hello(client="x"), 0)
    assert size < len(whole)
    (event,) = feed(session, [whole[:size], b""])
    assert event == Failed(ErrorCode.BAD_FRAME, "the connection ended in the middle of a frame")


def test_an_end_between_frames_is_no_event() -> None:
    session = Session(Role.SERVER)
    assert feed(session, [encode_message(Hello(), 0), b""]) == [Hello()]
    assert session.state is State.AWAIT_STARTED


def test_a_whole_frame_before_a_torn_one_is_still_delivered() -> None:
    session = Session(Role.SERVER)
    session.receive_data(encode_message(Hello(), 0) + b"EW")
    session.receive_data(b"")
    assert [type(event) for event in all_events(session)] == [Hello, Failed]


def test_a_message_that_cannot_be_sent_changes_nothing() -> None:
    session = Session(Role.CLIENT)
    with pytest.raises(LocalProtocolError, match="9 channels"):
        session.send(Hello(channels=9))
    assert (session.state, session.data_to_send()) == (State.AWAIT_HELLO, b"")
    session.send(Hello(channels=2))
    assert (session.state, session.frame_bytes) == (State.AWAIT_STARTED, 4)


def test_data_to_send_is_taken_once() -> None:
    session = Session(Role.CLIENT)
    session.send(Hello())
    assert session.data_to_send() == encode_message(Hello(), 0)
    assert session.data_to_send() == b""


def test_the_sequence_counts_the_frames_sent() -> None:
    session = session_in(Role.CLIENT, State.ACTIVE)
    for nonce in range(3):
        session.send(Ping(nonce))
    assert session.data_to_send() == b"".join(encode_message(Ping(n), n) for n in range(3))


def conversation_of_a_client() -> tuple[bytes, list[Message]]:
    messages: list[Message] = [
        Hello(client="x"), Audio(0, b"abcd"), Ping(1), CLIENT_MESSAGES[MessageType.FINALIZE],
    ]  # fmt: skip
    return b"".join(encode_message(m, i) for i, m in enumerate(messages)), messages


def test_every_cut_gives_the_same_events() -> None:
    data, messages = conversation_of_a_client()
    for chunks in chunkings(data):
        assert feed(Session(Role.SERVER), chunks) == messages


@given(st.data())
def test_any_split_gives_the_same_events(data: st.DataObject) -> None:
    stream, messages = conversation_of_a_client()
    assert feed(Session(Role.SERVER), data.draw(random_cuts(stream))) == messages


FRAMES = st.builds(
    frame_of,
    st.integers(0, 255),
    st.integers(0, 2),
    st.binary(max_size=30) | st.sampled_from([b"{}", b'{"channels":0}']),
    st.integers(0, 3),
)


@given(
    st.sampled_from(Role),
    st.sampled_from(State),
    st.lists(st.binary(max_size=40) | FRAMES, max_size=8),
)
def test_no_bytes_raise_into_the_loop(role: Role, state: State, chunks: list[bytes]) -> None:
    session = session_in(role, state)
    events = feed(session, chunks)
    failures = [event for event in events if isinstance(event, Failed)]
    assert len(failures) <= 1
    assert not failures or events[-1] is failures[0], "nothing follows a failure"
    errors = [m for m in sent_messages(session) if isinstance(m, Error)]
    assert len(errors) == (len(failures) if role is Role.SERVER else 0)


def test_every_result_reaches_an_active_client_in_one_go() -> None:
    pair = SessionPair()
    pair.start()
    last = MessageType.CLOSED
    types = [t for t in sorted(FROM_SERVER & set(TRANSITIONS[State.ACTIVE])) if t != last]
    results = [EXAMPLES[t] for t in types if t != MessageType.ERROR] + [EXAMPLES[last]]
    assert pair.from_server(*results) == results
