"""Scheduler: finals before candidates before drafts, and a hop that stretches with the load."""

from __future__ import annotations

import math

import pytest

from gpu_service.endpointer import FRAME_SAMPLES, VadOptions
from gpu_service.scheduler import Assignment, Scheduler
from gpu_service.stream import Stream
from gpu_service.words import Hypothesis
from protocol.client_messages import Stages

SPEECH, SILENCE = 0.9, 0.05
ENDED = [SPEECH] * 30 + [SILENCE] * 20


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


def test_the_hop_stretches_with_cost_and_speakers_and_a_smaller_share() -> None:
    scheduler = Scheduler(draft_cost_ns=60e6)
    scheduler.pick([stream_with([SPEECH] * 5) for _ in range(4)])
    assert scheduler.hops() == {0: pytest.approx(4 * 60e6 / 0.6 * 16_000 / 1e9)}
    scheduler.load.draft_share = 0.3
    assert scheduler.hops() == {0: pytest.approx(4 * 60e6 / 0.3 * 16_000 / 1e9)}
    scheduler.load.draft_share = 0.0
    assert scheduler.hops() == {0: math.inf}
    assert scheduler.pick([stream_with([SPEECH] * 30)]) == []


def test_costs_are_learnt_from_drafts_alone() -> None:
    scheduler = Scheduler(2)
    drafts = scheduler.pick([stream_with([SPEECH] * 30) for _ in range(2)])
    for _ in range(60):
        scheduler.step_took(drafts, 100_000_000)
    assert scheduler.draft_cost_ns == pytest.approx(50e6)
    finals = scheduler.pick([stream_with([SPEECH] * 30 + [SILENCE] * 20)])
    scheduler.step_took(finals, 900_000_000)
    assert scheduler.draft_cost_ns < 51e6
    assert scheduler.step_ns > 100e6


def test_streams_that_did_not_get_their_turn_need_not_be_named_again() -> None:
    streams = [stream_with([SPEECH] * (30 + i)) for i in range(3)]
    scheduler = Scheduler(1)
    served = [scheduler.pick(streams)[0].stream]
    for _ in range(2):
        served += [a.stream for a in scheduler.pick((), {0: 3})]
        take(served[-1], scheduler)
    assert served[0] is streams[2]
    assert scheduler.num_speakers == 3


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
    assert [a.stream for a in scheduler.pick((), {0: 1})] == [stream]


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
    scheduler.pick((), {0: 300})
    # As if 64 took no longer than one, until that is known better.
    assert scheduler.hops() == {0: pytest.approx(5e6 / 64 * 300 / 0.6 * 16_000 / 1e9)}
    learn(scheduler, drafting(64), 5.0)
    learn(scheduler, drafting(64), 20.0)
    scheduler.pick((), {0: 300})
    assert scheduler.hops() == {0: pytest.approx(20e6 / 64 * 300 / 0.6 * 16_000 / 1e9)}


# Admission


def test_capacity_is_what_audio_costs() -> None:
    """60 ms of finals a second of audio, and drafts of 60 ms every 3 s: 8 % of the time each."""
    scheduler = Scheduler(draft_cost_ns=60e6)
    for _ in range(20):
        scheduler.load.heard(31, is_speech=True)
    scheduler.load.finals_took(60e6 * 20 * 31 * 0.032)
    assert scheduler.capacity(32, open_streams=0) == 10
    scheduler.load.finals_took(-40e6 * 20 * 31 * 0.032)
    assert scheduler.capacity(32, open_streams=0) == 20
    assert scheduler.capacity(5, open_streams=0) == 5


def test_files_take_no_place_from_talkers() -> None:
    scheduler, file, talker = Scheduler(), stream_with(ENDED, receive_ns=1), stream_with(ENDED)
    scheduler.load.probed(900e6)
    file.announce(file.announced_sample, 16_000 * 60, 2)
    scheduler.review([file, talker], 0)
    assert scheduler.capacity(32, open_streams=2) == 8 + 1


def test_a_burst_comes_in_where_hardly_anybody_talks_and_a_few_always() -> None:
    scheduler = Scheduler()
    scheduler.load.probed(900e6)  # nothing fits
    assert scheduler.capacity(32, open_streams=0) == 8
    talkers = [stream_with(ENDED, receive_ns=1) for _ in range(4)]
    for now_ns, expected in ((1_000_000_000, 8), (9_000_000_000, 4)):
        scheduler.review(talkers, now_ns)
        assert scheduler.capacity(32, open_streams=4) == expected


def test_finals_alone_count_for_what_audio_costs() -> None:
    scheduler = Scheduler(2)
    streams = [stream_with([SPEECH] * 30 + [SILENCE] * 20), stream_with([SPEECH] * 30)]
    picked = scheduler.pick(streams)
    assert kinds(picked) == ["final", "draft"]
    scheduler.step_took(picked, 400_000_000)
    scheduler.load.heard(1_000, is_speech=False)
    assert scheduler.load.bearable_streams(0.0, 3e9) == int(0.8 / (0.2 / 32))


