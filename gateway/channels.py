"""The streams behind one connection: one for most clients, one a channel for some of Deepgram's.

Between a connection, which knows the socket, and the router, which knows the services. It carries
out a dialect's intents, holds what the client's token was granted until each stream has ended,
and puts a decoder in front of the stream when the audio comes in a container. The channels of one
client begin when their dialect says so and end together.

A resumable stream may come from another connection and go on at a third (resumption.py).

                 intents                      on_pcm
    Connection ----------> Channels --> feed --------> Channels --> Router, one Stream a Channel
               <----------                                     <--
                 deliver(event, channel)                        StreamOwner
"""

from __future__ import annotations

from msgspec import structs

from protocol.audio import MAX_CHANNELS
from protocol.client_messages import Error, Hello, ServerMessage, VadOptions
from protocol.errors import ErrorCode

from .channel import Channel
from .client_events import empty_final
from .connection_host import Client, ConnectionHost, Feed
from .dialects import (
    AckIn,
    AudioIn,
    ByeIn,
    ConfigureIn,
    Container,
    EncodedEnd,
    EncodedIn,
    FinalizeIn,
    Intent,
    OpenStream,
    RelayIn,
    ReopenStream,
    ResumeIn,
)
from .errors import refusal
from .gatekeeper import Gatekeeper
from .resumption import Resumption
from .stream import Stream


