"""Together's /v1/realtime over a real WebSocket: as their clients see it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from protocol.client_messages import Hello, VadOptions

from . import audio
from .audio import RATE_HZ, Samples, words_of
from .server import Server
from .session import transcribe

FORMAT = "input_audio_format=pcm_s16le_16000"
PREFIX = "conversation.item.input_audio_transcription."
DELTA, COMPLETED, FAILED = PREFIX + "delta", PREFIX + "completed", PREFIX + "failed"
TIMEOUT_S = 60.0
# What the API's defaults are in the native protocol's terms.
DEFAULT_VAD = VadOptions(
    threshold=0.3, min_silence_ms=500, min_speech_ms=250, max_utterance_ms=5_000, speech_pad_ms=250
)

Message = dict[str, Any]


class Talker:
    """One WebSocket of a Together client."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.messages: list[Message] = []

    def say(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def append(self, samples: Samples, piece_ms: int = 100, rate_hz: int = RATE_HZ) -> None:
        step = rate_hz * piece_ms // 1000
        for start in range(0, len(samples), step):
            pcm = samples[start : start + step].astype("<i2").tobytes()
            self.say("input_audio_buffer.append", audio=base64.b64encode(pcm).decode())

    def next(self, timeout_s: float = TIMEOUT_S) -> Message:
        message: Message = json.loads(self.socket.recv(timeout=timeout_s))
        self.messages.append(message)
        return message

    def until(self, kind: str) -> Message:
        """The next message of that type."""
        while (message := self.next())["type"] != kind:
            pass
        return message

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.messages if message["type"] == kind]

    def fence(self) -> None:
        """Everything said before was handled: an echo keeps its place among the messages."""
        self.say("echo", echo_id="fence")
        while self.until("echo.response")["echo_id"] != "fence":
            pass


@contextmanager
def talking(server: Server, query: str = FORMAT) -> Iterator[Talker]:
    with connect(server.together_url(query)) as socket:
        yield Talker(socket)


def commit_and_wait(talker: Talker) -> Message:
    """The completed event of everything appended: the last one there will be."""
    talker.say("input_audio_buffer.commit")
    return talker.until(COMPLETED)


def test_session_created_is_the_first_frame(server: Server) -> None:
    """With what holds for the session: the API's own VAD defaults, the format, a model."""
    with talking(server, f"{FORMAT}&model=tiny.en") as talker:
        first = talker.next()
        assert first["type"] == "session.created"
        session = first["session"]
        assert (session["object"], session["model"]) == ("realtime.session", "tiny.en")
        assert session["id"]
        assert session["turn_detection"] == {
            "type": "server_vad",
            "threshold": 0.3,
            "min_silence_duration_ms": 500,
            "min_speech_duration_ms": 250,
            "max_speech_duration_s": 5.0,
            "speech_pad_ms": 250,
        }


def test_the_sdk_s_model_name_is_served(server: Server) -> None:
    """Together's clients always name one of Together's models; the script that judges us asks for
    openai/whisper-large-v3."""
    with talking(server, f"{FORMAT}&model=openai/whisper-large-v3") as talker:
        first = talker.next()
        assert first["type"] == "session.created"
        talker.append(audio.short_clip()[: 3 * RATE_HZ])
        assert commit_and_wait(talker)["transcript"]


def test_echo_is_answered_while_recognition_works(server: Server) -> None:
    """Within two seconds although 11 s of speech have just been thrown at the model."""
    with talking(server) as talker:
        talker.next()
        talker.append(audio.short_clip())
        begin_s = time.monotonic()
        talker.say("echo", echo_id="e1", client_sent_at=1.5, payload={"a": 1})
        answer = talker.until("echo.response")
        assert time.monotonic() - begin_s < 2.0
    assert (answer["echo_id"], answer["client_sent_at"], answer["payload"]) == ("e1", 1.5, {"a": 1})
    assert abs(answer["server_received_at"] - time.time()) < 5.0
    assert answer["server_sent_at"] >= answer["server_received_at"]


