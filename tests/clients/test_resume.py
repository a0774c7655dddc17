"""A session over many connections, cut between any two bytes: nothing is lost and nothing doubled.

The client's Connection against protocol.Session in the server's role, joined in memory; time is a
number.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.connection import Connection
from clients.errors import ClientError, ConnectionLost, ServerError
from clients.resumption import (
    ATTEMPT_TIMEOUT_MS,
    DEAD_AFTER_MS,
    PING_AFTER_MS,
    PROBE_NONCE,
    Connectivity,
)
from clients.wire import PlainWire
from protocol.client_messages import (
    NUMBERED,
    Closed,
    Error,
    Final,
    Hello,
    Latency,
    LatencyClass,
    NonSpeech,
    Partial,
    Ping,
    Pong,
    Resume,
    Resumed,
    ServerMessage,
    Started,
)
from protocol.errors import ErrorCode, LocalProtocolError
from protocol.resume_messages import ACK_EVERY_EVENTS, ACK_WITHIN_MS
from protocol.session import Role, Session

from .resumable_server import WINDOW_MS, ResumableServer, non_speech
from .server import RESUMABLE

MS = 1_000_000


class Line:
    """A client and its server, with bytes under way in both directions."""

    def __init__(self, resume: bool = True) -> None:
        self.now_ns = 0
        self.server = ResumableServer()
        self.client = Connection(PlainWire(), "secret", resume)
        self.up = bytearray()
        self.down = bytearray()
        self.said = bytearray()
        self.heard: list[ServerMessage] = []

    def open(self) -> Line:
        self.client.hello(Hello())
        self.deliver()
        return self

    def speak(self, num_samples: int) -> None:
        first = len(self.said) // 2
        pcm = b"".join(
            (i % 65_536).to_bytes(2, "little") for i in range(first, first + num_samples)
        )
        self.said += pcm
        self.client.audio(pcm)

    def move(self, num_up: int, num_down: int) -> None:
        """So many bytes arrive in each direction."""
        self.up += self.client.data_to_send()
        if data := bytes(self.up[:num_up]):
            self.server.receive_data(data)
        del self.up[:num_up]
        self.down += self.server.data_to_send()
        if data := bytes(self.down[:num_down]):
            self.client.receive_data(data, self.now_ns)
        del self.down[:num_down]

    def deliver(self) -> None:
        """Everything arrives."""
        before = (-1, -1)
        while before != (len(self.server.events), self.server.acknowledged) or self.up or self.down:
            before = (len(self.server.events), self.server.acknowledged)
            self.move(1 << 30, 1 << 30)
            self.up += self.client.data_to_send()
            self.down += self.server.data_to_send()

    def cut(self) -> None:
        """The connection ends, and what is under way with it."""
        self.up.clear()
        self.down.clear()
        self.client.lost(ConnectionLost("cut"), self.now_ns)

    def reconnect(self) -> None:
        """A new connection, once the client wants one."""
        assert self.client.needs_socket
        self.now_ns = max(self.now_ns, self.client.retry_ns)
        self.client.reconnected(PlainWire(), self.now_ns)
        self.server.connect()

    def read(self) -> list[ServerMessage]:
        while (event := self.client.next_event()) is not None:
            self.heard.append(event)
        return self.heard

    def of(self, type_: type[ServerMessage]) -> list[ServerMessage]:
        return [event for event in self.read() if isinstance(event, type_)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("speak"), st.integers(1, 40)),
        st.tuples(st.just("finalize"), st.just(0)),
        st.tuples(st.just("move"), st.integers(0, 300)),
        st.tuples(st.just("event"), st.integers(1, 20)),
        st.tuples(st.just("watermark"), st.just(0)),
        st.tuples(st.just("cut"), st.integers(0, 300)),
        st.tuples(st.just("bye"), st.just(0)),
        st.tuples(st.just("time"), st.integers(0, 800)),
    ),
    max_size=60,
)


class Play:
    """Steps of a random history; those that make no sense by then do nothing."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.is_ended = False

    def step(self, verb: str, number: int) -> None:
        if self.line.client.is_over or (self.is_ended and verb in ("speak", "finalize", "bye")):
            return
        getattr(self, verb)(number)

    def speak(self, number: int) -> None:
        self.line.speak(number)

    def finalize(self, _: int) -> None:
        self.line.client.finalize()

    def bye(self, _: int) -> None:
        self.line.client.bye()
        self.is_ended = True

    def move(self, number: int) -> None:
        self.line.move(number, number)

    def event(self, number: int) -> None:
        server = self.line.server
        for _ in range(0 if server.has_bye else number):
            server.say(non_speech(len(server.events)))

    def watermark(self, _: int) -> None:
        self.line.server.watermark()

    def time(self, number: int) -> None:
        self.line.now_ns += number * MS
        self.line.client.handle_timer(self.line.now_ns)

    def cut(self, number: int) -> None:
        self.line.cut()
        self.line.reconnect()
        self.line.move(number, number)


