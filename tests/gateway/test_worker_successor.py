"""A worker is gone without a word; another begins over its arena, and clients go on there.

Whole workers in one thread (rig.py). Deaths between any two stores are in test_journal_recovery.py,
real processes in tests/system/test_worker_resume.py.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gateway.journal_recovery import MAX_ATTEMPTS, SURVIVED_NS
from gateway.worker_start import recover
from protocol.client_messages import Bye, Closed, Error, Hello, Resumed
from protocol.errors import ErrorCode
from protocol.journal import JOURNAL_BYTES, Journal

from .resuming import WINDOW_MS, ResumingClient, pcm, texts
from .rig import Rig
from .scripted import CountingQuota, gatekeeper_of

RESUMABLE = Hello(resumable=True)


class Line:
    """Workers over one arena, one behind the other."""

    def __init__(self) -> None:
        self.rigs: list[Rig] = []
        self.next(first=True)

    @property
    def rig(self) -> Rig:
        return self.rigs[-1]

    def next(self, *, first: bool = False, gatekeeper: Any = None, service: bool = True) -> Rig:
        """The present worker dies; another begins with what it left."""
        left = b"" if first else bytes(self.rig.arena)
        rig = Rig(resume_window_ms=WINDOW_MS, journal_bytes=JOURNAL_BYTES, arena=left)
        self.rigs.append(rig)
        if gatekeeper is not None:
            rig.worker.door.gatekeeper = gatekeeper
        recover(rig.worker, rig.layout, rig.arena)
        if service:
            rig.add_service()
        return rig

    def damage(self, slot: int) -> None:
        """A byte of a snapshot is not what was written."""
        view = self.rig.layout.journal(self.rig.arena, slot)
        half = 64 + (view[4] & 1) * ((JOURNAL_BYTES - 64) // 2)
        view[half + 40] ^= 0xFF


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    for rig in line.rigs:
        rig.close()


def heard_audio(rig: Rig) -> bytes:
    """What the service of this worker got of its newest stream."""
    return bytes(rig.services[-1].all_streams[-1].pcm)


def goes_on(client: ResumingClient, rig: Rig) -> Resumed:
    client.rig = rig
    answer = client.resume(rig)
    assert isinstance(answer, Resumed), answer
    return answer


def code_at(client: ResumingClient, rig: Rig) -> ErrorCode:
    client.rig = rig
    answer = client.resume(rig)
    assert isinstance(answer, Error), answer
    return answer.code


def test_a_session_goes_on_at_the_successor(line: Line) -> None:
    client = ResumingClient(line.rig, RESUMABLE)
    client.speak(pcm(3_000))
    client.finalize()
    client.speak(pcm(500, seed=2))
    second = line.next()
    assert second.worker.parking.num_parked == 1
    answer = goes_on(client, second)
    assert (answer.client_samples, answer.finalizes_received) == (3_500, 1)
    assert answer.session_id == client.started.session_id
    client.speak(pcm(700, seed=3))
    client.finalize()
    client.bye()
    assert heard_audio(second) == client.audio
    assert second.services[-1].all_streams[-1].open.generation == 2
    assert texts(client) == ["3000 samples", "4200 samples"]
    record = client.events[-1]
    assert isinstance(record, Closed)
    assert (record.socket_samples, record.ring_samples, record.engine_samples) == (4_200,) * 3


def test_it_goes_on_through_many_workers_and_without_a_service_at_first(line: Line) -> None:
    client = ResumingClient(line.rig, RESUMABLE)
    client.speak(pcm(1_000))
    for number in range(4):
        rig = line.next(service=False)
        assert goes_on(client, rig).client_samples == 1_000 * (number + 1)
        client.speak(pcm(1_000, seed=number))
        rig.worker.router.open_streams[0].watermark()  # nobody takes the audio, nobody notes it
    line.rig.add_service()
    line.rig.settle()
    client.bye()
    assert heard_audio(line.rig) == client.audio


def test_what_was_under_way_is_sent_again_and_taken_once(line: Line) -> None:
    client = ResumingClient(line.rig, RESUMABLE)
    client.speak(pcm(2_000))
    client.audio += pcm(400, seed=2)  # these never leave it
    client.finalizes.append(2_400)
    second = line.next()
    answer = goes_on(client, second)
    assert answer.client_samples == 2_000
    assert answer.finalizes_received == 0
    client.bye()
    assert heard_audio(second) == client.audio
    assert texts(client) == ["2400 samples"]


def test_events_that_were_not_read_come_again(line: Line) -> None:
    client = ResumingClient(line.rig, RESUMABLE)
    client.speak(pcm(1_000))
    client.connection.session.send_audio(pcm(10))
    client.audio += pcm(10)
    client.finalize()
    client.connection.events.clear()  # as if it had not read them
    client.connection.sock.close()
    second = line.next()
    goes_on(client, second)
    assert texts(client) == ["1010 samples"]


def test_a_session_in_another_format_hears_a_little_again(line: Line) -> None:
    client = ResumingClient(line.rig, Hello(resumable=True, sample_rate_hz=48_000))
    tone = (np.sin(np.arange(48_000) / 20) * 9_000).astype("<i2").tobytes()
    client.speak(tone[:60_000])
    second = line.next()
    answer = goes_on(client, second)
    assert 0 < answer.client_samples < 30_000 - 4_800
    client.speak(tone[60_000:])
    client.finalize()
    client.bye()
    undisturbed = ResumingClient(second, Hello(sample_rate_hz=48_000))
    undisturbed.speak(tone)
    undisturbed.bye()
    ours, expected = (
        np.frombuffer(bytes(stream.pcm), "<i2").astype(int)
        for stream in second.services[-1].all_streams
    )
    assert len(ours) == len(expected) == 16_000
    assert np.abs(ours - expected).max() <= 2
    client.listen()
    record = client.events[-1]
    assert isinstance(record, Closed)
    assert record.client_samples == 48_000
    assert (record.socket_samples, record.ring_samples, record.engine_samples) == (16_000,) * 3


def test_after_bye_the_successor_decodes_the_rest(line: Line) -> None:
    line.rig.services[0].auto_close = False
    client = ResumingClient(line.rig, RESUMABLE)
    client.speak(pcm(1_000))
    client.bye()
    second = line.next()
    answer = goes_on(client, second)
    assert (answer.bye_received, answer.client_samples) == (True, 1_000)
    client.listen()
    assert isinstance(client.events[-1], Closed)


def test_a_session_that_has_ended_waits_for_its_acknowledgement(line: Line) -> None:
    client = ResumingClient(line.rig, RESUMABLE)
    client.speak(pcm(1_000))
    client.bye()
    before = list(client.events)
    client.connection.events.clear()
    client.connection.sock.close()
    second = line.next()
    assert second.worker.admission.slots.num_free == 4
    answer = goes_on(client, second)
    assert (answer.bye_received, answer.client_samples) == (True, 1_000)
    client.listen()
    (record,) = client.events[len(before) :]
    assert isinstance(record, Closed)
    client.acknowledge()
    third = line.next()
    assert third.worker.parking.num_parked == 0
    assert code_at(client, third) is ErrorCode.RESUME_FAILED


@pytest.mark.parametrize("rate_hz", [16_000, 48_000, 8_000])
@pytest.mark.parametrize("fails", [True, False])
def test_what_a_session_without_a_bye_had_sent_is_told_in_its_own_samples(
    line: Line, rate_hz: int, fails: bool
) -> None:
    """Its service was lost for good, or gave it up: an error ends it."""
    service = line.rig.services[0]
    client = ResumingClient(line.rig, Hello(resumable=True, sample_rate_hz=rate_hz))
    client.speak(pcm(rate_hz // 2 + 100))
    if fails:
        service.auto_close = False
        service.fail(service.all_streams[0])
    else:
        service.sock.close()
    line.rig.settle()
    for _ in range(2):
        client.connection.events.clear()  # as if it had not read them
        answer = goes_on(client, line.next())
        assert (answer.bye_received, answer.client_samples) == (True, rate_hz // 2 + 100)
        (error,) = client.connection.of(Error)
        assert error.code is (ErrorCode.INTERNAL if fails else ErrorCode.SERVICE_LOST)
    client.acknowledge()
    assert line.next().worker.parking.num_parked == 0


@pytest.mark.parametrize("comes_back", [True, False])
def test_an_error_while_audio_waited_for_room_still_ends_the_session(
    line: Line, comes_back: bool
) -> None:
    """Its Close stood behind that audio. The client has the error already, so it is not told
    again; whether it comes or not, the slot is free in the end.
    """
    service = line.rig.services[0]
    service.auto_credit = service.auto_close = False
    client = ResumingClient(line.rig, RESUMABLE)
    for _ in range(2):
        client.speak(pcm(15_000))  # the ring holds 16000
    service.fail(service.all_streams[0])
    line.rig.settle()
    client.resume()  # behind the error
    second = line.next()
    assert second.worker.parking.num_parked == 1
    third = line.next()  # another death on the way
    if comes_back:
        assert goes_on(client, third).bye_received
        client.acknowledge()
        assert [type(event) for event in client.events] == [Error, Closed]
    else:
        third.settle()
        third.clock.advance_ms(WINDOW_MS + 1)
        third.settle()
    assert third.worker.router.open_streams == ()
    assert third.worker.admission.slots.num_free == 4
    assert third.worker.metrics.accounting_mismatch.value == 0, "what waited is known to be lost"
    assert line.next().worker.parking.num_parked == 0


def test_its_slot_may_be_taken_before(line: Line) -> None:
    """Of what has ended less is promised than of what goes on."""
    client = ResumingClient(line.rig, RESUMABLE)
    client.speak(pcm(1_000))
    client.bye()
    others = [ResumingClient(line.rig, RESUMABLE) for _ in range(4)]
    for other in others[:3]:
        other.speak(pcm(10))
    assert line.next().worker.parking.num_parked == 4
    line.rig.services[-1].auto_credit = False
    ResumingClient(line.rig, RESUMABLE).speak(pcm(10))
    assert line.next().worker.parking.num_parked == 4
    assert code_at(client, line.rig) is ErrorCode.RESUME_FAILED
    assert goes_on(others[0], line.rig).client_samples == 10


def test_other_sessions_are_not_kept(line: Line) -> None:
    plain = ResumingClient(line.rig, Hello())
    plain.speak(pcm(1_000))
    silent = ResumingClient(line.rig, RESUMABLE)  # has no slot yet
    second = line.next()
    assert second.worker.parking.num_parked == 0
    assert second.worker.admission.slots.num_free == 4
    assert code_at(silent, second) is ErrorCode.RESUME_FAILED


def test_the_window_begins_anew(line: Line) -> None:
    client = ResumingClient(line.rig, RESUMABLE)
    client.speak(pcm(1_000))
    line.rig.clock.advance_ms(WINDOW_MS - 1)
    client.vanish()
    second = line.next()
    second.clock.advance_ms(WINDOW_MS - 1)
    second.settle()
    assert second.worker.parking.num_parked == 1
    second.clock.advance_ms(2)
    second.settle()
    assert second.worker.parking.num_parked == 0
    assert second.worker.router.open_streams == ()
    assert second.worker.metrics.sessions_open.labels("native").value == 0
    assert line.next().worker.parking.num_parked == 0


def test_a_session_counts_for_its_token_again(line: Line) -> None:
    client_hello = Hello(resumable=True, token="secret")
    quota = CountingQuota()
    line.rig.worker.door.gatekeeper = gatekeeper_of("secret", quota)
    client = ResumingClient(line.rig, client_hello)
    client.speak(pcm(1_000))
    assert quota.open == 1
    quota.open = 0  # as the parent does for a dead worker
    second = line.next(gatekeeper=gatekeeper_of("secret", quota))
    assert quota.open == 1
    client.rig = second
    answer = client.resume(second, token="secret")
    assert isinstance(answer, Resumed)
    assert second.services[-1].all_streams[-1].open.group == 1, "and for its share of the drafts"
    assert b"secret" not in bytes(second.arena)
    client.bye()
    assert quota.open == 0


def test_a_session_whose_token_is_gone_is_forgotten(line: Line) -> None:
    quota = CountingQuota()
    line.rig.worker.door.gatekeeper = gatekeeper_of("secret", quota)
    client = ResumingClient(line.rig, Hello(resumable=True, token="secret"))
    client.speak(pcm(1_000))
    second = line.next()
    assert second.worker.parking.num_parked == 0
    assert second.worker.admission.slots.num_free == 4
    assert line.next(gatekeeper=gatekeeper_of("secret", quota)).worker.parking.num_parked == 0


def test_a_damaged_journal_concerns_its_session_alone(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    clients = [ResumingClient(line.rig, RESUMABLE) for _ in range(2)]
    for client in clients:
        client.speak(pcm(1_000))
    line.damage(0)
    with caplog.at_level(logging.INFO, "earwire.gateway"):
        second = line.next()
    assert "the session of slot 0 cannot go on: entry 0" in caplog.text
    assert "1 sessions of a dead worker wait" in caplog.text
    assert second.worker.admission.slots.num_free == 3
    assert code_at(clients[0], second) is ErrorCode.RESUME_FAILED
    assert goes_on(clients[1], second).client_samples == 1_000
    fresh = ResumingClient(second, RESUMABLE)
    fresh.speak(pcm(50))
    assert heard_audio(second) == fresh.audio


def test_a_session_over_which_workers_die_is_given_up(line: Line) -> None:
    client = ResumingClient(line.rig, RESUMABLE)
    client.speak(pcm(1_000))
    for _ in range(MAX_ATTEMPTS):
        assert line.next(service=False).worker.parking.num_parked == 1
    assert line.next(service=False).worker.parking.num_parked == 0
    view = line.rig.layout.journal(line.rig.arena, 0)
    assert Journal(view).is_empty


def test_a_session_with_which_a_worker_lives_is_not_what_kills_them(line: Line) -> None:
    client = ResumingClient(line.rig, RESUMABLE)
    client.speak(pcm(1_000))
    for _ in range(2 * MAX_ATTEMPTS):
        rig = line.next(service=False)
        assert rig.worker.parking.num_parked == 1
        rig.clock.advance_ms(SURVIVED_NS // 1_000_000)
        rig.settle()


def test_a_worker_without_journals_recovers_nothing() -> None:
    rig = Rig(resume_window_ms=WINDOW_MS)
    rig.add_service()
    client = ResumingClient(rig, RESUMABLE)
    client.speak(pcm(100))
    client.connection.send(Bye())
    recover(rig.worker, rig.layout, rig.arena)
    rig.close()