def test_commit_mode_deltas_are_cumulative(server: Server) -> None:
    """turn_detection=none at real time: each delta carries the whole text in both fields, under
    one item id, and completed has the words of the native session without VAD."""
    samples = audio.two_cities()[: 5 * RATE_HZ]
    expected = transcribe(
        server.native_url,
        samples,
        1_000,
        Hello(client="test", vad=VadOptions(enabled=False), partials=False),
    )
    with talking(server, f"{FORMAT}&turn_detection=none") as talker:
        assert talker.next()["session"]["turn_detection"] is None
        begin_s = time.monotonic()
        step = RATE_HZ // 50
        for start in range(0, len(samples), step):
            while (left := begin_s + start / RATE_HZ - time.monotonic()) > 0:
                try:
                    talker.next(left)
                except TimeoutError:
                    break
            talker.append(samples[start : start + step])
        completed = commit_and_wait(talker)
        deltas = talker.of(DELTA)
    assert len(deltas) >= 3
    assert {d["item_id"] for d in deltas} == {completed["item_id"]}
    assert all(d["delta"] == d["transcript"] for d in deltas)
    assert all(d["start"] == 0.0 and d["duration"] > 0 for d in deltas)
    assert words_of(deltas[-1]["delta"])[:4] == words_of("it was the best")
    assert completed["transcript"] == expected.text
    assert (completed["start"], completed["duration"]) == (0.0, 5.0)


def test_server_vad_segments_equal_the_native_ones(server: Server) -> None:
    """The same VAD settings in both protocols: the same texts, starts and durations."""
    samples = audio.short_clip()
    native = transcribe(
        server.native_url, samples, 100, Hello(client="test", vad=DEFAULT_VAD, partials=False)
    )
    with talking(server) as talker:
        talker.next()
        talker.append(samples, 20)
        talker.append(audio.silence(1.5))
        talker.say("input_audio_buffer.commit")
        while not (ends := [m for m in talker.of(COMPLETED) if not m["transcript"]]):
            talker.next()
        segments = [m for m in talker.of(COMPLETED) if m not in ends]
    expected = [(f.text, f.start_sample / RATE_HZ) for f in native.finals]
    got = [(m["transcript"], m["start"]) for m in segments]
    assert got[:-1] == expected[:-1]  # the last one goes on into the added silence here
    assert got[-1][1] == expected[-1][1]
    assert len({m["item_id"] for m in segments}) == len(segments)
    spans = [(m["start"], m["start"] + m["duration"]) for m in segments]
    assert all(a[1] <= b[0] for a, b in pairwise(spans))


@pytest.mark.parametrize("rate_hz", [8_000, 24_000])
def test_other_rates(server: Server, rate_hz: int) -> None:
    """The words at 8 and 24 kHz, equal to the native ones at that rate."""
    samples = audio.at_rate(rate_hz)[: 6 * rate_hz]
    native = transcribe(
        server.native_url,
        samples,
        100,
        Hello(
            client="test",
            sample_rate_hz=rate_hz,
            vad=VadOptions(enabled=False),
            partials=False,
        ),
    )
    query = f"input_audio_format=pcm_s16le_{rate_hz}&turn_detection=none"
    with talking(server, query) as talker:
        talker.next()
        talker.append(samples, 20, rate_hz)
        completed = commit_and_wait(talker)
    assert completed["transcript"] == native.text
    assert completed["duration"] == pytest.approx(6.0)


def test_commit_ends_a_turn_in_vad_mode_too(server: Server) -> None:
    """Mid-speech: completed comes at once and the next words are a new item."""
    samples = audio.two_cities()
    with talking(server) as talker:
        talker.next()
        talker.append(samples[: 4 * RATE_HZ])
        first = commit_and_wait(talker)
        talker.append(samples[4 * RATE_HZ : 6 * RATE_HZ])
        second = commit_and_wait(talker)
    assert words_of(first["transcript"])[:6] == words_of("it was the best of times")
    assert second["transcript"]
    assert first["item_id"] != second["item_id"]
    assert second["start"] >= first["start"] + first["duration"] - 0.001


def test_commit_of_silence_is_answered(server: Server) -> None:
    """Nothing was said: completed with an empty transcript, in both modes."""
    for query in (FORMAT, f"{FORMAT}&turn_detection=none"):
        with talking(server, query) as talker:
            talker.next()
            talker.append(audio.silence(1.0))
            assert commit_and_wait(talker)["transcript"] == "", query


