"""Several workers, several services: the same words through every listener."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from protocol.client_messages import Hello

from . import audio
from .audio import RATE_HZ
from .processes import arenas_in_shm
from .server import Server
from .session import Heard, Stream, assert_sane, transcribe
from .test_http import ask, metrics
from .waiting import wait_for

QUIET = Hello(client="test", partials=False)
NUM_STREAMS = 4


@pytest.fixture(scope="module")
def grid() -> Iterator[Server]:
    """2 workers x 2 services, each service with one thread."""
    with Server("--workers", "2", "--services", "2", "--threads", "1") as running:
        wait_for("both services", lambda: all_ready(running), 60)
        yield running


def all_ready(server: Server) -> bool:
    return all(any(f"{kind} ready" in line for line in server.log) for kind in (
        "service 0", "service 1", "worker 0", "worker 1",
    ))  # fmt: skip


def clip() -> audio.Samples:
    return audio.two_cities()[: int(8.6 * RATE_HZ)]


@pytest.fixture(scope="module")
def expected(server: Server) -> Heard:
    """The same clip through one worker and one service, alone."""
    return transcribe(server.native_url, clip(), 100, QUIET)


def test_every_process_is_there(grid: Server) -> None:
    """Two of each, and no name in /dev/shm."""
    assert (len(grid.workers()), len(grid.services())) == (2, 2)
    assert arenas_in_shm() == []


def test_four_streams_at_once_give_equal_finals(grid: Server, expected: Heard) -> None:
    """Streams on both workers and both services, as fast as the sockets take them, beside each
    other: the finals of each are those of a stream alone on another server."""

    def run(number: int) -> Heard:
        return transcribe(grid.native_url, clip(), 20 + 40 * number, Hello(client=f"s{number}"))

    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        runs = list(pool.map(run, range(NUM_STREAMS)))
    for heard in runs:
        assert_sane(heard, len(clip()))
        assert heard.identity() == expected.identity()


def test_new_streams_go_to_the_service_with_fewer(grid: Server) -> None:
    """Two open streams, on whichever workers: one on each service, as /metrics shows."""
    wait_for_new_statistics(grid)
    wait_for("no stream", lambda: open_streams(grid) == [0, 0])
    with Stream(grid.native_url, QUIET) as one:
        one.send(clip()[:8_000])
        wait_for("the first stream", lambda: sorted(open_streams(grid)) == [0, 1])
        with Stream(grid.native_url, QUIET) as two:
            two.send(clip()[:8_000])
            wait_for("one stream on each", lambda: open_streams(grid) == [1, 1])
    wait_for("none", lambda: open_streams(grid) == [0, 0])


def wait_for_new_statistics(server: Server) -> None:
    """What /metrics shows from here on was counted after this call: two rounds of the parent."""

    def uptime() -> float:
        return metrics(server)["earwire_uptime_seconds{}"]

    begin_s = uptime()
    wait_for("new statistics", lambda: uptime() > begin_s + 2.5)


def open_streams(server: Server) -> list[float]:
    now = metrics(server)
    return [now.get(f"earwire_service_open_streams{{service={n}}}", -1) for n in (0, 1)]


@pytest.mark.parametrize("listener", ["native_url", "unix_url", "websocket_url"])
def test_both_workers_serve_every_listener(grid: Server, listener: str) -> None:
    """New sessions until both workers have had one; the session id begins with the worker."""
    seen: set[str] = set()

    def both() -> bool:
        with Stream(getattr(grid, listener), QUIET) as stream:
            assert stream.heard.started is not None
            seen.add(stream.heard.started.session_id[0])
        return seen == {"0", "1"}

    wait_for(f"both workers on {listener}", both)
    samples = audio.spoken("yes")
    heard = transcribe(getattr(grid, listener), samples, 20, QUIET)
    assert_sane(heard, len(samples))
    assert audio.words_of(heard.text) == ["yes"]


def test_metrics_are_of_the_whole_server(grid: Server) -> None:
    """Whichever worker answers, counters grow by every stream, and both kinds are up."""
    name = "earwire_sessions_total{dialect=native,outcome=ok}"
    samples = audio.spoken("yes")
    wait_for_new_statistics(grid)
    before = metrics(grid)[name]
    for _ in range(6):
        transcribe(grid.native_url, samples, 100, QUIET)
    wait_for("six more sessions", lambda: metrics(grid)[name] == before + 6)
    now = metrics(grid)
    assert now["earwire_children_up{kind=worker}"] == 2
    assert now["earwire_children_up{kind=service}"] == 2
    assert ask(grid, "/health/ready")[0] == 200


@pytest.mark.slow
def test_four_streams_at_real_time(grid: Server, expected: Heard) -> None:
    """At real time with partials: the same finals."""

    def run(_: int) -> Heard:
        return transcribe(grid.native_url, clip(), 20, realtime=True)

    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        for heard in pool.map(run, range(NUM_STREAMS)):
            assert_sane(heard, len(clip()))
            assert heard.identity() == expected.identity()
            assert len(heard.partials) >= 3
