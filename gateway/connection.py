"""One client connection: a socket, a transport core, a dialect core and, once admitted, streams.

Shell for any transport: receive -> transport -> dialect -> intents -> its channels, and stream
events back the same way. Output is queued and flushed once a loop turn. It owns the connection's
time-outs and its end, and knows nothing about what a dialect's bytes mean.

    HANDSHAKE --admitted--> OPEN --streams ended--> CLOSING --flushed--> LINGERING --> CLOSED

The streams of a client that vanished are still decoded, and what it would have heard is dropped. A
resumable session is parked, and its connection ends at once.
"""

from __future__ import annotations

import logging
import socket

from protocol.client_messages import Error, ServerMessage
from protocol.errors import ErrorCode

from .channels import Channels
from .connection_host import LEAVING, LISTENING, ConnectionHost, Phase
from .containment import contained
from .dialects import AnsweredIn, Dialect, FailIn, Intent, WriteAudio
from .errors import refusal
from .gatekeeper import Gatekeeper
from .outbox import MAX_OUT_BYTES, Outbox
from .speaker import Speaker
from .stream import Stream
from .transport import AudioLane, BodyEnded, EmptyMessage, InputEnded, Transport, Upgraded

MAX_STEPS_A_TURN = 64  # of one client: each of a flood of tiny messages costs some 30 us
MAX_PUMP_NS = 2_000_000  # no new step after so long: some cost a thousand times as much
MAX_DISCARDED_BYTES = 4 * 1024 * 1024  # of what comes after the last word; then it is cut off

_log = logging.getLogger("earwire.gateway")


