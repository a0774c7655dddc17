"""`earwire replay` against a scripted server, and what it does without one."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import pytest
from msgspec import structs
from typer.testing import CliRunner

from clients.cli import app
from clients.replay_command import MAX_RECORD_BYTES, Options, describe, run
from protocol.client_messages import Audio, Final, Finalize, Hello
from protocol.flight_record import FlightRecord, encode_head

from ..protocol.test_flight_record import FILE, HEAD, PCM
from .server import Peer, closed, serving
from .test_replay import ONE, TWO, at, final, record_of


def write(path: Path, record: FlightRecord) -> Path:
    path.write_bytes(encode_head(record.head) + record.pcm)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(
        tmp_path / "a.flight", record_of(2_000, ONE, TWO, controls=[at(950, finalize_id=5)])
    )


def replay(
    file: Path, tmp_path: Path, finals: list[Final], realtime: bool = False
) -> tuple[int, list[object]]:
    """Exit status, and what the server was sent."""
    sent: list[object] = []

    def script(peer: Peer) -> None:
        sent.append(peer.start())
        sent.extend(peer.read_until_bye())
        peer.send(*finals, closed(2_000))

    with serving(script, tmp_path) as url:
        status = run(file, Options(url, realtime=realtime))
    return status, sent


def test_the_same_finals_are_status_0(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, sent = replay(file, tmp_path, [ONE, TWO])
    assert status == 0
    assert isinstance(sent[0], Hello)
    audio = [message for message in sent if isinstance(message, Audio)]
    assert b"".join(message.pcm for message in audio) == record_of(2_000).pcm
    place = next(n for n, message in enumerate(sent) if isinstance(message, Finalize))
    assert sum(len(m.pcm) for m in sent[:place] if isinstance(m, Audio)) == 2 * 950
    output = capsys.readouterr().out
    assert "empty_final in session 0abc-1 (openai), 2023-11-14 22:13:20 UTC" in output
    assert output.count("one") == output.count("two") == 2
    assert "2 as recorded, 0 different\n" in output


def test_another_final_is_status_1_and_both_are_shown(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = final(1_000, 1_900, "[bold]t\x1bw"), final(1_950, 2_000, "")
    status, _ = replay(file, tmp_path, [ONE, *other], realtime=True)
    assert status == 1
    output = capsys.readouterr().out
    (line,) = (line for line in output.splitlines() if "two" in line)
    assert "[bold]t�w" in line
    assert "!" in line
    assert "(no words)" in output
    assert "1 as recorded, 1 different, 1 not compared" in output


def test_a_record_says_what_it_lacks() -> None:
    lines = describe(FlightRecord(HEAD, PCM))
    assert lines[1] == "why; 0.0 s of audio from 0.0 s on"
    assert lines[2:] == [
        "0.0 s before that were overwritten already",
        "1 client samples were lost, and announced",
        "4 older events were dropped",
    ]


def test_the_audio_as_wav(tmp_path: Path) -> None:
    file = write(tmp_path / "a.flight", record_of(700))
    assert run(file, Options(wav=tmp_path / "a.wav")) == 0
    with wave.open(str(tmp_path / "a.wav")) as reader:
        assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (
            16_000,
            1,
            2,
        )
        assert reader.readframes(9_999) == record_of(700).pcm


def test_the_events_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.flight").write_bytes(FILE)
    assert run(tmp_path / "a.flight", Options(events=True)) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["head"]["server"]["model"] == "tiny.en"
    assert [line["control"]["at_sample"] for line in lines[1:4]] == [513, 514, 515]
    assert [line["type"] for line in lines[4:]] == ["Final", "Closed"]
    assert lines[4]["event"]["text"] == "hello"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "No such file or directory"),
        (b"RIFF", "this is not a flight record"),
        (FILE[:-1], "holds 5 bytes of audio"),
        (FILE[:16] + b"\xff" + FILE[17:], "does not decode"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_status_1(
    data: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "b.flight"
    if data is not None:
        path.write_bytes(data)
    assert run(path, Options()) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"earwire: {path}: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "b.flight").open("wb") as file:
        file.truncate(MAX_RECORD_BYTES + 1)
    assert run(tmp_path / "b.flight", Options()) == 1
    assert "too large" in capsys.readouterr().err


def test_a_server_that_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, Options(server=f"unix://{file.parent}/none")) == 1
    assert "no server at unix://" in capsys.readouterr().err


def test_settings_of_a_record_that_no_server_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of(100)
    head = structs.replace(record.head, server=structs.replace(record.head.server, hop_ms=-1))
    assert run(write(tmp_path / "c.flight", FlightRecord(head, record.pcm)), Options()) == 1
    assert "the server did not start" in capsys.readouterr().err


def test_the_command(file: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["replay"]).exit_code == 2
    both = runner.invoke(app, ["replay", str(file), "--wav", "x", "--events"])
    assert both.exit_code == 2
    assert runner.invoke(app, ["replay", str(file), "--events"]).exit_code == 0
