"""The same audio is the same words in every API, and every sample is accounted for.

Compared is the text of all finals in order, capitals and punctuation included, with that of the
native protocol over TCP; all clients send the same 16 kHz samples and want the same turn
detection. What differs by an API's nature:

- Deepgram without `punctuate` or `smart_format` is compared in lower case without punctuation.
- OpenAI realtime may not take back what it has shown. With `deltas=final` it shows nothing early
  and has to be equal. With drafts, at the pace of a microphone, each item is held to this: if what
  had been shown when it was committed is how the final's words begin, its transcript is the
  final's words; if it is not, the transcript begins with what was shown. Always it is the sum of
  its deltas.

After every session the server's JSON log has to have one close record for it, of that dialect, in
which the three counts are equal and are the number of samples sent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pytest
from websockets.sync.client import connect

from protocol.client_messages import Hello, VadOptions

from . import audio, every_api
from .audio import RATE_HZ, Samples, words_of
from .every_api import OPENAI_VAD, WITHOUT_VAD
from .server import Server
from .session import transcribe
from .test_http import metrics
from .waiting import wait_for

Ask: TypeAlias = Callable[..., str]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """With every listener there is; its log is JSON."""
    with Server("--threads", "1", "--wyoming-port", "0", "--log-format", "json") as running:
        yield running


def speech() -> Samples:
    """Two sentences, and the silence that ends the last."""
    return np.concatenate([audio.short_clip(), audio.silence(1.0)])


@pytest.fixture(scope="module")
def expected(server: Server) -> str:
    """With the server's turn detection."""
    with accounted_for(server, "native"):
        text = every_api.native(server, speech())
    assert audio.word_error_rate(_SPOKEN, text) < 0.1
    return every_api.joined([text])


@pytest.fixture(scope="module")
def committed(server: Server) -> str:
    """As one utterance that only its end ends."""
    with accounted_for(server, "native"):
        return every_api.joined([every_api.native(server, speech(), WITHOUT_VAD)])


_SPOKEN = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    "age of foolishness, it was the epoch of belief, it was"
)
_FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
APIS: dict[str, tuple[str, Ask]] = {
    "native": ("native", every_api.native),
    "native over WebSocket": ("native", every_api.native_websocket),
    "Together": ("together", every_api.together),
    "OpenAI realtime": ("openai", partial(every_api.openai, detection=OPENAI_VAD)),
    "Deepgram": ("deepgram", every_api.deepgram),
    "Deepgram with drafts": (
        "deepgram", partial(every_api.deepgram, query="smart_format=true&interim_results=true"),
    ),
    "Deepgram file": ("deepgram_http", every_api.deepgram_file),
    "Wyoming": ("wyoming", every_api.wyoming),
    **{
        f"OpenAI file, {name}": (
            "openai_http", partial(every_api.openai_file, response_format=name),
        )
        for name in _FORMATS
    },
    "OpenAI file, events": ("openai_http", partial(every_api.openai_file, stream="true")),
    "OpenAI file, word times": (
        "openai_http",
        partial(
            every_api.openai_file,
            response_format="verbose_json", **{"timestamp_granularities[]": "word"},
        ),
    ),
}  # fmt: skip
COMMITS: dict[str, tuple[str, Ask]] = {
    "Together": ("together", partial(every_api.together, turn_detection="none")),
    "OpenAI realtime": ("openai", partial(every_api.openai, detection=None)),
}


@pytest.mark.parametrize("api", APIS)
def test_the_words_of_every_api(server: Server, expected: str, api: str) -> None:
    dialect, ask = APIS[api]
    with accounted_for(server, dialect):
        assert ask(server, speech()) == expected


@pytest.mark.parametrize("api", COMMITS)
def test_the_words_of_a_commit(server: Server, committed: str, api: str) -> None:
    dialect, ask = COMMITS[api]
    with accounted_for(server, dialect):
        assert ask(server, speech()) == committed


