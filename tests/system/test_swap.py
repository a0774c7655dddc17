"""Several models in one server, and models that are replaced under streams."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.errors import ServerError
from protocol.client_messages import Final, Hello, Partial, VadOptions
from protocol.errors import ErrorCode

from . import audio
from .audio import RATE_HZ, Samples
from .server import Server
from .session import Heard, Stream, assert_sane, transcribe
from .test_http import ask, metrics
from .test_parakeet import TINY
from .waiting import wait_for

NUM_STREAMS = 6
CLIP_S = 6
COMMAND_TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def pair() -> Iterator[Server]:
    """Whisper tiny.en, and a tiny Parakeet as the second model."""
    with Server("--model", "tiny.en", "--model", TINY, "--workers", "2") as running:
        yield running
        assert len(running.services()) == 2


def clip(number: int) -> Samples:
    first = number * 4 * RATE_HZ
    return audio.two_cities()[first : first + CLIP_S * RATE_HZ]


def hello(number: int, model: str) -> Hello:
    """Every third stream takes all sound for speech, in short utterances."""
    cut = VadOptions(enabled=False, max_utterance_ms=2_000)
    vad = VadOptions() if number % 3 < 2 else cut
    return Hello(client=f"swap-{number}", model=model, vad=vad)


def swap(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`earwire swap-model`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "gateway.swap_command", *arguments, "--socket", str(server.uds)],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


def listed(server: Server) -> list[str]:
    return [model["id"] for model in json.loads(ask(server, "/v1/models")[2])["data"]]


def model_of(server: Server, **fields: Any) -> str:
    """What a session gets that says hello like this."""
    with Stream(server.native_url, Hello(client="which", **fields)) as stream:
        assert stream.heard.started is not None
        return stream.heard.started.model


def wait_models(server: Server, *models: str) -> None:
    """Until every worker, whichever answers, has heard of them."""
    for _ in range(8):
        wait_for(f"{models}", lambda: listed(server) == list(models) or None)


def run_under_streams(server: Server, model: str, act: Any) -> list[Heard]:
    """Streams at real time, over all listeners, while something happens."""
    urls = [server.native_url, server.websocket_url, server.unix_url]

    def run(number: int) -> Heard:
        asked, url = hello(number, model), urls[number % len(urls)]
        return transcribe(url, clip(number), 40, asked, realtime=True)

    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        running = [pool.submit(run, number) for number in range(NUM_STREAMS)]
        act()
        heard = [stream.result(60) for stream in running]
    for number, one in enumerate(heard):
        assert_sane(one, len(clip(number)))
    return heard


def test_sessions_choose_a_model(pair: Server) -> None:
    wait_models(pair, "tiny.en", "tiny")
    assert model_of(pair) == "tiny.en"
    assert model_of(pair, model="tiny") == "tiny"
    assert model_of(pair, language="en-GB") == "tiny.en"
    assert model_of(pair, language="fr") == "tiny", "the default model knows English only"
    with pytest.raises(ServerError) as refused:
        model_of(pair, model="large")
    assert refused.value.code is ErrorCode.UNKNOWN_MODEL
    samples = clip(0)
    heard = transcribe(pair.native_url, samples, 100, Hello(client="test", model="tiny.en"))
    assert_sane(heard, len(samples))
    assert audio.word_error_rate(audio.TWO_CITIES_TEXT[: len(heard.text)], heard.text) < 0.3


def test_a_model_is_replaced_under_streams(pair: Server, tmp_path: Path) -> None:
    """The same weights under another name: finals are the same, and the old name goes on. What is
    cut is heard without what lies before the cut, if the stream moves there: that text may differ.
    """
    renamed = tmp_path / "renamed"
    shutil.copytree(TINY, renamed)
    expected = [
        transcribe(pair.native_url, clip(n), 100, hello(n, "tiny")) for n in range(NUM_STREAMS)
    ]

    def act() -> None:
        time.sleep(1.0)  # streams are under way
        done = swap(pair, str(renamed), "--old", "tiny")
        assert (done.returncode, "renamed has replaced tiny" in done.stdout) == (0, True), done

    heard = run_under_streams(pair, "tiny", act)
    for number, (one, other) in enumerate(zip(heard, expected, strict=True)):
        assert tiles(one) == tiles(other)
        assert number % 3 == 2 or one.identity() == other.identity()
    wait_models(pair, "tiny.en", "renamed")
    assert model_of(pair, model="tiny") == "renamed"
    assert len(pair.services()) == 2


def tiles(heard: Heard) -> list[tuple[int, int]]:
    """Where utterances were."""
    return [(final.start_sample, final.end_sample) for final in heard.finals]


def test_another_model_takes_streams_over(pair: Server) -> None:
    """Whisper becomes Parakeet between two utterances: each says what it hears, and every sample is
    decoded once.
    """
    urls = [pair.native_url, pair.websocket_url, pair.unix_url]
    first = np.concatenate([clip(0)[: 4 * RATE_HZ], audio.silence(1.0)])
    second = np.concatenate([audio.silence(1.0), clip(1)])
    whole = np.concatenate([first, second])
    english, tiny = (
        transcribe(pair.native_url, whole, 100, Hello(client="test", model=model))
        for model in ("tiny.en", "renamed")
    )
    streams = [Stream(url, Hello(client="moving", model="tiny.en")) for url in urls]
    for stream in streams:
        stream.send(first)
        stream.wait_event(Final)
    done = swap(pair, TINY, "--old", "tiny.en")
    assert done.returncode == 0, done
    boundary = streams[0].heard.finals[-1].end_sample
    for stream in streams:
        stream.send(second)
        heard = stream.finish()
        stream.close()
        assert_sane(heard, len(whole))
        assert said(heard, 0, boundary) == said(english, 0, boundary)
        assert said(heard, boundary, len(whole)) == said(tiny, boundary, len(whole))
    assert wait_for("two swaps", lambda: swaps_in(pair)) == {"ok": 2.0, "failed": 0.0}


def test_a_new_service_that_dies_gives_its_streams_back(pair: Server) -> None:
    """One stream has moved to it already, the other is in the middle of an utterance."""
    whole = np.concatenate([clip(0)[: 4 * RATE_HZ], audio.silence(1.0), clip(1)])
    asked = Hello(client="back", model="renamed")
    expected = transcribe(pair.native_url, whole, 100, asked)
    with Stream(pair.native_url, asked) as moved, Stream(pair.unix_url, asked) as speaking:
        moved.send(whole[: 5 * RATE_HZ])
        moved.wait_event(Final)
        speaking.send(whole[: 2 * RATE_HZ], realtime=True)
        speaking.wait_event(Partial)
        before = {service.pid for service in pair.services()}
        command = [sys.executable, "-m", "gateway.swap_command", TINY, "--old", "renamed"]
        with subprocess.Popen(
            [*command, "--socket", str(pair.uds)], stderr=subprocess.PIPE, text=True
        ) as running:
            assert running.stderr is not None
            assert next(line for line in running.stderr if "still with renamed: 1" in line)
            (new,) = [service for service in pair.services() if service.pid not in before]
            pair.kill(new)
            assert "renamed goes on serving" in running.stderr.read()
            assert running.wait(30) == 1
        for stream, num_sent in ((moved, 5 * RATE_HZ), (speaking, 2 * RATE_HZ)):
            stream.send(whole[num_sent:])
            heard = stream.finish()
            assert_sane(heard, len(whole))
            assert heard.identity() == expected.identity()
    assert {service.pid for service in pair.services()} == before


def said(heard: Heard, first: int, end: int) -> list[tuple[Any, ...]]:
    """Finals between two places."""
    chosen = [f for f in heard.finals if first <= f.start_sample < f.end_sample <= end]
    assert chosen
    return [(f.text, f.start_sample, f.end_sample, f.words) for f in chosen]


def swaps_in(server: Server) -> dict[str, float] | None:
    """Outcomes that the server has counted, once there are two."""
    now = metrics(server)
    name = "earwire_model_swaps_total"
    counts = {outcome: now[f"{name}{{outcome={outcome}}}"] for outcome in ("ok", "failed")}
    return counts if sum(counts.values()) >= 2 else None


def test_a_model_that_does_not_load_changes_nothing(pair: Server) -> None:
    before = [service.pid for service in pair.services()]
    failed = swap(pair, "/nonexistent", "--old", "renamed")
    assert failed.returncode == 1
    assert "/nonexistent is no model" in failed.stderr
    assert "renamed goes on serving" in failed.stderr
    unclear = swap(pair, "/nonexistent")
    assert (unclear.returncode, "say --old" in unclear.stderr.lower()) == (1, True)
    assert [service.pid for service in pair.services()] == before
    heard = transcribe(pair.native_url, clip(0), 100, Hello(client="test", model="renamed"))
    assert_sane(heard, len(clip(0)))


def test_who_has_begun_and_not_spoken_is_not_refused_by_the_next_model(pair: Server) -> None:
    """It asked for a language that its model took, and Whisper tiny.en does not know."""
    asked = Hello(client="silent", model="renamed", language="fr")
    with Stream(pair.native_url, asked) as silent:
        assert swap(pair, "tiny.en", "--old", "renamed").returncode == 0
        samples = clip(0)
        silent.send(samples)
        assert_sane(silent.finish(), len(samples))
    with pytest.raises(ServerError) as refused:
        model_of(pair, model="renamed", language="fr")
    assert refused.value.code is ErrorCode.UNKNOWN_LANGUAGE


@pytest.mark.slow
def test_swaps_one_after_another_while_workers_die(tmp_path: Path) -> None:
    """Three swaps of two services each under real-time streams, a worker killed in each."""
    other = tmp_path / "other"
    shutil.copytree(TINY, other)
    rng = random.Random(7)
    with Server("--model", TINY, "--workers", "2", "--services", "2") as server:
        asked = [hello(n, "tiny") for n in (0, 1, 3, 4, 6, 7)]
        clips = [audio.two_cities()[n * 2 * RATE_HZ :][: 14 * RATE_HZ] for n in range(len(asked))]
        expected = [
            transcribe(server.native_url, samples, 100, one)
            for one, samples in zip(asked, clips, strict=True)
        ]
        with ThreadPoolExecutor(len(asked) + 1) as pool:
            running = [
                pool.submit(transcribe, server.native_url, samples, 40, one, realtime=True)
                for one, samples in zip(asked, clips, strict=True)
            ]
            for model in (str(other), TINY, str(other)):
                swapping = pool.submit(swap, server, model)
                time.sleep(rng.uniform(0.8, 2.0))  # while the model loads, or sessions move
                server.kill(rng.choice(wait_for("workers", server.workers)))
                assert swapping.result(COMMAND_TIMEOUT_S).returncode == 0
            heard = [stream.result(60) for stream in running]
        for one, other_run, samples in zip(heard, expected, clips, strict=True):
            assert_sane(one, len(samples))
            assert one.identity() == other_run.identity()
        assert len(server.services()) == 2
