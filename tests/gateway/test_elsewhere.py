"""A client comes to a worker that does not have its session: its bytes go to the one that has, and
all is as if it had come there. Through two whole workers (two_workers.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.connection_host import Phase
from gateway.elsewhere import RETRY_AFTER_MS
from gateway.outbox import STOP_READING_ABOVE_BYTES
from gateway.relay import MAX_WAITING_BYTES
from gateway.resume_token import parse_resume_token
from protocol import service_messages
from protocol.client_messages import (
    Audio,
    Closed,
    Error,
    Final,
    Ping,
    Pong,
    Resume,
    Resumed,
)
from protocol.errors import ErrorCode
from protocol.session import State

from .counting_service import CountingService
from .resuming import ResumingClient, pcm
from .rig import Rig
from .two_workers import TwoWorkers


@pytest.fixture
def workers() -> Iterator[TwoWorkers]:
    workers = TwoWorkers()
    yield workers
    workers.close()


@pytest.fixture
def home(workers: TwoWorkers) -> Rig:
    """Where the session is."""
    return workers.rigs[0]


@pytest.fixture
def away(workers: TwoWorkers) -> Rig:
    """Where its client comes to."""
    return workers.rigs[1]


@pytest.fixture
def service(home: Rig) -> CountingService:
    return home.add_service()


def lost(rig: Rig) -> ResumingClient:
    """A client of this rig that has said 320 samples and lost its connection."""
    client = ResumingClient(rig)
    client.speak(pcm(320))
    client.vanish()
    return client


def outcomes(rig: Rig) -> dict[tuple[str, ...], int]:
    return {
        labels: int(value.value) for labels, value in rig.worker.metrics.resumes._series.items()
    }


def test_the_token_names_the_worker(home: Rig, service: CountingService) -> None:
    token = parse_resume_token(lost(home).started.resume_token)
    assert token is not None
    assert token.owner == 0


def test_a_session_goes_on_by_way_of_another_worker(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    answer = client.resume(away)
    assert isinstance(answer, Resumed)
    assert answer.client_samples == 320
    assert (outcomes(away), outcomes(home)) == ({("relayed",): 1}, {("resumed",): 1})
    client.speak(pcm(320, 2))
    client.finalize()
    client.bye()
    client.acknowledge()
    assert [type(event) for event in client.events] == [Final, Closed]
    assert service.all_streams[0].pcm == client.audio
    assert client.connection.saw_end
    client.connection.sock.close()
    workers.settle()
    assert (home.worker.door.num_connections, away.worker.door.num_connections) == (0, 0)
    assert home.worker.parking._by_id == {}


def test_who_has_heard_all_elsewhere_is_not_waited_for_there_either(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    """Its acknowledgement was lost with its connection: the number in the resume is one."""
    client = ResumingClient(home)
    client.speak(pcm(320))
    client.finalize()
    client.bye()
    client.vanish()
    assert [type(event) for event in client.events] == [Final, Closed]
    assert isinstance(client.resume(away), Resumed)
    client.listen()
    assert len(client.events) == 2, "nothing comes twice"
    assert client.connection.saw_end
    client.connection.sock.close()
    workers.settle()
    assert (home.worker.door.num_connections, away.worker.door.num_connections) == (0, 0)
    assert home.worker.parking._by_id == {}


def test_it_may_change_workers_as_often_as_it_likes(
    home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    for number, rig in enumerate([away, home, away, away, home]):
        assert isinstance(client.resume(rig), Resumed)
        client.speak(pcm(100, number))
        client.finalize()
        if number % 2:
            client.vanish()  # else the dead connection is not noticed
    client.bye()
    client.listen()
    finals = [event for event in client.events if isinstance(event, Final)]
    assert [final.end_sample for final in finals] == client.finalizes
    assert service.all_streams[0].pcm == client.audio


def test_a_ping_right_behind_the_resume_goes_along(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    connection = away.connect()
    connection.send(Resume(resume_token=client.started.resume_token, events_received=0), Ping(5))
    workers.settle()
    assert [type(event) for event in connection.events] == [Resumed, Pong]


def test_a_client_that_leaves_is_parked_at_home(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    client.resume(away)
    assert home.worker.parking.num_parked == 0
    client.vanish()
    assert home.worker.parking.num_parked == 1
    assert (home.worker.door.num_connections, away.worker.door.num_connections) == (0, 0)


def test_a_session_that_is_gone_is_gone_from_anywhere(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    workers.advance_ms(30_000)
    answer = client.resume(away)
    assert isinstance(answer, Error)
    assert answer.code is ErrorCode.RESUME_FAILED
    assert client.connection.saw_end


def test_a_worker_that_is_not_there_is_there_later(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    workers.is_there[0] = False
    answer = client.resume(away)
    assert isinstance(answer, Error)
    assert (answer.code, answer.retryable) == (ErrorCode.RESUME_LATER, True)
    assert answer.retry_after_ms == RETRY_AFTER_MS
    assert client.connection.saw_end
    assert outcomes(away)["later",] == 1
    workers.is_there[0] = True
    assert isinstance(client.resume(away), Resumed)


def test_without_a_parent_there_is_no_way(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    control, away.worker._control = away.worker._control, None
    answer = client.resume(away)
    assert isinstance(answer, Error)
    assert answer.code is ErrorCode.RESUME_LATER
    assert workers.num_handoffs == 0
    away.worker._control = control


def test_a_worker_that_never_was_is_not_asked(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    token = "7" + client.started.resume_token[1:]
    answer = client.resume(away, resume_token=token)
    assert isinstance(answer, Error)
    assert answer.code is ErrorCode.RESUME_FAILED
    assert workers.num_handoffs == 0


def test_a_worker_that_dies_ends_the_connection_without_a_word(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    client.resume(away)
    home.worker.door.close()
    workers.settle()
    assert client.connection.saw_end
    assert client.connection.of(Error) == []
    assert client.connection.session.state is State.ACTIVE


def test_a_mistake_is_answered_from_home(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    client.resume(away)
    client.connection.send(Audio(9_999, b"ab"))
    workers.settle()
    (error,) = client.connection.of(Error)
    assert error.code is ErrorCode.AUDIO_GAP
    assert client.connection.of(Closed)
    assert client.connection.saw_end


def test_neither_worker_drains_before_the_session_has_ended(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    client.resume(away)
    away.worker.drain()
    workers.settle()
    assert not away.worker.loop._stopped
    home.worker.drain()
    workers.settle()
    client.acknowledge()
    assert [event.reason for event in client.connection.of(Closed)] == ["draining"]
    client.connection.sock.close()
    workers.settle()
    assert away.worker.loop._stopped
    assert home.worker.loop._stopped


def test_a_full_ring_at_home_stops_the_client_away(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    service.auto_credit = False
    client = lost(home)
    client.resume(away)
    client.audio += (more := pcm(1_000_000))
    client.connection.session.send_audio(more)
    data = client.connection.session.data_to_send()
    sent = 0
    while (num_bytes := _send_some(client, data[sent:])) > 0:
        sent += num_bytes
        workers.settle()
    assert sent < len(data), "somebody has to wait"
    (connection,) = away.worker.door._connections
    assert connection._channels.is_blocked
    waiting = connection._channels.resumption._elsewhere._link._out  # type: ignore[union-attr]
    assert len(waiting) <= MAX_WAITING_BYTES + 2 * 64 * 1024
    stream = service.all_streams[0]
    while stream.samples < 1_000_320:
        service.credit(stream)
        workers.settle()
        sent += _send_some(client, data[sent:])
    assert stream.pcm == client.audio


def _send_some(client: ResumingClient, data: bytes) -> int:
    try:
        return client.connection.sock.send(data) if data else 0
    except BlockingIOError:
        return 0


def test_a_client_away_that_does_not_read_is_a_slow_reader_at_home(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    client.resume(away)
    deaf = away.clients.pop()
    stream = service.all_streams[0]
    for number in range(1, 10):
        service.send(
            service_messages.Final(
                stream.open.slot, stream.open.generation, 320, number, 0, number, "x" * 100_000
            )
        )
        workers.settle()
    (connection,) = away.worker.door._connections
    assert len(connection._out) <= STOP_READING_ABOVE_BYTES + 64 * 1024
    while deaf.receive():
        workers.settle()
    assert [len(final.text) for final in deaf.of(Final)] == [100_000] * 9


def test_a_worker_that_does_not_answer_is_not_waited_for(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    workers.carries = False
    connection = client.knock(away)
    assert connection.events == []
    workers.advance_ms(10_000)
    assert connection.saw_end
    (error,) = connection.of(Error)
    assert (error.code, error.retryable) == (ErrorCode.RESUME_LATER, True)
    assert error.retry_after_ms == RETRY_AFTER_MS
    assert outcomes(away) == {("relayed",): 1, ("later",): 1}
    workers.carries = True
    assert isinstance(client.resume(away), Resumed)


def test_a_drain_does_not_wait_for_a_worker_that_does_not_answer(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    workers.carries = False
    connection = client.knock(away)
    away.worker.drain()
    workers.settle()
    assert [error.code for error in connection.of(Error)] == [ErrorCode.DRAINING]
    assert connection.saw_end
    workers.carries = True
    assert isinstance(client.resume(home), Resumed)


def test_a_silent_client_is_cut_at_both_ends(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    client.resume(away)
    away.clock.advance_ms(60_000)
    workers.settle()
    assert client.connection.saw_end
    assert home.worker.parking.num_parked == 1
    assert isinstance(client.resume(away), Resumed)


def test_a_client_away_that_only_asks_is_cut_when_its_session_went_on_elsewhere(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    """It reads nothing, so that the end of the relay is not read either."""
    client = lost(home)
    client.resume(away)
    deaf = away.clients.pop()
    (connection,) = away.worker.door._connections
    connection._out._data += bytes(STOP_READING_ABOVE_BYTES + 1)
    connection._channels.resumption.watch()
    elsewhere = connection._channels.resumption._elsewhere
    assert elsewhere is not None
    assert isinstance(client.resume(home), Resumed)
    elsewhere.write(b"x")
    workers.settle()
    assert not elsewhere.is_open
    assert connection.phase is not Phase.OPEN
    deaf.sock.close()


def test_text_from_a_client_away_ends_its_connection_and_not_its_session(
    workers: TwoWorkers, home: Rig, away: Rig, service: CountingService
) -> None:
    client = lost(home)
    client.resume(away)
    (connection,) = away.worker.door._connections
    assert connection._dialect is not None
    connection._dialect.receive_data("words")
    connection.resume()
    workers.settle()
    assert client.connection.saw_end
    assert client.connection.of(Error) == [], "nothing comes between the other worker's frames"
    assert isinstance(client.resume(away), Resumed)


@settings(deadline=None, max_examples=25)
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(1, 600), st.one_of(st.none(), st.integers(0, 2_000))),
        max_size=10,
    )
)
def test_any_cuts_and_any_workers_change_nothing(
    steps: list[tuple[bool, int, int | None]],
) -> None:
    workers = TwoWorkers()
    home, away = workers.rigs
    service = home.add_service()
    client = ResumingClient(home)
    for number, (goes_away, num_samples, cut_after) in enumerate(steps):
        if num_samples % 5:
            client.speak(pcm(num_samples, number), cut_after)
        else:
            client.finalize(cut_after)
        if cut_after is not None:
            assert isinstance(client.resume(away if goes_away else home), Resumed)
    client.bye()
    client.acknowledge()
    finals = [event for event in client.events if isinstance(event, Final)]
    assert [final.end_sample for final in finals] == client.finalizes
    record = client.events[-1]
    assert isinstance(record, Closed)
    assert record.ring_samples == record.engine_samples == len(client.audio) // 2
    assert not client.audio or service.all_streams[0].pcm == client.audio
    workers.close()