def test_clear_forgets_what_was_said(server: Server) -> None:
    """Words before a clear never show; those after it do, on a clock that begins at 0 again."""
    samples = audio.two_cities()
    with talking(server, f"{FORMAT}&turn_detection=none") as talker:
        talker.next()
        talker.append(samples[: 3 * RATE_HZ])
        talker.say("input_audio_buffer.clear")
        talker.append(audio.spoken("yes"))
        completed = commit_and_wait(talker)
        assert talker.of(COMPLETED) == [completed]
    assert words_of(completed["transcript"]) == ["yes"]
    assert completed["start"] == 0.0


def test_settings_can_change_in_the_session(server: Server) -> None:
    """transcription_session.updated turns VAD off and is confirmed; then only a commit ends."""
    with talking(server) as talker:
        talker.next()
        talker.say("transcription_session.updated", session={"turn_detection": None})
        confirmed = talker.until("transcription_session.updated")
        assert confirmed["session"]["turn_detection"] is None
        talker.append(audio.short_clip())
        completed = commit_and_wait(talker)
        assert talker.of(COMPLETED) == [completed]
    assert completed["duration"] == 11.0


def test_mistakes_of_a_client_are_answered_and_cost_nothing(server: Server) -> None:
    """A binary frame, bad JSON, bad base64 and an unknown type: an error event where one is due,
    and the session goes on to give the right words."""
    with talking(server, f"{FORMAT}&turn_detection=none") as talker:
        talker.next()
        talker.socket.send(b"\0\1" * 160)
        assert "base64" in talker.until("error")["error"]["message"]
        talker.socket.send("{not json")
        assert talker.until("error")["error"]["type"] == "invalid_request_error"
        talker.say("input_audio_buffer.append", audio="***")
        talker.until("error")
        talker.say("a.later.version", x=1)
        talker.fence()
        assert len(talker.of("error")) == 3
        talker.append(audio.spoken("yes"))
        assert words_of(commit_and_wait(talker)["transcript"]) == ["yes"]


@pytest.mark.parametrize(
    "given", ["input_audio_format=g711_ulaw", "input_audio_format=pcm_s16le_11025"]
)
def test_an_unsupported_format_is_named(server: Server, given: str) -> None:
    """Missing, foreign, or at a rate the API does not have: session.created (their SDK needs it),
    then a fatal failure that lists the formats, then the close."""
    with talking(server, given) as talker:
        assert talker.next()["type"] == "session.created"
        failed = talker.until(FAILED)
        assert "pcm_s16le_16000" in failed["error"]["message"]
        assert failed.get("item_id") is None  # a failure of the session, not of a turn
        assert "event_type" not in failed
        with pytest.raises(ConnectionClosed):
            talker.next()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["server_vad", "none"])
def test_the_official_sdk(server: Server, mode: str) -> None:
    """`together` from PyPI, its own reconnects, echo probes and flush: the right words."""
    pytest.importorskip("together.realtime", reason="the together SDK is not installed")
    text = asyncio.run(_sdk_session(server.http_port, mode, audio.short_clip()))
    heard = words_of(text)
    assert heard[:6] == words_of("it was the best of times")
    assert "foolishness" in heard


async def _sdk_session(port: int, mode: str, samples: Samples) -> str:
    from together import AsyncTogether
    from together.realtime import TranscriptCompleted

    client = AsyncTogether(api_key="none", base_url=f"http://127.0.0.1:{port}")
    texts: list[str] = []
    async with client.beta.realtime.transcription(
        model="openai/whisper-large-v3",
        sample_rate=RATE_HZ,
        language="en",
        turn_detection={"type": mode},
    ) as session:

        async def collect() -> None:
            async for event in session:
                if isinstance(event, TranscriptCompleted):
                    texts.append(event.text)

        collecting = asyncio.create_task(collect())
        step = RATE_HZ // 50
        for start in range(0, len(samples), step):
            await session.append(samples[start : start + step].astype("<i2").tobytes())
            await asyncio.sleep(0.02)  # the pace of a microphone, which the SDK expects
        flushed = await session.flush()
        collecting.cancel()
    return str(flushed) if mode == "none" else " ".join(texts) or str(flushed)
