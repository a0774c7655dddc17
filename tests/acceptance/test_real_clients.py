"""Clients that nobody here wrote, on real speech: each script in clients/ against a real server.

`make test-clients` makes the Python that has their packages and names it in
EARWIRE_CLIENTS_PYTHON. A script fails by itself when a final or an interim is missing, on any error
and on a warning of a reconnect. Here its transcript is compared with what was read, and the
server's log says that it opened as many streams as it has to: a reconnect would be one more.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.system import audio
from tests.system.server import Server
from tests.system.waiting import wait_for

SCRIPTS = Path(__file__).parent / "clients"
PYTHON = "EARWIRE_CLIENTS_PYTHON"
TIMEOUT_S = 180.0
SPEECH_S = 6.4  # to the end of "wisdom"
SILENCE_S = 1.5  # behind it; the server's own decision ends the last utterance
SPOKEN = "It was the best of times, it was the worst of times, it was the age of wisdom. "
MAX_WORD_ERRORS = 0.2  # in a sentence that commits may cut in the middle of a word


@dataclass(frozen=True)
class Run:
    """One script in one mode."""

    script: str
    mode: str = ""
    dialect: str = ""  # as the server's log calls it
    streams: int = 1  # of that dialect that it opens
    text: str = ""  # where in its output a final's text is
    times: int = 1  # that it speaks the recording
    says: tuple[str, ...] = ()  # further lines that have to be there
    attempts: int = 1

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.script, self.mode)))


_FINALS = r"FINAL (.*)"
_OPENAI_FINAL = r"\S+ conversation\.item\.input_audio_transcription\.completed (.*)"
_OPENAI_DELTA = r"\S+ conversation\.item\.input_audio_transcription\.delta .+"
_OPENAI_TURNS = (r"\S+ input_audio_buffer\.speech_started", r"\S+ input_audio_buffer.speech_stop")
_DEEPGRAM_SAYS = (
    r"ListenV1SpeechStarted",
    r"ListenV1Results False \S+ \S",
    r"ListenV1Results True True",
    r"ListenV1UtteranceEnd",
    r"ListenV1Metadata",
)

# The packages of clients-light.txt.
LIGHT = (
    Run("together_sdk", "server_vad", "together", 1, r"completed (.*) \S+ False", 1, ("delta ",)),
    # flush() gives up on a commit after 2 s, which a busy machine may need for a final.
    Run("together_sdk", "none", "together", 1, r"FLUSH '(.*)'", 1, ("delta ",), attempts=3),
    Run("openai_realtime", "server_vad", "openai", 1, _OPENAI_FINAL, 1,
        (_OPENAI_DELTA, *_OPENAI_TURNS)),
    Run("openai_realtime", "none", "openai", 1, _OPENAI_FINAL, 1, (_OPENAI_DELTA,)),
    Run("openai_http", "", "openai_http", 6, r"json    '(.*)'", 1,
        (r"srt '1\\n00:00:0", r"vtt 'WEBVTT\\n", r"verbose en\w* 7\.9 \[", r"text '\s*It was")),
    Run("deepgram_sdk", "", "deepgram", 1, r"ListenV1Results True \S+ (.+)", 2, _DEEPGRAM_SAYS),
    Run("wyoming_client", "", "wyoming", 1, r"transcript \{'text': '(.*?)'.*", 1,
        (r"info \w+ True",)),
)  # fmt: skip

# Those of clients-heavy.txt; their scripts check interims, turns and troubles themselves.
HEAVY = (
    Run("pipecat_together", "", "together", 1, _FINALS),
    Run("pipecat_openai", "commit", "openai", 1, _FINALS),
    Run("pipecat_openai", "server_vad", "openai", 1, _FINALS),
    Run("pipecat_deepgram", "", "deepgram", 1, _FINALS),
    Run("livekit_openai", "", "openai", 1, _FINALS),
    Run("livekit_deepgram", "", "deepgram", 1, _FINALS),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--wyoming-port", "0", "--threads", "2") as running:
        yield running
        print(*running.log, sep="\n")  # shown with a failure


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = audio.two_cities()[: int(SPEECH_S * audio.RATE_HZ)]
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    return audio.write_wav(path, np.concatenate([samples, audio.silence(SILENCE_S)]))


@pytest.mark.parametrize("run", [pytest.param(run, id=f"light-{run.name}") for run in LIGHT])
def test_client_libraries(run: Run, server: Server, speech: Path) -> None:
    """SDKs of the vendors whose APIs these are, and Wyoming's own client."""
    check(run, server, speech)


@pytest.mark.parametrize("run", [pytest.param(run, id=f"heavy-{run.name}") for run in HEAVY])
def test_voice_agent_frameworks(run: Run, server: Server, speech: Path) -> None:
    """Pipecat's services and LiveKit's plugins."""
    check(run, server, speech)


def check(run: Run, server: Server, speech: Path) -> None:
    num_before = len(server.close_records())
    done, attempts = execute(run, server, speech), 1
    while done.returncode != 0 and attempts < run.attempts:
        done, attempts = execute(run, server, speech), attempts + 1
    output = done.stdout
    assert done.returncode == 0, output
    for pattern in run.says:
        assert re.search(f"^{pattern}", output, re.MULTILINE), f"no {pattern!r} in:\n{output}"
    transcript = " ".join(re.findall(f"^{run.text}$", output, re.MULTILINE))
    assert audio.word_error_rate(run.times * SPOKEN, transcript) <= MAX_WORD_ERRORS, output
    num_streams = run.streams * attempts
    records = closed_since(server, num_before, num_streams)
    assert [record["dialect"] for record in records] == [run.dialect] * num_streams
    for record in records:
        assert record["socket_samples"] == record["ring_samples"] == record["engine_samples"]
        assert record["ring_samples"] > SPEECH_S * audio.RATE_HZ
        assert record["lost_samples"] == 0
        assert record["reason"] == "client"


def execute(run: Run, server: Server, speech: Path) -> subprocess.CompletedProcess[str]:
    """The script, to its end; what it says on either stream is in `stdout`."""
    python = os.environ.get(PYTHON)
    assert python, f"{PYTHON} names no Python with the clients' packages: use make test-clients"
    port = server.addresses["wyoming_port" if run.dialect == "wyoming" else "http_port"]
    command = [python, SCRIPTS / f"{run.script}.py", f"127.0.0.1:{port}"]
    return subprocess.run(
        [*command, run.mode] if run.mode else command,
        env={**os.environ, "WAV": str(speech), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S, text=True, check=False,
    )  # fmt: skip


def closed_since(server: Server, num_before: int, num_streams: int) -> list[dict[str, Any]]:
    """The close records of one run, once all streams that it opened have ended."""
    wait_for("the close records", lambda: len(server.close_records()) >= num_before + num_streams)
    return server.close_records()[num_before:]
