"""TLS around another transport: the worker's loop moves bytes, OpenSSL only computes. Pure.

`TlsTransport` has the verbs of transport.Transport. Ciphertext from the socket goes into one memory
BIO, plaintext to the inner transport; what that sends comes out of the other BIO as ciphertext.
There is no TLS socket and so nothing that could block. The worker wraps its web port and its
native TCP port in it; certificates.py makes the context.

    HANDSHAKE --done--> OPEN --close--> CLOSED
        |                 `--a record that does not decrypt--> BROKEN
        `--not TLS, or no common version--> BROKEN
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from enum import Enum

from protocol.client_messages import Error

from .dialects import Output
from .transport import AudioLane, Transport, TransportEvent

RECORD_BYTES = 16 * 1024  # the most plaintext of one TLS record
_PLAIN_HTTP = "HTTP_REQUEST"  # OpenSSL's name for a plain HTTP request on a TLS port
_HTTPS_HERE = b"this port speaks HTTPS: use https:// or wss://\n"
_USE_HTTPS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    b"Connection: close\r\n\r\n%s" % (len(_HTTPS_HERE), _HTTPS_HERE)
)


class TlsPhase(Enum):
    """Where the TLS session stands."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSED = "closed"  # our close_notify is queued
    BROKEN = "broken"


def _ignore_failure() -> None:
    """Nobody counts."""


class TlsTransport:
    """See the module text. `on_failure` is called once when the handshake fails."""

    def __init__(
        self,
        inner: Transport,
        context: ssl.SSLContext,
        on_failure: Callable[[], None] = _ignore_failure,
    ) -> None:
        self._inner = inner
        self._on_failure = on_failure
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._phase = TlsPhase.HANDSHAKE
        self._handshake_failed = False
        self._input_ended = False  # the inner transport knows that nothing more comes
        self._is_closing = False

    # What the shell asks; the rest of the answers is the inner transport's.

    @property
    def should_close(self) -> bool:
        """A handshake that failed ends it; a session that broke later is an end of input."""
        return self._handshake_failed or self._inner.should_close

    @property
    def can_send(self) -> bool:
        """Nothing can be said in a broken session."""
        return self._phase is not TlsPhase.BROKEN and self._inner.can_send

    @property
    def is_uploading(self) -> bool:
        """As the inner transport says."""
        return self._inner.is_uploading

    def next_event(self) -> TransportEvent | None:
        """As the inner transport says."""
        return self._inner.next_event()

    def next_deadline(self) -> int | None:
        """As the inner transport says; the handshake's time is the connection's affair."""
        return self._inner.next_deadline()

    def handle_timer(self, now_ns: int) -> None:
        """For the inner transport."""
        self._inner.handle_timer(now_ns)

    def audio_lane(self) -> AudioLane | None:
        """None: what the shell receives is no audio before it is decrypted."""
        return None

    def send(self, item: Output) -> None:
        """For the inner transport."""
        self._inner.send(item)

    def refuse(self, error: Error) -> None:
        """Said by the inner transport, and heard only if the handshake is done."""
        self._inner.refuse(error)

    # Bytes of the socket

    def receive_data(self, data: memoryview, now_ns: int) -> None:
        """Decrypt all that is there: at most a part of one record stays behind."""
        if self._input_ended:
            return  # bytes behind close_notify, or in a broken session, would only pile up
        if data:
            self._received.write(data)
        else:
            self._received.write_eof()
        if self._phase is TlsPhase.HANDSHAKE:
            self._shake_hands()
        if self._phase is TlsPhase.OPEN:
            self._decrypt(now_ns)

    def discard_data(self, data: memoryview) -> None:
        """The client's close_notify changes nothing: the socket's end does."""

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            self._phase = TlsPhase.BROKEN
            self._handshake_failed = True
            self._on_failure()
            if error.reason == _PLAIN_HTTP:
                self._to_send.read()  # an alert, which a browser would show as garbage
                self._to_send.write(_USE_HTTPS)
            return
        self._phase = TlsPhase.OPEN

    def _decrypt(self, now_ns: int) -> None:
        pieces: list[bytes] = []
        try:
            while piece := self._tls.read(RECORD_BYTES):
                pieces.append(piece)
            self._input_ended = True  # close_notify; ours may still follow finals
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:  # forged, damaged, or cut off: the client counts as vanished
            self._input_ended = True
            self._phase = TlsPhase.BROKEN
        if pieces:
            self._inner.receive_data(memoryview(b"".join(pieces)), now_ns)
        if self._input_ended:
            self._inner.receive_data(memoryview(b""), now_ns)

    # Bytes to the socket

    def close(self, error: Error | None, now_ns: int) -> None:
        """The inner transport's last words, then close_notify, at the next `data_to_send`."""
        self._inner.close(error, now_ns)
        self._is_closing = True

    def data_to_send(self) -> bytes:
        """What the inner transport has queued, encrypted; before the handshake is done it waits."""
        if self._phase is TlsPhase.OPEN:
            self._encrypt(self._inner.data_to_send())
            if self._is_closing:
                self._say_goodbye()
        return self._to_send.read()

    def _encrypt(self, plaintext: bytes) -> None:
        left = memoryview(plaintext)
        while left:  # OpenSSL takes a record at a time; a memory BIO is never full
            left = left[self._tls.write(left) :]

    def _say_goodbye(self) -> None:
        self._phase = TlsPhase.CLOSED
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            return  # it is queued; whether the client answers it, the connection does not ask
