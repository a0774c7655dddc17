"""Reports: each stream hears of its pace once at its beginning and when it changes."""

from __future__ import annotations

import pytest

from gpu_service.config import ServiceConfig
from gpu_service.draft_hops import MAX_HOP_SAMPLES
from gpu_service.endpointer import VadOptions
from gpu_service.reports import Reports
from gpu_service.scheduler import Scheduler
from gpu_service.stream import Stream
from protocol.client_messages import LatencyClass
from protocol.service_messages import Pace

S = 1_000_000_000
CONFIG = ServiceConfig(index=0, control_fd=-1, max_streams=8, hop_ms=320)


def make() -> Reports:
    return Reports(CONFIG, Scheduler(hop_samples=5_120), "m", ["en"])


def stream(slot: int, group: int = 0, hop_samples: int = 5_120) -> Stream:
    return Stream(slot, 3, VadOptions(), hop_samples=hop_samples, group=group)


def test_a_new_stream_hears_of_its_pace_once() -> None:
    reports, streams = make(), [stream(1), stream(2, hop_samples=8_000)]
    assert [pace for _, pace in reports.review(streams, S)] == [
        Pace(1, 3, LatencyClass.FULL, 320),
        Pace(2, 3, LatencyClass.FULL, 500),
    ]
    assert not list(reports.review(streams, 2 * S))


def test_the_crowd_slows_down_and_the_few_do_not() -> None:
    reports, few, crowd = make(), stream(1, 1), stream(2, 2)
    scheduler = reports.scheduler
    list(reports.review([few, crowd], S))
    scheduler.draft_cost_ns = 60e6
    scheduler.pick((), {1: 1, 2: 9})
    list(reports.review([few, crowd], 2 * S))
    ((told, pace),) = reports.review([few, crowd], 3 * S)
    assert told is crowd
    assert pace.latency_class is LatencyClass.SLOW
    assert 1_200 < pace.hop_ms < 1_400
    health = reports.health(9, 8, open_streams=2, link_streams=1)
    assert (health.latency_class, health.hop_ms) == (LatencyClass.SLOW, pace.hop_ms)
    scheduler.pick((), {1: 1, 2: 90})
    list(reports.review([few, crowd], 4 * S))
    ((told, pace),) = reports.review([few, crowd], 5 * S)
    assert told is crowd
    assert (pace.latency_class, pace.hop_ms) == (LatencyClass.FINALS_ONLY, 3_000)
    assert scheduler.held.of(2) > MAX_HOP_SAMPLES


def test_health_says_what_there_is_room_for() -> None:
    reports = make()
    health = reports.health(9, 8, open_streams=2, link_streams=1)
    assert (health.now_ns, health.last_step_ns) == (9, 8)
    assert (health.open_streams, health.link_streams, health.max_streams) == (2, 1, 8)
    assert (health.models, health.languages) == (("m",), ("en",))
    assert (health.bearable_streams, health.latency_class) == (8, LatencyClass.FULL)
    assert health.hop_ms == 320
    reports.scheduler.load.draft_share = 0.0
    assert reports.health(9, 8, 5, 1).bearable_streams == 5
    assert health.step_ms == pytest.approx(0.0)
