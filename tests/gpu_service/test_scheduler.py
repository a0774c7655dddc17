"""Scheduler: finals before candidates before drafts, and a hop that stretches with the load."""

from __future__ import annotations

from gpu_service.endpointer import FRAME_SAMPLES, VadOptions
from gpu_service.scheduler import MAX_HOP_SAMPLES, Scheduler
from gpu_service.stream import Stream

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
