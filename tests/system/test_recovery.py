"""Recognition processes that die or hang under streams: clients see a delay and nothing else."""

from __future__ import annotations

import functools
import http.client
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from protocol.client_messages import Closed, Final, Hello, SpeechStarted, VadOptions

from . import audio
from .audio import RATE_HZ, Samples
from .processes import arenas_in_shm
from .server import Server
from .session import Heard, Stream, assert_sane
from .test_parakeet import TINY
from .test_together import COMPLETED, FORMAT, talking
from .waiting import wait_for

CLIP_S = 8
NUM_STREAMS = 8
NO_VAD = VadOptions(enabled=False, max_utterance_ms=5_000)
Identity = list[Any]


@pytest.fixture(scope="module")
def parakeet() -> Iterator[Server]:
    with Server("--model", TINY, "--workers", "2", "--service-timeout-ms", "3000") as running:
        yield running
        assert arenas_in_shm() == []


def clip(number: int) -> Samples:
    """Each stream speaks something else."""
    first = number * 3 * RATE_HZ
    return audio.two_cities()[first : first + CLIP_S * RATE_HZ]


def native(url: str, number: int, vad: VadOptions) -> Identity:
    """A stream at real time, with a finalize in the middle: what its finals say."""
    samples = clip(number)
    with Stream(url, Hello(client=f"recover-{number}", tokens=True, vad=vad)) as stream:
        middle = (CLIP_S // 2) * RATE_HZ
        stream.send(samples[:middle], 40, realtime=True)
        stream.client.finalize()
        stream.send(samples[middle:], 40, realtime=True)
        heard = stream.finish()
    assert_sane(heard, len(samples))
    assert [f.finalize_id for f in heard.finals if f.finalize_id is not None] == [1]
    return [*heard.identity(), [final.tokens for final in heard.finals]]


def together(server: Server, number: int, vad: VadOptions) -> Identity:
    """The same through Together's dialect."""
    samples = clip(number)
    query = FORMAT if vad.enabled else f"{FORMAT}&turn_detection=none"
    begin_s = time.monotonic()
    with talking(server, query) as talker:
        talker.next()
        step = RATE_HZ // 10
        for start in range(0, len(samples), step):
            due_s = begin_s + start / RATE_HZ
            while (left_s := due_s - time.monotonic()) > 0:
                try:
                    talker.next(left_s)
                except TimeoutError:
                    break
            talker.append(samples[start : start + step])
        talker.append(audio.silence(1.5))
        talker.say("input_audio_buffer.commit")
        while not _is_answered(talker.of(COMPLETED), vad):
            talker.next()
        return [(m["transcript"], m["start"], m["duration"]) for m in talker.of(COMPLETED)]


def _is_answered(completed: list[dict[str, Any]], vad: VadOptions) -> bool:
    """In the silence at the end there is nothing to commit, unless all sound is speech."""
    return bool(completed) and not (vad.enabled and completed[-1]["transcript"])


def run_streams(server: Server, vad: VadOptions, torment: Callable[[], None]) -> list[Identity]:
    """Eight streams side by side, native, in WebSockets and Together's."""
    urls = [server.native_url, server.websocket_url, server.unix_url]
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        running: list[Future[Identity]] = []
        for number in range(NUM_STREAMS):
            if number % 4 == 3:
                running.append(pool.submit(together, server, number, vad))
            else:
                running.append(pool.submit(native, urls[number % 4], number, vad))
        torment()
        return [stream.result(180) for stream in running]


@functools.cache
def run_undisturbed(server: Server, vad: VadOptions) -> list[Identity]:
    """What the others are held to; one run serves several tests."""
    return run_streams(server, vad, lambda: None)


def recovery_metrics(server: Server) -> tuple[float, float, float]:
    """Recoveries so far, their seconds, and differences that were counted."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    finally:
        connection.close()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    names = ("recovery_seconds_count", "recovery_seconds_sum", "replay_differences_total")
    count, total, differences = (float(values[f"earwire_{name}"]) for name in names)
    return count, total, differences


def a_service(server: Server) -> Any:
    return wait_for("a service", server.services, 60)[0]


def kill_now_and_then(server: Server, rng: random.Random, times: int) -> Callable[[], None]:
    def torment() -> None:
        for _ in range(times):
            time.sleep(rng.uniform(1.0, 3.5))  # the moment is what is random here
            server.kill(a_service(server))

    return torment


@pytest.mark.parametrize("vad", [VadOptions(), NO_VAD], ids=["vad", "no vad"])
def test_streams_survive_the_death_of_their_service(parakeet: Server, vad: VadOptions) -> None:
    """kill -9 twice under eight streams: finals, tokens, intervals and answers are those of
    a run without a fault, every count agrees, and nobody was told anything.
    """
    undisturbed = run_undisturbed(parakeet, vad)
    count_before, seconds_before, _ = recovery_metrics(parakeet)
    disturbed = run_streams(parakeet, vad, kill_now_and_then(parakeet, random.Random(6), 2))
    assert disturbed == undisturbed
    count, seconds, differences = wait_for(
        "statistics", lambda: _after(parakeet, count_before + NUM_STREAMS), 10
    )
    assert differences == 0
    recoveries = count - count_before
    print(f"{recoveries:.0f} recoveries, mean {(seconds - seconds_before) / recoveries:.2f} s")


def _after(server: Server, count: float) -> tuple[float, float, float] | None:
    metrics = recovery_metrics(server)
    return metrics if metrics[0] >= count else None


def test_a_service_that_hangs_is_started_again(parakeet: Server) -> None:
    """SIGSTOP: within --service-timeout-ms and a bit the parent kills it; streams go on."""
    undisturbed = run_undisturbed(parakeet, VadOptions())
    start = len(parakeet.log)

    def freeze() -> None:
        time.sleep(2.0)
        os.kill(a_service(parakeet).pid, signal.SIGSTOP)

    assert run_streams(parakeet, VadOptions(), freeze) == undisturbed
    assert "has not moved" in parakeet.wait_log("killing it", start=start)


def test_a_stream_that_closed_and_a_stream_that_begins_meanwhile(parakeet: Server) -> None:
    """The last audio is sent and said goodbye when the service dies; another client speaks for
    the first time while none is there."""
    samples = clip(0)
    expected = heard_of(parakeet, samples)
    with Stream(parakeet.native_url, Hello(client="late")) as late:
        with Stream(parakeet.native_url, Hello(client="closing")) as closing:
            closing.send(samples[: 4 * RATE_HZ])
            closing.wait_event(SpeechStarted)
            closing.send(samples[4 * RATE_HZ :])
            service = a_service(parakeet)
            os.kill(service.pid, signal.SIGSTOP)  # it reads nothing of what follows
            closing.client.bye()
            parakeet.kill(service)
            late.send(samples)
            closing.wait_event(Closed)
            closing.poll()
        heard = late.finish()
    for one in (heard, closing.heard):
        assert_sane(one, len(samples))
        assert one.identity() == expected.identity()


def heard_of(server: Server, samples: Samples) -> Heard:
    with Stream(server.native_url, Hello(client="expected")) as stream:
        stream.send(samples)
        return stream.finish()


def test_a_vanished_client_is_decoded_to_its_end_by_the_next_service(parakeet: Server) -> None:
    samples = clip(1)
    with Stream(parakeet.native_url, Hello(client="gone"), resume=False) as stream:
        stream.send(samples)
        stream.wait_event(Final)
        service = a_service(parakeet)
        os.kill(service.pid, signal.SIGSTOP)
    parakeet.kill(service)
    record = parakeet.wait_close_record("gone", 60)
    counts = [record[f"{name}_samples"] for name in ("client", "socket", "ring", "engine")]
    assert counts == [len(samples)] * 4


@pytest.mark.slow
def test_another_service_takes_over_at_once() -> None:
    """Two services, one dies: the streams of the dead one go on with the other."""
    with Server("--model", TINY, "--workers", "2", "--services", "2") as server:
        wait_for("both services", lambda: len(server.services()) == 2 or None)
        undisturbed = run_streams(server, VadOptions(), lambda: None)
        disturbed = run_streams(
            server, VadOptions(), kill_now_and_then(server, random.Random(1), 4)
        )
    assert disturbed == undisturbed
