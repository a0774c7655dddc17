"""The clients of `bench.soak`: talkers that come and go, and one stream that is silent for an hour.

A talker's session is a random stretch of a recording, over one of the server's
addresses; it ends by bye, by a finalize and bye, or by vanishing. Every close record that a client
gets is checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass, field

from clients import AsyncClient
from clients.errors import ClientError
from protocol.client_messages import Closed, Final, Hello, ServerMessage

from .paced_sender import cut_chunks, wait_until
from .refusals import retry_wait_s

RATE_HZ = 16_000
CHUNK_SAMPLES = 640  # 40 ms
SILENCE_CHUNK_SAMPLES = RATE_HZ
SESSION_SECONDS = (2.0, 12.0)  # of a talker's session: the least and the most
AFTER_ERROR_S = 1.0  # until a talker tries again
VANISH_SHARE, FINALIZE_SHARE = 0.2, 0.3


@dataclass(slots=True)
class Tally:
    """What all clients have seen so far."""

    sessions: int = 0
    finals: int = 0
    mismatches: list[str] = field(default_factory=list)  # close records whose counts differ
    errors: list[str] = field(default_factory=list)
    refusals: int = 0  # newcomers that were told to come again: no error
    lags_ms: list[tuple[float, float]] = field(default_factory=list)  # when, received - decoded

    def take(self, event: ServerMessage) -> None:
        """Any event of any client."""
        received = getattr(event, "audio_received", None)
        if received is not None:
            lag = received - getattr(event, "audio_decoded", 0)
            self.lags_ms.append((time.monotonic(), lag * 1000 / RATE_HZ))
        if isinstance(event, Final):
            self.finals += 1
        elif isinstance(event, Closed):
            self.sessions += 1
            counts = {event.socket_samples, event.ring_samples, event.engine_samples}
            if len(counts) != 1:
                self.mismatches.append(str(event))


async def talk(
    url: str,
    pcm: bytes,
    tally: Tally,
    rng: random.Random,
    pace: float,
    seconds: tuple[float, float] = SESSION_SECONDS,
) -> None:
    """Session after session, `pace` times as fast as real time, until it is cancelled."""
    while True:
        try:
            size = int(rng.uniform(*seconds) * RATE_HZ) * 2
            start = rng.randrange(max(1, (len(pcm) - size) // 2)) * 2
            await _session(url, pcm[start : start + size], tally, rng, pace)
        except (ClientError, OSError) as error:
            wait_s = retry_wait_s(error)
            if wait_s is None:
                tally.errors.append(f"{url}: {error}")
            else:
                tally.refusals += 1
            await asyncio.sleep(AFTER_ERROR_S if wait_s is None else wait_s)


async def _session(url: str, pcm: bytes, tally: Tally, rng: random.Random, pace: float) -> None:
    vanishes = rng.random() < VANISH_SHARE
    async with await AsyncClient.connect(url, resume=not vanishes) as client:
        await client.open(Hello(client="soak"))
        reader = asyncio.create_task(_read(client, tally))
        try:
            await _send(client, pcm, pace)
            if vanishes:
                return
            if rng.random() < FINALIZE_SHARE:
                await client.finalize()
            await client.bye()
            await reader
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, ClientError):
                await reader


async def _send(client: AsyncClient, pcm: bytes, pace: float = 1.0) -> None:
    begin_ns = time.monotonic_ns()
    chunk_ns = CHUNK_SAMPLES * 1_000_000_000 / RATE_HZ / pace
    for number, chunk in enumerate(cut_chunks(pcm, CHUNK_SAMPLES)):
        await wait_until(begin_ns + int((number + 1) * chunk_ns))
        await client.send_audio(chunk)


async def _read(client: AsyncClient, tally: Tally) -> list[Final]:
    finals: list[Final] = []
    async for event in client.events():
        tally.take(event)
        if isinstance(event, Final):
            finals.append(event)
    return finals


async def after_silence(
    url: str, silence_s: float, within_s: float, speech: bytes, tally: Tally
) -> list[tuple[str, int, int]]:
    """Silence of `silence_s`, sent within `within_s`, then the speech at real time.

    The finals with text, their places counted from where the speech began.
    """
    own = Tally()  # its lag is that of chunks of a second
    chunk = bytes(2 * SILENCE_CHUNK_SAMPLES)
    num_chunks = round(silence_s)
    async with await AsyncClient.connect(url) as client:
        await client.open(Hello(client="soak-silence", partials=False))
        reader = asyncio.create_task(_read(client, own))
        begin_ns = time.monotonic_ns()
        for number in range(num_chunks):
            await wait_until(begin_ns + int(number / num_chunks * within_s * 1e9))
            await client.send_audio(chunk)
        await _send(client, speech)
        await client.bye()
        finals = await reader
    tally.sessions += own.sessions
    tally.finals += own.finals
    tally.mismatches += own.mismatches
    zero = num_chunks * SILENCE_CHUNK_SAMPLES
    return [(f.text, f.start_sample - zero, f.end_sample - zero) for f in finals if f.text.strip()]
