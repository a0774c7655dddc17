"""Which streams the recognizer serves next, and how often drafts may come.

Pure. A stream offers at most one job at a time (stream.py), so pending work is bounded by the
number of streams. Finals go first, oldest audio first: somebody waits for them. Candidates follow,
because they are finals computed early. Drafts share what is left: when the engine cannot give
every speaker a draft each hop, the hop grows for all of them alike instead of a queue growing.

An engine that works in batches says how long a step may take. Then a step holds finals and drafts
together, as many of each as will fit that time by what earlier steps took (step_times.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .speech_events import SAMPLES_PER_MS
from .step_times import Kind, StepTimes, bucket_of
from .stream import Stream
from .utterance import Job

RAMP = 0.2  # weight of the newest step in the mean
DRAFT_SHARE = 0.6  # of the engine's time that drafts may take; the rest is for finals
MAX_HOP_SAMPLES = 48_000  # 3 s: beyond this a draft is no longer news
MAX_STRETCH = 2  # of the hop of an engine with a bounded step: then no more streams
SAMPLES_PER_NS = 16_000 / 1e9
SMALLEST_DRAFT_SAMPLES = 8_000  # new audio up to this costs alike
SMALLEST_FINAL_SAMPLES = 32_000

_URGENCY = {"final": 0, "candidate": 1, "draft": 2}


@dataclass(frozen=True, slots=True)
class Assignment:
    """One stream's job in the next step."""

    stream: Stream
    job: Job


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
    draft_cost_ns: float = 0.0  # mean engine time of one draft
    step_ns: float = 0.0  # mean engine time of one step
    speakers: int = 0  # streams with an open utterance at the last pick
    times: StepTimes = field(default_factory=StepTimes)
    _restless: dict[Stream, None] = field(default_factory=dict)  # may offer something
    _busy: set[Stream] = field(default_factory=set)  # their jobs were picked and are not done

    @property
    def hop_samples(self) -> int:
        """The shortest interval of drafts that the engine can keep for every present speaker."""
        bearable = self._draft_ns() * self.speakers / DRAFT_SHARE * SAMPLES_PER_NS
        return min(MAX_HOP_SAMPLES, int(bearable))

    def capacity(self, max_streams: int, hop_ms: int) -> int:
        """How many streams may be open: fewer than speak now, once their drafts take more time
        than there is, at the longest hop that is still worth something.
        """
        limit_samples = MAX_HOP_SAMPLES
        if self.max_step_ns is not None:
            limit_samples = min(limit_samples, MAX_STRETCH * hop_ms * SAMPLES_PER_MS)
        bearable = self._draft_ns() / DRAFT_SHARE * SAMPLES_PER_NS  # hop of one speaker alone
        if bearable * self.speakers <= limit_samples:
            return max_streams
        return min(max_streams, int(limit_samples / bearable))

    def forget(self, stream: Stream) -> None:
        """The stream is gone."""
        self._restless.pop(stream, None)
        self._busy.discard(stream)

    def pick(self, awake: Iterable[Stream], speakers: int | None = None) -> list[Assignment]:
        """The next step: the most urgent jobs there are; empty when nothing is due. A stream whose
        job is under way offers none until step_took() says that it is done.

        Args:
            awake: streams that heard something, were told something or got a hypothesis since the
                last pick. Those that offered a job and did not get their turn need not be among
                them.
            speakers: streams with an open utterance, if `awake` is not all streams.
        """
        self._restless.update(dict.fromkeys(awake))
        if speakers is None:
            speakers = sum(stream.is_speaking for stream in self._restless)
        self.speakers = speakers
        offers = self._offers()
        offers.sort(key=_urgency)
        chosen = self._choose(offers)
        self._busy.update(offer.stream for offer in chosen)
        return chosen

    def step_took(self, assignments: Sequence[Assignment], elapsed_ns: int) -> None:
        """Learn from a finished step. Its streams are awake."""
        for assignment in assignments:
            self._busy.discard(assignment.stream)
        self.step_ns += RAMP * (elapsed_ns - self.step_ns)
        if self.max_step_ns is not None:
            self.times.took(Counter(_kind(a.job) for a in assignments), elapsed_ns)
        elif all(assignment.job.kind == "draft" for assignment in assignments):
            cost = elapsed_ns / len(assignments)
            self.draft_cost_ns += RAMP * (cost - self.draft_cost_ns)

    def _draft_ns(self) -> float:
        """Engine time of one draft, where every speaker gets one."""
        if self.max_step_ns is None:
            return self.draft_cost_ns
        batch = max(1, min(self.speakers, self.max_drafts))
        return self.times.at_least_ns(self.times.smallest("draft"), batch) / batch

    def _offers(self) -> list[Assignment]:
        """What the restless streams offer. One that offers nothing rests until it wakes again."""
        hop = self.hop_samples
        offers = []
        resting = []
        for stream in self._restless:
            job = None if stream in self._busy else stream.next_job(hop)
            if job is not None:
                offers.append(Assignment(stream, job))
            elif self._may_rest(stream, hop):
                resting.append(stream)
        for stream in resting:
            del self._restless[stream]
        return offers

    def _may_rest(self, stream: Stream, hop_samples: int) -> bool:
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


def _urgency(offer: Assignment) -> tuple[int, int, int]:
    # Streams have clocks of their own; the time of receipt is the one they share. Among equals
    # the draft that is furthest behind its audio goes first.
    behind = offer.job.utterance.drafted_sample - offer.job.feed_to
    since = offer.stream.receive_ns if offer.job.kind == "final" else 0
    return (_URGENCY[offer.job.kind], since, behind)
