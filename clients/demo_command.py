"""`earwire demo`: a bundled clip at real time through a private server, with live captions."""

from __future__ import annotations

import sys
import time
import wave
from collections.abc import Iterator
from importlib.resources import files
from typing import BinaryIO

from rich.console import Console

from protocol.audio import RING_RATE_HZ
from protocol.client_messages import Final, Hello, Partial, ServerMessage

from .blocking import Client
from .captions import CaptionView
from .errors import ClientError
from .server_process import ServerProcess
from .session_feed import feed, finish

BLOCK_MS = 20


class Summary:
    """What the demo says at its end. Times are monotonic seconds, positions samples."""

    def __init__(self, start_s: float) -> None:
        self._start_s = start_s
        self.first_partial_s: float | None = None
        self.onset_sample: int | None = None
        self.num_finals = 0

    def add(self, event: ServerMessage, now_s: float) -> None:
        """Take one event."""
        if isinstance(event, Partial) and (event.stable or event.volatile):
            self.first_partial_s = self.first_partial_s or now_s
        elif isinstance(event, Final) and event.text.strip():
            self.num_finals += 1
            if self.onset_sample is None and event.words:
                self.onset_sample = event.words[0].start_sample

    def lines(self, num_partials: int) -> list[str]:
        """The summary."""
        lines = [f"{num_partials} partial texts, {self.num_finals} final ones"]
        if self.first_partial_s is not None and self.onset_sample is not None:
            onset_s = self._start_s + self.onset_sample / RING_RATE_HZ
            lines.append(
                f"first words shown {self.first_partial_s - onset_s:.2f} s after speech began"
            )
        return lines


def run() -> int:
    """Exit status: 0, or 1 with one line on stderr."""
    clip = files(__package__) / "demo" / "clip.wav"
    if not clip.is_file():
        return _fail("the demo clip is not installed; try: earwire transcribe YOUR_FILE")
    _say("starting a server with the embedded model (Whisper tiny.en, on the CPU)")
    begin_s = time.monotonic()
    try:
        with ServerProcess() as server, clip.open("rb") as file:
            _say(f"ready after {time.monotonic() - begin_s:.1f} s; a clip plays at real time")
            _caption(server.url, file)  # type: ignore[arg-type]  # importlib types it as IO[bytes]
    except (ClientError, OSError) as error:
        return _fail(error)
    return 0


def _caption(url: str, file: BinaryIO) -> None:
    with wave.open(file) as clip, Client.connect(url) as client:
        rate_hz = clip.getframerate()
        client.open(Hello(sample_rate_hz=rate_hz, client="earwire-demo"))
        with CaptionView(Console()) as view:
            summary = Summary(time.monotonic())

            def on_event(event: ServerMessage) -> None:
                summary.add(event, time.monotonic())
                view.show(event)

            feed(client, _blocks(clip), on_event, rate_hz)
            finish(client, on_event)
    for line in summary.lines(view.captions.num_partials):
        _say(line)


def _blocks(clip: wave.Wave_read) -> Iterator[bytes]:
    while block := clip.readframes(clip.getframerate() * BLOCK_MS // 1000):
        yield block


def _say(text: str) -> None:
    print(f"earwire: {text}", file=sys.stderr, flush=True)


def _fail(reason: Exception | str) -> int:
    _say(str(reason))
    return 1
