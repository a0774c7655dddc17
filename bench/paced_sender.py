"""Sends one stream's chunks at their scheduled times from an asyncio loop, and notes how late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from .live_log import StreamLog
from .pacing import Schedule

BYTES_PER_SAMPLE = 2


def cut_chunks(pcm: bytes, chunk_samples: int) -> list[bytes]:
    """The stream in chunks, made before the clock starts."""
    size = chunk_samples * BYTES_PER_SAMPLE
    return [pcm[at : at + size] for at in range(0, len(pcm), size)]


async def wait_until(due_ns: int) -> None:
    """Sleep to an absolute time; the loop rounds up to its millisecond."""
    delay_ns = due_ns - time.monotonic_ns()
    if delay_ns > 0:
        await asyncio.sleep(delay_ns / 1e9)


async def send_paced(
    chunks: Sequence[bytes], log: StreamLog, send: Callable[[bytes], Awaitable[None]], paced: bool
) -> None:
    """All chunks on schedule; not `paced`: as fast as `send` takes them."""
    schedule: Schedule = log.schedule
    for number, chunk in enumerate(chunks):
        if paced:
            due_ns = schedule.due_ns(number)
            await wait_until(due_ns)
            log.lags_ns.append(time.monotonic_ns() - due_ns)
        await send(chunk)
