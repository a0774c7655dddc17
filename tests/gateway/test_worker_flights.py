"""The flight recorder inside a whole worker: what the router tells it, and what lands on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import FlightSettings
from gateway.flight_recorder import NO_RECORDER
from gateway.stream import Stream
from protocol.client_messages import (
    Bye,
    Closed,
    EndOfTurn,
    Final,
    Finalize,
    Hello,
    SpeechStarted,
)
from protocol.flight_record import FlightRecord, Reason, RecordedControl, decode_record
from protocol.service_messages import Final as ServiceFinal
from protocol.service_messages import SpeechStarted as ServiceSpeechStarted
from protocol.service_messages import StreamClosed

from .counting_service import CountedStream
from .rig import Rig
from .test_flight_files import join_writers
from .test_flight_recorder import SERVER, Owner
from .test_worker import pcm


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    tmp_path.chmod(0o700)
    settings = FlightSettings(
        folder=str(tmp_path), max_bytes=10_000_000, lag_ms=2_000, server=SERVER
    )
    rig = Rig(ring_samples=100_000, flight_recorder=settings)
    yield rig
    rig.close()


def records(folder: Path) -> list[FlightRecord]:
    join_writers()
    return [decode_record(path.read_bytes()) for path in sorted(folder.glob("*.flight"))]


def key(stream: CountedStream) -> tuple[int, int]:
    return stream.open.slot, stream.open.generation


def test_a_final_that_loops_is_on_disk_with_its_audio(rig: Rig, tmp_path: Path) -> None:
    service = rig.add_service()
    client = rig.connect(Hello(client="test", token="s3cret"))
    audio = pcm(40_000)
    client.send_audio(audio[:40_000])
    client.send(Finalize(finalize_id=7))
    client.send_audio(audio[40_000:])
    rig.settle()
    (stream,) = service.all_streams
    service.send(ServiceSpeechStarted(*key(stream), 9, 1, 20_000))
    service.send(ServiceFinal(*key(stream), 9, 1, 20_000, 40_000, "thank you " * 7))
    rig.settle()
    assert client.of(Final)[-1].text == "thank you " * 7
    (record,) = records(tmp_path)
    assert record.head.reason is Reason.REPEATED_WORDS
    assert record.head.session_id.startswith("0")
    assert record.head.dialect == "native"
    assert record.head.hello == Hello(client="test", model="tiny.en"), "without its token"
    assert bytes(record.pcm) == audio
    assert record.head.controls == (RecordedControl(at_sample=20_000, finalize_id=7),)
    assert [type(event) for _, event in record.events()] == [Final, SpeechStarted, Final]
    assert b"s3cret" not in next(tmp_path.glob("*.flight")).read_bytes()
    assert rig.worker.metrics.flight_records.labels("repeated_words").value == 1


def test_counts_that_differ_at_the_end(rig: Rig, tmp_path: Path) -> None:
    service = rig.add_service()
    service.auto_close = False
    client = rig.connect(Hello())
    client.send_audio(pcm(20_000))
    client.send(Bye())
    rig.settle()
    (stream,) = service.all_streams
    service.send(StreamClosed(*key(stream), 19_999))
    rig.settle()
    assert client.of(Closed)[0].engine_samples == 19_999
    (record,) = records(tmp_path)
    assert record.head.reason is Reason.MISMATCH
    assert record.head.num_samples == 20_000
    assert record.head.controls == (RecordedControl(at_sample=20_000, close_reason="client"),)
    (closed,) = (event for _, event in record.events())
    assert closed == client.of(Closed)[0]


def test_a_service_that_dies(rig: Rig, tmp_path: Path) -> None:
    service = rig.add_service()
    for _ in range(2):
        rig.connect(Hello()).send_audio(pcm(16_000))
    rig.settle()
    service.sock.close()
    rig.settle()
    assert [record.head.reason for record in records(tmp_path)] == [Reason.SERVICE_LOST] * 2


def test_a_stream_that_went_well_leaves_nothing(rig: Rig, tmp_path: Path) -> None:
    rig.add_service()
    client = rig.connect(Hello())
    client.send_audio(pcm(16_000))
    client.send(Finalize(finalize_id=1), Bye())
    rig.settle()
    assert client.of(Closed)
    assert records(tmp_path) == []


def test_without_a_folder_nothing_is_recorded() -> None:
    rig = Rig()
    assert rig.worker._recorder is None
    stream = Stream("s", Hello(), Owner(), None)
    NO_RECORDER.heard(stream, EndOfTurn(audio_received=0, audio_decoded=0, utterance=0,
                                        end_sample=0), 0)  # fmt: skip
    NO_RECORDER.service_lost([stream], 0)
    rig.close()