@given(STEPS)
def test_any_history_of_cuts_is_a_session_without_cuts(steps: list[tuple[str, int]]) -> None:
    line = Line().open()
    play = Play(line)
    for step in steps:
        play.step(*step)
    play.step("bye", 0)
    if line.client.needs_socket:  # it found the server silent
        line.reconnect()
    line.deliver()
    server = line.server
    assert bytes(server.audio) == line.said
    assert [number for number, _ in server.finalizes] == list(range(1, len(server.finalizes) + 1))
    heard = [event for event in line.read() if event.TYPE in NUMBERED]
    assert heard == server.events
    assert line.client.closed == server.events[-1]
    assert server.acknowledged == len(server.events)
    assert server.num_sessions == 1
    assert line.client.connectivity is Connectivity.CONNECTED


def test_every_place_to_cut_keeps_finalizes_in_their_places() -> None:
    def talk(line: Line) -> None:
        line.speak(3)
        line.client.finalize()
        line.client.finalize()
        line.speak(4)
        line.client.finalize()
        line.client.bye()

    whole = Line().open()
    talk(whole)
    num_bytes = len(whole.client.data_to_send())
    for place in range(num_bytes + 1):
        line = Line().open()
        talk(line)
        line.move(place, 0)
        line.cut()
        line.reconnect()
        line.deliver()
        assert bytes(line.server.audio) == line.said
        assert line.server.finalizes == [(1, 3), (2, 3), (3, 7)]
        assert [e.finalize_id for e in line.of(Final)] == [1, 2, 3]  # type: ignore[union-attr]
        assert len(line.of(Closed)) == 1


def test_a_server_that_does_not_resume_loses_the_session_as_before() -> None:
    line = Line()
    line.client.hello(Hello())
    session = Session(Role.SERVER)
    session.receive_data(line.client.data_to_send())
    session.next_event()
    session.send(Started(session_id="s", model="m", hop_ms=1, limits=RESUMABLE.limits))
    line.client.receive_data(session.data_to_send(), 0)
    line.client.audio(b"ab")
    line.cut()
    assert not line.client.needs_socket
    with pytest.raises(ConnectionLost, match="cut"):
        line.client.check()


def test_a_client_may_say_no_to_it() -> None:
    line = Line(resume=False)
    line.client.hello(Hello(resumable=True))
    session = Session(Role.SERVER)
    session.receive_data(line.client.data_to_send())
    assert session.next_event() == Hello(token="secret")
    assert line.client.next_deadline_ns() is None


def test_what_is_said_meanwhile_waits() -> None:
    line = Line().open()
    line.cut()
    assert line.client.connectivity is Connectivity.RECONNECTING
    line.speak(5)
    line.client.finalize()
    line.client.ping(7)
    assert line.client.data_to_send() == b""
    line.reconnect()
    line.client.ping(8)  # the only thing that may follow resume
    line.speak(1)
    line.deliver()
    assert bytes(line.server.audio) == line.said
    assert line.server.finalizes == [(1, 5)]
    assert line.of(Pong) == [Pong(8)]


def test_resume_names_the_token_and_what_was_received() -> None:
    line = Line().open()
    line.server.say(non_speech(0))
    line.deliver()
    line.cut()
    line.reconnect()
    session = Session(Role.SERVER)
    session.receive_data(line.client.data_to_send())
    assert session.next_event() == Resume(
        token="secret", resume_token=RESUMABLE.resume_token, events_received=1
    )


def test_resume_is_an_acknowledgement() -> None:
    line = Line().open()
    line.server.say(non_speech(0))
    line.deliver()
    line.cut()
    line.reconnect()
    line.deliver()
    assert line.server.acknowledged == 1
    assert line.client.next_deadline_ns() == line.now_ns + PING_AFTER_MS * MS


def test_samples_of_several_bytes_stay_whole_after_a_resume() -> None:
    line = Line()
    line.client.hello(Hello(channels=2))
    line.deliver()
    line.cut()
    line.reconnect()
    line.deliver()
    with pytest.raises(LocalProtocolError, match="2 bytes are not whole samples"):
        line.client.audio(b"ab")


