"""One client connection: a socket, a transport core, a dialect core and, once admitted, a stream.

Shell for any transport: receive -> transport -> dialect -> intents -> the router, and stream
events back the same way. Output is queued and flushed once a loop turn. It owns the connection's
time-outs and its end, and knows nothing about what a dialect's bytes mean.

    HANDSHAKE --Started--> OPEN --stream ended--> CLOSING --flushed--> LINGERING --> CLOSED

A connection outlives its client: the stream of a client that vanished is still decoded, and what
it would have heard is dropped.
"""

from __future__ import annotations

import socket

from protocol.client_messages import Error, Partial, ServerMessage
from protocol.errors import ErrorCode

from .connection_host import ConnectionHost, Phase
from .dialects import (
    AudioIn,
    ByeIn,
    ConfigureIn,
    Dialect,
    FailIn,
    FinalizeIn,
    Intent,
    OpenStream,
)
from .errors import refusal
from .event_loop import Timer
from .outbox import MAX_OUT_BYTES, Outbox
from .stream import Stream
from .transport import AudioLane, InputEnded, Transport, Upgraded

RECEIVE_BYTES = 64 * 1024  # taken from one socket a turn
CLOSE_TIMEOUT_NS = 5_000_000_000  # from the last word to the end of the connection
NS_PER_MS = 1_000_000

# Tuples of the module: before Python 3.12 each look-up of a member in its Enum is a slow one.
_LISTENING = (Phase.HANDSHAKE, Phase.OPEN)  # what the client sends is acted on
_LEAVING = (Phase.CLOSING, Phase.LINGERING)


