"""Stream: everything is answered once, in order, and the same however the work interleaves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpu_service.endpointer import FRAME_SAMPLES, VadOptions
from gpu_service.speech_events import NO_CUT_RULE, CutRule
from gpu_service.stream import Stream
from gpu_service.utterance import Job
from gpu_service.words import Hypothesis, Word
from protocol import service_messages as messages
from protocol.client_messages import Stages

CUTS = CutRule(grid_samples=1_280, right_samples=6_400, left_samples=12_800)
SPEECH, SILENCE = 0.875, 0.0625  # exact in float32, as the VAD model's are
OPTIONS = VadOptions(max_utterance_ms=2_000)
TURNS = VadOptions(max_utterance_ms=2_000, end_of_turn_ms=800)  # 25 frames


def hypothesis_for(job: Job) -> Hypothesis:
    """A hypothesis that covers the job's audio, as the recognizer contract says. What it says
    depends on all that a recognizer may use: the audio, its context and what was carried on.
    """
    utterance = job.utterance
    num_samples = job.feed_to - job.right_samples - utterance.start_sample
    text = f"w{utterance.number}" + (
        f" after {utterance.carry.decode()}" if utterance.carry else ""
    )
    words = (Word(text, 0, num_samples, 0.9),)
    carry = f"w{utterance.number}:{job.feed_to}" if job.kind == "final" else ""
    return Hypothesis(words, text, num_samples, job.kind == "final", carry=carry.encode())


class Life:
    """One stream driven by a script: audio in pieces, control messages, and a slow engine."""

    def __init__(
        self,
        probabilities: list[float],
        options: VadOptions = OPTIONS,
        cut_rule: CutRule = NO_CUT_RULE,
    ) -> None:
        self.stream = Stream(3, 7, options, hop_samples=FRAME_SAMPLES, cut_rule=cut_rule)
        self.probabilities = probabilities
        self.out: list[messages.StreamMessage] = []

    @property
    def total_samples(self) -> int:
        return len(self.probabilities) * FRAME_SAMPLES

    def announce(self, until: int) -> None:
        first = self.stream.announced_sample
        self.stream.announce(first, until - first, receive_ns=until)

    def listen(self) -> None:
        count = self.stream.frames_to_hear()
        first = self.stream.endpointer.next_frame
        self.out += self.stream.hear(self.probabilities[first : first + count])
        self.out += self.stream.run_controls()
        self.out += self.stream.settle()

    def recognize(self) -> bool:
        job = self.stream.next_job(0)
        if job is None:
            return False
        self.out += self.stream.job_done(job, hypothesis_for(job), Stages())
        self.out += self.stream.settle()
        return True

    def run_dry(self) -> None:
        while True:
            before = (self.stream.endpointer.next_frame, len(self.out))
            self.listen()
            if not self.recognize() and before == (
                self.stream.endpointer.next_frame,
                len(self.out),
            ):
                return

    def of(self, *types: type) -> list[messages.StreamMessage]:
        return [message for message in self.out if isinstance(message, types)]


def finals(life: Life) -> list[messages.Final]:
    return [message for message in life.out if isinstance(message, messages.Final)]


def whole_life(
    probabilities: list[float],
    finalizes: list[int],
    pieces: list[int],
    cut_rule: CutRule = NO_CUT_RULE,
    options: VadOptions = OPTIONS,
) -> Life:
    """Feed everything in the given pieces, an engine step after every second one, then close."""
    life = Life(probabilities, options, cut_rule)
    waiting = sorted(finalizes)
    position = 0
    for index, piece in enumerate([*pieces, life.total_samples]):
        target = min(life.total_samples, position + piece)
        while waiting and waiting[0] <= target:
            at = waiting.pop(0)
            life.announce(max(at, position))
            life.stream.control(messages.Finalize(3, 7, len(waiting), at))
            position = max(at, position)
        position = max(position, target)
        life.announce(position)
        life.listen()
        if index % 2:
            life.recognize()
    life.stream.control(messages.Close(3, 7, life.total_samples))
    life.run_dry()
    return life


def assert_tiles(life: Life) -> None:
    spans = [(m.start_sample, m.end_sample) for m in life.of(messages.Final, messages.NonSpeech)]
    position = 0
    for start, end in spans:
        assert start == position, spans
        position = end
    assert position == life.total_samples


def test_speech_then_silence_gives_one_final_between_two_non_speech() -> None:
    life = whole_life([SILENCE] * 20 + [SPEECH] * 30 + [SILENCE] * 40, [], [])
    assert_tiles(life)
    assert [final.text for final in finals(life)] == ["w0"]
    assert len(life.of(messages.NonSpeech)) == 2
    closed = life.out[-1]
    assert isinstance(closed, messages.StreamClosed)
    assert closed.engine_samples == life.total_samples


def test_finalize_in_silence_is_answered_with_empty_text() -> None:
    life = whole_life([SILENCE] * 40, [5_000], [])
    (answer,) = finals(life)
    assert (answer.text, answer.finalize_id, answer.end_sample) == ("", 0, 5_000)


def test_many_finalizes_at_once_are_all_answered_in_order() -> None:
    life = Life([SILENCE] * 4)
    life.announce(1_000)
    for finalize_id in range(40):
        life.stream.control(messages.Finalize(3, 7, finalize_id, 1_000))
    life.out += life.stream.hear([SILENCE])
    while life.stream.has_due_control:
        life.out += life.stream.run_controls()
        life.out += life.stream.settle()
    assert [final.finalize_id for final in finals(life)] == list(range(40))


def test_finalize_in_speech_marks_the_final_it_made() -> None:
    life = whole_life([SILENCE] * 10 + [SPEECH] * 40, [12_345], [])
    first, second = finals(life)
    assert (first.end_sample, first.finalize_id) == (12_345, 0)
    assert (second.start_sample, second.finalize_id) == (12_345, None)


def test_partials_grow_before_the_final_and_carry_the_utterance() -> None:
    life = Life([SPEECH] * 60)
    for frame in range(1, 61):
        life.announce(frame * FRAME_SAMPLES)
        life.listen()
        life.recognize()
    partials = [m for m in life.out if isinstance(m, messages.Partial)]
    assert partials
    assert partials[0].stable == ""
    assert partials[0].volatile == "w0"


def test_no_drafts_for_a_sender_that_is_faster_than_the_ear() -> None:
    life = Life([SPEECH] * 60)
    life.announce(60 * FRAME_SAMPLES)
    life.out += life.stream.hear(life.probabilities[:30])
    assert life.stream.next_job(0) is None


def test_candidate_comes_once_and_its_utterance_can_go_on() -> None:
    life = Life([SPEECH] * 20 + [SILENCE] * 6 + [SPEECH] * 10 + [SILENCE] * 30)
    life.announce(26 * FRAME_SAMPLES)
    life.listen()
    job = life.stream.next_job(0)
    assert job is not None
    assert job.kind == "candidate"
    life.out += life.stream.job_done(job, hypothesis_for(job), Stages())
    assert life.stream.next_job(0) is None
    life.announce(life.total_samples)
    life.run_dry()
    assert [final.utterance for final in finals(life)] == [0]


def test_a_cut_in_the_past_restarts_the_recognizer() -> None:
    life = Life([SPEECH] * 200)
    kinds = []
    for frame in range(1, 201):
        life.announce(frame * FRAME_SAMPLES)
        life.listen()
        job = life.stream.next_job(0)
        if job is not None:
            kinds.append((job.kind, job.restart))
            life.out += life.stream.job_done(job, hypothesis_for(job), Stages())
    assert ("final", True) in kinds


def test_credit_releases_what_the_last_checkpoint_does_not_need() -> None:
    life = Life([SILENCE] * 40 + [SPEECH] * 40)
    life.announce(life.total_samples)
    life.listen()
    credit = life.stream.credit()
    assert credit is not None
    assert (credit.audio_decoded, credit.released_sample) == (life.total_samples, 0)
    assert life.stream.credit() is None
    started = life.of(messages.SpeechStarted)[0]
    assert isinstance(started, messages.SpeechStarted)
    assert life.stream.take_committed()
    assert not life.stream.take_committed()
    life.stream.checkpoint_sample = life.stream.released_sample
    credit = life.stream.credit()
    assert credit is not None
    assert credit.released_sample == started.start_sample


probability_runs = st.lists(
    st.tuples(st.sampled_from([SPEECH, SILENCE, 0.4]), st.integers(1, 40)), min_size=1, max_size=12
)


@given(
    runs=probability_runs,
    fractions=st.lists(st.floats(0, 1), max_size=3),
    pieces=st.lists(st.integers(1, 20_000), max_size=12),
)
def test_finals_depend_on_audio_and_finalizes_alone(
    runs: list[tuple[float, int]], fractions: list[float], pieces: list[int]
) -> None:
    probabilities = [p for p, count in runs for _ in range(count)]
    total = len(probabilities) * FRAME_SAMPLES
    finalizes = [int(fraction * total) for fraction in fractions]
    paced = whole_life(probabilities, finalizes, pieces)
    at_once = whole_life(probabilities, finalizes, [])
    key = [(f.start_sample, f.end_sample, f.text, f.finalize_id) for f in finals(at_once)]
    assert [(f.start_sample, f.end_sample, f.text, f.finalize_id) for f in finals(paced)] == key
    answered = sorted(f.finalize_id for f in finals(paced) if f.finalize_id is not None)
    assert answered == list(range(len(finalizes)))
    assert_tiles(paced)
    closed = paced.out[-1]
    assert isinstance(closed, messages.StreamClosed)
    assert closed.engine_samples == total


# Cuts, for a recognizer that goes on behind them


def test_what_is_cut_goes_on_with_its_context_and_the_state_at_the_cut() -> None:
    """Two seconds at most: speech of five is three finals on the grid, each with its context."""
    life = whole_life([SPEECH] * 160, [], [], CUTS)
    spans = [(final.start_sample, final.end_sample) for final in finals(life)]
    assert len(spans) == 3
    assert [start % 1_280 for start, _ in spans] == [0, 0, 0]
    assert spans[0][1] == spans[1][0]
    first_end, second_end = spans[0][1] + 6_400, spans[1][1] + 6_400
    texts = [final.text for final in finals(life)]
    assert texts == ["w0", f"w1 after w0:{first_end}", f"w2 after w1:{second_end}"]


def test_what_is_carried_goes_over_cuts_and_over_no_pause() -> None:
    """For a recognizer that hears no audio again behind a cut, too."""
    life = whole_life([SPEECH] * 100 + [SILENCE] * 40 + [SPEECH] * 30, [], [])
    spans = [(final.start_sample, final.end_sample) for final in finals(life)]
    assert len(spans) == 3
    assert spans[0][1] == spans[1][0]
    texts = [final.text for final in finals(life)]
    assert texts == ["w0", f"w1 after w0:{spans[0][1]}", "w2"]


def test_speech_that_ends_within_the_context_behind_a_cut_is_not_cut() -> None:
    """2.3 s of speech: the maximum is 2 s, and a cut would need 0.4 s behind it."""
    life = whole_life([SPEECH] * 72, [], [], CUTS)
    assert [final.text for final in finals(life)] == ["w0"]


def test_the_ring_keeps_the_context_of_an_open_utterance() -> None:
    life = Life([SPEECH] * 200, cut_rule=CUTS)
    life.announce(120 * FRAME_SAMPLES)
    life.run_dry()
    (first,) = finals(life)
    assert life.stream.released_sample == first.end_sample - CUTS.left_samples


@given(
    runs=st.lists(
        st.tuples(st.sampled_from([SPEECH, SILENCE, 0.375]), st.integers(1, 90)),
        min_size=1,
        max_size=8,
    ),
    pieces=st.lists(st.integers(0, 200_000), max_size=8),
)
def test_cuts_do_not_depend_on_the_pace(runs: list[tuple[float, int]], pieces: list[int]) -> None:
    probabilities = [p for p, count in runs for _ in range(count)]
    life = whole_life(probabilities, [], [], CUTS)
    assert_tiles(life)
    again = whole_life(probabilities, [], pieces, CUTS)
    assert [(f.start_sample, f.end_sample, f.text) for f in finals(again)] == [
        (f.start_sample, f.end_sample, f.text) for f in finals(life)
    ]


# Going on at another service


def test_a_stream_leaves_between_two_utterances() -> None:
    life = Life([SPEECH] * 30 + [SILENCE] * 40)
    stream = life.stream
    life.announce(25 * FRAME_SAMPLES)
    life.run_dry()
    assert not stream.may_leave, "nobody asked"
    assert not stream.has_unsettled
    stream.leave(at_once=False)
    assert stream.has_unsettled
    assert not stream.may_leave, "something of an open utterance has been shown"
    stream.leave(at_once=True)
    assert stream.may_leave
    stream.leave(at_once=False)
    life.announce(life.total_samples)
    life.listen()
    assert stream.open_utterance is None
    assert not stream.may_leave, "its final is to be said first"
    life.run_dry()
    assert stream.may_leave
    assert finals(life)


def test_a_stream_leaves_behind_a_cut_when_the_final_before_it_is_said() -> None:
    life = Life([SPEECH] * 200, cut_rule=CUTS)
    life.stream.leave(at_once=False)
    moments = []
    for frame in range(1, 201):
        life.announce(frame * FRAME_SAMPLES)
        life.listen()
        while life.stream.next_job(0) is not None and not life.stream.may_leave:
            life.recognize()
        if life.stream.may_leave and life.stream.utterances > 1:
            moments.append(frame)
            assert life.stream.open_utterance is not None
            assert len(finals(life)) == life.stream.utterances - 1
            life.recognize()
    assert moments


def test_a_stream_that_closes_does_not_leave() -> None:
    life = Life([SILENCE] * 10)
    life.announce(life.total_samples)
    life.stream.leave(at_once=True)
    life.stream.control(messages.Close(3, 7, life.total_samples))
    life.run_dry()
    assert life.stream.closed
    assert not life.stream.may_leave


def test_what_comes_at_once_from_another_service_makes_no_file_of_a_talker() -> None:
    stream = Stream(3, 7, OPTIONS)
    for _ in range(40):
        stream.announce(stream.announced_sample, 16_000, 5_000_000_000)
    assert not stream.arrival.is_bulk(stream.receive_ns, stream.announced_sample)
    stream.announce(stream.announced_sample, 4 * 16_000, 5_100_000_000)
    assert stream.arrival.is_bulk(stream.receive_ns, stream.announced_sample)
