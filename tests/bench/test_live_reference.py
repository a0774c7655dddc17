"""bench/live_reference.py: what is heard how often, and what those do who are refused."""

from __future__ import annotations

import asyncio

import pytest

from bench import live_reference, refusals
from bench.audio_source import Recording
from bench.live_reference import MAX_AT_ONCE, native_hello, native_url, with_words
from clients.errors import ServerError
from protocol.client_messages import Hello, VadOptions, Word
from protocol.errors import ErrorCode


@pytest.mark.parametrize(
    ("url", "native", "model"),
    [
        ("together+ws://h:1", "ws://h:1", None),
        ("openai+ws://h:1", "ws://h:1", None),
        ("openai+ws://h:1?deltas=final&model=tiny.en", "ws://h:1", "tiny.en"),
        ("earwire://h:1", "earwire://h:1", None),
        ("unix:///s", "unix:///s", None),
    ],
)
def test_the_native_protocol_is_where_the_dialects_are(
    url: str, native: str, model: str | None
) -> None:
    assert (native_url(url), native_hello(url, vad=True).model) == (native, model)


def test_a_native_session_cuts_the_audio_as_the_dialects_does() -> None:
    """Together's own threshold and padding, with the silence that its URL asks for."""
    together = native_hello("together+ws://h:1", vad=True).vad
    assert (together.threshold, together.speech_pad_ms) == (0.3, 250)
    assert (together.min_silence_ms, together.max_utterance_ms) == (352, 30_000)
    assert native_hello("openai+ws://h:1", vad=True).vad == VadOptions()
    for dialect in ("together", "openai"):
        assert not native_hello(f"{dialect}+ws://h:1", vad=False).vad.enabled


def recording(number: int) -> Recording:
    return Recording(f"{number}", bytes([number, 0]), ())


class Sessions:
    """In the place of real ones: notes them, and refuses with `refusals` first."""

    def __init__(self, *refusals: ServerError) -> None:
        self.pcms: list[bytes] = []
        self.most_at_once = 0
        self._at_once = 0
        self._refusals = list(refusals)

    async def __call__(self, url: str, hello: Hello, pcm: bytes) -> tuple[Word, ...]:
        if self._refusals:
            raise self._refusals.pop()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0)
        self._at_once -= 1
        self.pcms.append(pcm)
        return (Word(f"word{pcm[0]}", 0, 1, 1.0),)


def heard_by(sessions: Sessions, monkeypatch: pytest.MonkeyPatch, *numbers: int) -> list[str]:
    monkeypatch.setattr(live_reference, "_session", sessions)
    monkeypatch.setattr(refusals, "MIN_RETRY_S", 0.0)
    recordings = [recording(number) for number in numbers]
    heard = asyncio.run(with_words("ws://h:1", recordings, Hello()))
    assert [each.name for each in heard] == [f"{number}" for number in numbers]
    return [word.text for each in heard for word in each.heard or ()]


def test_each_recording_is_heard_once_and_its_words_stay_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sessions = Sessions()
    assert heard_by(sessions, monkeypatch, 1, 2, 1) == ["word1", "word2", "word1"]
    assert len(sessions.pcms) == 2


def test_only_some_go_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = Sessions()
    heard_by(sessions, monkeypatch, *range(3 * MAX_AT_ONCE))
    assert sessions.most_at_once == MAX_AT_ONCE


def test_who_is_told_to_come_again_does(monkeypatch: pytest.MonkeyPatch) -> None:
    full = ServerError(ErrorCode.AT_CAPACITY, "full", True, 1)
    assert heard_by(Sessions(full, full), monkeypatch, 1) == ["word1"]


def test_another_refusal_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServerError, match="no such model"):
        heard_by(Sessions(ServerError(ErrorCode.UNKNOWN_MODEL, "no such model")), monkeypatch, 1)
