"""One stream as the service sees it: what was announced, decided, decoded and owed.

Pure: positions, probabilities and hypotheses go in; jobs for the recognizer and messages for the
gateway come out. The order of one stream lives here. Control messages wait until the audio before
them has been listened to; utterances, non-speech, answers and ends of turns leave through one
queue, so that finals come in stream order however long the engine takes.

It knows no ring, no engine and no clock. service.py moves the samples and calls it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from protocol import service_messages as messages
from protocol.client_messages import LatencyClass, Stages
from protocol.service_messages import Close, Configure, Finalize, StreamMessage

from . import speech_events
from .arrival import Arrival
from .endpointer import FRAME_SAMPLES, Endpointer, VadOptions
from .results import between_message, final_message, partial_message
from .session_vad import vad_options
from .speech_events import NO_CUT_RULE, Cut, CutRule, Event, SpeechStarted
from .transcript import Transcript
from .utterance import Answer, Job, NonSpeech, TurnEnd, Utterance
from .words import Hypothesis

MAX_WAITING_ITEMS = 4  # utterances to decode, and what is to be said behind them: listening pauses
CREDIT_STEP_SAMPLES = 4_000  # how often the gateway hears about progress: 250 ms
MIN_DRAFT_SAMPLES = 7_200  # 450 ms of audio, before which a draft is a guess

Control: TypeAlias = Finalize | Close | Configure


@dataclass(slots=True, eq=False)
class Stream:
    """State of one stream on one link."""

    slot: int
    generation: int
    options: VadOptions
    partials: bool = True
    hop_samples: int = 5_120
    cut_rule: CutRule = NO_CUT_RULE
    tokens: bool = False  # finals list them
    defaults: VadOptions = field(default_factory=VadOptions)  # for what a Configure leaves open
    announced_sample: int = 0  # [0, announced) is in the ring
    receive_ns: int = 0  # when the newest of it left the client's socket
    engine_samples: int = 0  # consumed: fed for finals, or listened to and found silent
    utterances: int = 0
    num_controls: int = 0  # carried out
    alone: bool = False  # its jobs have steps of their own, until one is done
    group: int = 0  # whose share of the drafts it has
    latency_class: LatencyClass | None = None  # as the gateway knows it
    model: str = ""  # whose state its utterances carry over cuts
    closing: bool = False
    closed: bool = False
    leaving: bool = False  # it is to go on at another service, when it may
    checkpoint_sample: int = 0  # the last checkpoint needs the ring from here on
    arrival: Arrival = field(default_factory=Arrival)
    endpointer: Endpointer = field(init=False)
    transcript: Transcript = field(default_factory=Transcript)
    _controls: deque[Control] = field(default_factory=deque)
    _queue: deque[Utterance | NonSpeech | Answer | TurnEnd] = field(default_factory=deque)
    _open: Utterance | None = None
    _candidate_end: int | None = None
    _candidate_done: bool = False
    _heard_sample: int = 0  # listened to, the torn frame before a finalize included
    _credited_sample: int = 0
    _credited_release: int = 0
    _committed: bool = False
    _leaves_at_once: bool = False

    def __post_init__(self) -> None:
        self.endpointer = Endpointer(self.options, self.cut_rule)

    # What comes in

    def announce(self, first_sample: int, num_samples: int, receive_ns: int) -> bool:
        """New audio is in the ring, contiguous with what was announced before.

        Returns whether that makes a frame to hear, unless something else is in the way.
        """
        end_sample = first_sample + num_samples
        self.announced_sample = max(self.announced_sample, end_sample)
        if receive_ns <= self.arrival.since_ns or not self.arrival.since_ns:
            self.arrival.begin(receive_ns, end_sample)
        self.receive_ns = receive_ns
        return end_sample // FRAME_SAMPLES > self.endpointer.next_frame

    def control(self, message: Control) -> None:
        """Finalize, Close or Configure: takes effect when the audio before it was heard."""
        self._controls.append(message)

    # Listening

    def frames_to_hear(self) -> int:
        """Whole VAD frames that may be pushed now, up to the next control message."""
        if self.closing or len(self._queue) >= MAX_WAITING_ITEMS:
            return 0
        until = self._controls[0].at_sample if self._controls else self.announced_sample
        return max(0, until // FRAME_SAMPLES - self.endpointer.next_frame)

    def hear(self, probabilities: Iterable[float]) -> list[StreamMessage]:
        """Push the speech probabilities of the next frames; returns what to say at once."""
        out: list[StreamMessage] = []
        for probability in probabilities:
            events = self.endpointer.push(probability)
            if events:
                out += self._decide(events)
        self._heard_sample = max(self._heard_sample, self.endpointer.position_sample)
        return out

    def run_controls(self) -> list[StreamMessage]:
        """Carry out the control messages whose position has been reached."""
        out: list[StreamMessage] = []
        while self.has_due_control:
            out += self._carry_out(self._controls.popleft())
        return out

    @property
    def has_controls(self) -> bool:
        """Control messages wait until the audio before them has been heard."""
        return bool(self._controls)

    @property
    def has_unsettled(self) -> bool:
        """settle() or a checkpoint may have something to say."""
        return bool(self._queue) or self._committed or self.closing or self.leaving

    @property
    def has_due_control(self) -> bool:
        """The next control message is due, and there is room for its answer."""
        return (
            bool(self._controls)
            and not self.closing
            and len(self._queue) < MAX_WAITING_ITEMS
            and self.frames_to_hear() == 0
        )

    def _carry_out(self, control: Control) -> list[StreamMessage]:
        self.num_controls += 1
        self._committed = True  # a service that goes on from before it would do it again
        finished = self.utterances
        had_open = self._open is not None
        out = self._decide(self.endpointer.finalize(control.at_sample))
        self._heard_sample = control.at_sample
        if isinstance(control, Finalize):
            self._answer(control, closed_one=had_open or self.utterances > finished)
        elif isinstance(control, Close):
            self.closing = True
        else:
            self._reconfigure(control)
        return out

    def _answer(self, control: Finalize, *, closed_one: bool) -> None:
        if closed_one:
            for item in reversed(self._queue):
                if isinstance(item, Utterance):
                    item.finalize_id = control.finalize_id
                    return
        self._queue.append(Answer(control.finalize_id, control.at_sample, self.utterances))

    def _reconfigure(self, control: Configure) -> None:
        self.options = vad_options(control.vad, self.defaults)
        self.endpointer.options = self.options

    def _decide(self, events: Iterable[Event]) -> list[StreamMessage]:
        out: list[StreamMessage] = []
        for event in events:
            if isinstance(event, SpeechStarted):
                out.append(self._start(event))
            elif isinstance(event, speech_events.CandidateEnd):
                self._candidate_end, self._candidate_done = event.end_sample, False
            elif isinstance(event, speech_events.SpeechResumed):
                self._candidate_end = None
            elif isinstance(event, Cut):
                out.append(self._cut(event))
            elif isinstance(event, speech_events.SpeechStopped):
                out.append(self._stop(event.end_sample))
            else:
                self._wait_in_order(event)
        return out

    def _wait_in_order(self, event: speech_events.NonSpeech | speech_events.EndOfTurn) -> None:
        if isinstance(event, speech_events.NonSpeech):
            self._queue.append(NonSpeech(event.start_sample, event.end_sample))
        else:
            self._queue.append(TurnEnd(self.utterances - 1, event.end_sample))

    def _start(self, event: SpeechStarted) -> StreamMessage:
        start_sample = context_sample = event.start_sample
        if event.continues:
            before = self._queue[-1]
            assert isinstance(before, Utterance)  # a cut queued it a moment ago
            context_sample = max(before.context_sample, start_sample - self.cut_rule.left_samples)
        self._open = Utterance(self.utterances, start_sample, context_sample, event.continues)
        self.utterances += 1
        return messages.SpeechStarted(
            self.slot, self.generation, self.audio_decoded, self._open.number, start_sample
        )

    def _cut(self, event: Cut) -> StreamMessage:
        assert self._open is not None
        context_end = min(event.end_sample + self.cut_rule.right_samples, event.heard_sample)
        self._open.context_end_sample = max(event.end_sample, context_end)
        return self._stop(event.end_sample)

    def _stop(self, end_sample: int) -> StreamMessage:
        assert self._open is not None  # the endpointer starts what it stops
        utterance, self._open = self._open, None
        utterance.end_sample = end_sample
        self._candidate_end = None
        self._queue.append(utterance)
        return messages.SpeechStopped(
            self.slot, self.generation, self.audio_decoded, utterance.number, end_sample
        )

    # Recognition

    def next_job(self, bearable_hop_samples: float) -> Job | None:
        """The most urgent work this stream has for the recognizer, if any.

        Drafts come no more often than asked and bearable; an infinite hop leaves finals alone.
        """
        for item in self._queue:
            if isinstance(item, Utterance):
                return self._final_job(item)
        if self._open is None or bearable_hop_samples == math.inf or not self._is_live():
            return None
        if self._candidate_end is not None:
            return self._candidate_job(self._open, self._candidate_end)
        return self._draft_job(self._open, max(bearable_hop_samples, self.hop_samples))

    def _final_job(self, utterance: Utterance) -> Job:
        assert utterance.end_sample is not None
        feed_to = utterance.context_end_sample or utterance.end_sample
        restart = utterance.fed_sample > feed_to
        feed_from = utterance.context_sample if restart else utterance.fed_sample
        return Job("final", utterance, feed_from, feed_to, feed_to - utterance.end_sample, restart)

    def _candidate_job(self, utterance: Utterance, end_sample: int) -> Job | None:
        if self._candidate_done or utterance.fed_sample > end_sample:
            return None
        return Job("candidate", utterance, utterance.fed_sample, end_sample)

    def _draft_job(self, utterance: Utterance, hop_samples: float) -> Job | None:
        if not self.partials:
            return None
        heard = self.endpointer.safe_sample()
        first = utterance.drafted_sample == utterance.start_sample
        due = MIN_DRAFT_SAMPLES if first else hop_samples
        if heard - utterance.drafted_sample < due:
            return None
        return Job("draft", utterance, utterance.fed_sample, heard)

    def _is_live(self) -> bool:
        """Drafts are not stale, as of a client that sends faster than it is heard, nor too long."""
        is_near = self.announced_sample - self.endpointer.position_sample < 4 * FRAME_SAMPLES
        return is_near and not self.endpointer.is_too_long

    def job_done(self, job: Job, hypothesis: Hypothesis, stages: Stages) -> list[StreamMessage]:
        """Take the recognizer's answer; returns the messages it makes due, in order."""
        job.utterance.fed_sample = job.feed_to
        self.alone = False
        if job.kind == "final":
            assert self._queue[0] is job.utterance
            return self._final(job.utterance, hypothesis, stages)
        job.utterance.drafted_sample = job.feed_to
        if job.kind == "candidate" and self._candidate_end == job.feed_to:
            self._candidate_done = True
        if self._open is not job.utterance or not self.partials:
            return []
        return self._partial(job, hypothesis, stages)

    def _partial(self, job: Job, hypothesis: Hypothesis, stages: Stages) -> list[StreamMessage]:
        partial = self.transcript.on_draft(hypothesis)
        if partial is None:
            return []
        return [partial_message(self, job.utterance, job.feed_to, partial, stages)]

    def _final(
        self, utterance: Utterance, hypothesis: Hypothesis, stages: Stages
    ) -> list[StreamMessage]:
        assert self._queue[0] is utterance
        self._queue.popleft()
        self._carry_on(hypothesis.carry)
        self.engine_samples += hypothesis.num_samples
        self._committed = True
        final = self.transcript.on_final(hypothesis)
        tokens = hypothesis.tokens if self.tokens else ()
        return [final_message(self, utterance, final, tokens, stages), *self.settle()]

    def _carry_on(self, carry: bytes) -> None:
        """Hand the decoder's state at a cut to the utterance that goes on there."""
        behind = (item for item in self._queue if isinstance(item, Utterance))
        follower = next(behind, self._open)
        if follower is not None and follower.goes_on:
            follower.carry = carry

    def settle(self) -> list[StreamMessage]:
        """Messages at the head of the queue that wait for no recognizer; and the end, if due."""
        out: list[StreamMessage] = []
        while self._queue and not isinstance(item := self._queue[0], Utterance):
            self._queue.popleft()
            if isinstance(item, NonSpeech):
                self.engine_samples += item.end_sample - item.start_sample
            # A turn's end as well: a service that goes on from before it would say it again.
            self._committed = self._committed or not isinstance(item, Answer)
            out.append(between_message(self, item))
        if self.closing and not self._queue and not self.closed:
            self.closed = True
            out.append(messages.StreamClosed(self.slot, self.generation, self.engine_samples))
        return out

    def leave(self, at_once: bool) -> None:
        """The stream is to go on at another service: between two utterances, or `at_once`."""
        self.leaving = True
        self._leaves_at_once = at_once

    @property
    def may_leave(self) -> bool:
        """This is the moment: nothing waits to be said, and nothing of an open utterance has been
        shown. Behind a cut that is when the final before it has been said.
        """
        if not self.leaving or not self.can_checkpoint:
            return False
        utterance = self._open
        is_between = utterance is None or utterance.drafted_sample == utterance.start_sample
        return is_between or self._leaves_at_once

    # Checkpoints (checkpoint.py)

    def take_committed(self) -> bool:
        """True once after text, silence or a turn was committed: the moment for a checkpoint."""
        committed, self._committed = self._committed, False
        return committed

    @property
    def can_checkpoint(self) -> bool:
        """True while no decided utterance, answer or interval waits to be sent."""
        return not self._queue and not self.closing

    def restore(
        self, utterance: Utterance | None, utterances: int, heard_sample: int, engine_samples: int
    ) -> None:
        """Go on where a checkpoint left off; the endpointer has been restored already."""
        self._open = utterance
        self.utterances = utterances
        self._heard_sample = heard_sample
        self.engine_samples = engine_samples
        self.announced_sample = self.checkpoint_sample = self.released_sample
        if utterance is not None and self.endpointer.utterance.has_candidate:
            self._candidate_end = self.endpointer.safe_sample()

    @property
    def open_utterance(self) -> Utterance | None:
        """The utterance that has not ended, for a checkpoint."""
        return self._open

    # Accounting

    @property
    def is_speaking(self) -> bool:
        """An utterance is open: drafts of it will be asked for."""
        return self._open is not None

    @property
    def audio_decoded(self) -> int:
        """Ring samples that recognition has listened to."""
        return self._heard_sample

    @property
    def released_sample(self) -> int:
        """Ring samples below this are never read again, by this process."""
        released = min(self.endpointer.released_sample(), self.endpointer.position_sample)
        for item in (*self._queue, self._open):
            if isinstance(item, Utterance):
                return min(released, item.context_sample)
        return released

    def credit(self) -> messages.Credit | None:
        """Progress worth telling the gateway, at most every CREDIT_STEP_SAMPLES.

        Released is only what the last checkpoint does not need: a new service would begin there.
        """
        released = self.checkpoint_sample
        if (
            self.audio_decoded - self._credited_sample < CREDIT_STEP_SAMPLES
            and released - self._credited_release < CREDIT_STEP_SAMPLES
        ):
            return None
        self._credited_sample = self.audio_decoded
        self._credited_release = released
        return messages.Credit(self.slot, self.generation, self.audio_decoded, released)
