"""The asyncio client over a real socket: the same sessions as test_blocking.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec import structs

from clients import (
    AsyncClient,
    ClientError,
    ConnectionLost,
    Connectivity,
    ServerError,
    aio,
    kept_input,
    resumption,
)
from protocol.client_messages import (
    Ack,
    Audio,
    Error,
    Finalize,
    Hello,
    Partial,
    Ping,
    Pong,
    Resume,
    Watermark,
)
from protocol.errors import ErrorCode

from .server import LIMIT_S, RESUMABLE, STARTED, Peer, Script, closed, serving
from .test_blocking import final, partial, unread


def talk(script: Script, directory: Path, body: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async def run(url: str) -> None:
        async with await AsyncClient.connect(url) as client:
            await body(client)

    with serving(script, directory) as url:
        asyncio.run(run(url))


def test_a_whole_session(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        assert peer.start() == Hello(sample_rate_hz=8_000, resumable=True)
        assert peer.next() == Audio(0, b"ab" * 10)
        assert peer.next() == Finalize(finalize_id=1)
        peer.send(partial("he"), final("hello", 1))
        assert peer.next() == Ping(7)
        peer.send(Pong(7))
        assert peer.read_until_bye() == []
        peer.send(closed(10))

    async def body(client: AsyncClient) -> None:
        assert await client.open(Hello(sample_rate_hz=8_000)) == STARTED
        await client.send_audio(b"ab" * 10)
        assert (await client.wait_final(await client.finalize())).text == "hello"
        await client.ping(7)
        await client.bye()
        events = [event async for event in client.events()]
        assert events == [STARTED, partial("he"), final("hello", 1), Pong(7), closed(10)]
        assert client.closed == closed(10)
        assert client.is_over
        with pytest.raises(ConnectionLost):
            await client.send_audio(b"ab")

    talk(script, tmp_path, body)


def test_errors_are_typed(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.next()
        peer.send(Error(code=ErrorCode.UNKNOWN_MODEL, message="no such model"))

    async def body(client: AsyncClient) -> None:
        with pytest.raises(ServerError, match="no such model") as caught:
            await client.open(Hello(model="x"))
        assert not caught.value.retryable

    talk(script, tmp_path, body)


def test_a_connection_that_ends_early_is_lost(tmp_path: Path) -> None:
    async def body(client: AsyncClient) -> None:
        await client.open()
        with pytest.raises(ConnectionLost):
            [event async for event in client.events()]

    talk(lambda peer: peer.start() and None, tmp_path, body)


def test_no_server_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match="no server at"):
        asyncio.run(AsyncClient.connect(f"unix://{tmp_path}/none.sock"))


@pytest.mark.parametrize("scheme", ["earwire", "wss"])
@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 64])
def test_a_host_that_can_be_no_name_is_a_clear_error(scheme: str, host: str) -> None:
    with pytest.raises(ConnectionLost, match=f"no server at {scheme}://{host}:9: .*label"):
        asyncio.run(AsyncClient.connect(f"{scheme}://{host}:9"))


def test_waiting_ends_with_its_time(tmp_path: Path) -> None:
    release = threading.Event()

    def script(peer: Peer) -> None:
        peer.next()
        release.wait(LIMIT_S)

    async def body(client: AsyncClient) -> None:
        with pytest.raises(TimeoutError):
            await client.open(timeout_s=0.01)
        assert await client.next_event(0.01) is None
        release.set()

    talk(script, tmp_path, body)


def test_what_is_there_comes_without_waiting(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.start()
        peer.send(partial("he"))
        peer.next()
        peer.send(final("hello", 1))
        assert peer.read_until_bye() == []

    async def body(client: AsyncClient) -> None:
        await client.open()
        assert await client.next_event(0.0) == STARTED
        assert await client.next_event() == partial("he")
        assert await client.next_event(0.0) is None
        finalize_id = await client.finalize()
        with pytest.raises(TimeoutError):
            await client.wait_final(finalize_id, 0)
        assert await client.next_event() == final("hello", 1)
        assert await client.wait_final(finalize_id, 0) == final("hello", 1)
        await client.bye()

    talk(script, tmp_path, body)


def test_audio_of_many_channels_goes_in_whole_samples(tmp_path: Path) -> None:
    audio = bytes(3 * 2 * 60_000)

    def script(peer: Peer) -> None:
        peer.start()
        pieces = [m.pcm for m in peer.read_until_bye() if isinstance(m, Audio)]
        assert b"".join(pieces) == audio
        peer.send(closed())

    async def body(client: AsyncClient) -> None:
        await client.open(Hello(channels=3))
        await client.send_audio(audio)
        await client.bye()
        assert [event async for event in client.events()] == [STARTED, closed()]

    talk(script, tmp_path, body)


def test_backpressure_cannot_deadlock(tmp_path: Path) -> None:
    num_partials = 2_000
    audio = bytes(4 << 20)

    def script(peer: Peer) -> None:
        peer.start()
        for i in range(num_partials):
            peer.send(partial(f"{i} " + "x" * 500))
        samples = sum(len(m.pcm) // 2 for m in peer.read_until_bye() if isinstance(m, Audio))
        peer.send(closed(samples))

    async def body(client: AsyncClient) -> None:
        await client.open()
        await client.send_audio(audio)
        await client.bye()
        events = [event async for event in client.events()]
        assert sum(isinstance(e, Partial) for e in events) == num_partials
        assert events[-1] == closed(len(audio) // 2)

    talk(script, tmp_path, body)


def test_close_interrupts_a_blocked_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio, "CLOSE_TIMEOUT_S", 0.05)
    stuck, done = threading.Event(), threading.Event()

    def script(peer: Peer) -> None:
        peer.start()
        peer.next()
        stuck.set()
        assert done.wait(LIMIT_S)

    async def send_for_ever(client: AsyncClient) -> None:
        while True:
            await client.send_audio(bytes(65_536))

    async def body(client: AsyncClient) -> None:
        await client.open()
        sender = asyncio.create_task(send_for_ever(client))
        await asyncio.to_thread(stuck.wait, LIMIT_S)
        await client.close()
        with pytest.raises(ConnectionLost, match="the client was closed"):
            await sender
        done.set()

    talk(script, tmp_path, body)


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

    async def run(url: str) -> None:
        async with await AsyncClient.connect(url, on_connection=states.append) as client:
            await client.open()
            await client.send_audio(b"abcd")
            assert await client.next_event() == RESUMABLE
            assert await client.next_event() == final("one")
            await client.send_audio(b"ef")
            await client.bye()
            assert [event async for event in client.events()] == [closed(3)]

    with serving(script, tmp_path) as url:
        asyncio.run(run(url))
    assert states == [Connectivity.RECONNECTING, Connectivity.CONNECTED]


def test_a_server_that_stays_away_is_given_up(tmp_path: Path) -> None:
    started = structs.replace(
        RESUMABLE, limits=structs.replace(RESUMABLE.limits, resume_window_ms=1)
    )

    async def body(client: AsyncClient) -> None:
        await client.open()
        (tmp_path / "s.sock").unlink()
        assert await client.next_event() == started
        with pytest.raises(ConnectionLost, match=r"No such file .*tried again for 0\.001 s"):
            await client.next_event()

    talk(lambda peer: peer.start(started) and None, tmp_path, body)


def test_a_server_that_takes_the_connection_and_is_silent_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumption, "ATTEMPT_TIMEOUT_MS", 20)
    started = structs.replace(
        RESUMABLE, limits=structs.replace(RESUMABLE.limits, resume_window_ms=1)
    )

    def script(peer: Peer) -> None:
        peer.start(started)
        peer.sock.close()
        peer.accept()
        assert isinstance(peer.next(), Resume)
        with pytest.raises(EOFError):
            peer.next()

    async def body(client: AsyncClient) -> None:
        await client.open()
        assert await client.next_event() == started
        with pytest.raises(ConnectionLost, match="no answer from the server"):
            await client.next_event(LIMIT_S)

    talk(script, tmp_path, body)


def test_closing_a_session_that_would_be_kept_says_bye(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.start(RESUMABLE)
        assert peer.read_until_bye() == [Audio(0, b"ab")]

    async def body(client: AsyncClient) -> None:
        await client.open()
        await client.send_audio(b"ab")

    talk(script, tmp_path, body)


def test_a_handler_that_fails_ends_the_session(tmp_path: Path) -> None:
    def fail(_: Connectivity) -> None:
        raise ValueError("ours")

    async def run(url: str) -> None:
        async with await AsyncClient.connect(url, on_connection=fail) as client:
            await client.open()
            await client.next_event()
            with pytest.raises(ClientError, match="task has failed"):
                await client.next_event()

    with (
        serving(lambda peer: peer.start(RESUMABLE) and None, tmp_path) as url,
        pytest.raises(ValueError, match="ours"),
    ):
        asyncio.run(run(url))


def test_a_reset_is_a_lost_connection_too(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.start(RESUMABLE)
        unread(peer)
        peer.resume(0)
        assert peer.read_until_bye() == [Audio(0, b"ab")]
        peer.send(closed(1))

    async def body(client: AsyncClient) -> None:
        await client.open()
        await client.send_audio(b"ab")
        await client.bye()
        assert [event async for event in client.events()] == [RESUMABLE, closed(1)]

    talk(script, tmp_path, body)


def test_events_are_acknowledged_in_time(tmp_path: Path) -> None:
    acknowledged = threading.Event()

    def script(peer: Peer) -> None:
        peer.start(RESUMABLE)
        peer.send(final("one"))
        assert peer.next() == Ack(1)
        acknowledged.set()
        peer.send(final("two"))
        peer.read_until_bye()

    async def body(client: AsyncClient) -> None:
        await client.open()
        for event in (RESUMABLE, final("one"), final("two")):
            assert await client.next_event() == event
        assert acknowledged.is_set()

    talk(script, tmp_path, body)


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

    async def body(client: AsyncClient) -> None:
        await client.open()
        await client.send_audio(b"abcd")
        assert is_taken.is_set()

    talk(script, tmp_path, body)