class Channels:
    """See the module text."""

    __slots__ = (
        "_by_index", "_container", "_end_reason", "_feed", "_gatekeeper", "_host", "_parking",
        "_router", "_streams", "client", "resumption",
    )  # fmt: skip

    def __init__(self, host: ConnectionHost, client: Client, gatekeeper: Gatekeeper) -> None:
        self.client = client
        self._host = host
        self._router = host.router
        self._parking = host.parking
        self._gatekeeper = gatekeeper
        self._by_index: dict[int, Channel] = {}
        self._streams: list[Stream] = []  # theirs, as far as they have one
        self._container: Container | None = None
        self._feed: Feed | None = None
        self._end_reason: str | None = None  # the container is complete; why the streams end then
        self.resumption = Resumption(host, client, gatekeeper, self)

    # What the connection asks

    @property
    def is_open(self) -> bool:
        """Something was admitted and has not ended."""
        return bool(self._by_index) or self.resumption.is_elsewhere

    @property
    def is_blocked(self) -> bool:
        """What was sent waits for room: stop reading this client."""
        if self._feed is not None:
            return self._feed.is_full
        return self.resumption.is_full or any(stream.is_blocked for stream in self._streams)

    @property
    def expects_audio(self) -> bool:
        """It is the client's turn: silence from here on is the client's."""
        if self._container is Container.FILE or self._end_reason is not None or self.is_blocked:
            return False
        if self.resumption.is_elsewhere:
            return True
        return any(c.stream is None or not c.stream.closing for c in self._by_index.values())

    @property
    def is_settled(self) -> bool:
        """All is said, and what was said last is not acknowledged yet."""
        channel = self._by_index.get(0)
        return channel is not None and channel.stream is not None and channel.stream.ended

    # Intents

    def apply(self, intent: Intent, now_ns: int) -> None:
        """Carry out one intent of those that a stream is concerned by."""
        if isinstance(intent, AudioIn):
            self._take_audio(self._by_index.get(intent.channel), intent.pcm, now_ns)
        elif isinstance(intent, EncodedIn):
            self._take_encoded(intent.data)
        elif isinstance(intent, OpenStream):
            self._open(intent, now_ns)
        elif isinstance(intent, ReopenStream):
            self._reopen(intent, now_ns)
        elif isinstance(intent, FinalizeIn):
            self._finalize(intent, now_ns)
        elif isinstance(intent, ConfigureIn):
            self._configure(intent.channel, intent.vad)
        elif isinstance(intent, ResumeIn | AckIn | RelayIn):
            self.resumption.apply(intent, now_ns)
        else:
            self._end(intent)

    def _open(self, intent: OpenStream, now_ns: int) -> None:
        if intent.channel in self._by_index or intent.channel >= MAX_CHANNELS:
            text = f"at most {MAX_CHANNELS} channels, each once"
            self.client.refuse(refusal(ErrorCode.UNEXPECTED_MESSAGE, text))
            return
        hello = self._router.admission.settle(intent.hello, any_model=intent.any_model)
        grant = self._gatekeeper.admit(hello.token, now_ns)
        if isinstance(grant, Error):
            self._host.metrics.refused.labels(grant.code.value).inc()
            self.client.refuse(grant)
            return
        channel = Channel(
            intent.channel, hello, grant, self._gatekeeper, self.client.dialect_name, self._parking
        )
        channel.seat = self
        self._by_index[intent.channel] = channel
        if intent.container is None:
            self._admit(channel, now_ns)
            return
        admitted = self._router.admission.admit(hello, None, now_ns)
        if isinstance(admitted, Error):
            self._turn_away(channel, admitted)
            return
        channel.admitted = admitted
        self._container = intent.container
        self._feed = self._host.open_feed(intent.container, self)

    def _admit(self, channel: Channel, now_ns: int) -> None:
        admitted = self._router.admit(channel.hello, channel, now_ns, channel.admitted)
        if isinstance(admitted, Error):
            self._turn_away(channel, admitted)
            return
        channel.stream = admitted
        admitted.group = channel.group
        self._streams.append(admitted)
        started = self._router.started(admitted, now_ns)
        if channel.hello.resumable and self._parking.window_ns:
            token = self._parking.enter(channel)
            started = structs.replace(started, resume_token=token)
        channel.deliver(started)

    def _turn_away(self, channel: Channel, error: Error) -> None:
        """Not admitted after all: what the token was granted goes back first."""
        channel.turned_away(error, self._host.loop.now_ns)
        self._host.metrics.refused.labels(error.code.value).inc()
        self._drop(channel)
        self.client.refuse(error)

    def _reopen(self, intent: ReopenStream, now_ns: int) -> None:
        channel = self._by_index.get(0)
        if channel is None:
            return
        hello = self._router.admission.settle(
            intent.hello, any_model=intent.any_model, before=channel.hello
        )
        if (stream := channel.stream) is None:
            self._reopen_container(channel, hello, now_ns)
        elif not stream.is_attached and not stream.closing:
            reopened = self._router.reopen(stream, hello, now_ns)
            if isinstance(reopened, Error):
                self.client.refuse(reopened)
                return
            channel.hello, channel.stream = hello, reopened
            reopened.group = channel.group
            self._streams[self._streams.index(stream)] = reopened
            channel.deliver(self._router.started(reopened, now_ns))

    def _reopen_container(self, channel: Channel, hello: Hello, now_ns: int) -> None:
        """Nothing is decoded yet: Started follows when its format is known."""
        admitted = self._router.admission.admit(hello, channel.admitted, now_ns)
        if isinstance(admitted, Error):
            self.client.refuse(admitted)
        else:
            channel.hello, channel.admitted = hello, admitted

    def _take_audio(self, channel: Channel | None, pcm: bytes | memoryview, now_ns: int) -> None:
        stream = channel.stream if channel is not None else None
        if stream is None or stream.closing or not pcm:
            return
        if stream.takes_ring_audio and stream.write(pcm, now_ns):
            return
        if not stream.is_attached and not self._attach(stream, now_ns):
            return
        stream.accept(pcm, now_ns)
        self._router.pump(stream)
        overflow = stream.take_overflow()
        if overflow is not None:
            stream.owner.deliver(overflow)

    def _take_encoded(self, data: bytes) -> None:
        if self._feed is not None and self._end_reason is None:
            self._feed.write(data)

    def _attach(self, stream: Stream, now_ns: int) -> bool:
        error = self._router.claim(stream, now_ns)
        if error is not None:
            if isinstance(stream.owner, Channel):
                stream.owner.turned_away(error, now_ns)
            self._host.metrics.refused.labels(error.code.value).inc()
            self.client.refuse(error)
            return False
        if isinstance(stream.owner, Channel):
            stream.owner.claimed(self._router.journals)
        self.open_lane(stream)
        return True

    def open_lane(self, stream: Stream) -> None:
        """Its audio may take the short way, if it has one."""
        if stream.format.is_ring_format and self._container is None and len(self._by_index) == 1:
            self.client.stream_attached(stream)

    def _finalize(self, intent: FinalizeIn, now_ns: int) -> None:
        if (channel := self._by_index.get(intent.channel)) is None:
            return
        if channel.stream is None:
            channel.deliver(empty_final(intent.finalize_id, now_ns))
        elif not channel.stream.closing:
            self._router.finalize(channel.stream, intent.finalize_id, now_ns)

    def _configure(self, index: int, vad: VadOptions) -> None:
        if (channel := self._by_index.get(index)) is None:
            return
        if channel.stream is None:
            channel.hello = structs.replace(channel.hello, vad=vad)
        elif not channel.stream.closing:
            self._router.configure(channel.stream, vad)

    def _end(self, intent: Intent) -> None:
        if isinstance(intent, EncodedEnd):
            self.end("client")
        elif not isinstance(intent, ByeIn):
            raise AssertionError(f"{type(intent).__name__} is for the connection")
        elif self._container is Container.FILE:
            self.close(intent.reason)  # a part of a file is nothing
        else:
            self.end(intent.reason)

    # Resumption (resumption.Holder, channel.Seat)

    @property
    def first(self) -> Channel | None:
        """The only channel of a client whose session is resumable."""
        return self._by_index.get(0)

    def take_in(self, channel: Channel) -> None:
        """It is this connection's from here on."""
        channel.seat = self
        self._by_index[channel.index] = channel
        if not channel.streaming.ended:
            self._streams.append(channel.streaming)

    def let_out(self, channel: Channel) -> None:
        """Here it is no more; what becomes of it is the caller's."""
        channel.seat = None
        del self._by_index[channel.index]
        if channel.stream in self._streams:
            self._streams.remove(channel.stream)

    def let_go(self, channel: Channel) -> None:
        """Its client is elsewhere."""
        self.let_out(channel)
        self.client.destroy()

    def settle(self, channel: Channel) -> None:
        """The stream has ended; its client has not acknowledged all of it."""
        self._streams.remove(channel.streaming)
        self.client.streams_settled()

    # The end

    def end(self, reason: str) -> None:
        """The client sends no more: what it sent is decoded to its end."""
        if self._feed is None:
            self._close_streams(reason)
        elif self._end_reason is None:
            self._end_reason = reason
            self._feed.end()

    def close(self, reason: str) -> None:
        """End all streams now, for good: they are not resumable any more. What is still in a
        decoder is lost, what was decoded is not.
        """
        self.close_feed()
        self.resumption.close()
        self._close_streams(reason)

    def _close_streams(self, reason: str) -> None:
        for channel in tuple(self._by_index.values()):
            if channel.stream is None or (channel.stream.ended and channel.session is None):
                self.forget(channel)
            else:
                self._router.close(channel.stream, reason)

    def leave(self) -> None:
        """The connection is gone."""
        self.close_feed()
        self.resumption.leave()

    def close_feed(self) -> None:
        """Stop the decoder."""
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def part(self) -> None:
        """Everything is over: let go of the connection, and of what refers to it."""
        del self.client, self.resumption

    def drain(self, error: Error) -> None:
        """The server goes away: streams get their finals, a file that is being decoded is
        finished, one that is still coming in is refused.
        """
        if self._container is not Container.FILE:
            self.end(error.code.value)
        elif not self._streams:
            self.client.refuse(error)

    def forget(self, channel: Channel) -> None:
        """This channel has ended; the others of its client end with it."""
        if self._by_index.get(channel.index) is not channel:
            return
        self._drop(channel)
        if self._by_index:
            self.close(channel.stream.close_reason if channel.stream is not None else "")
        else:
            self.client.finish()

    def _drop(self, channel: Channel) -> None:
        self.let_out(channel)
        channel.release()
        if not self._by_index:
            self.close_feed()

    # What a channel says (channel.Seat)

    def deliver(self, event: ServerMessage, channel: int) -> None:
        """Render an event for the client."""
        self.client.deliver(event, channel)

    def refuse(self, error: Error) -> None:
        """Tell the client why, and close."""
        self.client.refuse(error)

    def has_room(self) -> None:
        """A stream has room again: the decoder may go on, or the client."""
        if self._feed is not None:
            self._feed.resume()
        else:
            self.client.resume()

    # The decoder (file_feed.FeedOwner)

    def on_format(self, sample_rate_hz: int) -> None:
        """The stream can be opened now."""
        self._admit_decoded(sample_rate_hz=sample_rate_hz)

    def _admit_decoded(self, **known: int) -> None:
        channel = self._by_index.get(0)
        if channel is not None and channel.stream is None:
            hello = structs.replace(channel.hello, **known)
            # Its model may have been replaced since then.
            channel.hello = self._router.admission.settle(hello, any_model=False)
            self._admit(channel, self._host.loop.now_ns)

    def on_pcm(self, pcm: bytes) -> None:
        """Audio out of the container."""
        self._take_audio(self._by_index.get(0), pcm, self._host.loop.now_ns)
        if self._feed is not None and any(stream.is_blocked for stream in self._streams):
            self._feed.pause()

    def on_decoded(self) -> None:
        """Everything is in the stream: it may end. A container without audio is no error here."""
        self._admit_decoded()
        self.close(self._end_reason or "client")

    def on_feed_error(self, error: Error) -> None:
        """The container is the client's, and so is the error."""
        self.client.refuse(error)

    def on_feed_room(self) -> None:
        """The decoder takes more."""
        self.client.resume()
