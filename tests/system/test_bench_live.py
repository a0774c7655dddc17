"""The stream clients of `bench live` for the APIs of /v1/realtime, against a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from bench.audio_source import Recording, load
from bench.live_log import StreamLog
from bench.live_metrics import Measures
from bench.live_reference import native_hello, native_url, with_words
from bench.live_run import LivePlan, open_stream, run_fast, run_live
from bench.pacing import Schedule

from .audio import DEMO_CLIP, words_of
from .server import Server

pytestmark = pytest.mark.system

SECONDS = 3.5  # two sentences begin in it, and it ends in the middle of the second
WORDS = words_of("Hello, and welcome")


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A server with no other clients than those of the test, so that its close records are ours."""
    with Server("--threads", "1") as running:
        yield running


@pytest.fixture(scope="module")
def recording() -> Recording:
    return load(str(DEMO_CLIP), seconds=SECONDS)


def url_of(server: Server, dialect: str) -> str:
    return f"{dialect}+ws://127.0.0.1:{server.http_port}"


def assert_deltas_add_up(log: StreamLog) -> None:
    """What stood on the screen last is the transcript."""
    for final in log.finals:
        drafts = [s for s in log.shown if s.utterance == final.utterance and not s.is_final]
        assert drafts[-1].text == final.text


def test_openai_at_real_time(own_server: Server, recording: Recording) -> None:
    """The words come, every time is there that the dialect can give, and each sample sent at
    24 kHz is accounted for by the server's own close record."""
    (log,) = asyncio.run(run_live(LivePlan(url_of(own_server, "openai"), (recording,))))
    assert log.error is None
    assert words_of(log.text)[: len(WORDS)] == WORDS
    assert_deltas_add_up(log)
    measures = Measures()
    measures.add(log, list(recording.speech))
    assert (len(measures.ttft), len(measures.finalize), measures.early_texts) == (1, 1, 0)
    assert len(measures.ttfs) == len(log.finals) > 0
    assert measures.emission == []
    assert measures.words_without_times == measures.final_words > 0
    record = own_server.wait_close_record("openai")
    counts = ("socket_samples", "ring_samples", "engine_samples")
    assert {record[name] for name in counts} == {recording.num_samples}
    assert_emission_by_another_hearing(own_server, log, recording)


def assert_emission_by_another_hearing(
    server: Server, log: StreamLog, recording: Recording
) -> None:
    """The native protocol on the same port tells when the words ended that another dialect said."""
    url = url_of(server, "openai")
    (heard,) = asyncio.run(with_words(native_url(url), (recording,), native_hello(url, vad=True)))
    assert heard.heard is not None
    assert words_of(" ".join(word.text for word in heard.heard))[: len(WORDS)] == WORDS
    measures = Measures()
    measures.add(log, list(recording.speech), heard.heard)
    assert len(measures.emission) + measures.words_without_times == measures.final_words
    assert len(measures.emission) >= len(WORDS)


@pytest.mark.parametrize(
    ("dialect", "vad"), [("openai", True), ("openai", False), ("together", True)]
)
def test_fast_runs_wait_for_the_last_word(
    own_server: Server, recording: Recording, dialect: str, vad: bool
) -> None:
    """All is sent long before it is heard; still nothing of it is missing."""
    log = asyncio.run(run_fast(url_of(own_server, dialect), recording, vad=vad))
    assert log.error is None
    assert words_of(log.text)[: len(WORDS)] == WORDS
    last = max(final.end_sample for final in log.finals)
    assert last > recording.num_samples - 1_600  # somebody speaks to the end of it


@pytest.mark.parametrize("dialect", ["openai", "together"])
def test_a_failure_of_the_server_is_the_streams(own_server: Server, dialect: str) -> None:
    """An error that it tells in the middle of a session ends the stream, and is told on."""

    async def run() -> StreamLog:
        stream = await open_stream(url_of(own_server, dialect), vad=True)
        schedule = Schedule(time.monotonic_ns(), 320, 320)
        return await stream.run([b"{no message"], schedule, paced=False)

    log = asyncio.run(run())
    assert log.error is not None
    assert "the server said" in log.error
