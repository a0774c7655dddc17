"""Native dialect: intents, events, and a fast lane that must equal Session alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects import (
    AckIn,
    AnsweredIn,
    AudioIn,
    ByeIn,
    FailIn,
    FinalizeIn,
    Intent,
    OpenStream,
    RelayIn,
    ResumeIn,
)
from gateway.dialects.native import NativeDialect
from protocol.client_messages import (
    Ack,
    Audio,
    Bye,
    Closed,
    EndOfTurn,
    Error,
    Finalize,
    Hello,
    Limits,
    Message,
    Partial,
    Ping,
    Pong,
    Resume,
    Resumed,
    Started,
    encode_message,
)
from protocol.errors import ErrorCode
from protocol.framing import HEADER_BYTES
from protocol.session import Event, Role, Session

STARTED = Started(
    session_id="s", model="m", hop_ms=320,
    limits=Limits(max_utterance_ms=1, ring_ms=1, idle_timeout_ms=1),
)  # fmt: skip


PARTIAL = Partial(
    audio_received=1, audio_decoded=1, utterance=1, start_sample=0, end_sample=1, stable="",
    volatile="x",
)  # fmt: skip


def encode(messages: list[Message]) -> bytes:
    return b"".join(encode_message(message, n) for n, message in enumerate(messages))


def speech(*sizes: int) -> list[Message]:
    """Audio messages of so many samples, one after the other."""
    messages: list[Message] = []
    offset = 0
    for size in sizes:
        messages.append(Audio(offset, bytes([size % 251, 1]) * size))
        offset += size
    return messages


class Receiver:
    """The shell's reading side, with or without the fast lane."""

    def __init__(self, fast: bool, room_samples: int = 1 << 40) -> None:
        self.dialect = NativeDialect()
        self.fast = fast
        self.room_samples = room_samples
        self.pcm = b""
        self.fast_frames = 0
        self.others: list[tuple[int, Intent]] = []  # (samples before it, intent)

    def write(self, pcm: memoryview, now_ns: int) -> bool:
        if len(pcm) // 2 > self.room_samples:
            return False
        self.room_samples -= len(pcm) // 2
        self.pcm += pcm
        self.fast_frames += 1
        return True

    def receive(self, data: bytes) -> None:
        view = memoryview(data)
        if self.fast:
            view = view[self.dialect.receive_audio(view, len(view), self.write, 1) :]
        if view:  # b"" would say that no more comes
            self.dialect.receive_data(bytes(view))
        while (intent := self.dialect.next_event()) is not None:
            if isinstance(intent, AudioIn):
                self.pcm += intent.pcm
            else:
                self.others.append((len(self.pcm) // 2, intent))
            if isinstance(intent, OpenStream):
                self.dialect.handle_event(STARTED, 1)

    def outcome(self) -> tuple[bytes, list[tuple[int, Intent]], list[bytes | str]]:
        return self.pcm, self.others, [b"".join(map(_as_bytes, self.dialect.data_to_send()))]


def _as_bytes(item: bytes | str) -> bytes:
    assert isinstance(item, bytes)
    return item


def both(pieces: list[bytes], room_samples: int = 1 << 40) -> Receiver:
    """Feed the pieces to both receivers; they must agree. Returns the fast one."""
    fast, slow = Receiver(True, room_samples), Receiver(False)
    for piece in pieces:
        if piece:
            fast.receive(piece)
            slow.receive(piece)
    assert fast.outcome() == slow.outcome()
    return fast


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c for c in cuts if c < len(data)), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


MESSAGES = st.one_of(
    st.integers(0, 400).map(lambda n: ("audio", n)),
    st.integers(0, 9).map(lambda n: ("finalize", n)),
    st.integers(0, 9).map(lambda n: ("ping", n)),
)


def conversation(plan: list[tuple[str, int]]) -> list[Message]:
    messages: list[Message] = [Hello()]
    offset = 0
    for kind, number in plan:
        if kind == "audio":
            messages.append(Audio(offset, bytes([number % 256, 7]) * number))
            offset += number
        elif kind == "finalize":
            messages.append(Finalize(finalize_id=number))
        else:
            messages.append(Ping(number))
    return [*messages, Bye()]


@settings(max_examples=150, deadline=None)
@given(
    plan=st.lists(MESSAGES, max_size=12),
    cuts=st.lists(st.integers(0, 9_000), max_size=25),
    room_samples=st.integers(0, 2_000),
)
def test_the_fast_lane_equals_session_for_any_split(
    plan: list[tuple[str, int]], cuts: list[int], room_samples: int
) -> None:
    data = encode(conversation(plan))
    both(cut(data, cuts), room_samples)


@settings(max_examples=150, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 3_000), max_size=10),
    at=st.integers(0, 2_000),
    value=st.integers(0, 255),
)
def test_the_fast_lane_equals_session_for_damaged_bytes(
    cuts: list[int], at: int, value: int
) -> None:
    data = bytearray(encode([Hello(), *speech(160, 320, 1, 160)]))
    data[at % len(data)] = value
    both(cut(bytes(data), cuts))


