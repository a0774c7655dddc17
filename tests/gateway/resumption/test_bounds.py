"""What is kept for sessions whose clients are away, or acknowledge nothing, has its bounds."""

from __future__ import annotations

import pytest

from gateway.kept_events import MAX_KEPT_EVENT_BYTES
from gateway.parking import MAX_PARKED_WITHOUT_SLOT
from protocol import service_messages
from protocol.client_messages import Error, Resumed, Watermark
from protocol.errors import ErrorCode
from protocol.journal import JOURNAL_BYTES, Contents

from ..counting_service import CountingService
from ..resuming import WINDOW_MS, ResumingClient, closed, code_of, pcm, texts
from ..rig import Rig


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


def say_much(rig: Rig, service: CountingService, num_finals: int, num_characters: int) -> None:
    """Long finals, one behind the other."""
    opened = service.all_streams[0].open
    for number in range(num_finals):
        place = 320, number, number, number + 1
        text = "x" * num_characters
        service.send(service_messages.Final(opened.slot, opened.generation, *place, text))
        rig.settle()


def test_all_that_may_be_kept_is_no_backlog_when_it_is_said_again(
    rig: Rig, service: CountingService, client: ResumingClient
) -> None:
    client.vanish()
    say_much(rig, service, 7, 131_072)
    (channel,) = rig.worker.parking._by_id.values()
    assert channel.session is not None
    assert channel.session.kept._num_bytes > 0.9 * MAX_KEPT_EVENT_BYTES
    assert isinstance(client.resume(), Resumed)
    assert [len(text) for text in texts(client)] == [131_072] * 7
    assert rig.worker.metrics.slow_readers.value == 0


def test_acknowledged_events_are_not_kept(rig: Rig, client: ResumingClient) -> None:
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


def test_an_acknowledgement_of_nothing_new_is_not_written_down() -> None:
    """It costs its client as little as us."""
    rig = Rig(resume_window_ms=WINDOW_MS, journal_bytes=JOURNAL_BYTES)
    rig.add_service()
    client = ResumingClient(rig)
    client.speak(pcm(320))
    for _ in range(3):
        client.finalize()
    journal = rig.worker.router.journals.journal(0)
    assert journal is not None
    client.acknowledge()
    before = journal.read()
    assert isinstance(before, Contents)
    for _ in range(3):
        client.acknowledge()
    assert journal.read() == before
    rig.close()


@pytest.mark.parametrize("is_here", [True, False])
def test_a_client_that_acknowledges_nothing_loses_its_session(
    rig: Rig, service: CountingService, client: ResumingClient, is_here: bool
) -> None:
    if not is_here:
        client.vanish()
    stream = service.all_streams[0]
    say_much(rig, service, 12, 100_000)
    assert stream.closed is not None
    assert stream.closed.reason == "slow_reader"
    if is_here:
        assert [error.code for error in client.connection.of(Error)] == [ErrorCode.SLOW_READER]
    else:
        assert code_of(client.resume()) is ErrorCode.RESUME_FAILED
