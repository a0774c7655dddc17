"""Every protocol through a network that splits, merges and stalls: the same words, the same counts.

And through one that breaks: what arrived is decoded and counted, and nothing is left behind.
"""

from __future__ import annotations

import http.client
import json
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from clients.errors import ClientError
from protocol.client_messages import Hello, VadOptions
from tests.torment.plan import Plan, Torment, random_torment
from tests.torment.tormentor import Tormentor

from . import audio
from .processes import arenas_in_shm
from .server import Server
from .session import Heard, Stream, assert_sane, transcribe
from .test_parakeet import TINY
from .test_together import COMPLETED, FORMAT, Talker
from .waiting import wait_for

SECONDS = 5
NUM_SEEDS = 3
NUM_RESETS = 12
SHORT = VadOptions(enabled=False, max_utterance_ms=2_000)  # several finals in a short clip
QUIET = Hello(client="tormented", partials=False, tokens=True, vad=SHORT)
CRUMBS = Torment(Plan((1, 2, 3)), Plan((1,)))  # a byte or three at a time


@pytest.fixture(scope="module")
def tiny() -> Iterator[Server]:
    """Fast, and its finals are as good as others to compare."""
    with Server("--model", TINY, "--threads", "1") as running:
        yield running
        assert not [line for line in running.log if "Traceback" in line]
    assert running.survivors() == []
    assert arenas_in_shm() == []


def clip() -> audio.Samples:
    return audio.two_cities()[: SECONDS * audio.RATE_HZ]


@pytest.fixture(scope="module")
def expected(tiny: Server) -> Heard:
    """Without a tormentor."""
    heard = transcribe(tiny.native_url, clip(), 100, QUIET)
    assert_sane(heard, len(clip()))
    return heard


def torments() -> list[Torment]:
    """Stalls and pieces of all sizes; one with the smallest."""
    return [*(random_torment(seed, 2 * len(clip())) for seed in range(NUM_SEEDS)), CRUMBS]


@pytest.mark.parametrize("transport", ["native", "unix", "websocket"])
def test_finals_do_not_depend_on_the_network(tiny: Server, expected: Heard, transport: str) -> None:
    target = {"native": tiny.native_port, "unix": str(tiny.uds), "websocket": tiny.http_port}
    for torment in torments():
        samples = clip() if torment is not CRUMBS else clip()[: audio.RATE_HZ // 4]
        with Tormentor(target[transport], torment) as tormentor:
            is_web = transport == "websocket"
            url = tormentor.websocket_url if is_web else tormentor.native_url
            heard = transcribe(url, samples, 35, QUIET)
        assert_sane(heard, len(samples))
        if torment is not CRUMBS:
            assert heard.identity() == expected.identity()


def test_a_together_client_behind_it(tiny: Server) -> None:
    """Its JSON is larger; its transcripts are the same as without."""

    def transcripts(port: int) -> list[str]:
        with connect(f"ws://127.0.0.1:{port}/v1/realtime?{FORMAT}", max_size=None) as socket:
            talker = Talker(socket)
            talker.append(clip())
            talker.say("input_audio_buffer.commit")
            talker.until(COMPLETED)
            return [m["transcript"] for m in talker.messages if m["type"] == COMPLETED]

    straight = transcripts(tiny.http_port)
    for seed in range(NUM_SEEDS):
        with Tormentor(tiny.http_port, random_torment(seed, 200_000)) as tormentor:
            assert transcripts(tormentor.port) == straight


def form(wav: bytes) -> tuple[bytes, dict[str, str]]:
    """An upload, and its headers."""
    disposition = b"Content-Disposition: form-data; name="
    body = (
        b"--b\r\n" + disposition + b'"response_format"\r\n\r\nverbose_json\r\n'
        b"--b\r\n" + disposition + b'"file"; filename="a.wav"\r\n\r\n' + wav + b"\r\n--b--\r\n"
    )
    return body, {"Content-Type": "multipart/form-data; boundary=b"}


def upload(port: int, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/audio/transcriptions", body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_an_upload_behind_it(tiny: Server, tmp_path: Path) -> None:
    body, headers = form(audio.write_wav(tmp_path / "a.wav", clip()).read_bytes())
    straight = upload(tiny.http_port, body, headers)
    assert straight[0] == 200
    for seed in range(NUM_SEEDS):
        with Tormentor(tiny.http_port, random_torment(seed, len(body))) as tormentor:
            assert upload(tormentor.port, body, headers) == straight


# Networks that break


def open_files(server: Server) -> int:
    """Descriptors of its worker and service."""
    pids = [process.pid for process in (*server.workers(), *server.services())]
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


@pytest.mark.parametrize("transport", ["native", "websocket"])
def test_a_connection_that_breaks_anywhere(tiny: Server, expected: Heard, transport: str) -> None:
    """Whatever byte it breaks at: three equal counts of what arrived, and no descriptor is left."""
    port = tiny.native_port if transport == "native" else tiny.http_port
    before = open_files(tiny)
    for seed in range(NUM_RESETS):
        torment = random_torment(100 + seed, 2 * len(clip()), resets=True)
        name = f"broken-{uuid.uuid4().hex}"
        hello = Hello(client=name, partials=False, vad=SHORT)
        with Tormentor(port, torment) as tormentor:
            is_native = transport == "native"
            url = tormentor.native_url if is_native else tormentor.websocket_url
            was_admitted = False
            try:
                with Stream(url, hello, resume=False) as stream:
                    was_admitted = True
                    stream.send(clip(), 50)
                    stream.finish()
            except (ClientError, OSError):
                pass
        if was_admitted:
            assert agrees(tiny.wait_close_record(name))
    wait_for("its descriptors", lambda: open_files(tiny) <= before)
    assert transcribe(tiny.native_url, clip(), 100, QUIET).identity() == expected.identity()
    assert all(agrees(record) for record in tiny.close_records())


def agrees(record: dict[str, Any]) -> bool:
    """The three counts of a close record."""
    counts = {record[f"{place}_samples"] for place in ("socket", "ring", "engine")}
    return len(counts) == 1 and record["lost_samples"] == 0


def test_uploads_that_break_anywhere(tiny: Server, tmp_path: Path) -> None:
    """No descriptor (spool, decoder, socket) is left, and the next upload is served."""
    body, headers = form(audio.write_wav(tmp_path / "a.wav", clip()).read_bytes())
    straight = upload(tiny.http_port, body, headers)
    before = open_files(tiny)
    rng = random.Random(5)
    for _ in range(NUM_RESETS):
        torment = Torment(to_server=Plan((1_448,), reset_at=rng.randrange(len(body))))
        with (
            Tormentor(tiny.http_port, torment) as tormentor,
            pytest.raises((OSError, http.client.HTTPException)),
        ):
            upload(tormentor.port, body, headers)
    wait_for("its descriptors", lambda: open_files(tiny) <= before)
    assert upload(tiny.http_port, body, headers) == straight
