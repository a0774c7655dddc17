"""Streams that wait for a service, because theirs has died or none was there. Pure.

The router puts a stream here and the worker calls `place` once a loop turn, which finds services
for some of them. A try that finds no room is repeated after a moment, and a stream that nobody
takes for too long is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from .admission import Admission
from .stream import Stream

RETRY_NS = 100_000_000  # between two tries of one stream
# A service loads its model anew, and the parent gives up after five deaths on the way.
MAX_WAIT_NS = 120_000_000_000
# Streams are opened while less than this waits for the service, checkpoints and all.
OPEN_BELOW_BYTES = 256 * 1024
MAX_OPENED_A_TURN = 32


class Link(Protocol):
    """What is asked of a service's link here."""

    @property
    def queued_bytes(self) -> int:
        """What the service has not taken yet."""


class Orphans:
    """See the module text. Who came first is tried first."""

    __slots__ = ("_admission", "_links", "_lose", "_open", "_retry_ns", "_since_ns")

    def __init__(
        self,
        admission: Admission,
        links: Mapping[int, Link],
        open_stream: Callable[[Stream, int, int], None],
        lose_stream: Callable[[Stream, str], None],
    ) -> None:
        self._admission = admission
        self._links = links
        self._open = open_stream  # with the service of this index, now
        self._lose = lose_stream
        self._since_ns: dict[Stream, int] = {}
        self._retry_ns: dict[Stream, int] = {}

    def __len__(self) -> int:
        return len(self._retry_ns)

    def add(self, stream: Stream, since_ns: int) -> None:
        """It has no service any more."""
        if not stream.orphaned_ns:
            stream.orphaned_ns = since_ns
            stream.orphaned_sample = stream.decoded_samples
        self._since_ns[stream] = self._retry_ns[stream] = since_ns
        self._admission.stream_waits(stream.hello.model)

    def postpone(self, stream: Stream, now_ns: int) -> None:
        """No service has room for it."""
        self._retry_ns[stream] = now_ns + RETRY_NS

    def place(self, now_ns: int) -> bool:
        """Open some of them; True when more could follow at once."""
        if not self._retry_ns:
            return False
        for stream in self._hopeless(now_ns):
            self._remove(stream)
            self._lose(stream, "no recognition service took over")
        num_opened = 0
        for stream in self._due(now_ns):
            chosen = self._admission.choose(stream.hello.model, now_ns, was_admitted=True)
            if chosen is None:
                self.postpone(stream, now_ns)
                continue
            if self._links[chosen].queued_bytes > OPEN_BELOW_BYTES:
                break
            self._remove(stream)
            self._open(stream, chosen, now_ns)
            num_opened += 1
            if num_opened == MAX_OPENED_A_TURN:
                break
        return num_opened > 0

    def _remove(self, stream: Stream) -> None:
        del self._since_ns[stream], self._retry_ns[stream]
        self._admission.stream_waits_no_more(stream.hello.model)

    def _due(self, now_ns: int) -> list[Stream]:
        """Whom to try now. Where no service has their model, there is nothing to try."""
        models = {stream.hello.model for stream in self._retry_ns}
        served = {model for model in models if self._admission.has_service(model, now_ns)}
        return [
            stream
            for stream, retry_ns in self._retry_ns.items()
            if retry_ns <= now_ns and stream.hello.model in served
        ]

    def _hopeless(self, now_ns: int) -> list[Stream]:
        if self._admission.draining and not self._links:
            return list(self._retry_ns)  # no service is started any more
        return [stream for stream, since in self._since_ns.items() if now_ns - since >= MAX_WAIT_NS]
