"""The asyncio client: the methods of blocking.Client, with `await`.

One reader task keeps the socket drained, so `send_audio` waits under the server's backpressure and
cannot deadlock. It also connects again when the connection is lost. A client belongs to the event
loop that made it; connection.py holds what it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TypeVar

from protocol.client_messages import Closed, Final, Hello, ServerMessage, Started

from .address import parse_address
from .blocking import CLOSE_TIMEOUT_S, CONNECT_TIMEOUT_S, READ_BYTES, ConnectionHandler
from .connection import Connection
from .errors import ClientError, ConnectionLost
from .resumption import ATTEMPT_TIMEOUT_MS, Connectivity
from .tls import make_wire
from .wire import Wire

T = TypeVar("T")


class Dial:
    """Opens connections to one server."""

    def __init__(self, url: str, tls_ca: str | None) -> None:
        self._url = url
        self._address = parse_address(url)
        self._tls_ca = tls_ca

    async def __call__(
        self, timeout_s: float
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Wire]:
        """A connection and the wire to speak over it. Raises ClientError."""
        try:
            wire = make_wire(self._address, self._tls_ca)
            if self._address.scheme == "unix":
                opening = asyncio.open_unix_connection(self._address.path)
            else:
                opening = asyncio.open_connection(self._address.host, self._address.port)
            return *await asyncio.wait_for(opening, timeout_s), wire
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            # ValueError: of a host that can be no name.
            reason = getattr(error, "strerror", None) or str(error) or "timed out"
            raise ConnectionLost(f"no server at {self._url}: {reason}") from None


class AsyncClient:
    """One session with a server. Every method may raise ClientError, and those that say something
    LocalProtocolError, where it may not be said: audio before hello, say, or half a sample."""

    def __init__(
        self,
        dial: Dial,
        opened: tuple[asyncio.StreamReader, asyncio.StreamWriter, Wire],
        token: str,
        resume: bool,
        on_connection: ConnectionHandler | None,
    ) -> None:
        self._dial = dial
        self._reader, self._writer, wire = opened
        self._connection = Connection(wire, token, resume)
        self._on_connection = on_connection
        self._connectivity = Connectivity.CONNECTED  # as last told
        self._changed = asyncio.Condition()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0  # when it is due
        self._flush()
        self._task = asyncio.create_task(self._run(), name="earwire-client")

    @classmethod
    async def connect(
        cls,
        url: str,
        timeout_s: float = CONNECT_TIMEOUT_S,
        *,
        token: str = "",
        tls_ca: str | None = None,
        resume: bool = True,
        on_connection: ConnectionHandler | None = None,
    ) -> AsyncClient:
        """Connect to a URL of address.py. `token` for servers that ask for one, `tls_ca` a PEM
        file to trust instead of the system's authorities.

        With `resume` a lost connection is made again within the time that the server gives, and
        nothing is lost or said twice. `on_connection` is told of it.
        """
        dial = Dial(url, tls_ca)
        client = cls(dial, await dial(timeout_s), token, resume, on_connection)
        try:
            await client._wait(lambda: client._connection.is_open or None, timeout_s)
        except BaseException:
            await client.close()
            raise
        return client

    async def open(
        self, hello: Hello | None = None, timeout_s: float = CONNECT_TIMEOUT_S
    ) -> Started:
        """Begin the session; its limits. Raises ServerError when the server refuses it."""
        self._connection.hello(hello or Hello(client="earwire-python-aio"))
        self._flush()
        return await self._wait(self._connection.check_started, timeout_s)

    async def send_audio(self, pcm: bytes) -> None:
        """Send whole samples; waits while the server is not taking them."""
        piece_bytes = self._connection.piece_bytes
        for start in range(0, len(pcm), piece_bytes):
            self._connection.audio(pcm[start : start + piece_bytes])
            self._flush()
            with contextlib.suppress(OSError):  # the reader learns the reason
                await self._writer.drain()
            if not self._connection.has_room:
                await self._wait(self._has_room, None)

    async def finalize(self) -> int:
        """End the utterance here; the id to give to `wait_final`."""
        finalize_id = self._connection.finalize()
        self._flush()
        return finalize_id

    async def wait_final(self, finalize_id: int, timeout_s: float | None = None) -> Final:
        """The answer to a finalize; events() yields it too. Raises TimeoutError."""
        return await self._wait(lambda: self._connection.answer(finalize_id), timeout_s)

    async def ping(self, nonce: int = 0) -> None:
        """Ask for a Pong event."""
        self._connection.ping(nonce)
        self._flush()

    async def bye(self) -> None:
        """No more audio: what is left comes as events, Closed last."""
        self._connection.bye()
        self._flush()

    async def next_event(self, timeout_s: float | None = None) -> ServerMessage | None:
        """The next event; None after the last one, or when the time is over."""

        def poll() -> tuple[ServerMessage | None] | None:
            event = self._connection.next_event()
            return None if event is None and not self._connection.is_over else (event,)

        try:
            return (await self._wait(poll, timeout_s))[0]
        except TimeoutError:
            return None

    async def events(self) -> AsyncIterator[ServerMessage]:
        """All events until the session's end; raises what ended it, unless that was Closed."""
        while (event := await self.next_event()) is not None:
            yield event

    @property
    def closed(self) -> Closed | None:
        """The close record, once it is there."""
        return self._connection.closed

    @property
    def num_untaken_samples(self) -> int:
        """Client samples that the server had not taken when it ended the session by itself."""
        return self._connection.num_untaken_samples

    @property
    def is_over(self) -> bool:
        """Nothing more will come than what next_event still returns."""
        return self._connection.is_over

    async def close(self) -> None:
        """Drop the connection; without `bye` before, the server ends the session by itself."""
        self._connection.leave()
        self._flush()
        self._connection.fail(ConnectionLost("the client was closed"))
        self._task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task  # raises what on_connection raised
        finally:
            self._writer.close()
            loop = asyncio.get_running_loop()
            giving_up = loop.call_later(CLOSE_TIMEOUT_S, self._writer.transport.abort)
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            giving_up.cancel()
            await self._notify()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _has_room(self) -> bool | None:
        self._connection.check()
        return self._connection.has_room or None

    def _flush(self) -> None:
        if data := self._connection.data_to_send():
            self._writer.write(data)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, condition: Callable[[], T | None], timeout_s: float | None) -> T:
        """Wait until `condition` is not None; raises what ends the session."""
        if (result := condition()) is not None:
            return result  # with no time to wait, wait_for does not even ask

        async def waiting() -> T:
            async with self._changed:
                while (result := condition()) is None:
                    if self._connection.is_over:
                        raise self._connection.failure or ConnectionLost("the session is closed")
                    await self._changed.wait()
                return result

        try:
            return await asyncio.wait_for(waiting(), timeout_s)
        except asyncio.TimeoutError:
            # Python 3.10 has its own TimeoutError in asyncio; callers see the built-in one.
            raise TimeoutError(f"no answer from the server within {timeout_s} s") from None

    async def _run(self) -> None:
        try:
            while not self._connection.is_over:
                if self._connection.needs_socket:
                    await self._reconnect()
                else:
                    await self._receive()
                self._tell()
                await self._notify()
        finally:  # by an exception of on_connection, as far as anybody knows
            self._connection.fail(ClientError("the client's task has failed"))
            await self._notify()

    async def _receive(self) -> None:
        self._arm()
        try:
            data = await self._reader.read(READ_BYTES)
        except OSError as error:
            reason = ConnectionLost(f"connection lost: {error}")
            self._connection.lost(reason, time.monotonic_ns())
        else:
            self._connection.receive_data(data, time.monotonic_ns())
            self._flush()

    async def _reconnect(self) -> None:
        """Another connection when it is time for it."""
        self._writer.transport.abort()
        left_s = (self._connection.retry_ns - time.monotonic_ns()) / 1e9
        await asyncio.sleep(max(0.0, left_s))
        try:
            self._reader, self._writer, wire = await self._dial(ATTEMPT_TIMEOUT_MS / 1000)
        except ClientError as error:
            self._connection.attempt_failed(error, time.monotonic_ns())
            return
        self._connection.reconnected(wire, time.monotonic_ns())
        self._flush()

    def _tell(self) -> None:
        connectivity = self._connection.connectivity
        if connectivity is not self._connectivity:
            self._connectivity = connectivity
            if self._on_connection is not None:
                self._on_connection(connectivity)

    def _arm(self) -> None:
        """Have `_on_timer` called when the connection wants it; one that comes too early is
        cheaper than to move it with each message."""
        deadline_ns = self._connection.next_deadline_ns()
        if deadline_ns is None or (self._timer is not None and self._timer_ns <= deadline_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = deadline_ns
        delay_s = max(0.0, (deadline_ns - time.monotonic_ns()) / 1e9)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._connection.is_over:
            return
        self._connection.handle_timer(time.monotonic_ns())
        if self._connection.needs_socket or self._connection.is_over:
            self._writer.transport.abort()  # ends the read
            return
        self._flush()
        self._arm()
