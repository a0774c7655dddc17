"""What a server hears in the recordings of `bench live`, and when: for dialects without word times.

Each distinct recording goes once through the server by the native protocol, as fast as it is taken
and before anything is measured; the words of its finals, with their places, stay with it. Only some
go at a time, and who is told to come again does. live.py calls this; what becomes of the words,
word_times.py knows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

from clients.aio import AsyncClient
from clients.errors import ClientError, ServerError
from protocol.client_messages import Final, Hello, VadOptions, Word

from . import together_client
from .audio_source import Recording
from .live_run import OPENAI, TOGETHER
from .refusals import retry_wait_s

MAX_AT_ONCE = 8
GIVE_UP_S = 300.0  # for one recording, refusals included


def native_url(url: str) -> str:
    """Where the server of a stream's URL speaks the native protocol: on the dialects' port."""
    return f"ws://{urlsplit(url).netloc}" if url.startswith((OPENAI, TOGETHER)) else url


def native_hello(url: str, *, vad: bool) -> Hello:
    """Of a session that hears what a stream at its URL does: the same utterances, by the model that
    the URL names."""
    together = url.startswith(TOGETHER)
    return Hello(
        client="earwire-bench",
        vad=together_client.native_vad(url, vad=vad) if together else VadOptions(enabled=vad),
        model=parse_qs(urlsplit(url).query).get("model", [None])[-1],
        partials=False,
    )


async def with_words(
    url: str, recordings: Sequence[Recording], hello: Hello
) -> tuple[Recording, ...]:
    """The same recordings with what the server at `url` heard in them. Raises ClientError."""
    different = tuple(dict.fromkeys(recordings))
    places = asyncio.Semaphore(MAX_AT_ONCE)
    heard = await asyncio.gather(*(_hear(url, hello, each.pcm, places) for each in different))
    known = {
        recording: replace(recording, heard=words)
        for recording, words in zip(different, heard, strict=True)
    }
    return tuple(known[recording] for recording in recordings)


async def _hear(url: str, hello: Hello, pcm: bytes, places: asyncio.Semaphore) -> tuple[Word, ...]:
    async with places:
        try:
            return await asyncio.wait_for(_until_taken(url, hello, pcm), GIVE_UP_S)
        except asyncio.TimeoutError:
            raise ClientError(f"{url} told no word times within {GIVE_UP_S:.0f} s") from None


async def _until_taken(url: str, hello: Hello, pcm: bytes) -> tuple[Word, ...]:
    while True:
        try:
            return await _session(url, hello, pcm)
        except ServerError as error:
            wait_s = retry_wait_s(error)
            if wait_s is None:
                raise
            await asyncio.sleep(wait_s)


async def _session(url: str, hello: Hello, pcm: bytes) -> tuple[Word, ...]:
    async with await AsyncClient.connect(url) as client:
        await client.open(hello)
        reading = asyncio.create_task(_words(client))
        try:
            await client.send_audio(pcm)
            await client.bye()
            return await reading
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, ClientError):
                await reading


async def _words(client: AsyncClient) -> tuple[Word, ...]:
    words: list[Word] = []
    async for event in client.events():
        if isinstance(event, Final):
            words += event.words
    return tuple(words)