class Connection:
    """See the module text."""

    def __init__(
        self, host: ConnectionHost, sock: socket.socket, transport: Transport,
        dialect: Dialect | None, gatekeeper: Gatekeeper,
    ) -> None:  # fmt: skip
        self.phase = Phase.HANDSHAKE
        self.is_dirty = False
        self._host = host
        self._loop = host.loop
        self._sock = sock
        self._transport = transport
        self._dialect = dialect
        self._channels = Channels(host, self, gatekeeper)
        self._audio_lane: AudioLane | None = None  # set while there is a stream that it may feed
        self._lane_write: WriteAudio | None = None  # that stream's
        self._idle_timeout_ns = host.idle_timeout_ns
        self._out = Outbox(sock)
        self._speaker = Speaker(host, transport, dialect, self._out, self._mark_dirty)
        self._input_ended = False  # nothing more can be read
        self._has_backlog = False  # of what was read: the next turn goes on with it
        self._discarded_bytes = 0
        self._last_receive_ns = now_ns = self._loop.now_ns
        sock.setblocking(False)
        self._receive_into, self._receive_view = sock.recv_into, host.receive_view
        self._loop.register(sock.fileno(), self._on_readable, self.flush)
        self._timer = self._loop.call_at(now_ns + host.handshake_timeout_ns, self._on_timer)

    @property
    def dialect_name(self) -> str:
        """Metric label."""
        return self._dialect.name if self._dialect is not None else "http"

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
        try:
            if self._audio_lane is not None:
                assert self._lane_write is not None
                taken = self._audio_lane(view, received, self._lane_write, now_ns)
                if taken == received and received:
                    return
            self._receive_slowly(view[taken:received])
        except Exception:
            self.break_off()

    def _receive_slowly(self, data: memoryview) -> None:
        begin_ns = self._loop.read_clock()
        self._input_ended |= not data
        if self.phase in LEAVING:
            self._transport.discard_data(data)
            self._discarded_bytes += len(data)
        else:
            self._transport.receive_data(data, self._last_receive_ns)
            self._pump()
            if self._transport.is_uploading:
                self._postpone()
        if self._has_backlog or self.phase is not Phase.OPEN:
            self._loop.charge(begin_ns)  # not what speech needs
        is_gone = self._input_ended and self.phase is Phase.LINGERING
        if is_gone or self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.destroy()
        self._update_interest()

    def _pump(self) -> None:
        """Carry out what the client has sent, until something has to wait for room."""
        steps_left, end_ns = MAX_STEPS_A_TURN, self._loop.read_clock() + MAX_PUMP_NS
        while self._step():
            steps_left -= 1
            if not steps_left or self._loop.read_clock() > end_ns:
                self._postpone()
                break
        self._speaker.collect()
        if self._transport.should_close:
            if not self._channels.resumption.park():
                self._channels.close("vanished")
            self.finish()

    def _step(self) -> bool:
        """One intent, or else one event of the transport; False: none, or the rest has to wait."""
        if self.phase not in LISTENING or self._channels.is_blocked:
            return False
        intent = self._dialect.next_event() if self._dialect is not None else None
        if intent is None:
            return self._feed_dialect()
        self._apply(intent)
        return True

    def _postpone(self) -> None:
        """There may be more of what came: it is the others' turn before it."""
        if not self._has_backlog:
            self._has_backlog = True
            self._loop.call_next_turn(self._go_on)

    def _go_on(self) -> None:
        self._has_backlog = False
        if self.phase is not Phase.CLOSED:
            self.resume()

    def _feed_dialect(self) -> bool:
        """Pass one transport event on; False when there is none."""
        event = self._transport.next_event()
        if event is None:
            return False
        if isinstance(event, Upgraded):
            self._upgrade(event)
        elif isinstance(event, BodyEnded):
            event.dialect.end_of_body()
        elif isinstance(event, InputEnded):
            self._on_input_ended()
        elif self._dialect is not None and not isinstance(event, EmptyMessage):
            self._dialect.receive_data(event)
        return True

    def _upgrade(self, event: Upgraded) -> None:
        self._dialect = self._speaker.dialect = event.dialect
        if event.max_idle_ns is not None:
            self._idle_timeout_ns = min(self._idle_timeout_ns, event.max_idle_ns)
        if self._transport.is_uploading:
            self._watch_upload()

    def _on_input_ended(self) -> None:
        """The client will send no more; without a bye it counts as vanished."""
        if self._channels.resumption.park():
            self.finish()
            return
        if self._dialect is not None:
            self._dialect.receive_data(b"")
            intent = self._dialect.next_event()
            if intent is not None:
                self._apply(intent)
        self._channels.close("vanished")
        if not self._channels.is_open or not self._transport.can_send:
            self.finish()

    def _apply(self, intent: Intent) -> None:
        if isinstance(intent, FailIn):
            self._speaker.note(intent.error)
            self._end_with(intent.error)
        if isinstance(intent, FailIn | AnsweredIn):
            return
        self._channels.apply(intent, self._loop.now_ns)
        if self.phase is Phase.HANDSHAKE and self._channels.is_open:
            self._open()

    def _open(self) -> None:
        self.phase = Phase.OPEN
        if not self._transport.is_uploading and not self._channels.is_settled:
            self._arm(self._loop.now_ns + self._idle_timeout_ns)

    # What its channels say (channels.Client)

    @contained
    def deliver(self, event: ServerMessage, channel: int = 0) -> None:
        """Render an event for the client; drafts are shed when the client is slow to read."""
        self._speaker.say(event, self._loop.now_ns, channel)
        # A whole answer may be long; what ends the conversation is no backlog.
        if self._out.is_full and self.phase is Phase.OPEN and not self._transport.should_close:
            self._drop_slow_reader()

    @contained
    def resume(self) -> None:
        """There is room again."""
        self._pump()
        self._update_interest()

    def stream_attached(self, stream: Stream) -> None:
        """The only stream, in ring format, has a ring."""
        self._audio_lane = self._transport.audio_lane()
        self._lane_write = stream.write

    def streams_settled(self) -> None:
        """All slots are free; the client has a moment to acknowledge what was said last."""
        self._arm(self._loop.now_ns + self._speaker.flush_timeout_ns)
        self._postpone()  # nothing is blocked any more

    @property
    def takes_more(self) -> bool:
        """The client reads what it is sent."""
        return not self._out.stops_reading

    @contained
    def relay(self, data: bytes) -> None:
        """Bytes for the client, from the worker that has its session."""
        if self.phase is Phase.HANDSHAKE:
            self._open()
        if self.phase is Phase.OPEN:
            self._speaker.pass_on(data)

    # The end

    @contained
    def finish(self) -> None:
        """Nothing more will be said: flush, then close."""
        if self.phase in LISTENING:
            self._start_closing()

    def refuse(self, error: Error) -> None:
        """Tell the client why, and close."""
        error = self._channels.resumption.give_up_waiting(error)
        if self._dialect is None:
            self._transport.refuse(error)
        self.deliver(error)
        self._end_with(error)

    def drain(self) -> None:
        """The server goes away: an open stream gets its finals, anybody else an error."""
        error = refusal(ErrorCode.DRAINING, "the server is going away")
        if self._channels.is_open:
            self._channels.drain(error)
        elif self.phase is Phase.HANDSHAKE:
            self.refuse(error)

    def _end_with(self, error: Error) -> None:
        """The client knows the error: end the streams, whose close records still follow."""
        if self._channels.is_open:
            self._channels.close(error.code.value)
        else:
            self.finish()

    def _drop_slow_reader(self) -> None:
        self._host.metrics.slow_readers.inc()
        if self._channels.resumption.park():
            self.destroy()
            return
        error = refusal(ErrorCode.SLOW_READER, f"over {MAX_OUT_BYTES} bytes were not read")
        self.phase = Phase.CLOSING  # before deliver, which would come here again
        self.deliver(error)
        self._out.is_muted = True
        self._channels.close(error.code.value)
        self._start_closing()

    def _start_closing(self) -> None:
        self.phase = Phase.CLOSING
        self._audio_lane = None
        self._channels.resumption.leave()
        self._speaker.collect()  # last words go before the transport's end
        self._transport.close(self._speaker.error, self._loop.now_ns)
        self._speaker.collect()
        self._arm(self._loop.now_ns + self._speaker.flush_timeout_ns)
        self._mark_dirty()

    def break_off(self) -> None:
        """A defect of ours met what this client sent: it ends this client, and nobody else."""
        if self.phase is not Phase.CLOSED:
            self.phase = Phase.CLOSING  # what is broken is not asked for last words
        _log.exception("a defect of the gateway ended a connection (%s)", self.dialect_name)
        self._speaker.note(refusal(ErrorCode.INTERNAL, "a defect of the gateway"))
        self._out.mute()
        self._channels.close(ErrorCode.INTERNAL.value)
        self.destroy()

    def destroy(self) -> None:
        """Close the descriptor now; streams, if any, are decoded to their end."""
        if self.phase is Phase.CLOSED:
            return
        self.phase = Phase.CLOSED
        self._out.mute()
        self._channels.leave()
        self._timer.cancel()
        self._loop.unregister(self._sock.fileno())
        self._sock.close()
        self._host.connection_closed(self)
        self._loop.call_at(self._loop.now_ns, self._part)

    def _part(self) -> None:
        """Leave no cycle: after a storm of connects a full collection would be a long pause."""
        if not self._channels.is_open:
            self._channels.part()
            del self._speaker

    # Output

    def _mark_dirty(self) -> None:
        if not self.is_dirty:
            self.is_dirty = True
            self._host.mark_dirty(self)

    @contained
    def flush(self) -> None:
        """Write what the socket takes; called before every sleep, and when it is writable."""
        if self.phase is Phase.CLOSED:
            return
        self._out.write()
        self._channels.resumption.watch()
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
            and not self._has_backlog
            and not self._channels.is_blocked
            and (not self._out.stops_reading or self.phase is Phase.CLOSING)
        )
        self._loop.modify(self._sock.fileno(), read, len(self._out) > 0)

    # Time

    def _arm(self, deadline_ns: int) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(deadline_ns, self._on_timer)

    @contained
    def _on_timer(self) -> None:
        if self.phase in LEAVING:
            self.destroy()
        elif self._transport.next_deadline() is not None:
            self._transport.handle_timer(self._loop.now_ns)
            self._pump()
            self._update_interest()
            self._watch_upload()
        elif self.phase is Phase.HANDSHAKE and not self._transport.is_uploading:
            self.refuse(refusal(ErrorCode.HANDSHAKE_TIMEOUT, "no hello came in time"))
        elif self._channels.is_settled:
            self._channels.resumption.park()
            self.finish()
        else:
            self._check_idle(self._loop.now_ns)

    def _watch_upload(self) -> None:
        """The transport knows how fast a body has to come; after it, silence is the server's."""
        if self.phase in LISTENING:
            self._arm(self._transport.next_deadline() or self._loop.now_ns + self._idle_timeout_ns)

    def _check_idle(self, now_ns: int) -> None:
        """Armed for the whole interval and looked at again: no timer work per received frame."""
        since_ns = self._last_receive_ns if self._channels.expects_audio else now_ns
        deadline_ns = since_ns + self._idle_timeout_ns
        if deadline_ns > now_ns:
            self._arm(deadline_ns)
        elif self._channels.resumption.park():
            self.destroy()  # half open: nobody would read why
        else:
            self.refuse(refusal(ErrorCode.IDLE_TIMEOUT, "nothing was received for too long"))
