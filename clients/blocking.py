"""The blocking client: a plain object to call from any thread.

One thread of its own moves bytes both ways, always reading, so a server that applies backpressure
makes `send_audio` wait and can never deadlock with a client that waits for the server. It also
connects again when the connection is lost. aio.py is the same with `await`; connection.py holds
what both know.

    with Client.connect("earwire://127.0.0.1:9000") as client:
        client.open(Hello(sample_rate_hz=16_000))
        client.send_audio(pcm)
        client.bye()
        for event in client.events():
            ...
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TypeAlias, TypeVar

from protocol.client_messages import Closed, Final, Hello, ServerMessage, Started

from .address import Address, parse_address
from .connection import Connection
from .errors import ClientError, ConnectionLost
from .resumption import ATTEMPT_TIMEOUT_MS, Connectivity
from .tls import make_wire
from .wire import Wire

CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0  # for the thread, which may be connecting, or for the last bytes to go
MAX_UNSENT_BYTES = 256 * 1024  # send_audio waits above this
READ_BYTES = 64 * 1024

T = TypeVar("T")


ConnectionHandler: TypeAlias = Callable[[Connectivity], None]


class Dial:
    """Opens sockets to one server."""

    def __init__(self, url: str, tls_ca: str | None) -> None:
        self._url = url
        self._address = parse_address(url)
        self._tls_ca = tls_ca

    def __call__(self, timeout_s: float) -> tuple[socket.socket, Wire]:
        """A connected socket and the wire to speak over it. Raises ClientError."""
        try:
            wire = make_wire(self._address, self._tls_ca)
            return _connect(self._address, timeout_s), wire
        except (OSError, ValueError) as error:  # ValueError: of a host that can be no name
            reason = getattr(error, "strerror", None) or str(error)
            raise ConnectionLost(f"no server at {self._url}: {reason}") from None


class Client:
    """One session with a server. Every method may raise ClientError, and those that say something
    LocalProtocolError, where it may not be said: audio before hello, say, or half a sample."""

    def __init__(
        self,
        dial: Dial,
        timeout_s: float,
        token: str,
        resume: bool,
        on_connection: ConnectionHandler | None,
    ) -> None:
        self._dial = dial
        self._on_connection = on_connection
        self._sock, wire = dial(timeout_s)
        self._sock.setblocking(False)
        self._connection = Connection(wire, token, resume)
        self._connectivity = Connectivity.CONNECTED  # as last told
        self._changed = threading.Condition()
        self._unsent = bytearray()
        self._is_closed = False
        self._wake, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="earwire-client", daemon=True)
        self._thread.start()

    @classmethod
    def connect(
        cls,
        url: str,
        timeout_s: float = CONNECT_TIMEOUT_S,
        *,
        token: str = "",
        tls_ca: str | None = None,
        resume: bool = True,
        on_connection: ConnectionHandler | None = None,
    ) -> Client:
        """Connect to a URL of address.py. `token` for servers that ask for one, `tls_ca` a PEM
        file to trust instead of the system's authorities.

        With `resume` a lost connection is made again within the time that the server gives, and
        nothing is lost or said twice. `on_connection` is told of it, in this client's own thread:
        it must not wait for this client.
        """
        client = cls(Dial(url, tls_ca), timeout_s, token, resume, on_connection)
        try:
            client._wait(lambda: client._connection.is_open or None, timeout_s)
        except BaseException:
            client.close()
            raise
        return client

    def open(self, hello: Hello | None = None, timeout_s: float = CONNECT_TIMEOUT_S) -> Started:
        """Begin the session; its limits. Raises ServerError when the server refuses it."""
        self._do(lambda: self._connection.hello(hello or Hello(client="earwire-python")))
        return self._wait(self._connection.check_started, timeout_s)

    def send_audio(self, pcm: bytes) -> None:
        """Send whole samples; waits while the server is not taking them."""
        with self._changed:
            piece_bytes = self._connection.piece_bytes
        for start in range(0, len(pcm), piece_bytes):
            self._do(partial(self._connection.audio, pcm[start : start + piece_bytes]))
            self._wait(self._has_room, None)

    def finalize(self) -> int:
        """End the utterance here; the id to give to `wait_final`."""
        return self._do(self._connection.finalize)

    def wait_final(self, finalize_id: int, timeout_s: float | None = None) -> Final:
        """The answer to a finalize; events() yields it too. Raises TimeoutError."""
        return self._wait(lambda: self._connection.answer(finalize_id), timeout_s)

    def ping(self, nonce: int = 0) -> None:
        """Ask for a Pong event."""
        self._do(lambda: self._connection.ping(nonce))

    def bye(self) -> None:
        """No more audio: what is left comes as events, Closed last."""
        self._do(self._connection.bye)

    def next_event(self, timeout_s: float | None = None) -> ServerMessage | None:
        """The next event; None after the last one, or when the time is over."""

        def poll() -> tuple[ServerMessage | None] | None:
            event = self._connection.next_event()
            return None if event is None and not self._connection.is_over else (event,)

        try:
            return (self._wait(poll, timeout_s))[0]
        except TimeoutError:
            return None

    def events(self) -> Iterator[ServerMessage]:
        """All events until the session's end; raises what ended it, unless that was Closed."""
        while (event := self.next_event()) is not None:
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

    def close(self) -> None:
        """Drop the connection; without `bye` before, the server ends the session by itself."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._connection.leave()
            self._unsent += self._connection.data_to_send()
            self._connection.fail(ConnectionLost("the client was closed"))
            self._changed.notify_all()
            self._wake_thread()
        if threading.current_thread() is not self._thread:  # on_connection may close
            self._thread.join(CLOSE_TIMEOUT_S)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # The program's side of the lock

    def _has_room(self) -> bool | None:
        self._connection.check()
        has_room = len(self._unsent) <= MAX_UNSENT_BYTES and self._connection.has_room
        return has_room or None

    def _do(self, verb: Callable[[], T]) -> T:
        with self._changed:
            result = verb()
            self._unsent += self._connection.data_to_send()
            self._wake_thread()
        return result

    def _wait(self, condition: Callable[[], T | None], timeout_s: float | None) -> T:
        """Wait until `condition` is not None; raises what ends the session."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while (result := condition()) is None:
                if self._connection.is_over:
                    raise self._connection.failure or ConnectionLost("the session is closed")
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no answer from the server within {timeout_s} s")
                self._changed.wait(left)
            return result

    def _wake_thread(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake already; closed: it has ended
            self._waker.send(b"\0")

    # The thread, to which the sockets belong

    def _run(self) -> None:
        try:
            while not self._connection.is_over:
                if self._connection.needs_socket:
                    self._reconnect()
                else:
                    self._exchange()
                self._tell()
            self._part()
        except BaseException:  # of on_connection, as far as anybody knows
            with self._changed:
                self._connection.fail(ClientError("the client's thread has failed"))
                self._changed.notify_all()
            raise
        finally:
            for end in (self._sock, self._wake, self._waker):
                end.close()

    def _tell(self) -> None:
        connectivity = self._connection.connectivity
        if connectivity is not self._connectivity:
            self._connectivity = connectivity
            if self._on_connection is not None:
                self._on_connection(connectivity)

    def _exchange(self) -> None:
        """Wait for bytes, room, a time or the program, and do what is due."""
        with self._changed:
            self._unsent += self._connection.data_to_send()
            writing = select.POLLOUT if self._unsent else 0
            deadline_ns = self._connection.next_deadline_ns()
        for fd, events in self._poll(self._sock, select.POLLIN | writing, deadline_ns):
            if fd == self._sock.fileno():
                self._move_bytes(events)
        if deadline_ns is not None and time.monotonic_ns() >= deadline_ns:
            with self._changed:
                self._connection.handle_timer(time.monotonic_ns())
                self._changed.notify_all()

    def _poll(
        self, sock: socket.socket | None, events: int, deadline_ns: int | None
    ) -> list[tuple[int, int]]:
        """What happened at `sock`, or to whoever wakes this thread; empty when it is time."""
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        if sock is not None:
            poller.register(sock, events)
        left_ms = None
        if deadline_ns is not None:
            left_ms = max(0, -(-(deadline_ns - time.monotonic_ns()) // 1_000_000))
        ready = poller.poll(left_ms)
        if any(fd == self._wake.fileno() for fd, _ in ready):
            self._wake.recv(4096)
        return ready

    def _move_bytes(self, events: int) -> None:
        try:
            data = self._sock.recv(READ_BYTES) if events & ~select.POLLOUT else None
        except BlockingIOError:
            data = None
        except OSError as error:
            self._lose(error)
            return
        with self._changed:
            if data is not None:
                self._connection.receive_data(data, time.monotonic_ns())
            if events & select.POLLOUT and self._unsent:
                self._send_some()
            self._changed.notify_all()

    def _send_some(self) -> None:
        try:
            sent = self._sock.send(self._unsent[:READ_BYTES])
            del self._unsent[:sent]
        except BlockingIOError:
            return
        except OSError:
            # The reason may wait in the receive buffer, as an Error: read on until its end.
            self._unsent.clear()

    def _lose(self, error: OSError) -> None:
        with self._changed:
            reason = ConnectionLost(f"connection lost: {error.strerror}")
            self._connection.lost(reason, time.monotonic_ns())
            self._changed.notify_all()

    def _reconnect(self) -> None:
        """Another socket when it is time for it, unless the program wants nothing more."""
        with self._changed:
            self._unsent.clear()  # of the old connection
            retry_ns = self._connection.retry_ns
        self._sock.close()
        while time.monotonic_ns() < retry_ns:
            self._poll(None, 0, retry_ns)
            if self._connection.is_over:
                return
        try:
            sock, wire = self._dial(ATTEMPT_TIMEOUT_MS / 1000)
        except ClientError as error:
            with self._changed:
                self._connection.attempt_failed(error, time.monotonic_ns())
                self._changed.notify_all()
            return
        self._sock = sock
        sock.setblocking(False)
        with self._changed:
            if not self._connection.is_over:
                self._connection.reconnected(wire, time.monotonic_ns())

    def _part(self) -> None:
        """The last words, as far as the socket takes them at once, and the end."""
        with self._changed, contextlib.suppress(OSError):
            if self._connection.connectivity is Connectivity.CONNECTED:
                self._unsent += self._connection.data_to_send()
                self._sock.send(self._unsent)
            self._sock.shutdown(socket.SHUT_RDWR)


def _connect(address: Address, timeout_s: float) -> socket.socket:
    if address.scheme != "unix":
        sock = socket.create_connection((address.host, address.port), timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(address.path)
    except BaseException:
        sock.close()
        raise
    return sock


__all__ = ["Client", "ClientError"]
