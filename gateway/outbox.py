"""What waits to be written to one client, and what its length means.

Shell, owned by a connection. Three caps: above the first its connection takes no more input from
that client, above the second drafts are shed (finals never), above the third the client is closed
as a slow reader. It knows no message.
"""

from __future__ import annotations

import socket

STOP_READING_ABOVE_BYTES = 64 * 1024
SHED_PARTIALS_ABOVE_BYTES = 256 * 1024
MAX_OUT_BYTES = 1024 * 1024


class Outbox:
    """Bytes for one socket. Once muted it takes nothing more."""

    __slots__ = ("_data", "_sock", "is_muted")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = bytearray()
        self.is_muted = False  # nothing more can, or may, be written

    def __len__(self) -> int:
        return len(self._data)

    @property
    def stops_reading(self) -> bool:
        """Whoever does not read its answers may not ask for more."""
        return len(self._data) > STOP_READING_ABOVE_BYTES

    @property
    def sheds_partials(self) -> bool:
        """A draft would be old when it is read."""
        return len(self._data) > SHED_PARTIALS_ABOVE_BYTES

    @property
    def is_full(self) -> bool:
        """This client is a slow reader."""
        return len(self._data) > MAX_OUT_BYTES

    def append(self, data: bytes) -> bool:
        """Queue; False when there is nothing to write."""
        if self.is_muted or not data:
            return False
        self._data += data
        return True

    def write(self) -> None:
        """Write what the socket takes; mutes itself when the client is gone."""
        if not self._data:
            return
        try:
            sent = self._sock.send(self._data)
        except BlockingIOError:
            return
        except OSError:
            # What the client sent before may still lie in the socket, and is read.
            self.mute()
            return
        del self._data[:sent]

    def mute(self) -> None:
        """Forget what is queued, and take no more."""
        self.is_muted = True
        self._data.clear()
