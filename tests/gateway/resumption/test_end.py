"""A session ends when its client has all, does not come back in time, or makes a mistake."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.client_messages import Ack, Audio, Closed, Error, Hello, Resumed, encode_payload
from protocol.errors import ErrorCode

from ..counting_service import CountingService
from ..resuming import WINDOW_MS, ResumingClient, closed, code_of, pcm, resumes, texts
from ..rig import Rig


def test_after_bye_the_rest_is_kept_until_it_is_acknowledged(
    rig: Rig, service: CountingService, client: ResumingClient
) -> None:
    service.auto_close = False
    client.bye()
    client.vanish()
    stream = service.all_streams[0]
    service.final(stream)
    service.close(stream)
    rig.settle()
    assert rig.worker.router.open_streams == ()
    assert rig.worker.admission.slots.num_free == 4
    answer = client.resume()
    assert isinstance(answer, Resumed)
    assert answer.bye_received
    assert texts(client) == ["320 samples"]
    assert closed(client).reason == "client"
    assert not client.connection.saw_end
    client.acknowledge()
    assert client.connection.saw_end
    client.connection.sock.close()
    rig.settle()
    assert code_of(client.resume()) is ErrorCode.RESUME_FAILED
    assert rig.worker.parking.num_parked == 0


def test_a_closed_session_waits_for_its_acknowledgement_first_here_then_parked(
    rig: Rig, client: ResumingClient
) -> None:
    client.bye()
    client.listen()
    assert not client.connection.saw_end
    rig.clock.advance_ms(5_001)
    rig.settle()
    assert client.connection.saw_end
    assert rig.worker.parking.num_parked == 1
    client.connection.sock.close()
    assert isinstance(client.resume(), Resumed)
    client.acknowledge()
    assert client.connection.saw_end
    assert rig.worker.parking.num_parked == 0


@pytest.mark.parametrize("is_parked", [True, False])
def test_who_has_heard_all_of_a_closed_session_is_not_waited_for(
    rig: Rig, client: ResumingClient, is_parked: bool
) -> None:
    """Its acknowledgement was lost with its connection: the number in the resume is one."""
    client.finalize()
    client.bye()
    client.listen()
    if is_parked:
        client.vanish()
    answer = client.resume()
    assert isinstance(answer, Resumed)
    assert (answer.bye_received, answer.client_samples) == (True, 320)
    assert client.connection.saw_end
    assert (rig.worker.parking.num_parked, rig.worker.parking._by_id) == (0, {})
    client.connection.sock.close()
    assert code_of(client.resume()) is ErrorCode.RESUME_FAILED


def test_an_error_of_the_session_is_heard_by_the_next_connection(
    rig: Rig, service: CountingService, client: ResumingClient
) -> None:
    client.vanish()
    stream = service.all_streams[0]
    service.fail(stream)
    rig.settle()
    client.resume()
    client.listen()
    assert [type(event) for event in client.events] == [Error, Closed]
    client.acknowledge()
    assert client.connection.saw_end


def test_who_does_not_come_back_in_time_has_vanished(
    rig: Rig, service: CountingService, client: ResumingClient
) -> None:
    client.vanish()
    rig.clock.advance_ms(WINDOW_MS - 1)
    rig.settle()
    assert service.all_streams[0].closed is None
    rig.clock.advance_ms(1)
    rig.settle()
    gone = service.all_streams[0].closed
    assert gone is not None
    assert gone.reason == "vanished"
    assert rig.worker.admission.slots.num_free == 4
    assert code_of(client.resume()) is ErrorCode.RESUME_FAILED
    assert resumes(rig, "failed") == 1


def test_the_window_begins_when_the_connection_is_lost(rig: Rig, client: ResumingClient) -> None:
    for _ in range(3):
        client.vanish()
        rig.clock.advance_ms(WINDOW_MS - 1)
        rig.settle()
        assert isinstance(client.resume(), Resumed)
    rig.clock.advance_ms(WINDOW_MS)
    client.speak(pcm(320))
    client.bye()
    assert closed(client).engine_samples == 640


def test_a_drain_decodes_parked_sessions_and_waits_for_nobody(
    rig: Rig, service: CountingService, client: ResumingClient
) -> None:
    client.vanish()
    service.auto_close = False
    rig.worker.drain()
    rig.settle()
    stream = service.all_streams[0]
    assert stream.closed is not None
    assert stream.closed.reason == "draining"
    assert not rig.worker.loop._stopped
    service.close(stream)
    rig.settle()
    assert rig.worker.loop._stopped


def test_a_drain_tells_an_open_session_as_ever(rig: Rig, client: ResumingClient) -> None:
    rig.worker.drain()
    rig.settle()
    assert closed(client).reason == "draining"
    client.acknowledge()
    assert client.connection.saw_end
    client.connection.sock.close()
    rig.settle()
    assert rig.worker.loop._stopped


@pytest.mark.parametrize("message", [Audio(7_000, b"ab"), Hello(), Ack(99)])
def test_a_mistake_of_the_client_ends_the_session_for_good(
    rig: Rig, service: CountingService, client: ResumingClient, message: Any
) -> None:
    client.connection.session.state = client.connection.session.state.AWAIT_HELLO
    client.connection.session._queue(message.TYPE, encode_payload(message))
    client.connection.flush()
    rig.settle()
    assert rig.worker.parking.num_parked == 0
    assert service.all_streams[0].closed is not None
    assert code_of(client.resume()) is ErrorCode.RESUME_FAILED
