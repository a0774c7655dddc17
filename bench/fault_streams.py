"""The streams of `bench.faults`: each plays a recording again and again, and knows what its finals
would be without faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from clients import AsyncClient
from clients.errors import ClientError
from clients.resumption import Connectivity
from protocol.client_messages import (
    Closed,
    Final,
    Hello,
    ServerMessage,
    VadOptions,
    Watermark,
)
from protocol.errors import ErrorCode

from .audio_source import Recording
from .paced_sender import cut_chunks, wait_until

RATE_HZ = 16_000
CHUNK_SAMPLES = 1_600  # 100 ms
RETRY_S = 0.3

Finals: TypeAlias = list[tuple[str, int, int]]


@dataclass(slots=True)
class Tally:
    """What all streams have come to."""

    equal: int = 0  # sessions whose finals are the fault-free ones
    differing: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)  # close records whose counts differ
    outages: int = 0  # connections that clients lost, and made again
    ended: dict[str, int] = field(default_factory=dict)  # sessions that an error ended: why, when
    refused: dict[str, int] = field(default_factory=dict)  # not let in, by why; tried again
    pauses_s: dict[str, list[float]] = field(default_factory=dict)  # by kind of fault


def _why(error: Exception) -> str:
    code = getattr(error, "code", None)
    return getattr(code, "value", None) or type(error).__name__


def _count(by_why: dict[str, int], why: str) -> None:
    by_why[why] = by_why.get(why, 0) + 1


@dataclass(slots=True)
class Watch:
    """One fault, as one stream saw it."""

    kind: str
    begin_s: float
    sample: int  # sent by then; decoding what comes behind it ends the pause


class Player:
    """One stream at a time, of one recording."""

    def __init__(
        self, url: str, recording: Recording, expected: Finals, vad: VadOptions, tally: Tally
    ) -> None:
        self._url = url
        self._recording = recording
        self._expected = expected
        self._vad = vad
        self._tally = tally
        self._num_sent = 0
        self._is_streaming = False
        self._watch: Watch | None = None
        self._is_taken = False  # some of its audio
        self._last_fault = "no fault"

    @property
    def is_streaming(self) -> bool:
        """A session is open."""
        return self._is_streaming

    @property
    def is_waiting(self) -> bool:
        """A fault was, and what was said since is not decoded yet."""
        return self._watch is not None

    def fault(self, kind: str) -> None:
        """Something happens now: how long until what is said from now on is decoded?"""
        self._last_fault = kind
        if self._num_sent < self._recording.num_samples and self._is_streaming:
            self._watch = Watch(kind, time.monotonic(), self._num_sent)

    def forget(self) -> None:
        """The wait has taken too long."""
        self._watch = None

    async def run(self, stop: asyncio.Event, delay_s: float) -> None:
        """Session after session; the one that runs when `stop` comes is finished."""
        await asyncio.sleep(delay_s)
        while not stop.is_set():
            try:
                connecting = AsyncClient.connect(self._url, on_connection=self._on_connection)
                async with await connecting as client:
                    await client.open(Hello(client="faults", vad=self._vad))
                    await self._session(client)
            except (ClientError, OSError, TimeoutError) as error:
                self._note_end(_why(error))
                self._is_streaming, self._watch = False, None
                await asyncio.sleep(RETRY_S)

    def _note_end(self, why: str) -> None:
        """Of a session, or of the attempt to begin one: it takes its place at its first audio
        (docs/PROTOCOL.md), and until a watermark shows that, it may be told to come again.
        """
        if why == ErrorCode.AT_CAPACITY and self._is_streaming and not self._is_taken:
            _count(self._tally.refused, f"{why} at its first audio")
        elif self._is_streaming:
            sent_s = self._num_sent / RATE_HZ
            _count(self._tally.ended, f"{why} {sent_s:.0f} s behind its start, {self._last_fault}")
        else:
            _count(self._tally.refused, why)

    def _on_connection(self, connectivity: Connectivity) -> None:
        self._tally.outages += connectivity is Connectivity.RECONNECTING

    async def _session(self, client: AsyncClient) -> None:
        self._num_sent, self._is_streaming, self._is_taken = 0, True, False
        reader = asyncio.create_task(self._read(client))
        try:
            await self._send(client)
            await client.bye()
            self._judge(await reader)
            self._is_streaming, self._watch = False, None
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, ClientError):
                await reader

    async def _send(self, client: AsyncClient) -> None:
        """At real time; late chunks at once."""
        begin_ns = time.monotonic_ns()
        for number, chunk in enumerate(cut_chunks(self._recording.pcm, CHUNK_SAMPLES)):
            await wait_until(begin_ns + (number + 1) * CHUNK_SAMPLES * 1_000_000_000 // RATE_HZ)
            await client.send_audio(chunk)
            self._num_sent += len(chunk) // 2

    async def _read(self, client: AsyncClient) -> list[ServerMessage]:
        events = []
        async for event in client.events():
            self._is_taken |= isinstance(event, Watermark)
            self._notice(getattr(event, "audio_decoded", 0))
            if isinstance(event, Final | Closed):
                events.append(event)
        return events

    def _notice(self, decoded: int) -> None:
        watch = self._watch
        if watch is not None and decoded > watch.sample:
            self._watch = None
            pause_s = time.monotonic() - watch.begin_s
            self._tally.pauses_s.setdefault(watch.kind, []).append(pause_s)

    def _judge(self, events: Sequence[ServerMessage]) -> None:
        got = finals_of(events)
        for closed in events:
            if isinstance(closed, Closed):
                counts = {closed.socket_samples, closed.ring_samples, closed.engine_samples}
                if len(counts) != 1 or closed.ring_samples != self._recording.num_samples:
                    self._tally.mismatches.append(str(closed))
        if got == self._expected:
            self._tally.equal += 1
            return
        at = 0
        while got[at : at + 1] == self._expected[at : at + 1]:
            at += 1
        self._tally.differing.append(
            f"{self._recording.name}: {len(got)} of {len(self._expected)} finals; final {at}: "
            f"{got[at : at + 1]} instead of {self._expected[at : at + 1]}"
        )


def finals_of(events: Sequence[ServerMessage]) -> Finals:
    """What must not depend on faults."""
    return [(e.text, e.start_sample, e.end_sample) for e in events if isinstance(e, Final)]


async def fault_free(url: str, recording: Recording, vad: VadOptions) -> Finals:
    """The finals of a session that nothing happens to, as fast as it goes."""
    async with await AsyncClient.connect(url) as client:
        await client.open(Hello(client="faults-reference", partials=False, vad=vad))
        await client.send_audio(recording.pcm)
        await client.bye()
        return finals_of([event async for event in client.events()])
