"""What a stream is joined to: who converts its audio, who owns it, who announces it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from protocol.client_messages import Error, ServerMessage

if TYPE_CHECKING:
    from .stream import Stream

Pcm: TypeAlias = bytes | memoryview


class Converter(Protocol):
    """Client samples to ring samples (resampler.Resampler)."""

    def convert(self, pcm: Pcm) -> bytes:
        """Ring samples that are certain by now."""

    def drain(self) -> bytes:
        """The rest, so that the ring stands at floor(client samples x 16000 / rate)."""

    def max_ring_samples(self, num_client_samples: int) -> int:
        """The most that `convert` of so many more samples can return."""

    def restart_sample(self, ring_samples: int) -> int:
        """The client sample from which on a successor has to hear, to go on at `ring_samples`."""


class StreamOwner(Protocol):
    """Who reads this stream's events: a connection."""

    @property
    def dialect_name(self) -> str:
        """Metric label."""

    def deliver(self, event: ServerMessage) -> None:
        """Pass an event on to the client."""

    def refuse(self, error: Error) -> None:
        """Tell the client why, and close."""

    def resume(self) -> None:
        """There is room again: go on reading."""

    def stream_ended(self) -> None:
        """Nothing more will come of this stream; its slot is free."""


class DirtyList(Protocol):
    """Streams with samples to announce (service_link.ServiceLink)."""

    dirty: list[Stream]
