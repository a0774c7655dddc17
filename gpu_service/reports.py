"""What a service tells the gateway about its load: Health of it all, Pace of each stream. Pure.

service.py calls `review` twice a second, sends the paces that changed, and a Health to each worker.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from protocol import service_messages as messages
from protocol.service_messages import Pace

from .config import ServiceConfig
from .draft_hops import latency_class, told_hop_ms
from .scheduler import Scheduler
from .speech_events import SAMPLES_PER_MS
from .stream import Stream


@dataclass(frozen=True, slots=True)
class Reports:
    """See the module text."""

    config: ServiceConfig
    scheduler: Scheduler
    model: str
    languages: Sequence[str]

    def review(self, streams: Collection[Stream], now_ns: int) -> Iterator[tuple[Stream, Pace]]:
        """Learn from the last half second; the streams that are to hear of another pace."""
        held = self.scheduler.held
        self.scheduler.review(streams, now_ns)
        for stream in streams:
            hop, wanted = held.of(stream.group), stream.hop_samples
            class_ = latency_class(hop, wanted)
            if stream.latency_class is not class_:
                stream.latency_class = class_
                hop_ms = told_hop_ms(hop, wanted)
                yield stream, Pace(stream.slot, stream.generation, class_, hop_ms)

    def health(
        self, now_ns: int, last_step_ns: int, open_streams: int, link_streams: int
    ) -> messages.Health:
        """State of the service, for the worker that has so many of its streams."""
        config, scheduler = self.config, self.scheduler
        wanted = config.hop_ms * SAMPLES_PER_MS
        longest = scheduler.held.longest
        return messages.Health(
            now_ns,
            last_step_ns,
            scheduler.step_ns / 1e6,
            open_streams,
            link_streams,
            config.max_streams,
            told_hop_ms(longest, wanted),
            config.max_utterance_ms,
            (self.model,),
            tuple(self.languages),
            scheduler.capacity(config.max_streams, open_streams),
            latency_class(longest, wanted),
        )