class Connection:
    """See the module text."""

    def __init__(
        self, host: ConnectionHost, sock: socket.socket, transport: Transport,
        dialect: Dialect | None,
    ) -> None:  # fmt: skip
        self.phase = Phase.HANDSHAKE
        self.is_dirty = False
        self._host = host
        self._loop = host.loop
        self._router = host.router
        self._sock = sock
        self._transport = transport
        self._dialect = dialect
        self._stream: Stream | None = None
        self._audio_lane: AudioLane | None = None  # set while there is a stream that it may feed
        self._interest = (True, False)  # read, write: as the loop was last told
        self._out = Outbox(sock)
        self._input_ended = False  # nothing more can be read
        self._error: Error | None = None  # the last one the client was told
        self._last_receive_ns = self._loop.now_ns
        sock.setblocking(False)
        self._receive_view = host.receive_view
        self._receive_into = sock.recv_into
        self._loop.register(sock.fileno(), self._on_readable, self.flush)
        self._timer: Timer = self._loop.call_at(
            self._loop.now_ns + host.handshake_timeout_ns, self._on_timer
        )

    @property
    def dialect_name(self) -> str:
        """Metric label."""
        return self._dialect.name if self._dialect is not None else "http"

    @property
    def has_stream(self) -> bool:
        """Admitted, and its stream has not ended."""
        return self._stream is not None

    # Input

    def _on_readable(self) -> None:
        view = self._receive_view
        try:
            received = self._receive_into(view)
        except BlockingIOError:
            return
        except OSError:
            received = 0
            self._out.mute()  # reset by the peer: it reads nothing either
        self._last_receive_ns = now_ns = self._loop.now_ns
        taken = 0
        if self._audio_lane is not None:
            assert self._stream is not None
            taken = self._audio_lane(view, received, self._stream.write, now_ns)
            if taken == received and received:
                return
        self._receive_slowly(view[taken:received])

    def _receive_slowly(self, data: memoryview) -> None:
        if not data:
            self._input_ended = True
        if self.phase in _LEAVING:
            self._transport.discard_data(data)
        else:
            self._transport.receive_data(data, self._last_receive_ns)
            self._pump()
        if self._input_ended and self.phase is Phase.LINGERING:
            self.destroy()
        self._update_interest()

    def _pump(self) -> None:
        """Carry out what the client has sent, until something has to wait for room."""
        while self._apply_intents() and self._feed_dialect():
            pass
        self._collect()
        if self._transport.should_close:
            self._finish()

    def _apply_intents(self) -> bool:
        """Everything the dialect has made of its input; False when the rest has to wait."""
        while self.phase in _LISTENING and not self._is_blocked():
            intent = self._dialect.next_event() if self._dialect is not None else None
            if intent is None:
                return True
            self._apply(intent)
        return False

    def _is_blocked(self) -> bool:
        return self._stream is not None and self._stream.is_blocked

    def _feed_dialect(self) -> bool:
        """Pass one transport event on; False when there is none."""
        event = self._transport.next_event()
        if event is None:
            return False
        if isinstance(event, Upgraded):
            self._dialect = event.dialect
        elif isinstance(event, InputEnded):
            self._on_input_ended()
        elif self._dialect is not None:
            self._dialect.receive_data(event)
        return True

    def _on_input_ended(self) -> None:
        """The client will send no more; without a bye it counts as vanished."""
        if self._dialect is not None:
            self._dialect.receive_data(b"")
            intent = self._dialect.next_event()
            if intent is not None:
                self._apply(intent)
        if self._stream is not None:
            self._router.close(self._stream, "vanished")
        if self._stream is None or not self._transport.can_send:
            self._finish()

    # Intents

    def _apply(self, intent: Intent) -> None:
        if isinstance(intent, AudioIn):
            self._take_audio(intent)
        elif isinstance(intent, OpenStream):
            self._open(intent)
        elif isinstance(intent, FailIn):
            self._note_error(intent.error)
            self._end_with(intent.error)
        elif self._stream is None or self._stream.closing:
            return
        elif isinstance(intent, FinalizeIn):
            self._router.finalize(self._stream, intent.finalize_id, self._loop.now_ns)
        elif isinstance(intent, ConfigureIn):
            self._router.configure(self._stream, intent.vad)
        elif isinstance(intent, ByeIn):
            self._router.close(self._stream, intent.reason)

    def _open(self, intent: OpenStream) -> None:
        now_ns = self._loop.now_ns
        hello = self._router.admission.settle(intent.hello, any_model=intent.any_model)
        admitted = self._router.admit(hello, self, now_ns)
        if isinstance(admitted, Error):
            self.refuse(admitted)
            return
        self._stream = admitted
        self.phase = Phase.OPEN
        self._arm(now_ns + self._host.idle_timeout_ns)
        self.deliver(self._router.started(admitted, now_ns))

    def _take_audio(self, intent: AudioIn) -> None:
        stream = self._stream
        if stream is None or stream.closing or not intent.pcm:
            return
        now_ns = self._loop.now_ns
        if stream.takes_ring_audio and stream.write(intent.pcm, now_ns):
            return
        if not stream.is_attached:
            error = self._router.claim(stream, now_ns)
            if error is not None:
                self.refuse(error)
                return
            if stream.format.is_ring_format:
                self._audio_lane = self._transport.audio_lane()
        stream.accept(intent.pcm, now_ns)
        self._router.pump(stream)
        overflow = stream.take_overflow()
        if overflow is not None:
            self.deliver(overflow)

    # Events of the stream (stream.StreamOwner)

    def deliver(self, event: ServerMessage) -> None:
        """Render an event for the client; drafts are shed when the client is slow to read."""
        if isinstance(event, Error):
            self._note_error(event)
        if self._out.is_muted or self._dialect is None:
            return
        if isinstance(event, Partial) and self._out.sheds_partials:
            self._host.partials_shed += 1
            return
        self._dialect.handle_event(event, self._loop.now_ns)
        self._collect()
        if self._out.is_full and self.phase is Phase.OPEN:
            self._drop_slow_reader()

    def resume(self) -> None:
        """The stream has room again."""
        self._pump()
        self._update_interest()

    def stream_ended(self) -> None:
        """The stream's slot is free; its close record, if any, is delivered."""
        self._stream = None
        self._audio_lane = None
        self._finish()

    # The end

    def refuse(self, error: Error) -> None:
        """Tell the client why, and close."""
        if self._dialect is None:
            self._transport.refuse(error)
        self.deliver(error)
        self._end_with(error)

    def drain(self) -> None:
        """The server goes away: an open stream gets its finals, anybody else an error."""
        if self._stream is not None:
            self._router.close(self._stream, ErrorCode.DRAINING.value)
        elif self.phase is Phase.HANDSHAKE:
            self.refuse(refusal(ErrorCode.DRAINING, "the server is going away"))

    def _note_error(self, error: Error) -> None:
        self._error = error
        self._host.metrics.errors.labels(error.code.value).inc()

    def _end_with(self, error: Error) -> None:
        """The client knows the error: end the stream, whose close record still follows."""
        if self._stream is not None:
            self._router.close(self._stream, error.code.value)
        else:
            self._finish()

    def _drop_slow_reader(self) -> None:
        self._host.slow_readers += 1
        error = refusal(ErrorCode.SLOW_READER, f"over {MAX_OUT_BYTES} bytes were not read")
        self.phase = Phase.CLOSING  # before deliver, which would come here again
        self.deliver(error)
        self._out.is_muted = True
        if self._stream is not None:
            self._router.close(self._stream, error.code.value)
        self._start_closing()

    def _finish(self) -> None:
        """Nothing more will be said: flush, then close."""
        if self.phase in _LISTENING:
            self._start_closing()

    def _start_closing(self) -> None:
        self.phase = Phase.CLOSING
        self._audio_lane = None
        self._collect()  # last words go before the transport's end
        self._transport.close(self._error, self._loop.now_ns)
        self._collect()
        self._arm(self._loop.now_ns + CLOSE_TIMEOUT_NS)
        self._mark_dirty()

    def destroy(self) -> None:
        """Close the descriptor now; the stream, if any, is decoded to its end."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        self._out.mute()
        self._timer.cancel()
        self._loop.unregister(self._sock.fileno())
        self._sock.close()
        self._host.connection_closed(self)

    # Output

    def _collect(self) -> None:
        """Move what the cores have queued to this connection's own queue."""
        if self._dialect is not None:
            for item in self._dialect.data_to_send():
                self._transport.send(item)
        if self._out.append(self._transport.data_to_send()):
            self._mark_dirty()

    def _mark_dirty(self) -> None:
        if not self.is_dirty:
            self.is_dirty = True
            self._host.mark_dirty(self)

    def flush(self) -> None:
        """Write what the socket takes; called before every sleep, and when it is writable."""
        if self.phase is Phase.CLOSED:
            return
        self._out.write()
        if self.phase is Phase.CLOSING and not self._out:
            self._shut_down()
        self._update_interest()

    def _shut_down(self) -> None:
        """Say that all is said. Closing at once could reset the connection under unread words."""
        self.phase = Phase.LINGERING
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._input_ended = True  # not connected any more
        if self._input_ended:
            self.destroy()

    def _update_interest(self) -> None:
        if self.phase is Phase.CLOSED:
            return
        read = (
            not self._input_ended
            and not self._is_blocked()
            and (not self._out.stops_reading or self.phase is Phase.CLOSING)
        )
        interest = (read, len(self._out) > 0)
        if interest != self._interest:
            self._interest = interest
            self._loop.modify(self._sock.fileno(), *interest)

    # Time

    def _arm(self, deadline_ns: int) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(deadline_ns, self._on_timer)

    def _on_timer(self) -> None:
        now_ns = self._loop.now_ns
        if self.phase in _LEAVING:
            self.destroy()
        elif self.phase is Phase.HANDSHAKE:
            self.refuse(refusal(ErrorCode.HANDSHAKE_TIMEOUT, "no hello came in time"))
        else:
            self._check_idle(now_ns)

    def _check_idle(self, now_ns: int) -> None:
        """Armed for the whole interval and looked at again: no timer work per received frame."""
        waits_for_us = self._stream is None or self._stream.closing or self._is_blocked()
        since_ns = now_ns if waits_for_us else self._last_receive_ns
        deadline_ns = since_ns + self._host.idle_timeout_ns
        if deadline_ns > now_ns:
            self._arm(deadline_ns)
        else:
            self.refuse(refusal(ErrorCode.IDLE_TIMEOUT, "nothing was received for too long"))
