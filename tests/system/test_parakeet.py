"""Parakeet through the real processes, with a tiny random checkpoint: what the reference says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protocol.client_messages import Hello, VadOptions
from tests.fixtures.parakeet.signals import SPEECH_SAMPLES

from . import audio
from .server import Server
from .session import Heard, Stream, assert_sane, transcribe
from .test_cli import earwire

FOLDER = Path(__file__).parents[1] / "fixtures" / "parakeet"
TINY = str(FOLDER / "tiny")
QUIET_WHOLE = Hello(client="test", partials=False, tokens=True, vad=VadOptions(enabled=False))


@pytest.fixture(scope="module", params=["incremental", "window"])
def parakeet(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server("--model", TINY, "--draft", request.param, "--window-s", "4") as running:
        yield running


def speech() -> audio.Samples:
    """The audio of the golden file `speech`."""
    return audio.two_cities()[:SPEECH_SAMPLES]


def golden() -> list[list[int]]:
    stored = np.load(FOLDER / "speech.npz")
    return [stored[name].tolist() for name in ("tokens", "frames", "durations")]


def columns(heard: Heard) -> list[list[int]]:
    """Tokens, frames and durations of the only final."""
    (final,) = [final for final in heard.finals if final.end_sample > final.start_sample]
    return [[getattr(t, name) for t in final.tokens] for name in ("id", "frame", "duration")]


@pytest.mark.parametrize("piece_ms", [7, 20, 1_000])
def test_the_finals_are_the_references(parakeet: Server, piece_ms: int) -> None:
    heard = transcribe(parakeet.native_url, speech(), piece_ms, QUIET_WHOLE)
    assert_sane(heard, SPEECH_SAMPLES)
    assert columns(heard) == golden()


def test_drafts_at_real_time_change_nothing(parakeet: Server) -> None:
    shown = Hello(client="test", tokens=True, vad=VadOptions(enabled=False))
    samples = speech()[:80_000]
    heard = transcribe(parakeet.native_url, samples, 20, shown, realtime=True)
    assert_sane(heard, len(samples))
    assert len({(p.stable, p.volatile) for p in heard.partials}) >= 5
    assert columns(heard) == columns(transcribe(parakeet.native_url, samples, 100, QUIET_WHOLE))


def test_speech_beyond_the_longest_utterance_goes_on(parakeet: Server) -> None:
    """44 s in utterances of at most 5 s: every sample once, at any pace."""
    short = VadOptions(enabled=False, max_utterance_ms=5_000)
    hello = Hello(client="test", partials=False, tokens=True, vad=short)
    samples = audio.two_cities()
    heard = transcribe(parakeet.native_url, samples, 100, hello)
    assert_sane(heard, len(samples))
    assert len(heard.finals) >= 9
    again = transcribe(parakeet.native_url, samples, 1_000, hello)
    assert again.identity() == heard.identity()


def test_a_hotword_it_cannot_spell_is_left_out(parakeet: Server) -> None:
    plain = transcribe(parakeet.native_url, speech(), 100)
    heard = transcribe(parakeet.native_url, speech(), 100, Hello(hotwords=("\N{SNOWMAN}",)))
    assert heard.finals
    assert heard.text == plain.text


def test_transcribe_lists_tokens_frames_and_durations(tmp_path: Path) -> None:
    file = audio.write_wav(tmp_path / "speech.wav", speech())
    done = earwire("transcribe", "--json", "--vad", "off", "--model", TINY, str(file))
    assert done.returncode == 0, done.stderr
    segment: dict[str, Any] = json.loads(done.stdout)["segments"][0]
    assert [segment[name] for name in ("tokens", "frames", "durations")] == golden()


@pytest.mark.slow
@pytest.mark.parametrize("vad", [True, False])
def test_hours_of_audio_in_constant_memory(tmp_path: Path, vad: bool) -> None:
    """Two hours, as fast as they go: every sample once, and no memory that grows with them."""
    reading = audio.two_cities()
    repeats = 2 * 3_600 * audio.RATE_HZ // len(reading)
    with Server("--model", TINY) as server:
        processes = [*server.services(), *server.workers()]
        hello = Hello(client="test", partials=False, vad=VadOptions(enabled=vad))
        resident: list[int] = []
        with Stream(server.native_url, hello) as stream:
            for _ in range(repeats):
                stream.send(reading, 1_000)
                resident.append(sum(resident_bytes(process.pid) for process in processes))
            heard = stream.finish()
    assert_sane(heard, repeats * len(reading))
    early, late = resident[repeats // 5], resident[-1]
    assert late < 1.05 * early


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"{pid} has no memory")
