"""One native session from hello to close record: audio in pieces, everything that came back."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from clients.blocking import Client, ConnectionHandler
from protocol.audio import RING_RATE_HZ
from protocol.client_messages import (
    Closed,
    Final,
    Hello,
    NonSpeech,
    Partial,
    ServerMessage,
    Started,
)

from .audio import Samples

E = TypeVar("E")
QUIET_TIMEOUT_S = 60.0  # without any event the server counts as stuck


@dataclass(slots=True)
class Heard:
    """What a client got."""

    events: list[ServerMessage] = field(default_factory=list)
    started: Started | None = None

    def of(self, type_: type[E]) -> list[E]:
        """Events of one type, in order."""
        return [event for event in self.events if isinstance(event, type_)]

    @property
    def finals(self) -> list[Final]:
        """In order."""
        return self.of(Final)

    @property
    def partials(self) -> list[Partial]:
        """In order."""
        return self.of(Partial)

    @property
    def closed(self) -> Closed:
        """The close record; the session has to be over."""
        (closed,) = self.of(Closed)
        return closed

    @property
    def text(self) -> str:
        """All finals."""
        return " ".join(final.text.strip() for final in self.finals if final.text.strip())

    def identity(self) -> list[tuple[Any, ...]]:
        """What must not depend on chunks, pace or load: the finals, word by word."""
        return [
            (f.text, f.start_sample, f.end_sample, f.finalize_id, tuple(f.words), f.language)
            for f in self.finals
        ]


class Stream:
    """A client that keeps all its events; a context manager."""

    def __init__(
        self,
        url: str,
        hello: Hello | None = None,
        on_connection: ConnectionHandler | None = None,
        *,
        resume: bool = True,
    ) -> None:
        self.heard = Heard()
        self.rate_hz = hello.sample_rate_hz if hello else RING_RATE_HZ
        self.client = Client.connect(url, resume=resume, on_connection=on_connection)
        try:
            self.heard.started = self.client.open(hello or Hello(client="test"))
        except BaseException:
            self.client.close()
            raise

    def send(self, audio: Samples, piece_ms: float = 100, *, realtime: bool = False) -> None:
        """Send in pieces, reading events in between."""
        pieces(self, audio, piece_ms, realtime=realtime)

    def poll(self, until_s: float = 0.0) -> None:
        """Take the events that are there, or that come before a time of the monotonic clock."""
        while True:
            event = self.client.next_event(max(0.0, until_s - time.monotonic()))
            if event is None:
                return
            self.heard.events.append(event)

    def wait_event(self, type_: type[E], timeout_s: float = QUIET_TIMEOUT_S) -> E:
        """The next event of this type that was not read yet."""
        deadline = time.monotonic() + timeout_s
        while True:
            event = self.client.next_event(max(0.0, deadline - time.monotonic()))
            if event is None:
                raise AssertionError(f"no {type_.__name__} within {timeout_s:g} s")
            self.heard.events.append(event)
            if isinstance(event, type_):
                return event

    def finish(self) -> Heard:
        """Bye, and everything until the close record. Raises what ended the session otherwise."""
        self.client.bye()
        self.wait_event(Closed)
        self.poll()
        return self.heard

    def close(self) -> None:
        """Drop the connection."""
        self.client.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pieces(stream: Stream, audio: Samples, piece_ms: float, *, realtime: bool) -> None:
    """At real time a piece leaves when its last sample would have been spoken."""
    step = int(stream.rate_hz * piece_ms / 1000)
    begin_s = time.monotonic()
    for start in range(0, len(audio), step):
        piece = audio[start : start + step]
        if realtime:
            stream.poll(begin_s + (start + len(piece)) / stream.rate_hz)
        stream.client.send_audio(piece.astype("<i2").tobytes())
        stream.poll()


def transcribe(
    url: str,
    audio: Samples,
    piece_ms: float = 100,
    hello: Hello | None = None,
    *,
    realtime: bool = False,
) -> Heard:
    """A whole session."""
    with Stream(url, hello) as stream:
        stream.send(audio, piece_ms, realtime=realtime)
        return stream.finish()


def assert_tiled(heard: Heard) -> None:
    """Finals and non-speech cover [0, n) once, in order, and n is what was sent and decoded."""
    spans = [
        (event.start_sample, event.end_sample)
        for event in heard.events
        if isinstance(event, Final | NonSpeech) and event.end_sample > event.start_sample
    ]
    position = 0
    for start, end in spans:
        assert start == position, f"{spans}: [{position}, {start}) is missing or doubled"
        position = end
    assert position == heard.closed.ring_samples


def assert_counts_agree(closed: Closed) -> None:
    """The three counts of the close record."""
    assert closed.socket_samples == closed.ring_samples + closed.lost_samples
    assert closed.ring_samples == closed.engine_samples


def assert_sane(heard: Heard, num_samples: int, rate_hz: int = RING_RATE_HZ) -> None:
    """Every contract of one finished stream that lost nothing."""
    closed = heard.closed
    assert closed.client_samples == num_samples
    assert closed.socket_samples == num_samples * RING_RATE_HZ // rate_hz
    assert closed.lost_samples == 0
    assert_counts_agree(closed)
    assert_tiled(heard)
    assert heard.events[-1] is closed
    assert_progress_is_monotonic(heard.events)
    assert_stable_grows(heard)
    for final in heard.finals:
        assert_words_are_inside(final)


def assert_progress_is_monotonic(events: Iterable[ServerMessage]) -> None:
    """audio_received and audio_decoded never go back, and decoded never leads."""
    received = decoded = 0
    for event in events:
        now = getattr(event, "audio_received", None)
        if now is None:
            continue
        assert now >= received
        assert event.audio_decoded >= decoded  # type: ignore[union-attr]
        received, decoded = now, event.audio_decoded  # type: ignore[union-attr]
        assert decoded <= received


def assert_stable_grows(heard: Heard) -> None:
    """Within one utterance the stable text of each partial begins with the one before."""
    shown: dict[int, str] = {}
    ended: set[int] = set()
    for event in heard.events:
        if isinstance(event, Partial):
            assert event.utterance not in ended, "a partial came after its final"
            assert event.stable.startswith(shown.get(event.utterance, ""))
            shown[event.utterance] = event.stable
        elif isinstance(event, Final) and event.end_sample > event.start_sample:
            ended.add(event.utterance)


def assert_words_are_inside(final: Final) -> None:
    """Words are in order and inside their final's interval."""
    position = final.start_sample
    for word in final.words:
        assert position <= word.start_sample <= word.end_sample <= final.end_sample
        position = word.start_sample
        assert 0.0 <= word.confidence <= 1.0
