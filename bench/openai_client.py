"""A stream of `bench live` in OpenAI's dialect: its settings, its messages, what its events mean.

Audio is 24 kHz, as OpenAI's clients send it; it is made before the clock starts. The model is the
server's default, unless the URL's query names one. The dialect has no stage times, word times or
close record, and does not say whether a final revised what was shown, so all these stay empty, and
emission needs times from elsewhere (word_times.py). Its deltas are never taken back: a transcript
may differ from what a fast run of the same audio, which has no drafts, says. `?deltas=final` in the
URL makes them equal, and first texts as late as finals.

With turn detection the commit at the end may complete the turn that is open, or a new and empty
item when none is, and nothing tells which. So there are two commits, one behind the other: the
first transcript of an item that no turn began answers one of them, and everything else was before
it. realtime_stream does the sending and receiving.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from .audio_source import resample
from .live_log import Shown, StreamLog
from .paced_sender import cut_chunks
from .pacing import RING_RATE_HZ
from .realtime_stream import RealtimeStream, append_message

PCM_RATE_HZ = 24_000
NUM_COMMITS = 2
# The native defaults, so that the dialects compare: this API's own are 500 and 300 ms.
SAME_VAD = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 160,
    "silence_duration_ms": 352,
}
_SAMPLES_PER_MS = RING_RATE_HZ // 1000
_TRANSCRIPTION = "conversation.item.input_audio_transcription."


def stream_url(url: str) -> str:
    """The WebSocket URL for openai+ws://HOST:PORT, with the query behind it if there is one."""
    parts = urlsplit(url)
    query = "&".join(filter(None, ["intent=transcription", parts.query]))
    return f"ws://{parts.netloc}/v1/realtime?{query}"


def session_update(*, vad: bool) -> str:
    """What the session is to be; without `vad` the client's commits make the items."""
    given = {
        "format": {"type": "audio/pcm", "rate": PCM_RATE_HZ},
        "turn_detection": SAME_VAD if vad else None,
    }
    session = {"type": "transcription", "audio": {"input": given}}
    return json.dumps({"type": "session.update", "session": session})


def audio_messages(pcm: bytes, chunk_samples: int) -> list[bytes]:
    """A stream's appends, one a chunk of so many 16 kHz samples, all of it at 24 kHz."""
    samples = resample(np.frombuffer(pcm, np.int16), RING_RATE_HZ, PCM_RATE_HZ)
    chunk_samples = chunk_samples * PCM_RATE_HZ // RING_RATE_HZ
    return [append_message(chunk) for chunk in cut_chunks(samples.tobytes(), chunk_samples)]


async def open_stream(url: str, *, vad: bool) -> RealtimeStream:
    """The session stands when its update is confirmed. Raises OSError or RuntimeError."""
    return await RealtimeStream.open(
        stream_url(url), OpenAiLog, num_commits=NUM_COMMITS, update=session_update(vad=vad)
    )


@dataclass(slots=True)
class _Item:
    """As far as it has been told; positions are 16 kHz samples."""

    number: int
    start_sample: int
    end_sample: int
    is_turn: bool = False
    text: str = ""


class OpenAiLog:
    """The dialect's Reader."""

    def __init__(self, log: StreamLog) -> None:
        self.log = log
        self._items: dict[str, _Item] = {}
        self._is_ending = False

    def receive(self, event: dict[str, Any], received_ns: int) -> None:
        """Take one event. Raises RuntimeError for a failure."""
        kind = str(event.get("type", ""))
        if kind == _TRANSCRIPTION + "failed" or kind == "error":
            raise RuntimeError(f"the server said: {event.get('error')}")
        if kind == "input_audio_buffer.speech_started":
            item = self._item(event)
            item.is_turn = True
            item.start_sample = int(event["audio_start_ms"]) * _SAMPLES_PER_MS
        elif kind == "input_audio_buffer.speech_stopped":
            self._item(event).end_sample = int(event["audio_end_ms"]) * _SAMPLES_PER_MS
        elif kind == _TRANSCRIPTION + "delta":
            item = self._item(event)
            item.text += str(event["delta"])
            self._show(item, received_ns, is_final=False)
        elif kind == _TRANSCRIPTION + "completed":
            self._complete(self._item(event), str(event["transcript"]), received_ns)

    def expect_end(self, now_ns: int) -> None:
        """The commits are about to be sent."""
        self._is_ending = True

    def is_complete(self, now_ns: int) -> bool:
        """A commit is answered: see the module text."""
        return self.log.answer_ns is not None

    def _item(self, event: dict[str, Any]) -> _Item:
        """Unless a turn says otherwise an item is all of the audio: the commits are at its end."""
        item_id = str(event["item_id"])
        if item_id not in self._items:
            self._items[item_id] = _Item(len(self._items), 0, self.log.schedule.num_samples)
        return self._items[item_id]

    def _complete(self, item: _Item, transcript: str, received_ns: int) -> None:
        item.text = transcript
        self._show(item, received_ns, is_final=True)
        if self._is_ending and not item.is_turn and self.log.answer_ns is None:
            self.log.answer_ns = received_ns

    def _show(self, item: _Item, received_ns: int, *, is_final: bool) -> None:
        self.log.shown.append(
            Shown(received_ns, item.number, item.text, is_final, item.start_sample, item.end_sample)
        )
