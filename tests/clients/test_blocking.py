"""The blocking client over a real socket, against a scripted peer."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from msgspec import structs

from clients import Client, ClientError, ConnectionLost, Connectivity, ServerError, kept_input
from protocol.client_messages import (
    Ack,
    Audio,
    Error,
    Final,
    Finalize,
    Hello,
    Partial,
    Ping,
    Pong,
    ServerMessage,
    Watermark,
)
from protocol.errors import ErrorCode

from . import server
from .server import LIMIT_S, RESUMABLE, STARTED, Peer, Script, closed, serving

COUNTS = {"audio_received": 0, "audio_decoded": 0}


def final(text: str, finalize_id: int | None = None) -> Final:
    return Final(
        utterance=0, start_sample=0, end_sample=1, text=text, finalize_id=finalize_id, **COUNTS
    )


def partial(text: str) -> Partial:
    return Partial(utterance=0, start_sample=0, end_sample=1, stable=text, volatile="", **COUNTS)


@pytest.mark.parametrize("script", [Peer.next, Peer.accept])
def test_a_script_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: Script
) -> None:
    monkeypatch.setattr(server, "LIMIT_S", 0.01)
    with (
        socket.socket(socket.AF_UNIX) as sock,
        pytest.raises(TimeoutError),
        serving(script, tmp_path),
    ):
        sock.connect(str(tmp_path / "s.sock"))


def test_a_whole_session(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        assert peer.start() == Hello(sample_rate_hz=8_000, resumable=True)
        assert peer.next() == Audio(0, b"ab" * 10)
        assert peer.next() == Audio(10, b"cd")
        assert peer.next() == Finalize(finalize_id=1)
        peer.send(partial("he"), final("hello", 1))
        assert peer.next() == Ping(7)
        peer.send(Pong(7))
        assert peer.read_until_bye() == []
        peer.send(closed(11))

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        assert client.open(Hello(sample_rate_hz=8_000)) == STARTED
        client.send_audio(b"ab" * 10)
        client.send_audio(b"cd")
        assert client.wait_final(client.finalize()).text == "hello"
        client.ping(7)
        client.bye()
        events: list[ServerMessage] = list(client.events())
        assert events == [STARTED, partial("he"), final("hello", 1), Pong(7), closed(11)]
        assert client.closed == closed(11)
        assert client.is_over
        assert client.next_event() is None
        with pytest.raises(ConnectionLost):
            client.send_audio(b"ab")


def test_a_refusal_is_a_typed_exception(tmp_path: Path) -> None:
    refusal = Error(
        code=ErrorCode.AT_CAPACITY, message="32 sessions are open", retryable=True,
        retry_after_ms=1500,
    )  # fmt: skip

    def script(peer: Peer) -> None:
        peer.next()
        peer.send(refusal)

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        with pytest.raises(ServerError) as caught:
            client.open()
        error = caught.value
        assert (error.code, error.retryable, error.retry_after_ms) == (
            ErrorCode.AT_CAPACITY, True, 1500,
        )  # fmt: skip
        assert str(error) == "32 sessions are open [at_capacity] (try again)"


def test_an_error_comes_after_the_events_before_it_with_its_close_record(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.start()
        peer.send(final("one"), Error(code=ErrorCode.SERVICE_LOST, message="gone", retryable=True))
        peer.send(closed(3))

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        client.open()
        events = client.events()
        assert [next(events) for _ in range(3)] == [STARTED, final("one"), closed(3)]
        with pytest.raises(ServerError, match="gone") as caught:
            next(events)
        assert caught.value.closed == closed(3)


def test_a_connection_that_ends_early_is_lost(tmp_path: Path) -> None:
    with (
        serving(lambda peer: peer.start() and None, tmp_path) as url,
        Client.connect(url) as client,
    ):
        client.open()
        assert client.next_event() == STARTED
        with pytest.raises(ConnectionLost, match="before the session's end"):
            client.next_event()


def test_no_server_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match=r"no server at unix:///.*: No such file"):
        Client.connect(f"unix://{tmp_path}/none.sock")
    with pytest.raises(ConnectionLost, match="Connection refused"):
        Client.connect("earwire://127.0.0.1:1")


@pytest.mark.parametrize("scheme", ["earwire", "wss"])
@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 64])
def test_a_host_that_can_be_no_name_is_a_clear_error(scheme: str, host: str) -> None:
    with pytest.raises(ConnectionLost, match=f"no server at {scheme}://{host}:9: .*label"):
        Client.connect(f"{scheme}://{host}:9")


def test_waiting_ends_with_its_time(tmp_path: Path) -> None:
    release = threading.Event()

    def script(peer: Peer) -> None:
        peer.next()
        release.wait(LIMIT_S)

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
            client.open(timeout_s=0.01)
        assert client.next_event(0.0) is None
        release.set()


@pytest.mark.parametrize("num_channels", [1, 3, 7])
def test_audio_of_many_channels_goes_in_whole_samples(tmp_path: Path, num_channels: int) -> None:
    audio = bytes(num_channels * 2 * 60_000)

    def script(peer: Peer) -> None:
        peer.start()
        pieces = [m.pcm for m in peer.read_until_bye() if isinstance(m, Audio)]
        assert b"".join(pieces) == audio
        peer.send(closed())

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        client.open(Hello(channels=num_channels))
        client.send_audio(audio)
        client.bye()
        assert list(client.events()) == [STARTED, closed()]


def test_backpressure_cannot_deadlock(tmp_path: Path) -> None:
    """The server writes more than the socket holds before it reads on, and the client sends
    more than the socket holds before it reads events: only a client that reads while it sends
    gets through."""
    num_partials = 2_000
    audio = bytes(4 << 20)

    def script(peer: Peer) -> None:
        peer.start()
        for i in range(num_partials):
            peer.send(partial(f"{i} " + "x" * 500))
        samples = sum(len(m.pcm) // 2 for m in peer.read_until_bye() if isinstance(m, Audio))
        peer.send(closed(samples))

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        client.open()
        client.send_audio(audio)
        client.bye()
        events = list(client.events())
        assert sum(isinstance(e, Partial) for e in events) == num_partials
        assert events[-1] == closed(len(audio) // 2)


def test_close_interrupts_a_blocked_send(tmp_path: Path) -> None:
    stuck, done = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.start()
        peer.next()
        stuck.set()
        done.wait(LIMIT_S)

    failures = []

    def send_for_ever(client: Client) -> None:
        try:
            while True:
                client.send_audio(bytes(65_536))
        except ConnectionLost as error:
            failures.append(str(error))

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        client.open()
        sender = threading.Thread(target=send_for_ever, args=(client,))
        sender.start()
        stuck.wait(LIMIT_S)
        client.close()
        sender.join(LIMIT_S)
        done.set()
    assert failures == ["the client was closed"]


def test_a_lost_connection_is_made_again(tmp_path: Path) -> None:
    states: list[Connectivity] = []

    def script(peer: Peer) -> None:
        peer.start(RESUMABLE)
        assert peer.next() == Audio(0, b"abcd")
        peer.send(final("one"))
        assert peer.resume(1).events_received == 1
        assert peer.next() == Audio(1, b"cd")
        assert peer.read_until_bye() == [Audio(2, b"ef")]
        peer.send(closed(3))
        assert peer.next() == Ack(2)

    with (
        serving(script, tmp_path) as url,
        Client.connect(url, on_connection=states.append) as client,
    ):
        client.open()
        client.send_audio(b"abcd")
        assert client.next_event() == RESUMABLE
        assert client.next_event() == final("one")
        client.send_audio(b"ef")
        client.bye()
        assert list(client.events()) == [closed(3)]
    assert states == [Connectivity.RECONNECTING, Connectivity.CONNECTED]


def test_a_server_that_stays_away_is_given_up(tmp_path: Path) -> None:
    started = structs.replace(
        RESUMABLE, limits=structs.replace(RESUMABLE.limits, resume_window_ms=1)
    )
    with (
        serving(lambda peer: peer.start(started) and None, tmp_path) as url,
        Client.connect(url) as client,
    ):
        client.open()
        (tmp_path / "s.sock").unlink()
        assert client.next_event() == started
        with pytest.raises(ConnectionLost, match=r"No such file .*tried again for 0\.001 s"):
            client.next_event()


def test_without_resume_it_is_lost_as_ever(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        assert peer.start() == Hello(client="earwire-python")

    with (
        serving(script, tmp_path) as url,
        Client.connect(url, resume=False) as client,
    ):
        client.open()
        client.next_event()
        with pytest.raises(ConnectionLost):
            client.next_event()


def test_closing_a_session_that_would_be_kept_says_bye(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.start(RESUMABLE)
        assert peer.read_until_bye() == [Audio(0, b"ab")]

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        client.open()
        client.send_audio(b"ab")


def test_closing_while_it_connects_again_ends_it(tmp_path: Path) -> None:
    lost = threading.Event()

    def script(peer: Peer) -> None:
        peer.start(RESUMABLE)
        peer.sock.close()
        (tmp_path / "s.sock").unlink()
        lost.wait(LIMIT_S)

    with serving(script, tmp_path) as url:
        with Client.connect(url, on_connection=lambda _: lost.set()) as client:
            client.open()
            lost.wait(LIMIT_S)
            client.send_audio(b"ab")
        with pytest.raises(ConnectionLost, match="the client was closed"):
            client.send_audio(b"ab")


def test_a_handler_may_close_the_client(tmp_path: Path) -> None:
    with serving(lambda peer: peer.start(RESUMABLE) and None, tmp_path) as url:
        client = Client.connect(url, on_connection=lambda _: client.close())
        client.open()
        client.next_event()
        with pytest.raises(ConnectionLost, match="the client was closed"):
            client.next_event()


def test_a_handler_that_fails_ends_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def fail(_: Connectivity) -> None:
        raise ValueError

    with (
        serving(lambda peer: peer.start(RESUMABLE) and None, tmp_path) as url,
        Client.connect(url, on_connection=fail) as client,
    ):
        client.open()
        client.next_event()
        with pytest.raises(ClientError, match="thread has failed"):
            client.next_event()


def unread(peer: Peer) -> None:
    """Wait for bytes of the client and leave them: closing the socket then is a reset."""
    peer.sock.recv(1, socket.MSG_PEEK)


def test_a_reset_is_a_lost_connection_too(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.start(RESUMABLE)
        unread(peer)
        peer.resume(0)
        assert peer.read_until_bye() == [Audio(0, b"ab")]
        peer.send(closed(1))

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        client.open()
        client.send_audio(b"ab")
        client.bye()
        assert list(client.events()) == [RESUMABLE, closed(1)]


def test_events_are_acknowledged_in_time(tmp_path: Path) -> None:
    acknowledged = threading.Event()

    def script(peer: Peer) -> None:
        peer.start(RESUMABLE)
        peer.send(final("one"))
        assert peer.next() == Ack(1)
        acknowledged.set()
        peer.send(final("two"))
        peer.read_until_bye()

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        client.open()
        assert [client.next_event() for _ in range(3)] == [RESUMABLE, final("one"), final("two")]
        assert acknowledged.is_set()


def test_whoever_sends_too_much_waits_for_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_input, "MAX_KEPT_AUDIO_S", 0)
    is_taken = threading.Event()

    def script(peer: Peer) -> None:
        peer.start(RESUMABLE)
        assert peer.next() == Audio(0, b"abcd")
        is_taken.set()
        peer.send(Watermark(2, 2, 0))
        peer.read_until_bye()

    with serving(script, tmp_path) as url, Client.connect(url) as client:
        client.open()
        client.send_audio(b"abcd")
        assert is_taken.is_set()
