"""Both clients over a network that breaks again and again: what they hear is what they would have.

Real server, real recognition. Connections are cut while audio, finalizes and events are under way,
and behind bye.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clients import AsyncClient, Client, Connectivity
from protocol.client_messages import Final, Hello

from . import audio
from .cutting_proxy import CuttingProxy
from .server import Server
from .session import Heard, Stream, assert_sane, transcribe
from .waiting import wait_for

pytestmark = pytest.mark.system

PIECE_SAMPLES = audio.RATE_HZ // 25
PACE = 4.0  # times as fast as real time
NUM_CUTS = 4
AWAY_PIECES = 8  # how long the network is gone
FINALIZE_AT = 60  # after this piece


def speech() -> audio.Samples:
    """A long sentence and a pause."""
    return np.concatenate([audio.short_clip()[: 6 * audio.RATE_HZ], audio.silence(0.5)])


class Breaks:
    """Cuts and mends a proxy while pieces are sent."""

    def __init__(self, proxy: CuttingProxy, num_pieces: int, seed: int) -> None:
        self._proxy = proxy
        places = range(AWAY_PIECES, num_pieces - AWAY_PIECES, 2 * AWAY_PIECES)
        self._cuts = set(random.Random(seed).sample(places, NUM_CUTS))

    def at(self, piece: int) -> None:
        """Before this piece is sent."""
        if piece in self._cuts:
            self._proxy.cut()
        elif piece - AWAY_PIECES in self._cuts:
            self._proxy.mend()

    def now(self) -> None:
        """For a moment."""
        self._proxy.cut()
        self._proxy.mend()


def pieces() -> Iterator[tuple[int, bytes, float]]:
    """Number, PCM and due time of each piece."""
    begin_s, samples = time.monotonic(), speech()
    for number, start in enumerate(range(0, len(samples), PIECE_SAMPLES)):
        due_s = begin_s + start / audio.RATE_HZ / PACE
        yield number, samples[start : start + PIECE_SAMPLES].astype("<i2").tobytes(), due_s


def num_pieces() -> int:
    """Of `speech`."""
    return -(-len(speech()) // PIECE_SAMPLES)


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> Heard:
    """The same words over a network that works."""
    with Stream(server.native_url, Hello(client="undisturbed")) as stream:
        for number, pcm, _ in pieces():
            stream.client.send_audio(pcm)
            if number == FINALIZE_AT:
                stream.client.finalize()
            stream.poll()
        return stream.finish()


def check(server: Server, heard: Heard, undisturbed: Heard, client: str) -> None:
    """Nothing lost, nothing doubled, one session."""
    assert_sane(heard, len(speech()))
    assert heard.identity() == undisturbed.identity()
    server.wait_close_record(client)
    assert len([r for r in server.close_records() if r["client"] == client]) == 1


@pytest.mark.parametrize("transport", ["native", "websocket"])
def test_the_blocking_client(server: Server, undisturbed: Heard, transport: str) -> None:
    port = server.native_port if transport == "native" else server.http_port
    scheme = "earwire" if transport == "native" else "ws"
    name = f"resume-{transport}"
    states: list[Connectivity] = []
    with CuttingProxy(port) as proxy:
        breaks = Breaks(proxy, num_pieces(), seed=len(transport))
        stream = Stream(f"{scheme}://127.0.0.1:{proxy.port}", Hello(client=name), states.append)
        with stream:
            for number, pcm, due_s in pieces():
                breaks.at(number)
                stream.poll(due_s)
                stream.client.send_audio(pcm)
                if number == FINALIZE_AT:
                    stream.client.finalize()
            stream.client.bye()
            breaks.now()
            stream.wait_event(type(undisturbed.closed))
            stream.poll()
    check(server, stream.heard, undisturbed, name)
    # A cut may find it still waiting because of the one before.
    assert states[:4] == 2 * [Connectivity.RECONNECTING, Connectivity.CONNECTED]


def test_the_asyncio_client(server: Server, undisturbed: Heard) -> None:
    heard = Heard()

    async def run(proxy: CuttingProxy) -> None:
        breaks = Breaks(proxy, num_pieces(), seed=3)
        async with await AsyncClient.connect(f"earwire://127.0.0.1:{proxy.port}") as client:
            await client.open(Hello(client="resume-aio"))
            for number, pcm, due_s in pieces():
                breaks.at(number)
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                await client.send_audio(pcm)
                if number == FINALIZE_AT:
                    answer = await client.finalize()
            assert isinstance(await client.wait_final(answer, 30.0), Final)
            await client.bye()
            breaks.now()
            async for event in client.events():
                heard.events.append(event)

    with CuttingProxy(server.native_port) as proxy:
        asyncio.run(run(proxy))
    check(server, heard, undisturbed, "resume-aio")


def test_a_client_that_is_closed_gives_its_place_back_at_once(server: Server) -> None:
    with Client.connect(server.native_url) as client:
        client.open(Hello(client="leaves"))
        client.send_audio(bytes(32_000))
    record = server.wait_close_record("leaves", 10.0)
    assert (record["reason"], record["socket_samples"]) == ("client", 16_000)


def test_transcribe_says_that_it_reconnects(server: Server, tmp_path: Path) -> None:
    file = audio.write_wav(tmp_path / "speech.wav", speech())
    with CuttingProxy(server.native_port) as proxy:
        url = f"earwire://127.0.0.1:{proxy.port}"
        command = [sys.executable, "-m", "clients.cli", "transcribe", "--realtime"]
        run = subprocess.Popen(
            [*command, "--server", url, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for("the session", lambda: proxy.num_open > 0)
            time.sleep(1.0)  # of the clip
            proxy.cut()
            proxy.mend()
            text, said = run.communicate(timeout=60.0)
        finally:
            run.kill()
    assert run.returncode == 0, said
    assert said == "earwire: the connection is lost; reconnecting\nearwire: connected again\n"
    expected = transcribe(server.native_url, speech(), hello=Hello(partials=False))
    assert text.split() == expected.text.split()
