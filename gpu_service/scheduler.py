"""Which streams the recognizer serves next, and how often drafts may come.

Pure. A stream offers at most one job at a time (stream.py), so pending work is bounded by the
number of streams. Finals go first, in the order in which they were due: somebody waits for them.
Candidates follow, because they are finals computed early, then the finals of whoever sends faster
than real time. Drafts share what is left: when the engine cannot give every speaker a draft each
hop, the hop grows (draft_hops.py) instead of a queue; when finals are late all the same, drafts
get less of the time (engine_load.py).

An engine that works in batches says how long a step may take. Then a step holds finals and drafts
together, as many of each as will fit that time by what earlier steps took (step_times.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .batch_buckets import bucket_of
from .draft_hops import MAX_HOP_SAMPLES, HeldHops, share_drafts
from .engine_load import MAX_DRAFT_SHARE, EngineLoad
from .step_times import Kind, StepTimes
from .stream import Stream
from .utterance import Job

RAMP = 0.2  # weight of the newest step in the mean
MAX_STRETCH = 2  # of the hop of an engine with a bounded step: then no more streams
SAMPLES_PER_NS = 16_000 / 1e9
STALE_DRAFT_FACTOR = 0.98  # a review without drafts where some were given up: they may cost less
MIN_STREAMS = 4  # what fewer will cost is known too roughly to refuse anybody for it
# So many may come at once where fewer than MIN_STREAMS talk: most bursts are files, which can wait.
BURST_STREAMS = 8
SMALLEST_DRAFT_SAMPLES = 8_000  # new audio up to this costs alike
SMALLEST_FINAL_SAMPLES = 32_000

_URGENCY = {"final": 0, "candidate": 1, "draft": 3}
_BULK_URGENCY = 2  # of a final of a stream that is sent faster than real time


@dataclass(frozen=True, slots=True)
class Assignment:
    """One stream's job in the next step."""

    stream: Stream
    job: Job
    due_ns: int = 0  # a final: when it was offered first


