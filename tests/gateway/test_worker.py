"""The whole worker in one thread: native clients, a counting service, everything between."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from protocol.client_messages import (
    Bye,
    Closed,
    Error,
    Final,
    Finalize,
    Hello,
    Started,
)
from protocol.errors import ErrorCode

from .rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def pcm(num_samples: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(2 * num_samples)


def assert_counts_agree(closed: Closed) -> None:
    assert closed.socket_samples == closed.ring_samples + closed.lost_samples
    assert closed.ring_samples == closed.engine_samples


def test_audio_reaches_the_service_and_finals_come_back(rig: Rig) -> None:
    service = rig.add_service()
    client = rig.connect(Hello(client="test"))
    started = client.of(Started)[0]
    assert started.model == "tiny.en"
    audio = pcm(8_000)
    for start in range(0, len(audio), 640):
        client.send_audio(audio[start : start + 640])
        rig.settle()
    client.send(Finalize(finalize_id=7), Bye())
    rig.settle()
    assert service.all_streams[0].pcm == audio
    final = client.of(Final)[0]
    assert (final.finalize_id, final.text, final.audio_received) == (7, "8000 samples", 8_000)
    closed = client.of(Closed)[0]
    assert (closed.reason, closed.client_samples, closed.engine_samples) == ("client", 8_000, 8_000)
    assert_counts_agree(closed)
    assert client.saw_end
    assert rig.worker.metrics.accounting_mismatch.value == 0


def test_a_turn_is_one_samples_frame(rig: Rig) -> None:
    service = rig.add_service()
    clients = [rig.connect(Hello()) for _ in range(3)]
    for client in clients:
        client.send_audio(pcm(320))
    rig.settle()
    service.sample_frames = 0
    for client in clients:
        client.send_audio(pcm(320))
        client.send_audio(pcm(320))
    rig.settle()
    assert service.sample_frames == 1
    assert [r.num_samples for r in service.records[-3:]] == [640, 640, 640]


def test_no_service_or_no_slot_is_a_retryable_refusal(rig: Rig) -> None:
    early = rig.connect(Hello())
    assert early.of(Error)[0].code is ErrorCode.AT_CAPACITY
    rig.add_service(max_streams=2)
    speaking = [rig.connect(Hello()), rig.connect(Hello())]
    waiting = rig.connect(Hello())
    for client in speaking:
        client.send_audio(pcm(320))
    rig.settle()
    late = rig.connect(Hello())
    waiting.send_audio(pcm(320))
    rig.settle()
    for client in (late, waiting):
        error = client.of(Error)[0]
        assert error.code is ErrorCode.AT_CAPACITY
        assert error.retryable
        assert error.retry_after_ms
        assert client.saw_end
    assert not speaking[0].of(Error)


def test_a_dead_service_ends_its_streams_with_a_retryable_error(rig: Rig) -> None:
    service = rig.add_service()
    client = rig.connect(Hello())
    client.send_audio(pcm(320))
    rig.settle()
    service.sock.close()
    rig.settle()
    error = client.of(Error)[0]
    assert (error.code, error.retryable) == (ErrorCode.SERVICE_LOST, True)
    assert client.saw_end
    assert rig.worker.admission.slots.num_free == 4
    rig.add_service(epoch=1)
    again = rig.connect(Hello())
    again.send_audio(pcm(320))
    rig.settle()
    assert not again.of(Error)


def test_streams_go_to_the_service_with_the_fewest(rig: Rig) -> None:
    services = [rig.add_service(0), rig.add_service(1)]
    for _ in range(4):
        client = rig.connect(Hello())
        client.send_audio(pcm(320))
        rig.settle()
    assert [len(service.all_streams) for service in services] == [2, 2]


def test_an_error_of_one_stream_leaves_the_others(rig: Rig) -> None:
    service = rig.add_service()
    bad, good = rig.connect(Hello()), rig.connect(Hello())
    for client in (bad, good):
        client.send_audio(pcm(320))
        rig.settle()
    service.fail(service.all_streams[0])
    rig.settle()
    assert bad.of(Error)[0].code is ErrorCode.INTERNAL
    assert bad.of(Closed)[0].reason == "internal"
    assert bad.saw_end
    good.send_audio(pcm(320))
    good.send(Bye())
    rig.settle()
    assert good.of(Closed)[0].ring_samples == 640


def test_drain_gives_open_streams_their_finals_and_then_stops(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_close = False
    speaking, silent = rig.connect(Hello()), rig.connect()
    speaking.send_audio(pcm(320))
    rig.settle()
    rig.worker.drain()
    rig.settle()
    late = rig.connect(Hello())
    for client in (silent, late):
        assert client.of(Error)[0].code is ErrorCode.DRAINING
        client.sock.close()
    stream = service.all_streams[0]
    assert stream.closed is not None
    assert stream.closed.reason == "draining"
    service.final(stream)
    service.close(stream)
    rig.settle()
    assert speaking.of(Final)
    assert speaking.of(Closed)[0].reason == "draining"
    speaking.sock.close()
    rig.settle()
    rig.worker.loop.run()  # returns, because the worker has stopped it


def test_too_many_connections_are_refused(rig: Rig) -> None:
    rig.add_service()
    for _ in range(64):
        rig.connect()
    client = rig.connect()
    rig.settle()
    assert client.of(Error)[0].code is ErrorCode.AT_CAPACITY
    assert client.saw_end