def test_one_byte_at_a_time() -> None:
    data = encode([Hello(), *speech(3, 5), Finalize(finalize_id=2), Bye()])
    receiver = both([data[i : i + 1] for i in range(len(data))])
    assert receiver.others[1:] == [(8, FinalizeIn(2)), (8, ByeIn())]


def test_whole_frames_take_the_fast_lane() -> None:
    hello, *audio = [encode_message(m, n) for n, m in enumerate([Hello(), *speech(320, 320, 320)])]
    receiver = both([hello, audio[0], audio[1] + audio[2]])
    assert receiver.fast_frames == 3


def test_a_frame_inside_a_torn_frame_is_none() -> None:
    hello, first = encode([Hello()]), encode_message(Audio(0, b"ab" * 100), 1)
    inner = encode_message(Audio(100, b"cd" * 100), 2)
    outer = encode_message(Audio(100, inner), 2)
    receiver = both([hello, first, outer[: -len(inner)], inner])
    assert receiver.pcm == b"ab" * 100 + inner


def test_after_an_error_nothing_takes_the_fast_lane() -> None:
    receiver = both([encode_message(m, n) for n, m in enumerate([Hello(), *speech(320)])])
    receiver.dialect.handle_event(Error(code=ErrorCode.AT_CAPACITY, message="full"), 1)
    receiver.receive(encode_message(Audio(320, b"ab"), 2))
    assert receiver.fast_frames == 1


def test_repeated_audio_is_left_to_session() -> None:
    hello, first = Hello(), Audio(0, b"ab" * 100)
    again = Audio(50, b"cd" * 100)
    receiver = both([encode_message(m, n) for n, m in enumerate([hello, first, again])])
    assert receiver.pcm == b"ab" * 100 + b"cd" * 50
    assert receiver.fast_frames == 1


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([Hello(), Audio(5, b"ab")], ErrorCode.AUDIO_GAP),
        ([Hello(), Audio(0, b"abc")], ErrorCode.BAD_MESSAGE),
        ([Audio(0, b"ab")], ErrorCode.UNEXPECTED_MESSAGE),
        ([Hello(sample_rate_hz=5)], ErrorCode.UNSUPPORTED_FORMAT),
        ([Hello(), Bye(), Audio(0, b"ab")], ErrorCode.UNEXPECTED_MESSAGE),
    ],
)
def test_what_breaks_the_protocol(messages: list[Message], code: ErrorCode) -> None:
    receiver = both([encode_message(m, n) for n, m in enumerate(messages)])
    failure = receiver.others[-1][1]
    assert isinstance(failure, FailIn)
    assert failure.error.code is code


def test_a_lost_frame() -> None:
    data = encode_message(Hello(), 0), encode_message(Audio(0, b"ab"), 2)
    receiver = both(list(data))
    failure = receiver.others[-1][1]
    assert isinstance(failure, FailIn)
    assert failure.error.code is ErrorCode.BAD_SEQUENCE


def test_text_is_refused_once() -> None:
    dialect = NativeDialect()
    dialect.receive_data("hello")
    dialect.receive_data("again")
    failure = dialect.next_event()
    assert isinstance(failure, FailIn)
    assert failure.error.code is ErrorCode.BAD_MESSAGE
    assert dialect.next_event() is None
    assert len(dialect.data_to_send()) == 1


def test_pings_are_answered_inside_and_declined_partials_are_dropped() -> None:
    dialect = NativeDialect()
    dialect.receive_data(encode([Hello(partials=False), Ping(7)]))
    assert isinstance(dialect.next_event(), OpenStream)
    dialect.handle_event(STARTED, 1)
    assert isinstance(dialect.next_event(), AnsweredIn)
    assert dialect.next_event() is None
    dialect.handle_event(PARTIAL, 1)
    client = Session(Role.CLIENT)
    client.send(Hello())
    (data,) = dialect.data_to_send()
    assert isinstance(data, bytes)
    client.receive_data(data)
    assert client.next_event() == STARTED
    assert client.next_event() == Pong(7)
    assert client.next_event() is None
    assert dialect.data_to_send() == []


