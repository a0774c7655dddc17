"""One stream of `bench live` over a WebSocket of JSON events: what both APIs of /v1/realtime share.

It opens the session, sends audio on schedule, and hands every event with its arrival time to the
API's own reader (together_client.py, openai_client.py). What an event means it does not know, nor
when the last one has come.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from .live_log import StreamLog
from .paced_sender import send_paced
from .pacing import Schedule

ANSWER_TIMEOUT_S = 120.0
POLL_S = 0.05  # how often a reader is asked; arrival times do not depend on it
COMMIT = b'{"type": "input_audio_buffer.commit"}'


class Reader(Protocol):
    """Events in, Shown out: pure."""

    def receive(self, event: dict[str, Any], received_ns: int) -> None:
        """Take one event. Raises RuntimeError for a failure."""

    def expect_end(self, now_ns: int) -> None:
        """All audio is sent, and what asks for the last transcript is about to be."""

    def is_complete(self, now_ns: int) -> bool:
        """Nothing that was asked for is still to come."""


def append_message(pcm: bytes) -> bytes:
    """One chunk of audio."""
    audio = base64.b64encode(pcm).decode()
    return json.dumps({"type": "input_audio_buffer.append", "audio": audio}).encode()


async def _expect(connection: ClientConnection, kind: str) -> None:
    event = json.loads(await connection.recv())
    if event.get("type") != kind:
        raise RuntimeError(f"not {kind}: {event}")


class RealtimeStream:
    """Opened before the schedule begins, so that connecting is not measured."""

    def __init__(
        self, connection: ClientConnection, reader: Callable[[StreamLog], Reader], num_commits: int
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._num_commits = num_commits

    @classmethod
    async def open(
        cls,
        url: str,
        reader: Callable[[StreamLog], Reader],
        *,
        num_commits: int = 1,
        update: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> RealtimeStream:
        """Connect, and be told that the session stands; `update` is the session.update to make.

        Raises OSError or RuntimeError.
        """
        async with contextlib.AsyncExitStack() as refused:
            try:
                connection = await connect(url, compression=None, additional_headers=headers)
                refused.push_async_callback(connection.close)
                await _expect(connection, "session.created")
                if update is not None:
                    await connection.send(update)
                    await _expect(connection, "session.updated")
            except WebSocketException as error:
                raise RuntimeError(f"{url} takes no session: {error}") from error
            refused.pop_all()
        return cls(connection, reader, num_commits)

    async def run(self, messages: Sequence[bytes], schedule: Schedule, *, paced: bool) -> StreamLog:
        """Send the audio and the commits, then wait for the last transcript."""
        log = StreamLog(schedule)
        reader = self._reader(log)
        collecting = asyncio.create_task(self._collect(reader))
        try:
            await send_paced(messages, log, self._send, paced)
            log.finalize_ns = schedule.due_ns(schedule.num_chunks - 1)
            reader.expect_end(time.monotonic_ns())
            for _ in range(self._num_commits):
                await self._send(COMMIT)
            await self._wait_for_end(reader, collecting)
        except (WebSocketException, RuntimeError, TimeoutError) as error:
            log.error = _told(error)
        finally:
            collecting.cancel()
            (failure,) = await asyncio.gather(collecting, return_exceptions=True)
            if isinstance(failure, Exception):  # the cause, where sending failed as well
                log.error = _told(failure)
            await self._connection.close()
        return log

    async def _send(self, message: bytes) -> None:
        await self._connection.send(message, text=True)

    async def _collect(self, reader: Reader) -> None:
        async for message in self._connection:
            reader.receive(json.loads(message), time.monotonic_ns())

    async def _wait_for_end(self, reader: Reader, collecting: asyncio.Task[None]) -> None:
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while not reader.is_complete(time.monotonic_ns()):
            if collecting.done():
                raise RuntimeError("the connection ended before the last transcript")
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no last transcript within {ANSWER_TIMEOUT_S:.0f} s")
            await asyncio.sleep(POLL_S)


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
