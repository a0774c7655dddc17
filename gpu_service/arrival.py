"""Arrival: does a stream come at the pace of speech, or faster than anybody listens? Pure.

A file that is sent as fast as it is taken (bulk) must not keep talkers waiting. The lead is the
audio that came since the stream began, less the time that passed; silence of the network gives
time that a later burst may use up.
"""

from __future__ import annotations

from dataclasses import dataclass

BULK_LEAD_NS = 3_000_000_000
SAMPLES_PER_NS = 16_000 / 1e9


@dataclass(slots=True)
class Arrival:
    """When the first audio came, and how far that was."""

    since_ns: int = 0  # 0: none has come
    since_sample: int = 0

    def begin(self, receive_ns: int, end_sample: int) -> None:
        """The first audio is there; also again for more of the same moment: what a stream brings
        with it from another service comes in pieces.
        """
        self.since_ns = receive_ns
        self.since_sample = end_sample

    def is_known(self, now_ns: int) -> bool:
        """It has come for long enough to tell one from the other."""
        return bool(self.since_ns) and now_ns - self.since_ns > BULK_LEAD_NS

    def is_bulk(self, receive_ns: int, end_sample: int) -> bool:
        """By the newest audio the stream is sent faster than real time."""
        lead_ns = (end_sample - self.since_sample) / SAMPLES_PER_NS
        return lead_ns > receive_ns - self.since_ns + BULK_LEAD_NS
