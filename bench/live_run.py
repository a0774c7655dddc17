"""Runs the streams of `bench live`: connects, sends on one schedule, collects what came back."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from . import openai_client, together_client
from .audio_source import Recording
from .live_log import StreamLog
from .native_client import NativeStream
from .paced_sender import cut_chunks
from .pacing import RING_RATE_HZ, Schedule, stagger_ns

START_DELAY_NS = 300_000_000
OPENAI = "openai+ws://"
TOGETHER = "together+ws://"
FAST_CHUNK_MS = 1_000


class LiveStream(Protocol):
    """An admitted stream of some dialect."""

    async def run(self, messages: Sequence[bytes], schedule: Schedule, *, paced: bool) -> StreamLog:
        """Send, finalize, end."""


@dataclass(frozen=True, slots=True)
class LivePlan:
    """Who sends what to whom."""

    url: str
    recordings: tuple[Recording, ...]  # one a stream
    chunk_ms: int = 20
    vad: bool = True
    stagger_ms: int = 0  # starts are spread over this
    tokens: bool = False  # finals list them, where the dialect can

    @property
    def chunk_samples(self) -> int:
        """16 kHz samples of one chunk."""
        return self.chunk_ms * RING_RATE_HZ // 1000


def audio_messages(url: str, recording: Recording, chunk_samples: int) -> list[bytes]:
    """The recording as the dialect's streams send it, one message a chunk."""
    if url.startswith(OPENAI):
        return openai_client.audio_messages(recording.pcm, chunk_samples)
    if url.startswith(TOGETHER):
        return together_client.audio_messages(recording.pcm, chunk_samples)
    return cut_chunks(recording.pcm, chunk_samples)


async def open_stream(url: str, *, vad: bool, tokens: bool = False) -> LiveStream:
    """Raises ClientError, OSError or RuntimeError when the server does not take it."""
    if url.startswith(OPENAI):
        return await openai_client.open_stream(url, vad=vad)
    if url.startswith(TOGETHER):
        return await together_client.open_stream(url, vad=vad)
    return await NativeStream.open(url, vad=vad, tokens=tokens)


async def run_live(plan: LivePlan) -> list[StreamLog]:
    """All streams at real time; the logs in their order. Collection of garbage is off meanwhile:
    its pauses would be taken for the server's. What is sent is made before any stream is open."""
    count = len(plan.recordings)
    messages = {
        recording: audio_messages(plan.url, recording, plan.chunk_samples)
        for recording in dict.fromkeys(plan.recordings)
    }
    streams = [await open_stream(plan.url, vad=plan.vad, tokens=plan.tokens) for _ in range(count)]
    begin_ns = time.monotonic_ns() + START_DELAY_NS
    running = []
    for index, (stream, recording) in enumerate(zip(streams, plan.recordings, strict=True)):
        phase_ns = stagger_ns(index, count, plan.stagger_ms * 1_000_000)
        schedule = Schedule(begin_ns + phase_ns, plan.chunk_samples, recording.num_samples)
        running.append(stream.run(messages[recording], schedule, paced=True))
    gc.collect()
    gc.disable()
    try:
        return await asyncio.gather(*running)
    finally:
        gc.enable()


async def run_fast(url: str, recording: Recording, *, vad: bool) -> StreamLog:
    """The same audio as fast as the server takes it: what the words have to be equal to."""
    chunk_samples = FAST_CHUNK_MS * RING_RATE_HZ // 1000
    messages = audio_messages(url, recording, chunk_samples)
    stream = await open_stream(url, vad=vad)
    schedule = Schedule(time.monotonic_ns(), chunk_samples, recording.num_samples)
    return await stream.run(messages, schedule, paced=False)
