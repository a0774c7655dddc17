"""A session outlives its connections: nothing lost, nothing twice, whenever and however often the
connection is cut; and it ends when its client has all, or does not come back in time.

Through a whole worker (rig.py). Other workers are in test_elsewhere.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.dialects.native import NativeDialect
from gateway.kept_events import MAX_KEPT_EVENT_BYTES
from gateway.outbox import MAX_OUT_BYTES
from gateway.parking import MAX_PARKED_WITHOUT_SLOT
from protocol import service_messages
from protocol.client_messages import (
    Ack,
    Audio,
    Bye,
    Closed,
    Error,
    Final,
    Hello,
    Overflow,
    Partial,
    Ping,
    Pong,
    Resume,
    Resumed,
    Started,
    Watermark,
    encode_payload,
)
from protocol.errors import ErrorCode

from .counting_service import CountingService
from .resuming import ResumingClient
from .rig import Rig
from .scripted import CountingQuota, gatekeeper_of

WINDOW_MS = 30_000


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(resume_window_ms=WINDOW_MS)
    yield rig
    rig.close()


@pytest.fixture
def service(rig: Rig) -> CountingService:
    return rig.add_service()


def pcm(num_samples: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(2 * num_samples)


def code_of(answer: Resumed | Error) -> ErrorCode:
    assert isinstance(answer, Error)
    return answer.code


def texts(client: ResumingClient) -> list[str]:
    client.listen()
    return [event.text for event in client.events if isinstance(event, Final)]


def closed(client: ResumingClient) -> Closed:
    client.listen()
    record = client.events[-1]
    assert isinstance(record, Closed)
    return record


def resumes(rig: Rig, outcome: str) -> int:
    return int(rig.worker.metrics.resumes.labels(outcome).value)


# The promise


def test_audio_goes_on_where_it_was_cut(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
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


def test_what_was_said_meanwhile_is_heard(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
    client.vanish()
    stream = service.all_streams[0]
    service.partial(stream, "a draft that nobody hears")
    service.final(stream)
    rig.settle()
    assert texts(client) == []
    client.resume()
    assert texts(client) == ["320 samples"]
    assert client.connection.of(Partial) == []


def test_the_audio_lane_is_open_again(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
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


# The end of a session


def test_after_bye_the_rest_is_kept_until_it_is_acknowledged(
    rig: Rig, service: CountingService
) -> None:
    service.auto_close = False
    client = ResumingClient(rig)
    client.speak(pcm(320))
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
    rig: Rig, service: CountingService
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
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
    rig: Rig, service: CountingService, is_parked: bool
) -> None:
    """Its acknowledgement was lost with its connection: the number in the resume is one."""
    client = ResumingClient(rig)
    client.speak(pcm(320))
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
    rig: Rig, service: CountingService
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
    client.vanish()
    stream = service.all_streams[0]
    service.fail(stream)
    rig.settle()
    client.resume()
    client.listen()
    assert [type(event) for event in client.events] == [Error, Closed]
    client.acknowledge()
    assert client.connection.saw_end


def test_who_does_not_come_back_in_time_has_vanished(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
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


def test_the_window_begins_when_the_connection_is_lost(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
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
    rig: Rig, service: CountingService
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
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


def test_a_drain_tells_an_open_session_as_ever(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
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
    rig: Rig, service: CountingService, message: Any
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
    client.connection.session.state = client.connection.session.state.AWAIT_HELLO
    client.connection.session._queue(message.TYPE, encode_payload(message))
    client.connection.flush()
    rig.settle()
    assert rig.worker.parking.num_parked == 0
    assert service.all_streams[0].closed is not None
    assert code_of(client.resume()) is ErrorCode.RESUME_FAILED


# Connections that are lost in other ways


def test_a_connection_that_nobody_noticed_is_dead_is_cut(
    rig: Rig, service: CountingService
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
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


def test_a_silent_client_is_parked_and_not_told_an_error(
    rig: Rig, service: CountingService
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
    rig.clock.advance_ms(60_000)
    rig.settle()
    client.listen()
    assert client.events == []
    assert client.connection.saw_end
    assert isinstance(client.resume(), Resumed)
    client.bye()
    assert closed(client).engine_samples == 320


def test_a_slow_reader_is_parked_and_may_go_on(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
    (connection,) = rig.worker.door._connections
    connection._out._data += bytes(MAX_OUT_BYTES)
    service.final(service.all_streams[0])
    rig.settle()
    assert rig.worker.slow_readers == 1
    assert rig.worker.parking.num_parked == 1
    client.events.clear()
    assert isinstance(client.resume(), Resumed)
    assert texts(client) == ["320 samples"]


@pytest.mark.parametrize("is_here", [True, False])
def test_a_client_that_acknowledges_nothing_loses_its_session(
    rig: Rig, service: CountingService, is_here: bool
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
    if not is_here:
        client.vanish()
    stream = service.all_streams[0]
    for number in range(12):
        service.send(
            service_messages.Final(
                stream.open.slot, stream.open.generation, 320, number, number, number + 1,
                "x" * 100_000,
            )
        )  # fmt: skip
        rig.settle()
    assert stream.closed is not None
    assert stream.closed.reason == "slow_reader"
    if is_here:
        assert [error.code for error in client.connection.of(Error)] == [ErrorCode.SLOW_READER]
    else:
        assert code_of(client.resume()) is ErrorCode.RESUME_FAILED


def test_acknowledged_events_are_not_kept(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
    for _ in range(3):
        client.finalize()
    client.acknowledge()
    channel = next(iter(rig.worker.parking._by_id.values()))
    assert channel.session is not None
    assert channel.session.kept.is_empty
    client.vanish()
    failed = client.resume(events_received=2)
    assert code_of(failed) is ErrorCode.RESUME_FAILED
    assert isinstance(client.resume(), Resumed)


# Who may resume


def without(client: ResumingClient, part: int) -> str:
    parts = client.started.resume_token.split(".")
    parts[part] = {0: "1", 1: "0-ff", 2: "0" * 32}[part]
    return ".".join(parts)


@pytest.mark.parametrize("wrong", ["", "nonsense", 0, 1, 2])
def test_a_wrong_token_is_refused_and_the_session_waits_on(
    rig: Rig, service: CountingService, wrong: Any
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
    client.vanish()
    token = without(client, wrong) if isinstance(wrong, int) else wrong
    stranger = client.knock(rig, resume_token=token)
    assert [error.code for error in stranger.of(Error)] == [ErrorCode.RESUME_FAILED]
    assert stranger.saw_end
    assert isinstance(client.resume(), Resumed)


@pytest.mark.parametrize("number", [1, 2**40])
def test_events_that_were_never_sent_are_not_acknowledged(
    rig: Rig, service: CountingService, number: int
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
    client.vanish()
    assert code_of(client.resume(events_received=number)) is ErrorCode.RESUME_FAILED
    assert isinstance(client.resume(), Resumed)


def test_the_tokens_of_the_server_hold_for_a_resume(service: CountingService, rig: Rig) -> None:
    quota = CountingQuota()
    rig.worker.door.gatekeeper = gatekeeper_of("secret", quota)
    client = ResumingClient(rig, Hello(resumable=True, token="secret"))
    client.speak(pcm(320))
    client.vanish()
    assert quota.open == 1, "a parked session is a session of its token"
    assert code_of(client.resume()) is ErrorCode.UNAUTHORIZED
    assert rig.worker.metrics.refused.labels("unauthorized").value == 1
    assert isinstance(client.resume(token="secret"), Resumed)
    assert quota.open == 1
    client.bye()
    assert quota.open == 0, "not the acknowledgement counts"


def test_a_server_without_a_window_promises_nothing() -> None:
    rig = Rig()
    service = rig.add_service()
    client = ResumingClient(rig)
    assert (client.started.resume_token, client.started.limits.resume_window_ms) == ("", 0)
    client.speak(pcm(320))
    client.acknowledge()
    assert client.connection.of(Error) == []
    client.vanish()
    assert service.all_streams[0].closed is not None
    rig.close()


def test_a_client_that_does_not_ask_is_not_kept(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig, Hello())
    assert client.started.resume_token == ""
    assert client.started.limits.resume_window_ms == WINDOW_MS
    client.speak(pcm(320))
    client.vanish()
    assert service.all_streams[0].closed is not None


def test_each_session_has_its_own_secret(rig: Rig, service: CountingService) -> None:
    tokens = {ResumingClient(rig).started.resume_token for _ in range(4)}
    assert len({token.split(".")[2] for token in tokens}) == 4
    kept = [channel.session for channel in rig.worker.parking._by_id.values()]
    assert not any(
        bytes.fromhex(token.split(".")[2]) in session.digest
        for token in tokens for session in kept if session is not None
    )  # fmt: skip


# What is bounded


def test_a_session_without_audio_waits_without_a_slot(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig)
    client.vanish()
    assert rig.worker.admission.slots.num_free == 4
    answer = client.resume()
    assert isinstance(answer, Resumed)
    assert answer.client_samples == 0
    client.speak(pcm(320))
    client.bye()
    assert closed(client).engine_samples == 320


def test_of_sessions_without_a_slot_the_oldest_is_forgotten(
    rig: Rig, service: CountingService
) -> None:
    speaking = ResumingClient(rig)
    speaking.speak(pcm(320))
    speaking.vanish()
    first = ResumingClient(rig)
    first.vanish()
    for _ in range(MAX_PARKED_WITHOUT_SLOT):
        ResumingClient(rig).vanish()
    assert rig.worker.parking.num_parked == MAX_PARKED_WITHOUT_SLOT + 1
    assert code_of(first.resume()) is ErrorCode.RESUME_FAILED
    assert isinstance(speaking.resume(), Resumed)


def test_watermarks_come_by_audio_too(rig: Rig, service: CountingService) -> None:
    """The clock stands still, as it may while a fast engine decodes a file."""
    client = ResumingClient(rig)
    for second in range(25):
        client.speak(pcm(16_000, second))
    told = [mark.client_samples for mark in client.connection.of(Watermark)]
    assert told[-1] >= 240_000 - 16_000 * 10
    assert len(told) >= 2


# Any cut


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


def test_all_that_may_be_kept_is_no_backlog_when_it_is_said_again(
    rig: Rig, service: CountingService
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
    client.vanish()
    stream = service.all_streams[0]
    for number in range(7):
        service.send(
            service_messages.Final(
                stream.open.slot, stream.open.generation, 320, number, number, number + 1,
                "x" * 131_072,
            )
        )  # fmt: skip
        rig.settle()
    (channel,) = rig.worker.parking._by_id.values()
    assert channel.session is not None
    assert channel.session.kept._num_bytes > 0.9 * MAX_KEPT_EVENT_BYTES
    assert isinstance(client.resume(), Resumed)
    assert [len(text) for text in texts(client)] == [131_072] * 7
    assert rig.worker.slow_readers == 0


def test_a_session_that_breaks_off_while_it_is_taken_over_is_over(
    rig: Rig, service: CountingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = ResumingClient(rig)
    client.speak(pcm(320))
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
