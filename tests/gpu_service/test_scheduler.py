"""Scheduler: finals before candidates before drafts, and a hop that stretches with the load."""

from __future__ import annotations

import pytest

from gpu_service.endpointer import FRAME_SAMPLES, VadOptions
from gpu_service.scheduler import MAX_HOP_SAMPLES, Assignment, Scheduler
from gpu_service.stream import Stream
from gpu_service.words import Hypothesis
from protocol.client_messages import Stages

SPEECH, SILENCE = 0.9, 0.05


def stream_with(frames: list[float], receive_ns: int = 0) -> Stream:
    """A live stream that has heard these frames."""
    stream = Stream(0, 0, VadOptions(), hop_samples=FRAME_SAMPLES)
    for probability in frames:
        stream.announce(stream.announced_sample, FRAME_SAMPLES, receive_ns)
        stream.hear([probability])
    stream.settle()
    return stream


def test_finals_go_first_and_the_oldest_of_them() -> None:
    drafting = stream_with([SPEECH] * 30)
    late = stream_with([SPEECH] * 30 + [SILENCE] * 20, receive_ns=50)
    early = stream_with([SPEECH] * 30 + [SILENCE] * 20, receive_ns=20)
    picked = Scheduler(2).pick([drafting, late, early])
    assert [(a.stream, a.job.kind) for a in picked] == [(early, "final"), (late, "final")]


def test_candidates_go_before_drafts() -> None:
    drafting = stream_with([SPEECH] * 30)
    pausing = stream_with([SPEECH] * 30 + [SILENCE] * 6)
    first, second = Scheduler(2).pick([drafting, pausing])
    assert (first.stream, first.job.kind) == (pausing, "candidate")
    assert (second.stream, second.job.kind) == (drafting, "draft")


def test_drafts_share_a_step_up_to_the_limit() -> None:
    streams = [stream_with([SPEECH] * (30 + i)) for i in range(6)]
    picked = Scheduler(4).pick(streams)
    assert [a.job.kind for a in picked] == ["draft"] * 4
    assert picked[0].stream is streams[5]  # furthest behind its audio


def test_an_engine_with_batched_drafts_gets_more_of_them_when_no_final_is_due() -> None:
    streams = [stream_with([SPEECH] * (30 + i)) for i in range(6)]
    scheduler = Scheduler(1, max_drafts=4)
    assert len(scheduler.pick(streams)) == 4
    picked = scheduler.pick([*streams, stream_with([SPEECH] * 30 + [SILENCE] * 20)])
    assert [a.job.kind for a in picked] == ["final"]


def test_nothing_due_is_an_empty_step() -> None:
    assert Scheduler().pick([stream_with([SILENCE] * 30)]) == []


def test_the_hop_stretches_with_cost_and_speakers_and_stays_bounded() -> None:
    scheduler = Scheduler(draft_cost_ns=60e6)
    scheduler.pick([stream_with([SPEECH] * 5) for _ in range(4)])
    assert scheduler.hop_samples == int(4 * 60e6 / 0.6 * 16_000 / 1e9)
    scheduler.draft_cost_ns = 1e12
    assert scheduler.hop_samples == MAX_HOP_SAMPLES


def test_costs_are_learnt_from_drafts_alone() -> None:
    scheduler = Scheduler(2)
    drafts = scheduler.pick([stream_with([SPEECH] * 30) for _ in range(2)])
    for _ in range(60):
        scheduler.step_took(drafts, 100_000_000)
    assert 49e6 < scheduler.draft_cost_ns < 51e6
    finals = scheduler.pick([stream_with([SPEECH] * 30 + [SILENCE] * 20)])
    scheduler.step_took(finals, 900_000_000)
    assert scheduler.draft_cost_ns < 51e6
    assert scheduler.step_ns > 100e6


