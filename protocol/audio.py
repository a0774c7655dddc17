"""Audio formats and the arithmetic between a client's samples and ring samples.

Everything behind the resampler is 16 kHz mono s16le and is counted in *ring samples*; what a
client sent is counted in *client samples* at its own rate, one count a channel group. Nothing
here touches audio data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

RING_RATE_HZ = 16_000
MAX_UTTERANCE_MS = 60_000  # of any session; a model may have a limit of its own below it
MAX_END_OF_TURN_MS = 60_000  # patience of a client before a turn is over
RING_SAMPLE_BYTES = 2
MIN_RATE_HZ = 8_000
MAX_RATE_HZ = 192_000
MAX_CHANNELS = 8


class Encoding(str, Enum):
    """How one client sample is written; all little-endian."""

    PCM_S16LE = "pcm_s16le"
    PCM_F32LE = "pcm_f32le"


_SAMPLE_BYTES = {Encoding.PCM_S16LE: 2, Encoding.PCM_F32LE: 4}


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """What a client sends: interleaved frames of `channels` samples.

    Raises ValueError for a rate or channel count outside the limits.
    """

    encoding: Encoding = Encoding.PCM_S16LE
    sample_rate_hz: int = RING_RATE_HZ
    channels: int = 1

    def __post_init__(self) -> None:
        if not MIN_RATE_HZ <= self.sample_rate_hz <= MAX_RATE_HZ:
            raise ValueError(
                f"sample rate {self.sample_rate_hz} Hz is outside {MIN_RATE_HZ}..{MAX_RATE_HZ}"
            )
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ValueError(f"{self.channels} channels; 1 to {MAX_CHANNELS} are supported")

    @property
    def frame_bytes(self) -> int:
        """Bytes of one client sample over all channels."""
        return _SAMPLE_BYTES[self.encoding] * self.channels

    @property
    def is_ring_format(self) -> bool:
        """True when bytes may go to the ring as they are."""
        return (
            self.encoding is Encoding.PCM_S16LE
            and self.sample_rate_hz == RING_RATE_HZ
            and self.channels == 1
        )

    def ring_samples(self, client_samples: int) -> int:
        """Ring position of a client position: floor(client x 16000 / rate)."""
        return client_samples * RING_RATE_HZ // self.sample_rate_hz

    def client_samples(self, ring_samples: int) -> int:
        """First client position whose ring position is at least `ring_samples` (ceiling)."""
        return -(-ring_samples * self.sample_rate_hz // RING_RATE_HZ)


def ms_to_samples(ms: float) -> int:
    """Milliseconds to ring samples, rounded down."""
    return int(ms * RING_RATE_HZ) // 1000


def samples_to_ms(samples: int) -> float:
    """Ring samples to milliseconds."""
    return samples * 1000 / RING_RATE_HZ
