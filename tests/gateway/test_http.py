"""HTTP on the shared port: requests in any split, broken ones answered, upgrades handed over."""

from __future__ import annotations

import json

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http import (
    MAX_BODY_BYTES,
    MAX_CHUNKS_PER_READ,
    MAX_HEAD_BYTES,
    MAX_PIPELINED_BYTES,
    BodyEnd,
    BodyPart,
    ErrorBody,
    Failed,
    HttpCore,
    HttpEvent,
    Request,
    RequestHead,
    Upgrade,
)
from gateway.routes import MAX_STEP_AGE_S, ServerStatus, answer
from gateway.upload_pace import MAX_UPLOAD_S, MIN_UPLOAD_BYTES_PER_S, UPLOAD_WINDOW_S
from gateway.websocket import WebSocketCore
from protocol.supervisor_messages import Sample
from tests.harness import chunkings, cut_at

UPGRADE = (
    b"GET /v1/realtime?model=m&x=1&x=2 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
    b"Upgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
READY = ServerStatus(last_step_age_s=1.0, models=("tiny.en",), started_s=7)


def feed(core: HttpCore, chunks: list[bytes]) -> list[HttpEvent]:
    events: list[HttpEvent] = []
    for chunk in chunks:
        core.receive_data(chunk)
        while (event := core.next_event()) is not None:
            events.append(event)
            if isinstance(event, Request):
                core.respond(200, event.path.encode(), "text/plain")
    return events


def responses(data: bytes, *methods: str) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """What an h11 client reads from `data`, an answer per method."""
    client = h11.Connection(h11.CLIENT)
    client.receive_data(data)
    found = []
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        head, body = client.next_event(), b""
        assert isinstance(head, h11.Response)
        while isinstance(part := client.next_event(), h11.Data):
            body += part.data
        assert isinstance(part, h11.EndOfMessage)
        found.append((head.status_code, dict(head.headers), body))
        if client.our_state is h11.DONE:
            client.start_next_cycle()
    assert client.trailing_data[0] == b""
    return found


def one(data: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    return responses(data, "GET")[0]


# --- requests ------------------------------------------------------------------------------


def test_a_request_in_every_split() -> None:
    data = (
        b"POST /a%20b?q=1&q=&r=2 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    for chunks in chunkings(data):
        core = HttpCore()
        (request,) = feed(core, chunks)
        assert request == Request(
            method="POST",
            path="/a b",
            query={"q": ["1", ""], "r": ["2"]},
            headers={"host": "x", "x-a": "1, 2", "content-length": "3"},
            body=b"abc",
        )
        assert one(core.data_to_send())[0] == 200
        assert not core.should_close


def test_keep_alive_and_pipelining_answer_in_order() -> None:
    core = HttpCore()
    two = b"GET /2 HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    for chunks in ([GET + two + last], [GET, two + last[:5], last[5:]]):
        core = HttpCore()
        feed(core, chunks)
        got = responses(core.data_to_send(), "GET", "GET", "GET")
        assert [body for _, _, body in got] == [b"/health/live", b"/2", b"/3"]
        assert core.should_close
        assert feed(core, [GET]) == []


def test_a_pipelined_request_waits_for_the_answer() -> None:
    core = HttpCore()
    core.receive_data(GET)
    assert isinstance(core.next_event(), Request)
    core.receive_data(GET)
    assert core.next_event() is None
    core.respond(200, b"{}")
    assert isinstance(core.next_event(), Request)
    core.respond(200, b"{}", close=True)
    assert not core.should_close  # not before the answer is taken
    assert len(responses(core.data_to_send(), "GET", "GET")) == 2
    assert core.should_close


def test_too_much_behind_an_unanswered_request_ends_it() -> None:
    core = HttpCore()
    core.receive_data(GET)
    assert isinstance(core.next_event(), Request)
    core.receive_data(bytes(MAX_PIPELINED_BYTES + 1))
    assert core.should_close
    assert core.next_event() is None


def test_head_has_the_length_and_no_body() -> None:
    core = HttpCore()
    feed(core, [b"HEAD /1234 HTTP/1.1\r\nHost: x\r\n\r\n"])
    ((status, headers, body),) = responses(core.data_to_send(), "HEAD")
    assert (status, headers[b"content-length"], body) == (200, b"5", b"")


def test_expect_continue_is_granted() -> None:
    core = HttpCore()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    assert feed(core, [head]) == []
    assert core.data_to_send().startswith(b"HTTP/1.1 100 ")
    (request,) = feed(core, [b"ok"])
    assert isinstance(request, Request)
    assert request.body == b"ok"


def test_the_end_of_the_client() -> None:
    core = HttpCore()
    assert feed(core, [b""]) == []
    assert core.should_close
    core = HttpCore()
    core.receive_data(GET)
    core.receive_data(b"")
    assert feed(core, [b"x"]) != []  # bytes after the end are dropped, the request is answered
    assert one(core.data_to_send())[0] == 200


def test_respond_without_a_request_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        HttpCore().respond(200, b"")


# --- broken requests -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"EW\x10\x01\x00\x00\x00\x00", 400),  # the native protocol on the wrong port
        (b"\x16\x03\x01\x02\x00", 400),  # TLS
        (b"\x00", 400),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /?" + b"a=1&" * 100 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * MAX_HEAD_BYTES, 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"
         + bytes(MAX_BODY_BYTES + 1), 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (UPGRADE.replace(b"\r\n", b"\n"), 400),
        (UPGRADE[:-2] + b"Content-Length: 5\r\n\r\nhello", 400),
        (UPGRADE[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_a_broken_request_is_answered_with_json_and_closed(data: bytes, status: int) -> None:
    core = HttpCore()
    (failed,) = feed(core, [data])
    assert isinstance(failed, Failed)
    assert failed.status == status
    got, headers, body = one(core.data_to_send())
    assert got == status
    assert headers[b"connection"] == b"close"
    assert set(json.loads(body)["error"]) == {"message", "type", "code", "param"}
    assert core.should_close
    assert feed(core, [GET]) == []


@given(st.binary(min_size=1, max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    core = HttpCore()
    feed(core, cut_at(data, range(0, 200, 7)))
    feed(core, [b""])
    core.data_to_send()


# --- uploads -------------------------------------------------------------------------------

UPLOAD_LIMIT = 2 * MAX_CHUNKS_PER_READ
SECOND = 1_000_000_000
POST = b"POST /file?a=b HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n"
WHOLE = POST + b"Content-Length: 7\r\n\r\nabcdefg"


def file_error(status: int, message: str) -> bytes:
    return json.dumps({"file": [status, message]}).encode()


def upload_of(method: str, path: str) -> ErrorBody | None:
    return file_error if (method, path) == ("POST", "/file") else None


def upload_core() -> HttpCore:
    return HttpCore(upload_of, UPLOAD_LIMIT)


def upload(core: HttpCore, chunks: list[bytes], now_ns: int = 0) -> list[HttpEvent]:
    """Take what comes; uploads are welcome, and nothing is answered."""
    events: list[HttpEvent] = []
    for chunk in chunks:
        core.receive_data(chunk, now_ns)
        while (event := core.next_event()) is not None:
            events.append(event)
            if isinstance(event, RequestHead):
                core.continue_body()
    return events


@pytest.mark.parametrize(("data", "length_bytes"), [(CHUNKED, None), (WHOLE, 7)])
def test_an_upload_comes_in_pieces_in_every_split(data: bytes, length_bytes: int | None) -> None:
    for chunks in chunkings(data):
        core = upload_core()
        head, *parts, end = upload(core, chunks)
        assert isinstance(head, RequestHead)
        assert (head.method, head.path, head.query) == ("POST", "/file", {"a": ["b"]})
        assert (head.length_bytes, head.headers["host"]) == (length_bytes, "x")
        assert b"".join(part.data for part in parts if isinstance(part, BodyPart)) == b"abcdefg"
        assert end == BodyEnd()
        assert core.data_to_send() == b""
        core.respond(200, b"ok", "text/plain")
        assert one(core.data_to_send())[2] == b"ok"
        assert not core.should_close


def test_an_upload_may_be_empty_and_another_request_follow() -> None:
    core = upload_core()
    head, end = upload(core, [POST + b"\r\n" + GET])
    assert isinstance(head, RequestHead)
    assert (head.length_bytes, end) == (0, BodyEnd())
    core.respond(200, b"1")
    (request,) = upload(core, [b""])
    assert isinstance(request, Request)
    core.respond(200, b"2")
    assert [got[2] for got in responses(core.data_to_send(), "POST", "GET")] == [b"1", b"2"]


def test_a_body_waits_until_it_is_asked_for() -> None:
    core = upload_core()
    core.receive_data(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert isinstance(core.next_event(), RequestHead)
    assert core.next_event() is None
    assert core.data_to_send() == b""
    assert core.next_deadline() is None
    core.continue_body()
    assert core.data_to_send().startswith(b"HTTP/1.1 100 ")
    assert core.next_deadline() is not None
    assert upload(core, [b"abc"]) == [BodyPart(b"abc"), BodyEnd()]
    assert core.next_deadline() is None
    with pytest.raises(AssertionError):
        core.continue_body()


def test_an_answer_before_the_body_ends_the_connection() -> None:
    for body in (b"", b"abc"):
        core = upload_core()
        core.receive_data(POST + b"Content-Length: 999\r\n\r\n" + body)
        assert isinstance(core.next_event(), RequestHead)
        if body:
            core.continue_body()
            assert core.next_event() == BodyPart(body)
        core.respond(401, b"{}")
        status, headers, _ = one(core.data_to_send())
        assert (status, headers[b"connection"]) == (401, b"close")
        assert core.should_close
        assert upload(core, [b"def" * 100_000]) == []


def test_a_client_that_sends_on_unasked_is_cut_off() -> None:
    core = HttpCore(upload_of, 1 << 30)
    core.receive_data(POST + b"Content-Length: 999999999\r\n\r\n")
    assert isinstance(core.next_event(), RequestHead)
    core.receive_data(bytes(MAX_PIPELINED_BYTES + 1))
    assert core.should_close


def test_an_upload_over_the_limit_fails_as_early_as_it_is_known() -> None:
    core = upload_core()
    core.receive_data(POST + b"Content-Length: 1025\r\nExpect: 100-continue\r\n\r\n")
    assert isinstance(core.next_event(), RequestHead)  # who asks comes before how much
    failed = core.continue_body()
    assert core.next_event() is None
    assert core.next_deadline() is None
    message = "the upload is larger than the limit of 1024 bytes"
    assert failed == Failed(413, message)
    assert json.loads(one(core.data_to_send())[2]) == {"file": [413, message]}
    core = upload_core()
    chunk = b"200\r\n" + bytes(512) + b"\r\n"
    *_, last = upload(core, [POST + b"Transfer-Encoding: chunked\r\n\r\n", chunk, chunk])
    assert isinstance(last, BodyPart)
    assert upload(core, [b"1\r\na\r\n"]) == [Failed(413, message)]
    assert core.next_deadline() is None


def test_chunks_of_a_byte_are_too_dear() -> None:
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"
    for head in (POST, b"PUT" + POST[4:]):
        core = upload_core()
        upload(core, [head + chunked])
        assert not any(
            isinstance(event, Failed)
            for event in upload(core, [b"1\r\na\r\n" * MAX_CHUNKS_PER_READ])
        )
        *_, failed = upload(core, [b"1\r\na\r\n" * (MAX_CHUNKS_PER_READ + 1)])
        assert failed == Failed(400, "the body comes in too small chunks")


@pytest.mark.parametrize("rest", [b"zz\r\n", b""])
def test_a_broken_or_torn_upload_fails_in_the_routes_own_shape(rest: bytes) -> None:
    core = upload_core()
    upload(core, [POST + b"Transfer-Encoding: chunked\r\n\r\n"])
    (failed,) = upload(core, [rest])
    assert isinstance(failed, Failed)
    status, _, body = one(core.data_to_send())
    assert (status, list(json.loads(body))) == (400, ["file"])


def test_other_methods_and_paths_have_small_bodies_still() -> None:
    core = upload_core()
    (request,) = upload(core, [b"PUT" + WHOLE[4:]])
    assert isinstance(request, Request)
    core.respond(405, b"")
    (failed,) = upload(core, [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n"])
    assert isinstance(failed, Failed)
    assert "error" in json.loads(responses(core.data_to_send(), "PUT", "POST")[1][2])


def test_the_shape_of_errors_is_the_uploads_only() -> None:
    core = upload_core()
    upload(core, [WHOLE])
    core.respond(200, b"{}")
    upload(core, [b"\x00"])
    assert b'"error"' in core.data_to_send()


# --- slow uploads --------------------------------------------------------------------------

WINDOW_NS = UPLOAD_WINDOW_S * SECOND


def begun(num_bytes: int) -> HttpCore:
    """A core in the middle of a chunked upload at time 0, which brought this many more bytes."""
    core = HttpCore(upload_of, 1 << 30)
    upload(core, [POST + b"Transfer-Encoding: chunked\r\n\r\n"])
    upload(core, [b"%x\r\n" % (1 << 28)])
    core.receive_data(bytes(num_bytes), 1)
    return core


def test_an_upload_that_trickles_is_refused_when_its_window_ends() -> None:
    core = begun(100)
    assert core.next_deadline() == WINDOW_NS
    upload(core, [])
    core.handle_timer(WINDOW_NS - 1)
    assert isinstance(core.next_event(), BodyPart)
    assert core.next_event() is None
    core.handle_timer(WINDOW_NS)
    assert core.next_event() == Failed(408, "the upload is too slow")
    assert one(core.data_to_send())[0] == 408
    assert core.next_deadline() is None
    core.handle_timer(2 * WINDOW_NS)  # a timer may be late
    assert core.next_event() is None


def test_every_window_has_to_bring_enough() -> None:
    enough = MIN_UPLOAD_BYTES_PER_S * UPLOAD_WINDOW_S
    core = begun(enough)
    for now_ns in (WINDOW_NS, 2 * WINDOW_NS):
        core.handle_timer(now_ns)
        assert not any(isinstance(event, Failed) for event in upload(core, [bytes(enough)]))
        assert core.next_deadline() == now_ns + WINDOW_NS
    core.handle_timer(3 * WINDOW_NS)
    upload(core, [bytes(enough - 1)], 3 * WINDOW_NS)
    core.handle_timer(4 * WINDOW_NS)
    assert isinstance(core.next_event(), Failed)


def test_no_upload_lasts_for_ever() -> None:
    core = begun(1 << 20)
    core.handle_timer(MAX_UPLOAD_S * SECOND)
    assert isinstance(core.next_event(), Failed)


# --- answers in pieces ---------------------------------------------------------------------


def test_an_answer_in_pieces_is_chunked() -> None:
    core = upload_core()
    upload(core, [WHOLE])
    core.respond_begin(200, "text/event-stream", [("Cache-Control", "no-cache")], close=True)
    assert core.next_event() is None
    core.respond_chunk(b"one")
    core.respond_chunk(b"")
    assert core.data_to_send() != b""
    assert not core.should_close
    with pytest.raises(AssertionError):
        core.respond(200, b"")
    core = upload_core()
    upload(core, [WHOLE])
    core.respond_begin(200, "text/event-stream", [("Cache-Control", "no-cache")], close=True)
    core.respond_chunk(b"one")
    core.respond_chunk(b"two")
    core.respond_end()
    status, headers, body = one(core.data_to_send())
    assert (status, body) == (200, b"onetwo")
    assert headers[b"transfer-encoding"] == b"chunked"
    assert headers[b"cache-control"] == b"no-cache"
    assert core.should_close
    for call in (lambda: core.respond_chunk(b""), core.respond_end):
        with pytest.raises(AssertionError):
            call()


# --- upgrades ------------------------------------------------------------------------------


def test_an_upgrade_hands_over_the_raw_head_in_every_split() -> None:
    for chunks in chunkings(UPGRADE):
        core = HttpCore()
        (event,) = feed(core, chunks)
        assert isinstance(event, Upgrade)
        assert event.head == UPGRADE
        assert event.path == "/v1/realtime"
        assert event.query == {"model": ["m"], "x": ["1", "2"]}
        assert event.headers["host"] == "127.0.0.1:8080"
        assert WebSocketCore(event.head).accepted
        assert core.data_to_send() == b""
        assert feed(core, [b"\x81"]) == []


def test_an_upgrade_after_other_requests_with_frames_behind_it() -> None:
    core = HttpCore()
    *_, event = feed(core, [GET + GET[:9], GET[9:] + UPGRADE[:50], UPGRADE[50:] + b"\x89\x80mask"])
    assert isinstance(event, Upgrade)
    assert event.head == UPGRADE + b"\x89\x80mask"


def test_a_head_that_ends_in_a_bare_lf_is_no_handshake_whatever_comes_behind_it() -> None:
    bare = UPGRADE[:-2] + b"\n" + UPGRADE  # found by fuzzing: cut behind the LF, or not
    for chunks in ([bare], cut_at(bare, (len(UPGRADE) - 1,))):
        (event,) = feed(HttpCore(), chunks)
        assert event == Failed(400, "header lines end with CR LF")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Upgrade: WebSocket", b"Upgrade: h2c"),
        (b"keep-alive, Upgrade", b"keep-alive"),
        (b"GET", b"POST"),
    ],
)
def test_what_asks_for_no_websocket_is_a_request(old: bytes, new: bytes) -> None:
    core = HttpCore()
    (event,) = feed(core, [UPGRADE.replace(old, new)])
    assert isinstance(event, Request)
    assert one(core.data_to_send())[0] == 200


# --- routes --------------------------------------------------------------------------------


def get(path: str, status: ServerStatus = READY, method: str = "GET") -> tuple[int, object]:
    response = answer(Request(method, path, {}, {}, b""), status)
    return response.status, json.loads(response.body)


def test_live_is_always_live() -> None:
    assert get("/health/live", ServerStatus(last_step_age_s=None))[0] == 200


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (READY, 200, None),
        (ServerStatus(last_step_age_s=None), 503, "no recognition step has succeeded yet"),
        (ServerStatus(last_step_age_s=MAX_STEP_AGE_S + 1), 503, "the last recognition step was"),
        (ServerStatus(last_step_age_s=0.0, is_draining=True), 503, "draining"),
    ],
)
def test_ready_means_a_step_succeeded_lately(
    status: ServerStatus, code: int, reason: str | None
) -> None:
    got, body = get("/health/ready", status)
    assert got == code
    assert isinstance(body, dict)
    assert str(body.get("reason", "")).startswith(reason or "")


def test_models() -> None:
    assert get("/v1/models") == (
        200,
        {
            "object": "list",
            "data": [{"id": "tiny.en", "object": "model", "created": 7, "owned_by": "earwire"}],
        },
    )


def test_metrics_are_text() -> None:
    status = ServerStatus(last_step_age_s=None, samples=(Sample("earwire_connections", (), 3),))
    response = answer(Request("GET", "/metrics", {}, {}, b""), status)
    assert response.content_type.startswith("text/plain")
    assert b"\nearwire_connections 3.0\n" in response.body


def test_other_paths_and_methods() -> None:
    assert get("/nothing")[0] == 404
    assert get("/v1/realtime")[0] == 426
    assert get("/health/live", method="HEAD")[0] == 200
    response = answer(Request("POST", "/health/live", {}, {}, b""), READY)
    assert (response.status, response.headers) == (405, (("Allow", "GET, HEAD"),))


def test_an_answer_travels_through_the_core() -> None:
    core = HttpCore()
    core.receive_data(b"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    request = core.next_event()
    assert isinstance(request, Request)
    response = answer(request, READY)
    core.respond(response.status, response.body, response.content_type, response.headers)
    status, headers, body = one(core.data_to_send())
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")
    assert json.loads(body)["error"]["code"] == "method_not_allowed"
