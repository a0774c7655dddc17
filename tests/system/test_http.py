"""The HTTP port: health, metrics, models, errors, and who may open a WebSocket."""

from __future__ import annotations

import http.client
import json

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from protocol.client_messages import Hello

from . import audio
from .server import Server
from .session import transcribe
from .waiting import wait_for

JSON = "application/json"


def ask(server: Server, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()
    finally:
        connection.close()


def metrics(server: Server) -> dict[str, float]:
    """Samples of /metrics by `name{label=value,...}`."""
    status, headers, body = ask(server, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def test_live_and_ready(server: Server) -> None:
    """200 both: the process answers, and a recognition step succeeded lately."""
    assert ask(server, "/health/live")[0] == 200
    status, headers, body = ask(server, "/health/ready")
    assert (status, json.loads(body)["status"]) == (200, "ready")
    assert headers["content-type"].startswith(JSON)


def test_models(server: Server) -> None:
    """In OpenAI's shape, the default model first."""
    status, _, body = ask(server, "/v1/models")
    listing = json.loads(body)
    assert (status, listing["object"]) == (200, "list")
    model = listing["data"][0]
    assert (model["id"], model["object"]) == ("tiny.en", "model")
    assert model["created"] > 1_700_000_000


@pytest.mark.parametrize("path", ["/nothing", "/v1/audio/x", "/web/x", "/%00", "/../etc"])
def test_404(server: Server, path: str) -> None:
    """In OpenAI's error shape."""
    status, headers, body = ask(server, path)
    assert status == 404
    assert headers["content-type"].startswith(JSON)
    assert json.loads(body)["error"]["code"] == "not_found"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_405(server: Server, method: str) -> None:
    """Says what is allowed."""
    status, headers, body = ask(server, "/health/live", method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"


def test_head_has_no_body(server: Server) -> None:
    """As GET, without it."""
    status, headers, body = ask(server, "/health/live", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/realtime"])
def test_a_plain_get_on_a_websocket_path(server: Server, path: str) -> None:
    """426, and no hang."""
    assert ask(server, path)[0] == 426


def test_counters_move(server: Server) -> None:
    """One stream: sessions, finals, and the three sample counts grow by what it was, equally; no
    mismatch is counted; the gauges return."""
    sessions = "earwire_sessions_total{dialect=native,outcome=ok}"
    stages = [f"earwire_audio_samples_total{{stage={s}}}" for s in ("socket", "ring", "engine")]
    finals = "earwire_finals_total{dialect=native}"
    wait_for("no open session", lambda: not any(
        value for name, value in metrics(server).items()
        if name.startswith("earwire_sessions_open")
    ))  # fmt: skip
    before = metrics(server)
    samples = audio.spoken("yes")
    heard = transcribe(server.native_url, samples, 20, Hello(client="metrics"))
    # Statistics travel through the parent, once a second.
    wait_for("the counters", lambda: metrics(server).get(sessions, 0) > before.get(sessions, 0))
    after = metrics(server)
    for name in stages:
        assert after[name] - before.get(name, 0) == len(samples)
    assert after[finals] - before.get(finals, 0) == len(heard.finals)
    mismatch = "earwire_accounting_mismatch_total{}"
    assert after[mismatch] == before[mismatch]
    assert after["earwire_sessions_open{dialect=native}"] == 0
    assert after["earwire_children_up{kind=worker}"] == 1
    assert after["earwire_children_up{kind=service}"] == 1


def test_a_foreign_page_may_not_connect(server: Server) -> None:
    """A web page on another origin gets 403 on both paths; also one that shares the port's name
    only by DNS."""
    for path in ("/v1/stream", "/v1/realtime?input_audio_format=pcm_s16le_16000"):
        for origin in ("https://evil.example", f"http://evil.example:{server.http_port}", "null"):
            with (
                pytest.raises(InvalidStatus) as refused,
                connect(server.websocket_url + path, origin=Origin(origin)),
            ):
                pass
            assert refused.value.response.status_code == 403, origin


def test_the_server_s_own_page_may_connect(server: Server) -> None:
    """The same host and port passes; so does no Origin at all (no browser)."""
    own = Origin(f"http://127.0.0.1:{server.http_port}")
    for origin in (own, None):
        with connect(f"{server.websocket_url}/v1/stream", origin=origin):
            pass


def test_a_websocket_elsewhere_is_a_404(server: Server) -> None:
    """An upgrade on a path that has none."""
    with pytest.raises(InvalidStatus) as refused, connect(f"{server.websocket_url}/v1/nothing"):
        pass
    assert refused.value.response.status_code == 404


def test_garbage_is_a_400(server: Server) -> None:
    """Not HTTP at all: answered and closed."""
    import socket

    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