def test_events_are_acknowledged_by_number_and_by_time() -> None:
    line = Line().open()
    for number in range(ACK_EVERY_EVENTS - 1):
        line.server.say(non_speech(number))
    line.deliver()
    assert line.server.acknowledged == 0
    line.server.say(non_speech(99))
    line.deliver()
    assert line.server.acknowledged == ACK_EVERY_EVENTS
    line.server.say(non_speech(100))
    line.deliver()
    deadline_ns = line.client.next_deadline_ns()
    assert deadline_ns is not None
    assert 0 < deadline_ns - line.now_ns <= ACK_WITHIN_MS * MS
    line.now_ns = deadline_ns
    line.client.handle_timer(line.now_ns)
    line.deliver()
    assert line.server.acknowledged == ACK_EVERY_EVENTS + 1


def test_an_error_is_acknowledged_and_ends_the_session() -> None:
    line = Line().open()
    line.server.say(Error(code=ErrorCode.SERVICE_LOST, message="gone", retryable=True))
    line.deliver()
    assert line.server.acknowledged == 1
    line.cut()
    with pytest.raises(ServerError, match="gone"):
        line.client.check()
    assert line.client.is_over


def test_an_error_among_the_kept_events_is_the_sessions_own() -> None:
    line = Line().open()
    line.cut()
    line.server.connect()
    line.server.say(non_speech(0))
    line.server.say(Error(code=ErrorCode.SERVICE_LOST, message="gone", retryable=True))
    line.reconnect()
    line.deliver()
    assert len(line.of(NonSpeech)) == 1
    with pytest.raises(ServerError, match="gone"):
        line.client.check()


def test_it_gives_up_when_the_window_is_over() -> None:
    line = Line().open()
    line.cut()
    num_attempts = 0
    while line.client.needs_socket:
        line.now_ns = line.client.retry_ns
        line.client.attempt_failed(ConnectionLost("no server"), line.now_ns)
        num_attempts += 1
    assert line.now_ns <= WINDOW_MS * MS
    assert num_attempts > 10
    with pytest.raises(ConnectionLost, match=r"no server \(tried again for 30 s\)"):
        line.client.check()


def test_an_attempt_without_an_answer_is_followed_by_another() -> None:
    line = Line().open()
    line.cut()
    line.reconnect()
    assert not line.client.needs_socket
    line.client.handle_timer(line.now_ns)
    assert not line.client.needs_socket
    line.now_ns += ATTEMPT_TIMEOUT_MS * MS
    assert line.client.next_deadline_ns() == line.now_ns
    line.client.handle_timer(line.now_ns)
    assert line.client.needs_socket
    line.client.handle_timer(line.now_ns)  # nothing more to do
    line.reconnect()
    line.deliver()
    assert line.client.connectivity is Connectivity.CONNECTED


def refuse(line: Line, error: Error) -> None:
    session = Session(Role.SERVER)
    session.receive_data(line.client.data_to_send())
    session.next_event()
    session.send(error)
    line.client.receive_data(session.data_to_send(), line.now_ns)


def test_a_server_that_asks_for_time_gets_it() -> None:
    line = Line().open()
    line.cut()
    line.reconnect()
    later = Error(code=ErrorCode.RESUME_LATER, message="soon", retryable=True, retry_after_ms=9_000)
    refuse(line, later)
    line.client.receive_data(b"", line.now_ns)
    assert line.client.retry_ns >= line.now_ns + 9_000 * MS
    line.reconnect()
    refuse(line, Error(code=ErrorCode.RESUME_LATER, message="soon", retry_after_ms=60_000,
                       retryable=True))  # fmt: skip
    with pytest.raises(ServerError, match="soon"):
        line.client.check()


def test_a_refusal_for_good_is_the_end() -> None:
    line = Line().open()
    line.cut()
    line.reconnect()
    refuse(line, Error(code=ErrorCode.UNAUTHORIZED, message="no"))
    assert not line.client.needs_socket
    with pytest.raises(ServerError, match="no"):
        line.client.check()


def test_a_session_that_is_gone_begins_anew_while_all_of_it_is_here() -> None:
    line = Line().open()
    line.speak(5)
    line.client.finalize()
    line.move(1 << 30, 0)
    line.cut()
    line.server.forget()
    line.reconnect()
    line.deliver()
    assert line.client.needs_socket
    line.reconnect()
    line.client.bye()
    line.deliver()
    assert bytes(line.server.audio) == line.said
    assert line.server.finalizes == [(1, 5)]
    assert [type(e) for e in line.read()] == [Started, Started, Final, Closed]


def test_a_session_that_began_anew_can_be_resumed_itself() -> None:
    line = Line().open()
    line.cut()
    line.server.forget()
    line.reconnect()
    line.deliver()
    line.reconnect()
    line.deliver()
    line.cut()
    line.reconnect()
    line.deliver()
    assert line.server.num_sessions == 1
    assert line.client.connectivity is Connectivity.CONNECTED


