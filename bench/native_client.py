"""One native stream of `bench live` (TCP, Unix or WebSocket), by the project's asyncio client."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from clients.aio import AsyncClient
from clients.errors import ClientError
from protocol.client_messages import Final, Hello, Partial, ServerMessage, VadOptions
from protocol.joined_text import joined

from .live_log import Shown, StreamLog
from .paced_sender import send_paced
from .pacing import Schedule

ANSWER_TIMEOUT_S = 120.0


def shown_of(event: ServerMessage, received_ns: int) -> Shown | None:
    """A partial or final as bench sees it; None for other events."""
    if isinstance(event, Partial):
        return Shown(
            received_ns, event.utterance, joined((event.stable, event.volatile)).strip(), False,
            event.start_sample, event.end_sample, stages=event.stages,
        )  # fmt: skip
    if isinstance(event, Final):
        return Shown(
            received_ns, event.utterance, event.text, True, event.start_sample, event.end_sample,
            event.words, event.revised, event.finalize_id, event.stages, event.tokens,
        )  # fmt: skip
    return None


async def _collect(client: AsyncClient, log: StreamLog) -> None:
    async for event in client.events():
        received_ns = time.monotonic_ns()
        shown = shown_of(event, received_ns)
        if shown is not None:
            log.shown.append(shown)
            if shown.finalize_id is not None:
                log.answer_ns = received_ns
    log.closed = client.closed


class NativeStream:
    """Opened before the schedule begins, so that connecting is not measured."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @classmethod
    async def open(cls, url: str, *, vad: bool, tokens: bool = False) -> NativeStream:
        """Connect and be admitted. Raises ClientError."""
        client = await AsyncClient.connect(url)
        options = VadOptions(enabled=vad)
        await client.open(Hello(client="earwire-bench", vad=options, tokens=tokens))
        return cls(client)

    async def run(self, messages: Sequence[bytes], schedule: Schedule, *, paced: bool) -> StreamLog:
        """Send the audio, then finalize, then bye; returns when the server has closed."""
        log = StreamLog(schedule)
        collecting = asyncio.create_task(_collect(self._client, log))
        try:
            await send_paced(messages, log, self._client.send_audio, paced)
            log.finalize_ns = schedule.due_ns(schedule.num_chunks - 1)
            finalize_id = await self._client.finalize()
            await self._client.wait_final(finalize_id, ANSWER_TIMEOUT_S)
            await self._client.bye()
            await asyncio.wait_for(collecting, ANSWER_TIMEOUT_S)
        except (ClientError, TimeoutError, asyncio.TimeoutError) as error:
            log.error = str(error) or type(error).__name__
        finally:
            collecting.cancel()
            with contextlib.suppress(asyncio.CancelledError, ClientError):
                await collecting
            await self._client.close()
        return log
