"""Nothing is lost and nothing comes twice, whenever and however often a connection is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.client_messages import (
    Bye,
    Closed,
    Final,
    Hello,
    Overflow,
    Partial,
    Ping,
    Pong,
    Resume,
    Resumed,
    Started,
)

from ..counting_service import CountingService
from ..resuming import WINDOW_MS, ResumingClient, closed, pcm, resumes, texts
from ..rig import Rig


def test_audio_goes_on_where_it_was_cut(
    rig: Rig, service: CountingService, client: ResumingClient
) -> None:
    client.vanish()
    assert rig.worker.parking.num_parked == 1
    assert rig.worker.door.num_connections == 0
    answer = client.resume()
    assert isinstance(answer, Resumed)
    assert (answer.client_samples, answer.session_id) == (320, client.started.session_id)
    client.speak(pcm(320, 2))
    client.finalize()
    client.bye()
    assert texts(client) == ["640 samples"]
    assert service.all_streams[0].pcm == client.audio
    record = closed(client)
    assert record.reason == "client"
    assert record.client_samples == record.ring_samples == record.engine_samples == 640
    assert rig.worker.metrics.accounting_mismatch.value == 0
    assert resumes(rig, "resumed") == 1


def test_what_was_said_meanwhile_is_heard(
    rig: Rig, service: CountingService, client: ResumingClient
) -> None:
    client.vanish()
    stream = service.all_streams[0]
    service.partial(stream, "a draft that nobody hears")
    service.final(stream)
    rig.settle()
    assert texts(client) == []
    client.resume()
    assert texts(client) == ["320 samples"]
    assert client.connection.of(Partial) == []


def test_the_audio_lane_is_open_again(
    rig: Rig, service: CountingService, client: ResumingClient
) -> None:
    client.vanish()
    client.resume()
    client.connection.send(Ping(1))
    rig.settle()
    (connection,) = rig.worker.door._connections
    assert connection._audio_lane is not None
    lane_write = connection._lane_write
    taken: list[int] = []

    def counted(data: Any, now_ns: int) -> bool:
        taken.append(len(data))
        assert lane_write is not None
        return lane_write(data, now_ns)

    connection._lane_write = counted
    client.speak(pcm(160))
    assert taken == [320]
    assert service.all_streams[0].pcm == client.audio


def test_partials_that_the_hello_refused_do_not_come_back(
    rig: Rig, service: CountingService
) -> None:
    client = ResumingClient(rig, Hello(resumable=True, partials=False))
    client.speak(pcm(320))
    client.vanish()
    client.resume()
    service.partial(service.all_streams[0], "no")
    rig.settle()
    assert client.connection.of(Partial) == []


@pytest.mark.parametrize("frame_bytes", [4, 8])
def test_another_format_goes_on_in_it(rig: Rig, service: CountingService, frame_bytes: int) -> None:
    hello = Hello(resumable=True, channels=frame_bytes // 2, sample_rate_hz=48_000)
    client = ResumingClient(rig, hello)
    client.speak(bytes(frame_bytes * 4_800))
    client.vanish()
    answer = client.resume()
    assert isinstance(answer, Resumed)
    assert answer.client_samples == 4_800
    for _ in range(3):
        client.speak(bytes(frame_bytes * 1_600))
    client.bye()
    assert (closed(client).client_samples, closed(client).ring_samples) == (9_600, 3_200)


def test_a_blocked_stream_goes_on_too(rig: Rig, service: CountingService) -> None:
    service.auto_credit = False
    client = ResumingClient(rig)
    client.speak(pcm(40_000))
    client.vanish()
    stream = service.all_streams[0]
    while stream.samples < 40_000 and rig.worker.router.open_streams[0].is_blocked:
        service.credit(stream)
        rig.settle()
    answer = client.resume()
    assert isinstance(answer, Resumed)
    while stream.samples < 40_000:
        service.credit(stream)
        rig.settle()
    assert stream.pcm == client.audio


def test_what_was_lost_of_a_live_stream_is_said_once(rig: Rig, service: CountingService) -> None:
    service.auto_credit = False
    client = ResumingClient(rig, Hello(resumable=True, live=True))
    for _ in range(3):
        client.speak(pcm(7_000))
    client.vanish()
    client.events.clear()
    client.resume()
    client.listen()
    (overflow,) = [event for event in client.events if isinstance(event, Overflow)]
    assert (overflow.first_client_sample, overflow.num_client_samples) == (14_000, 7_000)


def say(client: ResumingClient, step: tuple[str, int], cut_after: int | None) -> None:
    kind, number = step
    if kind == "speak":
        client.speak(pcm(number, number), cut_after)
    else:
        client.finalize(cut_after)


STEPS = st.lists(
    st.tuples(
        st.tuples(st.sampled_from(["speak", "speak", "finalize"]), st.integers(1, 700)),
        st.one_of(st.none(), st.integers(0, 4_000)),
        st.booleans(),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, bye_cut=st.one_of(st.none(), st.integers(0, 40)), reads=st.booleans())
def test_any_cuts_anywhere_change_nothing(
    steps: list[tuple[tuple[str, int], int | None, bool]], bye_cut: int | None, reads: bool
) -> None:
    rig = Rig(resume_window_ms=WINDOW_MS)
    service = rig.add_service()
    client = ResumingClient(rig)
    for step, cut_after, acknowledges in steps:
        say(client, step, cut_after)
        if acknowledges and cut_after is None:
            client.acknowledge()
        if cut_after is not None:
            if not reads:
                _lose_unacknowledged(rig, client)
            assert isinstance(client.resume(), Resumed)
    client.bye(bye_cut)
    if bye_cut is not None:
        assert isinstance(client.resume(), Resumed)
    _check(client, service)
    client.acknowledge()
    assert rig.worker.parking._by_id == {}
    rig.close()


def _lose_unacknowledged(rig: Rig, client: ResumingClient) -> None:
    """As if the client had not read what was under way when it lost its connection."""
    (channel,) = rig.worker.parking._by_id.values()
    assert channel.session is not None
    del client.events[channel.session.kept.first_number :]


def _check(client: ResumingClient, service: CountingService) -> None:
    client.listen()
    finals = [event for event in client.events if isinstance(event, Final)]
    assert [final.finalize_id for final in finals] == list(range(len(client.finalizes)))
    assert [final.end_sample for final in finals] == client.finalizes
    record = closed(client)
    assert record.reason == "client"
    assert record.client_samples == len(client.audio) // 2
    assert record.client_samples == record.ring_samples == record.engine_samples
    if client.audio:
        assert service.all_streams[0].pcm == client.audio
    assert len(service.all_streams) == bool(client.audio)


def test_pings_are_answered_on_every_connection(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig)
    client.vanish()
    connection = rig.connect()
    connection.send(Resume(resume_token=client.started.resume_token, events_received=0), Ping(5))
    rig.settle()
    assert [type(event) for event in connection.events] == [Resumed, Pong]
    connection.send(Bye())
    rig.settle()
    assert connection.of(Closed)
    assert not connection.of(Started)
