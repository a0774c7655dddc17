"""How slowly a client may send a request's body. Pure: bytes and times in, a verdict out.

A body that trickles in would hold a connection, a spool file and a descriptor for as long as its
sender likes. So each window of time has to bring a least number of bytes, and the whole has an
end. HttpCore asks; it knows no clock.
"""

from __future__ import annotations

_NS_PER_S = 1_000_000_000

MIN_UPLOAD_BYTES_PER_S = 1_024  # speech in Opus has more, at its thriftiest
UPLOAD_WINDOW_S = 15  # longer than the stalls of a mobile network
MAX_UPLOAD_S = 3_600


class UploadPace:
    """The pace of one body, from `now_ns` on."""

    def __init__(self, now_ns: int) -> None:
        self._end_ns = now_ns + MAX_UPLOAD_S * _NS_PER_S
        self._window_bytes = 0
        self._window_end_ns = now_ns + UPLOAD_WINDOW_S * _NS_PER_S

    def received(self, num_bytes: int) -> None:
        """Count what came."""
        self._window_bytes += num_bytes

    def next_deadline(self) -> int:
        """When to ask `is_too_slow`."""
        return min(self._window_end_ns, self._end_ns)

    def is_too_slow(self, now_ns: int) -> bool:
        """Judge at or after a deadline; a good window begins the next one."""
        if now_ns >= self._end_ns:
            return True
        if now_ns < self._window_end_ns:
            return False
        if self._window_bytes < MIN_UPLOAD_BYTES_PER_S * UPLOAD_WINDOW_S:
            return True
        self._window_bytes = 0
        self._window_end_ns = now_ns + UPLOAD_WINDOW_S * _NS_PER_S
        return False