@pytest.mark.parametrize("api", ["Deepgram", "Deepgram file"])
def test_deepgram_without_formatting(server: Server, expected: str, api: str) -> None:
    dialect, ask = APIS[api]
    with accounted_for(server, dialect):
        plain = ask(server, speech(), query="language=en")
    assert plain == plain.lower()
    assert words_of(plain) == words_of(expected)


@pytest.mark.parametrize("detection", [OPENAI_VAD, None])
def test_openai_realtime_with_drafts(server: Server, detection: dict[str, Any] | None) -> None:
    vad = WITHOUT_VAD if detection is None else VadOptions()
    with accounted_for(server, "native"):
        heard = transcribe(server.native_url, speech(), hello=Hello(client="test", vad=vad))
    finals = [final.text.split() for final in heard.finals if final.text]
    with accounted_for(server, "openai"):
        items = [item for item in items_at_real_time(server, detection) if item.transcript]
    assert len(items) == len(finals)
    assert any(item.shown for item in items), "nothing was shown early"
    for item, final in zip(items, finals, strict=True):
        if is_beginning(item.shown, " ".join(final)):
            assert item.transcript.split() == final
        else:
            assert item.transcript.startswith(item.shown)


def is_beginning(shown: str, text: str) -> bool:
    """All its words, the last one whole, are the first words of the text."""
    words = shown.split()
    return text.split()[: len(words)] == words


def items_at_real_time(server: Server, detection: dict[str, Any] | None) -> list[every_api.Item]:
    """Nothing is read before all is sent: 12 s of events fit into the socket."""
    url = f"{server.websocket_url}/v1/realtime?intent=transcription"
    with connect(url) as websocket:
        every_api.openai_session(websocket, detection)
        begin_s = time.monotonic()
        for number, pcm in enumerate(every_api.pieces_of(speech()), 1):
            due_s = begin_s + number * every_api.PIECE_SAMPLES / RATE_HZ
            time.sleep(max(0.0, due_s - time.monotonic()))
            every_api.append(websocket, pcm)
        has_turns = detection is not None
        return every_api.items_of(every_api.until_answered(websocket, has_turns=has_turns))


# The accounts


class accounted_for:
    """Context manager: what happens inside is one stream of `speech()`, and its record is right.

    Every stream of this file is inside one, so that no record can be another stream's.
    """

    def __init__(self, server: Server, dialect: str) -> None:
        self._server = server
        self._dialect = dialect
        self._num_before = len(close_records(server))

    def __enter__(self) -> None:
        pass

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is None:
            self._check()

    def _check(self) -> None:
        records = wait_for("the record", lambda: close_records(self._server)[self._num_before :])
        (record,) = records
        samples = len(speech())
        counts = ("client_samples", "socket_samples", "ring_samples", "engine_samples")
        assert [record[name] for name in counts] == [samples] * len(counts), record
        assert (record["dialect"], record["lost_samples"]) == (self._dialect, 0)
        assert record["reason"] == "client"
        assert record["level"] == "info"


def close_records(server: Server) -> list[dict[str, Any]]:
    """From the log; every line of it has to be JSON."""
    lines = [json.loads(line) for line in list(server.log)]
    return [line for line in lines if line["event"] == "stream_closed"]


def test_all_records_and_metrics_agree(server: Server, expected: str) -> None:
    """Over all streams of this file that have ended, whichever tests have run."""
    records = close_records(server)
    assert records
    for record in records:
        assert record["socket_samples"] == record["ring_samples"] == record["engine_samples"]
    total = sum(record["engine_samples"] for record in records)
    name = "earwire_audio_samples_total{stage=%s}"
    wait_for("the metrics", lambda: metrics(server).get(name % "engine") == total)
    now = metrics(server)
    assert [now[name % stage] for stage in ("socket", "ring", "engine")] == [total] * 3
    assert now["earwire_accounting_mismatch_total{}"] == 0
