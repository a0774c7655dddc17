"""How often each group of streams gets drafts, and what its streams are told about that. Pure.

Streams of one token are a group, those without a token are one together. The drafts that the
engine has time for are shared out so that no group gets more than another one that wants more
(max-min fairness): the group with the most speakers feels the load first. What streams are told
does not follow every breath of the load: a hop is held until it was worse for a second or better
for some.

Positions and hops are ring samples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from protocol.client_messages import LatencyClass

from .speech_events import SAMPLES_PER_MS

MAX_HOP_SAMPLES = 48_000  # 3 s: beyond this a draft is no longer news
FULL_FACTOR = 1.25  # a hop up to so many times the wanted one counts as that
BETTER_FACTOR = 0.75  # below so much of the held hop it is better,
CALM_FACTOR = 1.1  # and below so much of the wanted one
WORSE_AFTER_NS = 1_000_000_000
BETTER_AFTER_NS = 3_000_000_000


def share_drafts(
    speakers: Mapping[int, int], alone_samples: float, wanted_samples: int
) -> dict[int, float]:
    """The hop of each group of so many speakers; infinite where there is no time for drafts.

    Args:
        speakers: streams with an open utterance, by group.
        alone_samples: the hop that the engine bears for one speaker alone.
        wanted_samples: no group gets a shorter one; 0: as short as can be.
    """
    if alone_samples <= 0:
        return dict.fromkeys(speakers, float(wanted_samples))
    hops = {}
    left = 1 / alone_samples  # drafts a sample
    smallest_first = sorted(speakers.items(), key=lambda item: item[1])
    for place, (group, count) in enumerate(smallest_first):
        fair = left / (len(smallest_first) - place)
        rate = min(count / wanted_samples, fair) if wanted_samples else fair
        hops[group] = count / rate if rate > 0 else math.inf
        left -= rate
    return hops


@dataclass(slots=True)
class _Held:
    """A group's hop as its streams know it, and since when it is another one."""

    samples: float
    worse_ns: int | None = None
    better_ns: int | None = None
    better_samples: float = 0.0  # the longest since then

    def follow(self, samples: float, wanted_samples: int, now_ns: int) -> None:
        """The hop is this now."""
        if samples > FULL_FACTOR * self.samples:
            self.better_ns = None
            self.worse_ns = self.worse_ns or now_ns
            if now_ns - self.worse_ns >= WORSE_AFTER_NS:
                self._settle(samples)
        elif samples < max(BETTER_FACTOR * self.samples, CALM_FACTOR * wanted_samples):
            self.worse_ns = None
            if self.better_ns is None:
                self.better_ns, self.better_samples = now_ns, samples
            self.better_samples = max(self.better_samples, samples)
            if now_ns - self.better_ns >= BETTER_AFTER_NS:
                self._settle(self.better_samples)
        else:
            self.worse_ns = self.better_ns = None

    def _settle(self, samples: float) -> None:
        self.samples, self.worse_ns, self.better_ns = samples, None, None


@dataclass(slots=True)
class HeldHops:
    """What the groups' streams are told; groups without a stream are forgotten."""

    wanted_samples: int  # the shortest that any stream wants
    _held: dict[int, _Held] = field(default_factory=dict)

    def update(
        self, groups: Collection[int], hops: Mapping[int, float], wanted_samples: int, now_ns: int
    ) -> None:
        """At a steady pace: the groups that have streams, and the hops of those that speak."""
        calm = [held for held in self._held.values() if held.samples <= self.wanted_samples]
        self.wanted_samples = min(wanted_samples, MAX_HOP_SAMPLES)
        for held in calm:
            held.samples = self.wanted_samples
        for group in set(self._held) - set(groups):
            del self._held[group]
        for group in groups:
            hop = min(MAX_HOP_SAMPLES + 1, max(self.wanted_samples, hops.get(group, 0)))
            held = self._held.setdefault(group, _Held(self.wanted_samples))
            held.follow(hop, self.wanted_samples, now_ns)

    def of(self, group: int) -> float:
        """The hop of a group, in samples; above MAX_HOP_SAMPLES: no drafts."""
        held = self._held.get(group)
        return held.samples if held is not None else self.wanted_samples

    @property
    def longest(self) -> float:
        """Of the group that is worst off."""
        return max((held.samples for held in self._held.values()), default=self.wanted_samples)


def latency_class(hop_samples: float, wanted_samples: int) -> LatencyClass:
    """What that hop is to a stream that wants this one."""
    if hop_samples > MAX_HOP_SAMPLES:
        return LatencyClass.FINALS_ONLY
    if hop_samples > FULL_FACTOR * wanted_samples:
        return LatencyClass.SLOW
    return LatencyClass.FULL


def told_hop_ms(hop_samples: float, wanted_samples: int) -> int:
    """The interval of drafts that such a stream may expect, if it gets any."""
    return int(min(MAX_HOP_SAMPLES, max(hop_samples, wanted_samples))) // SAMPLES_PER_MS