@dataclass(slots=True)
class Scheduler:
    """Picks batches and stretches the hop by the measured cost of a draft.

    `max_batch`: how many jobs the engine works on at the same time. A CPU engine has as many as it
    has cores; more in one step would only keep the first of them waiting for the last. Drafts that
    it computes as one batch may be more, when no final is due. With `max_step_ns` a step holds up
    to `max_batch` finals and candidates and up to `max_drafts` drafts, within that time.
    """

    max_batch: int = 1
    max_drafts: int = 1
    max_step_ns: float | None = None
    hop_samples: int = 0  # of streams that ask for none; 0: as short as can be
    draft_cost_ns: float = 0.0  # mean engine time of one draft
    step_ns: float = 0.0  # mean engine time of one step
    # Streams with an open utterance at the last pick, by group.
    speakers: Mapping[int, int] = field(default_factory=dict)
    times: StepTimes = field(default_factory=StepTimes)
    load: EngineLoad = field(default_factory=EngineLoad)
    held: HeldHops = field(init=False)
    num_bulk: int = 0  # streams sent faster than real time, at the last review
    num_talkers: int = 0  # streams that were not, for long enough to know
    _restless: dict[Stream, None] = field(default_factory=dict)  # may offer something
    _busy: set[Stream] = field(default_factory=set)  # their jobs were picked and are not done
    _due_ns: dict[Stream, tuple[int, int]] = field(default_factory=dict)  # utterance, since when
    _made_drafts: bool = False  # since the last review

    def __post_init__(self) -> None:
        self.held = HeldHops(self.hop_samples)

    @property
    def num_speakers(self) -> int:
        """Streams with an open utterance at the last pick."""
        return sum(self.speakers.values())

    def hops(self) -> dict[int, float]:
        """The shortest interval of drafts that each group with a speaker can have now."""
        share = self.load.draft_share
        alone = self._draft_ns() / share * SAMPLES_PER_NS if share else math.inf
        return share_drafts(self.speakers, alone, self.held.wanted_samples)

    def capacity(self, max_streams: int, open_streams: int) -> int:
        """How many streams may be open before newcomers are refused: all that there are seats for,
        unless what steps take says that it is fewer.
        """
        if self.load.is_late:
            return min(max_streams, max(MIN_STREAMS, open_streams))
        if self.max_step_ns is not None:
            return self._batched_capacity(max_streams)
        bearable = self.load.bearable_streams(self.draft_cost_ns, MAX_HOP_SAMPLES / SAMPLES_PER_NS)
        if bearable is None:
            return max_streams
        least = MIN_STREAMS if self.num_talkers >= MIN_STREAMS else BURST_STREAMS
        return min(max_streams, max(bearable, least) + self.num_bulk)

    def _batched_capacity(self, max_streams: int) -> int:
        """Of an engine with a bounded step: it keeps its hop, more or less, or takes no more."""
        limit_samples = min(MAX_HOP_SAMPLES, MAX_STRETCH * self.hop_samples)
        bearable = self._draft_ns() / MAX_DRAFT_SHARE * SAMPLES_PER_NS  # hop of one speaker alone
        if bearable * self.num_speakers <= limit_samples:
            return max_streams
        return min(max_streams, int(limit_samples / bearable))

    def review(self, streams: Collection[Stream], now_ns: int) -> None:
        """Twice a second: the load, and what the groups of all open streams are told of it."""
        self.load.review()
        if not self._made_drafts and self.held.longest > MAX_HOP_SAMPLES:
            self.draft_cost_ns *= STALE_DRAFT_FACTOR
            self.times.decay("draft", STALE_DRAFT_FACTOR)
        self._made_drafts = False
        not_bulk = [stream for stream in streams if not _is_bulk(stream)]
        self.num_bulk = len(streams) - len(not_bulk)
        self.num_talkers = sum(stream.arrival.is_known(now_ns) for stream in not_bulk)
        groups = {stream.group for stream in streams}
        wanted = min((stream.hop_samples for stream in streams), default=self.hop_samples)
        self.held.update(groups, self.hops(), wanted, now_ns)

    def forget(self, stream: Stream) -> None:
        """The stream is gone."""
        self._restless.pop(stream, None)
        self._due_ns.pop(stream, None)
        self._busy.discard(stream)

    def pick(
        self,
        awake: Iterable[Stream],
        speakers: Mapping[int, int] | None = None,
        now_ns: int = 0,
    ) -> list[Assignment]:
        """The next step: the most urgent jobs there are; empty when nothing is due. A stream whose
        job is under way offers none until step_took() says that it is done.

        Args:
            awake: streams that heard something, were told something or got a hypothesis since the
                last pick. Those that offered a job and did not get their turn need not be among
                them.
            speakers: streams with an open utterance by group, if `awake` is not all streams.
        """
        self._restless.update(dict.fromkeys(awake))
        if speakers is None:
            speakers = Counter(s.group for s in self._restless if s.is_speaking)
        self.speakers = speakers
        offers = self._offers(now_ns)
        offers.sort(key=_urgency)
        self._note_waits(offers, now_ns)
        chosen = self._choose(offers)
        self._busy.update(offer.stream for offer in chosen)
        return chosen

    def _note_waits(self, offers: list[Assignment], now_ns: int) -> None:
        """The first is the one that waits longest, if it is a final of a live stream."""
        if offers and _urgency(offers[0])[0] == _URGENCY["final"]:
            self.load.final_waits(now_ns - offers[0].due_ns)

    def step_took(self, assignments: Sequence[Assignment], elapsed_ns: int) -> None:
        """Learn from a finished step. Its streams are awake."""
        for assignment in assignments:
            self._busy.discard(assignment.stream)
            self._made_drafts = self._made_drafts or assignment.job.kind == "draft"
        self.step_ns += RAMP * (elapsed_ns - self.step_ns)
        if self.max_step_ns is not None:
            self.times.took(Counter(_kind(a.job) for a in assignments), elapsed_ns)
            return
        num_drafts = sum(assignment.job.kind == "draft" for assignment in assignments)
        if num_drafts == len(assignments):
            cost = elapsed_ns / num_drafts
            known = self.draft_cost_ns or cost
            self.draft_cost_ns = known + RAMP * (cost - known)
        self.load.finals_took(elapsed_ns * (1 - num_drafts / len(assignments)))

    def _draft_ns(self) -> float:
        """Engine time of one draft, where every speaker gets one."""
        if self.max_step_ns is None:
            return self.draft_cost_ns
        batch = max(1, min(self.num_speakers, self.max_drafts))
        return self.times.at_least_ns(self.times.smallest("draft"), batch) / batch

    def _offers(self, now_ns: int) -> list[Assignment]:
        """What the restless streams offer. One that offers nothing rests until it wakes again."""
        hops = self.hops()
        offers = []
        resting = []
        for stream in self._restless:
            hop = hops.get(stream.group, 0.0)
            if self.held.of(stream.group) > MAX_HOP_SAMPLES:
                hop = math.inf  # it was told that there are finals only
            job = None if stream in self._busy else stream.next_job(hop)
            if job is not None:
                offers.append(Assignment(stream, job, self._due(stream, job, now_ns)))
            elif self._may_rest(stream, hop):
                resting.append(stream)
        for stream in resting:
            del self._restless[stream]
        return offers

    def _due(self, stream: Stream, job: Job, now_ns: int) -> int:
        """Since when this final could have been computed."""
        if job.kind != "final":
            return now_ns
        known = self._due_ns.get(stream)
        if known is None or known[0] != job.utterance.number:
            self._due_ns[stream] = known = job.utterance.number, now_ns
        return known[1]

    def _may_rest(self, stream: Stream, hop_samples: float) -> bool:
        """False where only the stretched hop may keep it from offering a draft."""
        return stream in self._busy or hop_samples <= stream.hop_samples or not stream.is_speaking

    def _choose(self, offers: list[Assignment]) -> list[Assignment]:
        """Of offers in the order of their urgency. A suspect of having killed a service is alone
        in its step: if that kills this one as well, it is known who it was.
        """
        if offers and offers[0].stream.alone:
            return offers[:1]
        offers = [offer for offer in offers if not offer.stream.alone]
        if self.max_step_ns is not None:
            return self._within(offers, self.max_step_ns)
        only_drafts = bool(offers) and offers[0].job.kind == "draft"
        if self.load.is_strained and not only_drafts:  # a draft beside a final makes it later
            offers = [offer for offer in offers if offer.job.kind != "draft"]
        return offers[: max(self.max_batch, self.max_drafts) if only_drafts else self.max_batch]

    def _within(self, offers: list[Assignment], max_step_ns: float) -> list[Assignment]:
        """The most urgent ones that the time has room for; one at least, if there is any."""
        room = {"final": self.max_batch, "draft": self.max_drafts}
        work: Counter[Kind] = Counter()
        chosen: list[Assignment] = []
        for offer in offers:
            kind = _kind(offer.job)
            if room[kind.name] and self._has_room(work, kind, max_step_ns):
                work[kind] += 1
                room[kind.name] -= 1
                chosen.append(offer)
        return chosen

    def _has_room(self, work: Counter[Kind], kind: Kind, max_step_ns: float) -> bool:
        """Whether one more fits the time. Of a kind that was never measured, one at a time."""
        count = work[kind]
        if count and bucket_of(count + 1) == bucket_of(count):
            return True  # within a bucket one more costs nothing
        if not work:
            return True
        if count and not self.times.knows(kind):
            return False
        return self.times.expected_ns({**work, kind: count + 1}) <= max_step_ns


