"""The streams behind one connection: one for most clients, one a channel for some of Deepgram's.

Between a connection, which knows the socket, and the router, which knows the services. It carries
out a dialect's intents, holds what the client's token was granted until each stream has ended,
and puts a decoder in front of the stream when the audio comes in a container. The channels of one
client begin when their dialect says so and end together.

                 intents                      on_pcm
    Connection ----------> Channels --> feed --------> Channels --> Router, one Stream a Channel
               <----------                                     <--
                 deliver(event, channel)                        StreamOwner
"""

from __future__ import annotations

from typing import Protocol

from msgspec import structs

from protocol.audio import MAX_CHANNELS
from protocol.client_messages import Error, Hello, ServerMessage, VadOptions
from protocol.errors import ErrorCode

from .client_events import empty_final
from .connection_host import ConnectionHost, Feed
from .dialects import (
    AudioIn,
    ByeIn,
    ConfigureIn,
    Container,
    EncodedEnd,
    EncodedIn,
    FinalizeIn,
    Intent,
    OpenStream,
    ReopenStream,
)
from .errors import refusal
from .gatekeeper import Gatekeeper, Grant
from .stream import Stream


class Client(Protocol):
    """The connection, as its channels see it."""

    @property
    def dialect_name(self) -> str:
        """Metric label."""

    def deliver(self, event: ServerMessage, channel: int = 0) -> None:
        """Render an event for the client."""

    def refuse(self, error: Error) -> None:
        """Tell the client why, and close."""

    def resume(self) -> None:
        """There is room again: go on reading."""

    def stream_attached(self, stream: Stream) -> None:
        """The only stream of this client has a ring: its audio may take the short way."""

    def streams_ended(self) -> None:
        """Nothing more will come of any stream."""


class Channel:
    """One stream of a client, and its owner (stream.StreamOwner)."""

    __slots__ = ("_channels", "grant", "hello", "index", "stream")

    def __init__(self, channels: Channels, index: int, hello: Hello, grant: Grant) -> None:
        self.index = index
        self.hello = hello
        self.grant = grant
        self.stream: Stream | None = None  # None until the container's format is known
        self._channels = channels

    @property
    def dialect_name(self) -> str:
        """Metric label."""
        return self._channels.client.dialect_name

    def deliver(self, event: ServerMessage) -> None:
        """Pass an event on, with the channel it is of."""
        self._channels.client.deliver(event, self.index)

    def refuse(self, error: Error) -> None:
        """Tell the client why, and close."""
        self._channels.client.refuse(error)

    def resume(self) -> None:
        """The stream has room again."""
        self._channels.has_room()

    def stream_ended(self) -> None:
        """The stream's slot is free."""
        self._channels.forget(self)


