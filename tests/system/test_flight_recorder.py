"""What goes wrong in a real server is on disk afterwards, and `earwire replay` hears it again."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from clients.blocking import Client
from clients.session_feed import feed
from protocol.client_messages import Final, Hello, ServerMessage, encode_payload
from protocol.flight_record import (
    FlightRecord,
    Reason,
    RecordedControl,
    RecordedEvent,
    decode_record,
    encode_head,
)

from . import audio
from .audio import RATE_HZ
from .server import Server
from .waiting import wait_for

TIMEOUT_S = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the server."""
    return tmp_path_factory.mktemp("flights") / "records"


@pytest.fixture(scope="module")
def record_file(folder: Path) -> Iterator[Path]:
    """11 s of speech, one finalize in it, and then the service dies."""
    with Server("--threads", "2", "--flight-recorder", str(folder)) as server:
        with Client.connect(server.unix_url) as client:
            heard: list[ServerMessage] = []
            client.open(Hello(client="flight", language="en"))
            samples = audio.short_clip()
            blocks = [samples[i : i + 320].tobytes() for i in range(0, len(samples), 320)]
            place = 4 * RATE_HZ // 320
            feed(client, blocks[:place], heard.append, RATE_HZ)
            client.wait_final(client.finalize(), 30)
            feed(client, blocks[place:], heard.append, RATE_HZ)
            server.kill(server.services()[0])
            server.wait_log("service_lost")
        yield wait_for("a record", lambda: next(folder.glob("*service_lost.flight"), None))


def read(file: Path) -> FlightRecord:
    return decode_record(file.read_bytes())


def replay(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clients.cli", "replay", *map(str, arguments)],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip


def test_the_death_of_a_service_is_recorded_with_what_was_said(
    record_file: Path, folder: Path
) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(record_file.stat().st_mode) == 0o600
    record = read(record_file)
    assert record.head.reason is Reason.SERVICE_LOST
    hello = Hello(client="flight", language="en", model="tiny.en", resumable=True)
    assert record.head.hello == hello
    assert bytes(record.pcm) == audio.short_clip().tobytes()
    assert record.head.controls == (RecordedControl(at_sample=4 * RATE_HZ, finalize_id=1),)
    finals = [event for _, event in record.events() if isinstance(event, Final) and event.text]
    assert len(finals) >= 2


def test_a_replay_with_a_private_server_says_the_same(record_file: Path) -> None:
    done = replay(record_file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 different" in done.stdout


def test_a_replay_with_another_server_that_says_something_else(
    record_file: Path, server: Server, tmp_path: Path
) -> None:
    record = read(record_file)
    times, events = zip(*record.events(), strict=True)
    wrong = [structs.replace(e, text="other") if isinstance(e, Final) else e for e in events]
    recorded = tuple(
        RecordedEvent(time, event.TYPE, encode_payload(event))
        for time, event in zip(times, wrong, strict=True)
    )
    file = tmp_path / "wrong.flight"
    file.write_bytes(encode_head(structs.replace(record.head, events=recorded)) + record.pcm)
    done = replay(file, "--server", server.unix_url)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "other" in done.stdout
    assert "0 as recorded" in done.stdout


def test_the_audio_of_a_record(record_file: Path, tmp_path: Path) -> None:
    assert replay(record_file, "--wav", tmp_path / "out.wav").returncode == 0
    assert (tmp_path / "out.wav").read_bytes()[44:] == audio.short_clip().tobytes()
