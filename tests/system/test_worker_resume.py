"""Workers that are killed under streams: clients resume at the successor, through whichever worker
they reach, and hear what they would have heard.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from clients.resumption import Connectivity
from protocol.client_messages import Hello, VadOptions

from . import audio
from .audio import RATE_HZ
from .processes import Process, arenas_in_shm
from .server import Server
from .session import Heard, Stream, assert_sane
from .test_parakeet import TINY
from .waiting import wait_for

pytestmark = pytest.mark.system

CLIP_S = 7
NUM_STREAMS = 6
WIDE = 3  # times the ring's rate: 48 kHz
VAD = VadOptions(max_utterance_ms=3_000)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--model", TINY, "--workers", "2") as running:
        yield running
        assert arenas_in_shm() == []


class Talker:
    """One stream at real time, with two finalizes, that remembers what became of its connection."""

    def __init__(self, server: Server, number: int) -> None:
        urls = [server.native_url, server.websocket_url, server.unix_url]
        first = number * 2 * RATE_HZ
        self.samples = audio.two_cities()[first : first + CLIP_S * RATE_HZ]
        self.is_wide = number % 3 == 2
        if self.is_wide:
            self.samples = np.repeat(self.samples, WIDE)
        rate_hz = RATE_HZ * (WIDE if self.is_wide else 1)
        hello = Hello(client=f"talker-{number}", tokens=True, vad=VAD, sample_rate_hz=rate_hz)
        self.outages = 0
        self.stream = Stream(urls[number % 3], hello, self._on_connection)
        started = self.stream.heard.started
        assert started is not None
        self.owner = int(started.resume_token.split(".")[0])

    def _on_connection(self, connectivity: Connectivity) -> None:
        self.outages += connectivity is Connectivity.RECONNECTING

    def run(self, *, realtime: bool) -> Heard:
        with self.stream as stream:
            third = len(self.samples) // 3
            for start in (0, third):
                stream.send(self.samples[start : start + third], 40, realtime=realtime)
                stream.client.finalize()
            stream.send(self.samples[2 * third :], 40, realtime=realtime)
            heard = stream.finish()
        assert_sane(heard, len(self.samples), stream.rate_hz)
        assert [f.finalize_id for f in heard.finals if f.finalize_id is not None] == [1, 2]
        return heard


def said(heard: Heard, *, exactly: bool) -> list[Any]:
    """What a fault must not change. Behind a fault the last bit of a resampled sample may differ:
    there it is the words and their places that are compared, not their confidences.
    """
    if exactly:
        return [*heard.identity(), [final.tokens for final in heard.finals]]
    return [(f.text, f.start_sample, f.end_sample, f.finalize_id) for f in heard.finals]


def run_talkers(server: Server, *, kills: tuple[float, ...]) -> list[tuple[Talker, Heard]]:
    """All of them, while the workers of the first two are killed, one behind the other. Between
    two kills the clients of the dead worker have noticed, and nobody else.
    """
    talkers = [Talker(server, number) for number in range(NUM_STREAMS)]
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        running: list[Future[Heard]] = [
            pool.submit(talker.run, realtime=bool(kills)) for talker in talkers
        ]
        begin_s = time.monotonic()
        for number, at_s in enumerate(kills):
            time.sleep(max(0.0, begin_s + at_s - time.monotonic()))  # where in the audio is random
            if number:
                concerned = [talker.owner == talkers[0].owner for talker in talkers]
                assert [talker.outages > 0 for talker in talkers] == concerned
            server.kill(worker_of(server, talkers[number].owner))
        return list(zip(talkers, [one.result(60) for one in running], strict=True))


def worker_of(server: Server, index: int) -> Process:
    """The worker of this index."""
    text = f'"index":{index},'

    def find() -> Process | None:
        return next((w for w in server.workers() if text in w.command), None)

    return wait_for(f"worker {index}", find)


def gauges(server: Server) -> dict[str, float]:
    """Sessions as /metrics counts them."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in values.items() if "earwire_sessions_" in name}


def test_streams_survive_the_death_of_their_worker(server: Server) -> None:
    """kill -9 twice: finals, tokens, answers, tiles and counts are those of a run without it."""
    undisturbed = run_talkers(server, kills=())
    disturbed = run_talkers(server, kills=(2.2, 4.7))
    assert all(talker.outages == 0 for talker, _ in undisturbed)
    for (talker, heard), (_, expected) in zip(disturbed, undisturbed, strict=True):
        exactly = not talker.is_wide
        assert said(heard, exactly=exactly) == said(expected, exactly=exactly)
    assert sum("wait for their clients" in line for line in server.log) == 2
    assert not any("cannot go on" in line for line in server.log)
    wait_for(
        "the slots",
        lambda: not any(n for name, n in gauges(server).items() if "total" not in name),
        10,
    )