def test_a_session_that_is_gone_is_over_when_something_of_it_was_heard_or_forgotten() -> None:
    def heard(line: Line) -> None:
        line.server.say(non_speech(0))

    def forgotten(line: Line) -> None:
        line.server.watermark()

    for happened in (heard, forgotten):
        line = Line().open()
        line.speak(5)
        line.move(1 << 30, 0)
        happened(line)
        line.deliver()
        line.cut()
        line.server.forget()
        line.reconnect()
        line.deliver()
        with pytest.raises(ServerError) as caught:
            line.client.check()
        assert caught.value.code is ErrorCode.RESUME_FAILED


def test_a_server_that_resumes_where_it_can_not_is_found_out() -> None:
    line = Line().open()
    line.speak(5)
    line.deliver()
    line.cut()
    line.reconnect()
    session = Session(Role.SERVER)
    session.receive_data(line.client.data_to_send())
    session.next_event()
    session.send(Resumed(session_id="s", client_samples=6, finalizes_received=0, hop_ms=320))
    line.client.receive_data(session.data_to_send(), line.now_ns)
    with pytest.raises(ServerError, match="client sample 6, which can not be"):
        line.client.check()


def test_another_latency_class_is_told() -> None:
    line = Line().open()
    line.cut()
    line.reconnect()
    session = Session(Role.SERVER)
    session.receive_data(line.client.data_to_send())
    session.next_event()
    session.send(
        Resumed(
            session_id="s", client_samples=0, finalizes_received=0, hop_ms=1_000,
            latency_class=LatencyClass.SLOW,
        )
    )  # fmt: skip
    line.client.receive_data(session.data_to_send(), line.now_ns)
    assert line.of(Latency) == [Latency(latency_class=LatencyClass.SLOW, hop_ms=1_000)]


def test_a_server_that_falls_silent_is_asked_and_then_left() -> None:
    line = Line().open()
    line.now_ns = line.client.next_deadline_ns() or 0
    assert line.now_ns == PING_AFTER_MS * MS
    line.client.handle_timer(line.now_ns)
    line.deliver()  # the pong, which the program does not see
    assert [type(event) for event in line.read()] == [Started]
    line.now_ns += PING_AFTER_MS * MS
    line.client.handle_timer(line.now_ns)
    session = Session(Role.SERVER)
    session.receive_data(Line().open().client.data_to_send())
    line.now_ns += DEAD_AFTER_MS * MS
    line.client.handle_timer(line.now_ns)
    assert line.client.needs_socket
    line.reconnect()
    line.deliver()
    assert line.client.connectivity is Connectivity.CONNECTED


def test_the_programs_own_pongs_are_its_own() -> None:
    line = Line().open()
    line.client.ping(PROBE_NONCE - 1)
    line.deliver()
    assert line.of(Pong) == [Pong(PROBE_NONCE - 1)]


def test_leaving_says_bye_once_and_only_where_somebody_would_wait() -> None:
    line = Line().open()
    line.speak(2)
    line.client.leave()
    line.client.leave()
    line.deliver()
    assert line.server.has_bye
    line = Line(resume=False)
    line.client.leave()
    assert line.client.data_to_send() == b""


def test_partials_come_again_and_go_on() -> None:
    draft = Partial(
        audio_received=0, audio_decoded=0, utterance=0, start_sample=0, end_sample=0,
        stable="a", volatile="b",
    )  # fmt: skip
    line = Line().open()
    line.server.say(draft)
    line.deliver()
    line.cut()
    line.reconnect()
    line.deliver()
    line.server.say(draft)
    line.deliver()
    assert line.of(Partial) == [draft, draft]


def test_nothing_happens_to_a_session_that_is_over() -> None:
    line = Line().open()
    line.client.bye()
    line.deliver()
    line.client.lost(ConnectionLost("late"), line.now_ns)
    line.client.receive_data(b"", line.now_ns)
    line.client.handle_timer(line.now_ns + 60_000 * MS)
    assert not line.client.needs_socket
    assert line.client.failure is None
    assert line.client.connectivity is Connectivity.CONNECTED
    assert isinstance(line.read()[-1], Closed)
    with pytest.raises(ClientError, match="closed"):
        line.client.audio(b"ab")
    assert Ping(0) not in line.heard


def test_a_latency_class_that_was_told_is_not_told_again() -> None:
    line = Line().open()
    slow = Latency(latency_class=LatencyClass.SLOW, hop_ms=RESUMABLE.hop_ms)
    line.server.say(slow)
    line.deliver()
    line.server.say(Latency(latency_class=LatencyClass.FULL, hop_ms=RESUMABLE.hop_ms))
    line.deliver()
    line.cut()
    line.reconnect()
    line.deliver()
    assert [e.latency_class for e in line.of(Latency)] == [  # type: ignore[union-attr]
        LatencyClass.SLOW,
        LatencyClass.FULL,
    ]