def test_events_travel_as_they_are_and_none_behind_the_close_record() -> None:
    dialect = NativeDialect()
    dialect.receive_data(encode([Hello()]))
    assert isinstance(dialect.next_event(), OpenStream)
    ended = EndOfTurn(audio_received=9, audio_decoded=9, utterance=2, end_sample=7)
    closed = Closed(
        reason="client", client_samples=9, socket_samples=9, ring_samples=9, engine_samples=9
    )
    for event in (STARTED, ended, closed, ended):
        dialect.handle_event(event, 1, channel=0)
    client = Session(Role.CLIENT)
    client.send(Hello())
    (data,) = dialect.data_to_send()
    assert isinstance(data, bytes)
    client.receive_data(data)
    assert [client.next_event() for _ in range(4)] == [STARTED, ended, closed, None]
    dialect.receive_data("text")  # too late to break anything: acknowledgements may follow
    assert dialect.next_event() is None
    assert dialect.data_to_send() == []


def test_an_oversize_frame_is_refused_by_its_header() -> None:
    header = bytearray(encode_message(Audio(0, b"ab"), 1)[:HEADER_BYTES])
    header[8:12] = (1 << 30).to_bytes(4, "little")
    receiver = both([encode_message(Hello(), 0), bytes(header) + bytes(100)])
    failure = receiver.others[-1][1]
    assert isinstance(failure, FailIn)
    assert failure.error.code is ErrorCode.FRAME_TOO_LARGE


RESUME = Resume(resume_token="0.s-1.00", events_received=3)


def resuming(*behind: Message) -> tuple[NativeDialect, ResumeIn]:
    """A client that wants its session, and said this behind its wish."""
    dialect = NativeDialect()
    dialect.receive_data(encode([RESUME, *behind]))
    intent = dialect.next_event()
    assert isinstance(intent, ResumeIn)
    assert intent.resume == RESUME
    return dialect, intent


def answer_to(dialect: NativeDialect) -> list[Event | None]:
    """What the client reads, up to the first nothing."""
    client = Session(Role.CLIENT)
    client.send(RESUME)
    for data in dialect.data_to_send():
        assert isinstance(data, bytes)
        client.receive_data(data)
    events: list[Event | None] = []
    while not events or events[-1] is not None:
        events.append(client.next_event())
    return events[:-1]


@pytest.mark.parametrize("fast", [True, False])
def test_an_adopted_session_goes_on_in_its_format(fast: bool) -> None:
    dialect, intent = resuming()
    intent.dialect.adopt(Hello(channels=2, partials=False))
    resumed = Resumed(session_id="s", client_samples=1_000, finalizes_received=0, hop_ms=320)
    dialect.handle_event(resumed, 1)
    assert dialect.next_event() is None
    taken: list[bytes] = []

    def write(pcm: memoryview | bytes, now_ns: int) -> bool:
        taken.append(bytes(pcm))
        return True

    data = encode_message(Audio(999, b"oldnew12"), 1)  # two stereo samples, one of them known
    num_taken = dialect.receive_audio(memoryview(data), len(data), write, 1) if fast else 0
    assert num_taken == 0, "what is not due at its place is for the session to judge"
    dialect.receive_data(data)
    assert dialect.next_event() == AudioIn(b"ew12")
    dialect.handle_event(PARTIAL, 1)
    assert answer_to(dialect) == [resumed]


def test_acknowledgements_are_passed_on() -> None:
    dialect = NativeDialect()
    dialect.receive_data(encode([Hello(resumable=True)]))
    dialect.next_event()
    dialect.handle_event(STARTED, 1)
    dialect.receive_data(encode_message(Ack(9), 1))
    assert dialect.next_event() == AckIn(9)


def test_what_is_handed_over_is_every_byte_the_client_says() -> None:
    dialect, intent = resuming(Ping(1))
    rest = encode_message(Ping(2), 2)
    dialect.receive_data(rest[:5])
    passed_on = intent.dialect.hand_over(RESUME)
    assert passed_on == encode([RESUME, Ping(1)]) + rest[:5]
    for piece in (rest[5:9], b"", rest[9:]):
        dialect.receive_data(piece)
    assert [dialect.next_event() for _ in range(3)] == [RelayIn(rest[5:9]), RelayIn(rest[9:]), None]
    dialect.handle_event(PARTIAL, 1)
    assert dialect.data_to_send() == [], "the other side has the word"


def test_text_among_bytes_that_are_handed_over_fails_without_a_word() -> None:
    dialect, intent = resuming()
    intent.dialect.hand_over(RESUME)
    dialect.receive_data("words")
    assert isinstance(dialect.next_event(), FailIn)
    assert dialect.data_to_send() == []


def test_what_is_taken_back_is_answered_here() -> None:
    dialect, intent = resuming()
    intent.dialect.hand_over(RESUME)
    intent.dialect.take_back()
    later = Error(code=ErrorCode.RESUME_LATER, message="not now", retryable=True)
    dialect.handle_event(later, 1)
    assert answer_to(dialect) == [later]
