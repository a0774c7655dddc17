"""Headerless audio, cut anywhere, as whole samples of one stream, or of one for each channel.

Pure. It owns the piece of a sample that waits for the next message, expands G.711, and takes
interleaved channels apart. The dialects whose clients name their encoding call it; it knows none
of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from protocol.audio import Encoding
from protocol.client_messages import MAX_AUDIO_BYTES

from .g711 import alaw_to_pcm16, ulaw_to_pcm16


class Coding(Enum):
    """How one sample of a channel travels."""

    LINEAR16 = "linear16"
    LINEAR32 = "linear32"  # float
    ULAW = "mulaw"
    ALAW = "alaw"


@dataclass(frozen=True, slots=True)
class _Layout:
    sample_bytes: int  # as it travels
    encoding: Encoding  # as it goes to the stream
    expand: Callable[[bytes], bytes] | None = None  # from the one to the other


_LAYOUTS = {
    Coding.LINEAR16: _Layout(2, Encoding.PCM_S16LE),
    Coding.LINEAR32: _Layout(4, Encoding.PCM_F32LE),
    Coding.ULAW: _Layout(1, Encoding.PCM_S16LE, ulaw_to_pcm16),
    Coding.ALAW: _Layout(1, Encoding.PCM_S16LE, alaw_to_pcm16),
}
# memoryview items of a sample's size; they are moved, not computed with
_VIEW_FORMATS: dict[int, Literal["B", "h", "i"]] = {1: "B", 2: "h", 4: "i"}


class RawAudio:
    """The audio of one connection: `channels` interleaved, apart afterwards when `is_split`."""

    def __init__(self, coding: Coding, channels: int = 1, *, is_split: bool = False) -> None:
        self._layout = _LAYOUTS[coding]
        self._channels = channels
        self._is_split = is_split and channels > 1
        self._frame_bytes = self._layout.sample_bytes * channels
        # G.711 doubles, and one piece has to fit in one audio message
        self._piece_bytes = MAX_AUDIO_BYTES // 2 // self._frame_bytes * self._frame_bytes
        self._rest = b""  # less than one sample of every channel

    @property
    def encoding(self) -> Encoding:
        """Of the samples that `pieces` yields."""
        return self._layout.encoding

    @property
    def is_between_samples(self) -> bool:
        """Nothing waits for the next message."""
        return not self._rest

    @property
    def is_plain(self) -> bool:
        """Bytes go to their one stream as they come."""
        return self._layout.expand is None and not self._is_split

    @property
    def num_streams(self) -> int:
        """How many streams the audio goes to."""
        return self._channels if self._is_split else 1

    def pieces(self, data: bytes) -> Iterator[list[bytes]]:
        """Whole samples for each stream, in pieces of at most MAX_AUDIO_BYTES. Exhaust it."""
        joined = self._rest + data if self._rest else data
        whole_bytes = len(joined) - len(joined) % self._frame_bytes
        self._rest = joined[whole_bytes:]
        for start in range(0, whole_bytes, self._piece_bytes):
            yield self._streams(joined[start : min(start + self._piece_bytes, whole_bytes)])

    def _streams(self, piece: bytes) -> list[bytes]:
        expand = self._layout.expand
        if not self._is_split:
            return [expand(piece) if expand else piece]
        samples = memoryview(piece).cast(_VIEW_FORMATS[self._layout.sample_bytes])
        apart = [samples[c :: self._channels].tobytes() for c in range(self._channels)]
        return [expand(channel) for channel in apart] if expand else apart