def test_streams_that_did_not_get_their_turn_need_not_be_named_again() -> None:
    streams = [stream_with([SPEECH] * (30 + i)) for i in range(3)]
    scheduler = Scheduler(1)
    served = [scheduler.pick(streams)[0].stream]
    for _ in range(2):
        served += [a.stream for a in scheduler.pick((), speakers=3)]
        take(served[-1], scheduler)
    assert served[0] is streams[2]
    assert scheduler.speakers == 3


def take(stream: Stream, scheduler: Scheduler) -> None:
    """The stream's draft was made."""
    utterance = stream.open_utterance
    assert utterance is not None
    utterance.fed_sample = utterance.drafted_sample = stream.endpointer.safe_sample()


def test_a_stream_that_offers_nothing_rests_and_one_that_is_gone_offers_nothing() -> None:
    silent, gone = stream_with([SILENCE] * 30), stream_with([SPEECH] * 30)
    scheduler = Scheduler()
    assert scheduler.pick([silent]) == []
    assert not scheduler._restless
    scheduler.pick([gone])
    scheduler.forget(gone)
    scheduler.forget(gone)
    assert scheduler.pick(()) == []


def test_a_stream_that_only_waits_for_a_stretched_hop_does_not_rest() -> None:
    stream = stream_with([SPEECH] * 40)
    utterance = stream.open_utterance
    assert utterance is not None
    utterance.drafted_sample = stream.endpointer.safe_sample() - 2 * FRAME_SAMPLES
    scheduler = Scheduler(draft_cost_ns=1e9)
    assert scheduler.pick([stream]) == []
    scheduler.draft_cost_ns = 0.0  # the load is gone; the stream hears nothing new
    assert [a.stream for a in scheduler.pick((), speakers=1)] == [stream]


# Engines whose steps are bounded


def batching(max_batch: int = 4, max_drafts: int = 64, max_step_ms: float = 40.0) -> Scheduler:
    return Scheduler(max_batch, max_drafts, max_step_ms * 1e6)


def kinds(assignments: list[Assignment]) -> list[str]:
    return [assignment.job.kind for assignment in assignments]


def drafting(count: int) -> list[Stream]:
    return [stream_with([SPEECH] * 20) for _ in range(count)]


def ending(count: int, num_frames: int = 20) -> list[Stream]:
    return [stream_with([SPEECH] * num_frames + [SILENCE] * 20) for _ in range(count)]


def test_a_bounded_step_holds_finals_and_drafts_with_the_finals_first() -> None:
    scheduler = batching()
    learn(scheduler, drafting(1), 2.0)
    learn(scheduler, ending(1), 5.0)
    picked = scheduler.pick([*drafting(3), *ending(2)])
    assert kinds(picked) == ["final"] * 2 + ["draft"] * 3


def learn(scheduler: Scheduler, streams: list[Stream], step_ms: float) -> list[Assignment]:
    """Pick from these alone and say what it took."""
    picked = scheduler.pick(streams)
    scheduler.step_took(picked, int(step_ms * 1e6))
    for stream in streams:
        scheduler.forget(stream)
    return picked


def test_what_was_never_measured_goes_alone_and_batches_double_while_they_fit() -> None:
    """5 ms for any number: soon all go at once."""
    scheduler = batching()
    sizes = [len(learn(scheduler, drafting(64), 5.0)) for _ in range(6)]
    assert sizes == [1, 8, 64, 64, 64, 64]


def test_a_batch_never_holds_more_than_fits() -> None:
    """A draft takes 3 ms whatever its company: in 40 ms there is room for 8, and not for 16."""
    scheduler = batching()
    sizes = []
    for _ in range(8):
        picked = scheduler.pick(drafting(64))
        sizes.append(len(picked))
        for assignment in list(scheduler._restless):
            scheduler.forget(assignment)
        scheduler.step_took(picked, int(3e6 * len(picked)))
    assert sizes[0] == 1
    assert max(sizes) <= 16
    assert sizes[-1] == 8


