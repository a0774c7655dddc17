"""The clients of `bench.overload`: talkers with a token that come, are let in or not, and come
again when they were told to.

A talker reads one recording over and over, at real time, beginning somewhere in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from dataclasses import dataclass, field

from clients import AsyncClient
from clients.errors import ClientError, ServerError
from protocol.client_messages import (
    Closed,
    Final,
    Hello,
    Latency,
    Partial,
    ServerMessage,
    SpeechStarted,
    Started,
)

from .overload_marks import Notes, Refusal, Text
from .paced_sender import wait_until
from .refusals import MIN_RETRY_S, retry_wait_s

RATE_HZ = 16_000
CHUNK_SAMPLES = 640
CHUNK_BYTES = 2 * CHUNK_SAMPLES
CHUNK_S = CHUNK_SAMPLES / RATE_HZ


@dataclass(slots=True)
class Crowd:
    """What all talkers share and find."""

    url: str
    pcm: bytes
    begin_s: float = field(default_factory=time.monotonic)
    notes: list[Notes] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    talking: dict[str, int] = field(default_factory=dict)  # sessions open now, by token

    def now_s(self) -> float:
        """Since the begin."""
        return time.monotonic() - self.begin_s


class Talker:
    """One client; `run` until it is told to stop."""

    def __init__(
        self, crowd: Crowd, name: str, secret: str, rng: random.Random, session_s: float = math.inf
    ) -> None:
        self.session_s = session_s  # how long it talks on the average; then it comes again
        self.notes: Notes | None = None  # of the session that is open
        self._crowd = crowd
        self._name = name
        self._secret = secret
        self._rng = rng
        self._stop = asyncio.Event()
        self._began_ns = 0
        self._last_s: dict[int, float] = {}  # when the newest draft of an utterance came

    def stop(self) -> None:
        """Say goodbye; `run` returns soon."""
        self._stop.set()

    async def run(self) -> None:
        """Talk; where there is no place, come again."""
        while not self._stop.is_set():
            wait_s = 0.0
            try:
                await self._talk()
            except ServerError as error:
                self._crowd.refusals.append(
                    Refusal(self._crowd.now_s(), self._name, error.code.value, error.retry_after_ms)
                )
                wait_s = retry_wait_s(error) or MIN_RETRY_S
            except (ClientError, OSError) as error:
                self._crowd.errors.append(str(error))
                wait_s = 1.0
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stop.wait(), wait_s)

    async def _talk(self) -> None:
        async with await AsyncClient.connect(
            self._crowd.url, token=self._secret, resume=False
        ) as client:
            started = await client.open(Hello(client="overload"))
            notes = Notes(self._name)
            self._note_class(notes, started)
            reader = asyncio.create_task(self._read(client, notes))
            sender = asyncio.create_task(self._send(client))
            try:
                await asyncio.wait({reader, sender}, return_when=asyncio.FIRST_COMPLETED)
                if not reader.done():
                    await sender
                    await client.bye()
                await reader
            finally:
                self._leave(notes)
                for task in (reader, sender):
                    task.cancel()
                await asyncio.gather(reader, sender, return_exceptions=True)

    async def _send(self, client: AsyncClient) -> None:
        pcm = self._crowd.pcm
        at = self._rng.randrange(len(pcm) // CHUNK_BYTES) * CHUNK_BYTES
        self._began_ns = time.monotonic_ns()
        number = 0
        most_s = self._rng.uniform(0.5, 1.5)  # times session_s, which may change meanwhile
        while not self._stop.is_set() and number * CHUNK_S < most_s * self.session_s:
            number += 1
            await wait_until(self._began_ns + number * CHUNK_SAMPLES * 1_000_000_000 // RATE_HZ)
            await client.send_audio(pcm[at : at + CHUNK_BYTES])
            at = (at + CHUNK_BYTES) % (len(pcm) - CHUNK_BYTES)

    async def _read(self, client: AsyncClient, notes: Notes) -> None:
        async for event in client.events():
            if self.notes is None:
                self._enter(notes)  # its audio was taken: it has a place
            self._take(event, notes)

    def _enter(self, notes: Notes) -> None:
        self.notes = notes
        self._crowd.notes.append(notes)
        talking = self._crowd.talking
        talking[self._name] = talking.get(self._name, 0) + 1

    def _leave(self, notes: Notes) -> None:
        if self.notes is notes:
            self.notes = None
            self._crowd.talking[self._name] -= 1

    def _note_class(self, notes: Notes, message: Started | Latency) -> None:
        notes.changes.append((self._crowd.now_s(), message.latency_class))

    def _take(self, event: ServerMessage, notes: Notes) -> None:
        now_s = self._crowd.now_s()
        if isinstance(event, Latency):
            self._note_class(notes, event)
        elif isinstance(event, SpeechStarted):
            self._last_s[event.utterance] = now_s
        elif isinstance(event, Partial | Final):
            due_ns = self._began_ns + event.end_sample * 1_000_000_000 // RATE_HZ
            lag_ms = (time.monotonic_ns() - due_ns) / 1e6
            gap_ms = 1000 * (now_s - self._last_s.get(event.utterance, now_s))
            is_final = isinstance(event, Final)
            notes.texts.append(Text(now_s, notes.latency_class, is_final, lag_ms, gap_ms))
            self._last_s = {event.utterance: now_s}
        elif isinstance(event, Closed):
            counts = {event.socket_samples, event.ring_samples, event.engine_samples}
            self._crowd.mismatches += [str(event)] if len(counts) != 1 else []
