"""The asyncio client over a real socket: the same sessions as test_blocking.py."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from clients import AsyncClient, ConnectionLost, ServerError
from protocol.client_messages import Audio, Error, Finalize, Hello, Partial, Ping, Pong
from protocol.errors import ErrorCode

from .server import STARTED, Peer, Script, closed, serving
from .test_blocking import final, partial


def talk(script: Script, directory: Path, body: Callable[[AsyncClient], Awaitable[None]]) -> None:
    async def run(url: str) -> None:
        async with await AsyncClient.connect(url) as client:
            await body(client)

    with serving(script, directory) as url:
        asyncio.run(run(url))


def test_a_whole_session(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        assert peer.start() == Hello(sample_rate_hz=8_000)
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


def test_waiting_ends_with_its_time(tmp_path: Path) -> None:
    release = threading.Event()

    def script(peer: Peer) -> None:
        peer.next()
        release.wait()

    async def body(client: AsyncClient) -> None:
        with pytest.raises(TimeoutError):
            await client.open(timeout_s=0.01)
        assert await client.next_event(0.01) is None
        release.set()

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