def _is_bulk(stream: Stream) -> bool:
    return stream.arrival.is_bulk(stream.receive_ns, stream.announced_sample)


def _kind(job: Job) -> Kind:
    """What the job costs like. A final is one pass over all of its audio, a draft over what is new
    in it.
    """
    if job.kind == "draft":
        return Kind("draft", _doublings(job.feed_to - job.feed_from, SMALLEST_DRAFT_SAMPLES))
    samples = job.feed_to - job.utterance.context_sample
    return Kind("final", _doublings(samples, SMALLEST_FINAL_SAMPLES))


def _doublings(samples: int, smallest: int) -> int:
    """0 up to the smallest, 1 up to twice that, 2 up to four times."""
    return max(0, (samples - 1) // smallest).bit_length()


def _urgency(offer: Assignment) -> tuple[int, int, int, int]:
    # Of finals due since the same moment the one whose audio is oldest goes first: streams have
    # clocks of their own, and share the time of receipt. Among equals the draft that is furthest
    # behind its audio does.
    stream, job = offer.stream, offer.job
    is_final = job.kind == "final"
    urgency = _BULK_URGENCY if is_final and _is_bulk(stream) else _URGENCY[job.kind]
    behind = job.utterance.drafted_sample - job.feed_to
    since = (offer.due_ns, stream.receive_ns) if is_final else (0, 0)
    return (urgency, *since, behind)
