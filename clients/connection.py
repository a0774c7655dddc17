"""One client session without its sockets: what blocking.py and aio.py share. Pure.

Joins protocol.Session to a wire, keeps unread events and the answers to finalize, and turns what
ends a session into one exception, `failure`. The shells move bytes and wait; they decide nothing.

A session that the server lets resume outlives its connection. When that is lost, `needs_socket`
asks the shell for another one at `retry_ns`; kept_input.py has what must be said again, and
resumption.py the times. The program sees a pause and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import structs

from protocol.client_messages import (
    NUMBERED,
    Ack,
    Audio,
    Bye,
    Closed,
    Error,
    Final,
    Finalize,
    Hello,
    Latency,
    Ping,
    Pong,
    Resume,
    Resumed,
    ServerMessage,
    Started,
    Watermark,
)
from protocol.errors import ErrorCode, LocalProtocolError
from protocol.session import TRANSITIONS, Event, Failed, Role, Session, State

from .backlog import Backlog
from .errors import ClientError, ConnectionLost, ServerError
from .kept_input import KeptInput
from .resumption import PROBE_NONCE, Connectivity, EventCount, Liveness, Outage, Verdict
from .wire import Wire

MAX_ANSWERS = 64  # newest finals, kept for wait_final
PIECE_BYTES = 64 * 1024  # the most that `audio` is given at once


class Connection:
    """receive_data / next_event / data_to_send, and the client's own verbs."""

    def __init__(self, wire: Wire, token: str = "", resume: bool = True) -> None:
        self._wire = wire
        self._token = token
        self._may_resume = resume
        self._session = Session(Role.CLIENT)
        self._backlog = Backlog()
        self._answers: OrderedDict[int, Final] = OrderedDict()
        self._gone_id = 0  # the highest finalize whose answer is not kept any more
        self._next_finalize_id = 1
        # What outlives a connection
        self._hello: Hello | None = None
        self._kept: KeptInput | None = None  # from hello on
        self._resume_token = ""
        self._events = EventCount()
        self._promise: Latency | None = None  # class and hop, as last told
        # How the present connection stands
        self._liveness: Liveness | None = None
        self._outage: Outage | None = None
        self._begins_anew = False  # the session is gone, and nothing of it was missed
        self.started: Started | None = None
        self.closed: Closed | None = None
        self.num_untaken_samples = 0  # of the client's, when the server ended the session
        self.failure: ClientError | None = None
        self.is_over = False  # nothing more will come

    @property
    def is_open(self) -> bool:
        """The transport's own handshake is done."""
        return self._wire.is_open

    @property
    def connectivity(self) -> Connectivity:
        """What a person is shown."""
        return Connectivity.CONNECTED if self._outage is None else Connectivity.RECONNECTING

    # From the socket

    def receive_data(self, data: bytes, now_ns: int) -> None:
        """Take what the socket delivered; b"" at its end. Never raises: see `failure`."""
        if self._liveness is not None and data:
            self._liveness.heard(now_ns)
        try:
            for piece in self._wire.receive_data(data):
                self._session.receive_data(piece)
                self._take_events(now_ns)
        except ConnectionLost as error:
            self.lost(error, now_ns)
        except ClientError as error:
            self.attempt_failed(error, now_ns)
        if not data:
            reason = "the server closed the connection before the session's end"
            self.lost(ConnectionLost(reason), now_ns)
        self._speak(now_ns)

    def fail(self, error: ClientError) -> None:
        """The session is over; the first reason is the one to tell."""
        if not self.is_over:
            self.failure = self.failure or error
            self.is_over = True

    def _take_events(self, now_ns: int) -> None:
        while not self.needs_socket and (event := self._session.next_event()) is not None:
            self._take(event, now_ns)

    def _take(self, event: Event, now_ns: int) -> None:
        if isinstance(event, Failed):
            raise ServerError(event.code, f"the server broke the protocol: {event.message}")
        assert not isinstance(event, Hello | Audio | Finalize | Ping | Bye | Resume | Ack)
        if isinstance(event, Error) and self._outage is not None:
            self._refused(ServerError.of(event), now_ns)
            return
        if event.TYPE in NUMBERED:
            self._events.add(now_ns, is_last=isinstance(event, Error | Closed))
        if isinstance(event, Error):
            self.failure = self.failure or ServerError.of(event)
            return  # the close record may follow
        if isinstance(event, Resumed):
            self._resumed(event, now_ns)
        elif not (isinstance(event, Pong) and event.nonce == PROBE_NONCE):  # asked by this file
            self._note(event, now_ns)
            self._backlog.push(event)

    def _note(self, event: ServerMessage, now_ns: int) -> None:
        """Keep what a message changes here."""
        if isinstance(event, Started):
            self._begun(event, now_ns)
        elif isinstance(event, Latency):
            self._promise = event
        elif isinstance(event, Watermark) and self._kept is not None:
            self._kept.received(event.client_samples)
        elif isinstance(event, Final) and event.finalize_id is not None:
            self._answered(event, event.finalize_id)
        elif isinstance(event, Closed):
            self.closed = event
            self.is_over = True
            if self._kept is not None:
                self.num_untaken_samples = max(0, self._kept.end_sample - event.client_samples)
            if isinstance(self.failure, ServerError):
                self.failure.closed = event

    def _answered(self, final: Final, finalize_id: int) -> None:
        self._answers[finalize_id] = final
        if len(self._answers) > MAX_ANSWERS:
            self._gone_id = max(self._gone_id, self._answers.popitem(last=False)[0])
        if self._kept is not None:
            self._kept.answered()

    def _begun(self, started: Started, now_ns: int) -> None:
        self.started = started
        self._promise = Latency(latency_class=started.latency_class, hop_ms=started.hop_ms)
        self._outage, self._begins_anew = None, False
        self._resume_token = started.resume_token if self._may_resume else ""
        self._liveness = Liveness(now_ns) if self._resume_token else None

    # A lost connection

    @property
    def needs_socket(self) -> bool:
        """Connect again at `retry_ns`, then call `reconnected` or `attempt_failed`."""
        return self._outage is not None and self._outage.needs_socket and not self.is_over

    @property
    def retry_ns(self) -> int:
        """When to connect again; only with `needs_socket`."""
        assert self._outage is not None
        return self._outage.retry_ns

    def lost(self, reason: ConnectionLost, now_ns: int) -> None:
        """The socket is gone."""
        if self.needs_socket or self.is_over:
            return
        if self._outage is None and self._resume_token and self.failure is None:
            assert self.started is not None
            self._outage = Outage(reason, self.started.limits.resume_window_ms, now_ns)
        else:
            self.attempt_failed(reason, now_ns)

    def reconnected(self, wire: Wire, now_ns: int) -> None:
        """A new socket is there: say who we are and what we have."""
        assert self._outage is not None
        assert self._hello is not None
        assert self._kept is not None
        self._wire = wire
        self._session = Session(Role.CLIENT)
        self._outage.began(now_ns)
        if self._begins_anew:
            self._kept.restart()
            self._session.send(self._hello)
            return
        self._session.frame_bytes = self._hello.audio_format().frame_bytes
        self._session.send(
            Resume(
                token=self._hello.token,
                resume_token=self._resume_token,
                events_received=self._events.received,
            )
        )

    def attempt_failed(self, reason: ClientError, now_ns: int) -> None:
        """What goes wrong while connecting again may be right the next time."""
        if self._outage is None:
            self.fail(reason)
            return
        self._outage.failed(reason, now_ns)
        if self._outage.is_hopeless:
            self.fail(self._outage.failure())

    def _refused(self, error: ServerError, now_ns: int) -> None:
        """The server's answer to resume, or to a hello in its place."""
        assert self._outage is not None
        assert self._kept is not None
        if error.retryable:
            self.attempt_failed(error, now_ns)
        elif (
            error.code is ErrorCode.RESUME_FAILED
            and not self._begins_anew
            and self._kept.has_everything
            and self._events.received == 0
        ):
            self._begins_anew = True
            self._outage.again(now_ns)
        else:
            self.fail(error)

    def _resumed(self, resumed: Resumed, now_ns: int) -> None:
        assert self._kept is not None
        known = resumed.client_samples, resumed.finalizes_received, resumed.bye_received
        if not self._kept.rewind(*known):
            text = f"the server resumed at client sample {known[0]}, which can not be"
            self._outage = None
            raise ServerError(ErrorCode.RESUME_FAILED, text)
        self._outage = None
        self._events.told()
        self._liveness = Liveness(now_ns)
        promise = Latency(latency_class=resumed.latency_class, hop_ms=resumed.hop_ms)
        if promise != self._promise:
            self._promise = promise
            self._backlog.push(promise)

    # Time

    def next_deadline_ns(self) -> int | None:
        """When `handle_timer` wants to be called; None while there is no such time."""
        if self._outage is not None:
            return self._outage.due_ns
        times = [self._events.due_ns if self._resume_token else None]
        times.append(self._liveness.due_ns if self._liveness is not None else None)
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now_ns: int) -> None:
        """Acknowledge, ask whether the server lives, or give up on a connection that is silent."""
        if self._outage is not None:
            if not self._outage.needs_socket and now_ns >= self._outage.due_ns:
                self.lost(ConnectionLost("no answer from the server"), now_ns)
            return
        if self._liveness is not None and not self.is_over:
            verdict = self._liveness.check(now_ns)
            if verdict is Verdict.PING and self._session.state in (State.ACTIVE, State.ENDING):
                self._session.send(Ping(PROBE_NONCE))
            elif verdict is Verdict.DEAD:
                self.lost(ConnectionLost("the server has fallen silent"), now_ns)
        self._speak(now_ns)

    # To the program

    def next_event(self) -> ServerMessage | None:
        """The next unread event; None when there is none now. Raises `failure` after the last."""
        event = self._backlog.pop()
        if event is None and self.is_over and self.failure is not None:
            raise self.failure
        return event

    def check_started(self) -> Started | None:
        """The server's first message; None while it is not there. Raises `failure`."""
        if self.started is None:
            self.check()
        return self.started

    def answer(self, finalize_id: int) -> Final | None:
        """The final that answers `finalize_id`; None while it is not there."""
        final = self._answers.get(finalize_id)
        if final is None and finalize_id <= self._gone_id:
            raise ClientError(f"the answer to finalize {finalize_id} is gone; events() had it")
        if final is None:
            self.check()
        return final

    # From the program

    def hello(self, hello: Hello) -> None:
        """Begin the session; the connection's token is in the hello, unless it has its own."""
        self.check()
        hello = structs.replace(hello, token=hello.token or self._token, resumable=self._may_resume)
        self._session.send(hello)
        self._hello = hello
        self._kept = KeptInput(hello.sample_rate_hz, self._session.frame_bytes)

    @property
    def piece_bytes(self) -> int:
        """Of what a program sends at once: PIECE_BYTES in whole samples."""
        return PIECE_BYTES // self._session.frame_bytes * self._session.frame_bytes

    def audio(self, pcm: bytes) -> None:
        """Whole samples in the declared format."""
        kept = self._input("audio")
        if len(pcm) % self._session.frame_bytes:
            raise LocalProtocolError(f"{len(pcm)} bytes are not whole samples")
        kept.audio(pcm)
        self._send_kept()

    def finalize(self) -> int:
        """End the utterance; the id of its answer."""
        kept = self._input("finalize")
        kept.finalize(Finalize(finalize_id=self._next_finalize_id))
        self._next_finalize_id += 1
        self._send_kept()
        return self._next_finalize_id - 1

    def ping(self, nonce: int) -> None:
        """Answered by Pong, unless the connection is lost before."""
        self.check()
        if not self.needs_socket:
            self._session.send(Ping(nonce))

    def bye(self) -> None:
        """No more audio."""
        self._input("bye").bye()
        self._send_kept()

    def leave(self) -> None:
        """The program drops a session that would wait for it: say bye, if that can be sent now."""
        is_held = self._resume_token and self.failure is None and not self.is_over
        if is_held and self._kept is not None and not self._kept.is_ended:
            self._kept.bye()
            self._send_kept()

    @property
    def has_room(self) -> bool:
        """More audio may be sent without too much being kept."""
        return self._kept is None or not self._kept.is_full

    def check(self) -> None:
        """Raises what makes sending pointless."""
        if self.failure is not None:
            raise self.failure
        if self.closed is not None:
            raise ConnectionLost(f"the session is closed (reason: {self.closed.reason})")

    def _input(self, verb: str) -> KeptInput:
        self.check()
        if self._kept is None:
            raise LocalProtocolError(f"{verb} before hello")
        if self._kept.is_ended:
            raise LocalProtocolError(f"{verb} after bye")
        return self._kept

    def _send_kept(self) -> None:
        """Say what the server does not have yet, as soon as it may be said."""
        if self._kept is None or self._outage is not None:
            return
        may_end = self._session.state is State.ACTIVE
        while (message := self._kept.take(may_end)) is not None:
            self._session.send(message)
        if self.started is not None and not self._resume_token:
            self._kept.forget_sent()

    def _speak(self, now_ns: int) -> None:
        """What is due without the program's doing."""
        if self._outage is not None:
            return
        if self._session.state is State.ACTIVE:
            self._send_kept()
        due_ns = self._events.due_ns
        may_ack = Ack.TYPE in TRANSITIONS[self._session.state]
        if self._resume_token and due_ns is not None and now_ns >= due_ns and may_ack:
            self._session.send(Ack(self._events.received))
            self._events.told()

    def data_to_send(self) -> bytes:
        """Take the socket bytes queued so far; none before the transport is open."""
        if self.needs_socket:
            return b""
        if self._wire.is_open:
            data = self._session.data_to_send()
            if data:
                self._wire.send(data)
        return self._wire.data_to_send()