def test_one_job_is_picked_however_long_it_takes() -> None:
    scheduler = batching()
    learn(scheduler, ending(1), 500.0)
    assert kinds(scheduler.pick([*ending(2), *drafting(2)])) == ["final"]


def test_drafts_of_much_new_audio_are_another_kind() -> None:
    scheduler = batching()
    learn(scheduler, drafting(1), 1.0)
    learn(scheduler, drafting(64), 1.0)
    long = [stream_with([SPEECH] * 200) for _ in range(3)]
    picked = scheduler.pick([*long, *drafting(5)])
    assert len(picked) == 1 + 5  # one of the long ones, to learn what they take


def test_a_full_step_leaves_the_rest_for_the_next() -> None:
    scheduler = batching(max_batch=2, max_drafts=3)
    for streams in (drafting(1), drafting(8), ending(1), ending(8)):
        learn(scheduler, streams, 1.0)
    picked = scheduler.pick([*drafting(8), *ending(8)])
    assert kinds(picked) == ["final"] * 2 + ["draft"] * 3


def test_the_hop_stretches_by_what_a_batch_of_all_speakers_takes() -> None:
    scheduler = batching()
    learn(scheduler, drafting(1), 5.0)
    scheduler.pick((), speakers=300)
    # As if 64 took no longer than one, until that is known better.
    assert scheduler.hop_samples == int(5e6 / 64 * 300 / 0.6 * 16_000 / 1e9)
    learn(scheduler, drafting(64), 5.0)
    learn(scheduler, drafting(64), 20.0)
    scheduler.pick((), speakers=300)
    assert scheduler.hop_samples == int(20e6 / 64 * 300 / 0.6 * 16_000 / 1e9)


# Admission


def test_capacity_falls_when_drafts_take_more_time_than_there_is() -> None:
    scheduler = Scheduler(draft_cost_ns=60e6)
    scheduler.pick((), speakers=10)
    assert scheduler.capacity(32, hop_ms=320) == 32  # a hop of 1 s
    scheduler.pick((), speakers=31)
    assert scheduler.capacity(32, hop_ms=320) == 30  # it would be more than 3 s
    assert scheduler.capacity(20, hop_ms=320) == 20


def test_an_engine_with_bounded_steps_keeps_its_hop_or_takes_no_more_streams() -> None:
    scheduler = batching()
    learn(scheduler, drafting(1), 6.4)
    scheduler.pick((), speakers=1_900)  # 0.1 ms each: 317 ms
    assert scheduler.capacity(2_000, hop_ms=160) == 2_000
    scheduler.pick((), speakers=1_980)  # 330 ms, and it promised 160
    assert scheduler.capacity(2_000, hop_ms=160) == pytest.approx(1_920, abs=1)
    assert scheduler.capacity(2_000, hop_ms=320) == 2_000


def test_nothing_measured_is_no_reason_to_refuse() -> None:
    assert Scheduler().capacity(7, hop_ms=320) == 7
    assert batching().capacity(7, hop_ms=160) == 7


def test_a_suspect_has_steps_of_its_own() -> None:
    """If that kills the service, it is known who it was."""
    late = stream_with([SPEECH] * 30 + [SILENCE] * 20, receive_ns=50)
    suspect = stream_with([SPEECH] * 30 + [SILENCE] * 20, receive_ns=20)
    drafting = stream_with([SPEECH] * 30)
    suspect.alone = True
    scheduler = Scheduler(4, 4)
    (first,) = scheduler.pick([late, suspect, drafting])
    assert first.stream is suspect
    scheduler.step_took([first], 1)
    suspect.receive_ns = 90
    picked = scheduler.pick([late, suspect, drafting])
    assert suspect not in [assignment.stream for assignment in picked]
    assert picked
    scheduler.step_took(picked, 1)
    suspect.job_done(first.job, Hypothesis((), "", 0, True), Stages())
    assert not suspect.alone
