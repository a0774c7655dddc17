"""One stream of `bench live` in Together's dialect, by the websockets client.

The dialect has no stage times, word times or close record, so emission latency, stages and dropped
samples stay empty. A commit is not answered when nothing was open: then there is no
finalize-to-final either, and the stream ends after QUIET_S without a transcript.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from .live_log import Shown, StreamLog
from .paced_sender import cut_chunks, send_paced
from .pacing import RING_RATE_HZ, Schedule

QUIET_S = 3.0
ANSWER_TIMEOUT_S = 120.0
# The native defaults, so that the dialects compare: this API's own are 500 ms, and cuts at 5 s.
SAME_VAD = "&min_silence_duration_ms=352&max_speech_duration_s=30"
_PREFIX = "conversation.item.input_audio_transcription."


def stream_url(url: str, *, vad: bool, model: str = "tiny.en") -> str:
    """The WebSocket URL for together+ws://HOST:PORT."""
    host = urlsplit(url).netloc
    detection = "server_vad" if vad else "none"
    query = f"model={model}&input_audio_format=pcm_s16le_16000&turn_detection={detection}{SAME_VAD}"
    return f"ws://{host}/v1/realtime?{query}"


def append_message(pcm: bytes) -> str:
    """One chunk of audio."""
    audio = base64.b64encode(pcm).decode()
    return json.dumps({"type": "input_audio_buffer.append", "audio": audio})


class TogetherLog:
    """Events in, Shown out: pure."""

    def __init__(self, log: StreamLog) -> None:
        self.log = log
        self._numbers: dict[str, int] = {}

    def receive(self, event: dict[str, Any], received_ns: int) -> None:
        """Take one event. Raises RuntimeError for a failure."""
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


class TogetherStream:
    """Opened before the schedule begins."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._last_event_ns = 0

    @classmethod
    async def open(cls, url: str, *, vad: bool) -> TogetherStream:
        """Connect; the session is there when its first frame is."""
        connection = await connect(
            stream_url(url, vad=vad), compression=None, additional_headers={
                "Authorization": "Bearer none", "OpenAI-Beta": "realtime=v1",
            },
        )  # fmt: skip
        created = json.loads(await connection.recv())
        if created.get("type") != "session.created":
            raise RuntimeError(f"not a session: {created}")
        return cls(connection)

    async def run(self, pcm: bytes, schedule: Schedule, *, paced: bool) -> StreamLog:
        """Send the audio and a commit, then wait for the last transcript."""
        log = StreamLog(schedule)
        collecting = asyncio.create_task(self._collect(TogetherLog(log)))
        try:
            chunks = [append_message(x) for x in cut_chunks(pcm, schedule.chunk_samples)]
            await send_paced([c.encode() for c in chunks], log, self._send, paced)
            log.finalize_ns = schedule.due_ns(schedule.num_chunks - 1)
            await self._connection.send(json.dumps({"type": "input_audio_buffer.commit"}))
            await self._wait_for_quiet()
            log.answer_ns = self._answer_ns(log)
        except (WebSocketException, RuntimeError) as error:
            log.error = str(error) or type(error).__name__
        finally:
            await self._connection.close()
            with contextlib.suppress(WebSocketException, RuntimeError):
                await collecting
        return log

    async def _send(self, message: bytes) -> None:
        await self._connection.send(message, text=True)

    async def _collect(self, into: TogetherLog) -> None:
        async for message in self._connection:
            self._last_event_ns = time.monotonic_ns()
            into.receive(json.loads(message), self._last_event_ns)

    async def _wait_for_quiet(self) -> None:
        """Until nothing has come for QUIET_S; the engine may still be behind for longer, so a
        first transcript is waited for as long as events keep coming."""
        begin_ns = self._last_event_ns = time.monotonic_ns()
        while time.monotonic_ns() - begin_ns < ANSWER_TIMEOUT_S * 1e9:
            await asyncio.sleep(0.05)
            if time.monotonic_ns() - self._last_event_ns > QUIET_S * 1e9:
                return

    @staticmethod
    def _answer_ns(log: StreamLog) -> int | None:
        """The first final after the commit that reaches the end of the audio."""
        for shown in log.shown:
            if shown.is_final and shown.received_ns >= (log.finalize_ns or 0):
                return shown.received_ns
        return None