def test_an_engine_with_bounded_steps_keeps_its_hop_or_takes_no_more_streams() -> None:
    for hop_ms, expected in ((160, 1_920), (320, 2_000)):
        scheduler = batching()
        scheduler.hop_samples = 16 * hop_ms
        learn(scheduler, drafting(1), 6.4)
        scheduler.pick((), {0: 1_900})  # 0.1 ms each: 317 ms
        assert scheduler.capacity(2_000, open_streams=0) == 2_000
        scheduler.pick((), {0: 1_980})  # 330 ms
        assert scheduler.capacity(2_000, open_streams=0) == pytest.approx(expected, abs=1)


def test_nothing_measured_is_no_reason_to_refuse() -> None:
    assert Scheduler().capacity(7, open_streams=0) == 7
    assert batching().capacity(7, open_streams=0) == 7


def test_nobody_comes_in_while_finals_are_late() -> None:
    for scheduler in (Scheduler(), batching()):
        scheduler.load.draft_share = 0.1
        assert scheduler.capacity(32, open_streams=5) == 5
        assert scheduler.capacity(32, open_streams=1) == 4
        assert scheduler.capacity(3, open_streams=1) == 3


# Late finals


def test_finals_go_in_the_order_in_which_they_were_due() -> None:
    """One whose audio came earlier is no reason to keep another one waiting again and again."""
    first, second = stream_with(ENDED, receive_ns=50), stream_with(ENDED, receive_ns=20)
    scheduler = Scheduler(1)
    busy = scheduler.pick([stream_with(ENDED)], now_ns=0)
    assert len(busy) == 1
    scheduler.load.longest_wait_ns = 0
    held = [scheduler.pick([first], now_ns=1_000)]
    scheduler.step_took(held[0], 1)  # a lost service: nobody took its answer, it is offered again
    (then,) = scheduler.pick([second], now_ns=5_000)
    assert then.stream is first
    assert then.due_ns == 1_000
    assert scheduler.load.longest_wait_ns == 4_000


def test_while_finals_are_late_no_draft_is_in_their_step() -> None:
    scheduler, ending, speaking = Scheduler(2), stream_with(ENDED), stream_with([SPEECH] * 30)
    scheduler.load.draft_share = 0.3
    assert kinds(scheduler.pick([ending, speaking])) == ["final"]
    assert kinds(scheduler.pick([], {0: 1})) == ["draft"]


def test_a_file_that_is_sent_as_fast_as_it_is_taken_waits_for_talkers() -> None:
    file, talker = stream_with(ENDED, receive_ns=1), stream_with(ENDED, receive_ns=2)
    file.announce(file.announced_sample, 16_000 * 60, 2)
    scheduler = Scheduler(1)
    scheduler.pick([], now_ns=0)
    (first,) = scheduler.pick([file, talker], now_ns=9)
    assert first.stream is talker
    scheduler.step_took([first], 1)
    scheduler.forget(talker)
    (second,) = scheduler.pick([], now_ns=2_000_000_000)
    assert second.stream is file
    assert scheduler.load.longest_wait_ns == 0


def test_who_was_told_that_there_are_finals_only_gets_no_drafts() -> None:
    small, large = stream_with([SPEECH] * 30), stream_with([SPEECH] * 30)
    large.group = 7
    scheduler = Scheduler(4, hop_samples=FRAME_SAMPLES, draft_cost_ns=0.3e9)
    for now_ns in (1, 2_000_000_000):
        scheduler.pick((), {0: 1, 7: 40})
        scheduler.review([small, large], now_ns)
        scheduler.load.draft_share = 0.6
    assert [a.stream for a in scheduler.pick([small, large], {0: 1, 7: 40})] == [small]
    ended = stream_with(ENDED)
    ended.group = 7
    assert [a.stream for a in scheduler.pick([ended], {7: 40})] == [ended]


def test_what_a_draft_costs_is_forgotten_where_none_is_made() -> None:
    """Else an engine that was slow once would never find out that it is not any more."""
    scheduler = Scheduler(hop_samples=FRAME_SAMPLES, draft_cost_ns=1e9)
    stream = stream_with([SPEECH] * 30)
    scheduler.review([stream], 0)
    assert scheduler.draft_cost_ns == 1e9  # nobody was refused one
    picked: list[Assignment] = []
    for half_seconds in range(1, 400):
        picked += scheduler.pick([stream], {0: 10})
        scheduler.review([stream], half_seconds * 500_000_000)
    assert kinds(picked) == ["draft"]
    assert 0.1e9 < scheduler.draft_cost_ns < 0.2e9


def test_so_it_is_with_bounded_steps() -> None:
    scheduler = batching()
    scheduler.hop_samples = FRAME_SAMPLES
    learn(scheduler, drafting(1), 2_500.0)
    stream = stream_with([SPEECH] * 30)
    scheduler.pick((), {0: 1})
    for half_seconds in range(4):
        scheduler.review([stream], half_seconds * 500_000_000)
    assert scheduler.pick([stream], {0: 1}) == []
    picked: list[Assignment] = []
    for half_seconds in range(4, 400):
        picked += scheduler.pick([stream], {0: 1})
        scheduler.review([stream], half_seconds * 500_000_000)
    assert kinds(picked) == ["draft"]


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
