"""The asyncio client: the methods of blocking.Client, with `await`.

One reader task keeps the socket drained, so `send_audio` waits under the server's backpressure and
cannot deadlock. It belongs to the event loop that made it; connection.py holds what it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import TypeVar

from protocol.client_messages import Closed, Final, Hello, ServerMessage, Started

from .address import parse_address
from .blocking import CONNECT_TIMEOUT_S, PIECE_BYTES, READ_BYTES
from .connection import Connection
from .errors import ConnectionLost
from .tls import make_wire

T = TypeVar("T")


class AsyncClient:
    """One session with a server. Every method may raise ClientError."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._connection = connection
        self._changed = asyncio.Condition()
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
    ) -> AsyncClient:
        """Connect to a URL of address.py. `token` for servers that ask for one, `tls_ca` a PEM
        file to trust instead of the system's authorities.
        """
        address = parse_address(url)
        wire = make_wire(address, tls_ca)
        if address.scheme == "unix":
            opening = asyncio.open_unix_connection(address.path)
        else:
            opening = asyncio.open_connection(address.host, address.port)
        try:
            reader, writer = await asyncio.wait_for(opening, timeout_s)
        except (OSError, asyncio.TimeoutError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "timed out"
            raise ConnectionLost(f"no server at {url}: {reason}") from None
        client = cls(reader, writer, Connection(wire, token))
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
        for start in range(0, len(pcm), PIECE_BYTES):
            self._connection.audio(pcm[start : start + PIECE_BYTES])
            self._flush()
            with contextlib.suppress(ConnectionError):  # the reader learns the reason
                await self._writer.drain()

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
    def is_over(self) -> bool:
        """Nothing more will come than what next_event still returns."""
        return self._connection.is_over

    async def close(self) -> None:
        """Drop the connection; without `bye` before, the server ends the session by itself."""
        self._connection.fail(ConnectionLost("the client was closed"))
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
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

    def _flush(self) -> None:
        if data := self._connection.data_to_send():
            self._writer.write(data)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, condition: Callable[[], T | None], timeout_s: float | None) -> T:
        """Wait until `condition` is not None; raises what ends the session."""

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
        while not self._connection.is_over:
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError as error:
                self._connection.fail(ConnectionLost(f"connection lost: {error}"))
            else:
                self._connection.receive_data(data)
                self._flush()
            await self._notify()
