"""A stream of `bench live` in Together's dialect: its URL, its messages, and what its events mean.

The dialect has no stage times, word times or close record: stages and dropped samples stay empty,
and emission needs times from elsewhere (word_times.py). A commit is not answered when nothing was
open: then there is no finalize-to-final either, and the stream ends after QUIET_NS without a
transcript. realtime_stream does the sending and receiving.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from gateway.dialects.together_events import turn_detection_from_query, vad_options
from protocol.client_messages import VadOptions

from .live_log import Shown, StreamLog
from .paced_sender import cut_chunks
from .pacing import RING_RATE_HZ
from .realtime_stream import RealtimeStream, append_message

QUIET_NS = 3_000_000_000
# Of the native defaults those that move a final: this API's own are 500 ms, and cuts at 5 s.
# Threshold and padding stay its own (0.3, 250 ms): its utterances are a little longer, and fewer.
SAME_VAD = "&min_silence_duration_ms=352&max_speech_duration_s=30"
HEADERS = {"Authorization": "Bearer none", "OpenAI-Beta": "realtime=v1"}
_PREFIX = "conversation.item.input_audio_transcription."


def stream_url(url: str, *, vad: bool, model: str = "tiny.en") -> str:
    """The WebSocket URL for together+ws://HOST:PORT."""
    host = urlsplit(url).netloc
    detection = "server_vad" if vad else "none"
    query = f"model={model}&input_audio_format=pcm_s16le_16000&turn_detection={detection}{SAME_VAD}"
    return f"ws://{host}/v1/realtime?{query}"


def native_vad(url: str, *, vad: bool) -> VadOptions:
    """What the server makes of the URL: a native session with it hears the same utterances."""
    query = parse_qs(urlsplit(stream_url(url, vad=vad)).query)
    return vad_options(turn_detection_from_query(query))


def audio_messages(pcm: bytes, chunk_samples: int) -> list[bytes]:
    """A stream's appends, one a chunk."""
    return [append_message(chunk) for chunk in cut_chunks(pcm, chunk_samples)]


async def open_stream(url: str, *, vad: bool) -> RealtimeStream:
    """The session is there when its first event is. Raises OSError or RuntimeError."""
    return await RealtimeStream.open(stream_url(url, vad=vad), TogetherLog, headers=HEADERS)


class TogetherLog:
    """The dialect's Reader."""

    def __init__(self, log: StreamLog) -> None:
        self.log = log
        self._numbers: dict[str, int] = {}
        self._is_ending = False
        self._last_event_ns = 0

    def receive(self, event: dict[str, Any], received_ns: int) -> None:
        """Take one event. Raises RuntimeError for a failure."""
        self._last_event_ns = received_ns
        kind = str(event.get("type", ""))
        if kind == _PREFIX + "failed" or kind == "error":
            raise RuntimeError(f"the server said: {event.get('error')}")
        if kind not in (_PREFIX + "delta", _PREFIX + "completed"):
            return
        is_final = kind.endswith("completed")
        start = round(float(event.get("start", 0)) * RING_RATE_HZ)
        end = start + round(float(event.get("duration", 0)) * RING_RATE_HZ)
        number = self._numbers.setdefault(str(event["item_id"]), len(self._numbers))
        text = str(event["transcript"])
        self.log.shown.append(Shown(received_ns, number, text, is_final, start, end))
        if is_final and self._is_ending and self.log.answer_ns is None:
            self.log.answer_ns = received_ns

    def expect_end(self, now_ns: int) -> None:
        """The first final from here on is the answer."""
        self._is_ending = True
        self._last_event_ns = now_ns

    def is_complete(self, now_ns: int) -> bool:
        """Nothing has come for QUIET_NS: the engine may be behind for longer, so a first
        transcript is waited for as long as events keep coming."""
        return now_ns - self._last_event_ns > QUIET_NS
