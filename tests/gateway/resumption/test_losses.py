"""Connections that are lost in other ways than by an end: dead, silent, not read, broken."""

from __future__ import annotations

import pytest

from gateway.dialects.native import NativeDialect
from gateway.outbox import MAX_OUT_BYTES
from protocol.client_messages import Resumed

from ..counting_service import CountingService
from ..resuming import ResumingClient, closed, pcm, texts
from ..rig import Rig


def test_a_connection_that_nobody_noticed_is_dead_is_cut(rig: Rig, client: ResumingClient) -> None:
    old = client.connection
    assert isinstance(client.resume(), Resumed)
    rig.settle()
    assert old.saw_end
    assert rig.worker.parking.num_parked == 0
    client.speak(pcm(320))
    client.bye()
    assert closed(client).ring_samples == 640


def test_what_a_dead_connection_still_held_is_asked_for_again(
    rig: Rig, service: CountingService
) -> None:
    """Its stream was blocked, so that some of what came was not looked at yet."""
    service.auto_credit = False
    client = ResumingClient(rig)
    client.speak(pcm(40_000))
    client.finalize()
    answer = client.resume()
    assert isinstance(answer, Resumed)
    stream = service.all_streams[0]
    while stream.samples < 40_000:
        service.credit(stream)
        rig.settle()
    assert stream.pcm == client.audio
    assert texts(client) == ["40000 samples"]


def test_a_silent_client_is_parked_and_not_told_an_error(rig: Rig, client: ResumingClient) -> None:
    rig.clock.advance_ms(60_000)
    rig.settle()
    client.listen()
    assert client.events == []
    assert client.connection.saw_end
    assert isinstance(client.resume(), Resumed)
    client.bye()
    assert closed(client).engine_samples == 320


def test_a_slow_reader_is_parked_and_may_go_on(
    rig: Rig, service: CountingService, client: ResumingClient
) -> None:
    (connection,) = rig.worker.door._connections
    connection._out._data += bytes(MAX_OUT_BYTES)
    service.final(service.all_streams[0])
    rig.settle()
    assert rig.worker.metrics.slow_readers.value == 1
    assert rig.worker.parking.num_parked == 1
    client.events.clear()
    assert isinstance(client.resume(), Resumed)
    assert texts(client) == ["320 samples"]


def test_a_session_that_breaks_off_while_it_is_taken_over_is_over(
    rig: Rig, client: ResumingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.finalize()
    client.bye()
    client.vanish()

    def broken(*_: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(NativeDialect, "handle_event", broken)
    connection = client.knock(rig)
    assert connection.saw_end
    assert rig.worker.parking._by_id == {}
    assert rig.worker.door.num_connections == 0
    timers = rig.worker.loop.num_timers
    rig.clock.advance_ms(70_000)
    rig.settle()
    assert rig.worker.loop.num_timers <= timers, "nothing is armed for a connection that is closed"