class Channels:
    """See the module text."""

    __slots__ = (
        "_by_index", "_container", "_end_reason", "_feed", "_gatekeeper", "_host", "_router",
        "_streams", "client",
    )  # fmt: skip

    def __init__(self, host: ConnectionHost, client: Client, gatekeeper: Gatekeeper) -> None:
        self.client = client
        self._host = host
        self._router = host.router
        self._gatekeeper = gatekeeper
        self._by_index: dict[int, Channel] = {}
        self._streams: list[Stream] = []  # theirs, as far as they have one
        self._container: Container | None = None
        self._feed: Feed | None = None
        self._end_reason: str | None = None  # the container is complete; why the streams end then

    # What the connection asks

    @property
    def is_open(self) -> bool:
        """Something was admitted and has not ended."""
        return bool(self._by_index)

    @property
    def is_blocked(self) -> bool:
        """What was sent waits for room: stop reading this client."""
        if self._feed is not None:
            return self._feed.is_full
        return any(stream.is_blocked for stream in self._streams)

    @property
    def expects_audio(self) -> bool:
        """It is the client's turn: silence from here on is the client's."""
        if self._container is Container.FILE or self._end_reason is not None or self.is_blocked:
            return False
        return any(c.stream is None or not c.stream.closing for c in self._by_index.values())

    # Intents

    def apply(self, intent: Intent, now_ns: int) -> None:
        """Carry out one intent of those that a stream is concerned by."""
        if isinstance(intent, AudioIn):
            self._take_audio(self._by_index.get(intent.channel), intent.pcm, now_ns)
        elif isinstance(intent, EncodedIn):
            if self._feed is not None and self._end_reason is None:
                self._feed.write(intent.data)
        elif isinstance(intent, OpenStream):
            self._open(intent, now_ns)
        elif isinstance(intent, ReopenStream):
            self._reopen(intent, now_ns)
        elif isinstance(intent, FinalizeIn):
            self._finalize(intent, now_ns)
        elif isinstance(intent, ConfigureIn):
            self._configure(intent.channel, intent.vad)
        else:
            self._end(intent)

    def _open(self, intent: OpenStream, now_ns: int) -> None:
        if intent.channel in self._by_index or intent.channel >= MAX_CHANNELS:
            self._refuse(
                ErrorCode.UNEXPECTED_MESSAGE, f"at most {MAX_CHANNELS} channels, each once"
            )
            return
        hello = self._router.admission.settle(intent.hello, any_model=intent.any_model)
        grant = self._gatekeeper.admit(hello.token, now_ns)
        if isinstance(grant, Error):
            self._host.metrics.refused.labels(grant.code.value).inc()
            self.client.refuse(grant)
            return
        channel = Channel(self, intent.channel, hello, grant)
        self._by_index[intent.channel] = channel
        if intent.container is None:
            self._admit(channel, now_ns)
            return
        error = self._router.admission.check(hello, now_ns)
        if error is not None:
            self._turn_away(channel, error)
            return
        self._container = intent.container
        self._feed = self._host.open_feed(intent.container, self)

    def _admit(self, channel: Channel, now_ns: int) -> None:
        admitted = self._router.admit(channel.hello, channel, now_ns)
        if isinstance(admitted, Error):
            self._turn_away(channel, admitted)
            return
        channel.stream = admitted
        self._streams.append(admitted)
        channel.deliver(self._router.started(admitted, now_ns))

    def _turn_away(self, channel: Channel, error: Error) -> None:
        """Not admitted after all: what the token was granted goes back first."""
        self._drop(channel)
        self.client.refuse(error)

    def _reopen(self, intent: ReopenStream, now_ns: int) -> None:
        channel = self._by_index.get(0)
        if channel is None:
            return
        hello = self._router.admission.settle(intent.hello, any_model=intent.any_model)
        stream = channel.stream
        if stream is None:
            self._reopen_container(channel, hello, now_ns)
        elif not stream.is_attached and not stream.closing:
            reopened = self._router.reopen(stream, hello, now_ns)
            if isinstance(reopened, Error):
                self.client.refuse(reopened)
                return
            channel.hello, channel.stream = hello, reopened
            self._streams[self._streams.index(stream)] = reopened
            channel.deliver(self._router.started(reopened, now_ns))

    def _reopen_container(self, channel: Channel, hello: Hello, now_ns: int) -> None:
        """Nothing is decoded yet: Started follows when its format is known."""
        error = self._router.admission.check(hello, now_ns)
        if error is None:
            channel.hello = hello
        else:
            self.client.refuse(error)

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

    def _attach(self, stream: Stream, now_ns: int) -> bool:
        error = self._router.claim(stream, now_ns)
        if error is not None:
            self.client.refuse(error)
            return False
        if stream.format.is_ring_format and self._container is None and len(self._by_index) == 1:
            self.client.stream_attached(stream)
        return True

    def _finalize(self, intent: FinalizeIn, now_ns: int) -> None:
        channel = self._by_index.get(intent.channel)
        if channel is None:
            return
        if channel.stream is None:
            channel.deliver(empty_final(intent.finalize_id, now_ns))
        elif not channel.stream.closing:
            self._router.finalize(channel.stream, intent.finalize_id, now_ns)

    def _configure(self, index: int, vad: VadOptions) -> None:
        channel = self._by_index.get(index)
        if channel is None:
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

    # The end

    def end(self, reason: str) -> None:
        """The client sends no more: what it sent is decoded to its end."""
        if self._feed is None:
            self.close(reason)
        elif self._end_reason is None:
            self._end_reason = reason
            self._feed.end()

    def close(self, reason: str) -> None:
        """End all streams now; what is still in a decoder is lost, what was decoded is not."""
        self.close_feed()
        for channel in tuple(self._by_index.values()):
            if channel.stream is None:
                self.forget(channel)
            else:
                self._router.close(channel.stream, reason)

    def close_feed(self) -> None:
        """Stop the decoder."""
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.close()

    def part(self) -> None:
        """The connection is gone. If all streams have ended, the two let go of each other: a storm
        of connects must not leave garbage that only a full collection finds, which is a long pause.
        """
        if not self._by_index:
            del self.client

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
            self.client.streams_ended()

    def _drop(self, channel: Channel) -> None:
        del self._by_index[channel.index]
        if channel.stream is not None:
            self._streams.remove(channel.stream)
        self._gatekeeper.release(channel.grant)
        if not self._by_index:
            self.close_feed()

    def _refuse(self, code: ErrorCode, message: str) -> None:
        self.client.refuse(refusal(code, message))

    # Room

    def has_room(self) -> None:
        """A stream has room again: the decoder may go on, or the client."""
        if self._feed is not None:
            self._feed.resume()
        else:
            self.client.resume()

    # The decoder (file_feed.FeedOwner)

    def on_format(self, sample_rate_hz: int) -> None:
        """The stream can be opened now."""
        channel = self._by_index.get(0)
        if channel is not None and channel.stream is None:
            channel.hello = structs.replace(channel.hello, sample_rate_hz=sample_rate_hz)
            self._admit(channel, self._host.loop.now_ns)

    def on_pcm(self, pcm: bytes) -> None:
        """Audio out of the container."""
        self._take_audio(self._by_index.get(0), pcm, self._host.loop.now_ns)
        if self._feed is not None and any(stream.is_blocked for stream in self._streams):
            self._feed.pause()

    def on_decoded(self) -> None:
        """Everything is in the stream: it may end. A container without audio is no error here."""
        channel = self._by_index.get(0)
        if channel is not None and channel.stream is None:
            self._admit(channel, self._host.loop.now_ns)
        self.close(self._end_reason or "client")

    def on_feed_error(self, error: Error) -> None:
        """The container is the client's, and so is the error."""
        self.client.refuse(error)

    def on_feed_room(self) -> None:
        """The decoder takes more."""
        self.client.resume()
