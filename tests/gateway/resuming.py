"""A client that loses its connection and goes on with its session, as docs/PROTOCOL.md says.

For tests in one thread (rig.py). It keeps everything it ever sent, so that it can send again from
wherever the server says, and every numbered event it got over all connections.
"""

from __future__ import annotations

import random

from protocol.client_messages import (
    NUMBERED,
    Ack,
    Bye,
    Closed,
    Error,
    Final,
    Finalize,
    Hello,
    Message,
    Resume,
    Resumed,
    Started,
)
from protocol.errors import ErrorCode
from protocol.session import Failed

from .rig import NativeClient, Rig

WINDOW_MS = 30_000


class ResumingClient:
    """See the module text."""

    def __init__(self, rig: Rig, hello: Hello | None = None) -> None:
        self.rig = rig
        self.audio = b""
        self.finalizes: list[int] = []  # client sample of each; its id is its number
        self.said_bye = False
        self.events: list[Message] = []  # the numbered ones, over all connections
        self.frame_bytes = (hello or Hello()).audio_format().frame_bytes
        self.connection = rig.connect(hello or Hello(resumable=True))
        self.started: Started = self.connection.of(Started)[0]
        self._num_seen = 0

    def listen(self) -> None:
        """Take the events that have come."""
        new = self.connection.events[self._num_seen :]
        self._num_seen += len(new)
        for event in new:
            if not isinstance(event, Failed) and event.TYPE in NUMBERED:
                self.events.append(event)

    def speak(self, pcm: bytes, cut_after: int | None = None) -> None:
        """Audio; with `cut_after` only so many bytes of it leave before the connection is lost."""
        self.audio += pcm
        self.connection.session.send_audio(pcm)
        self._flush(cut_after)

    def finalize(self, cut_after: int | None = None) -> None:
        """End the utterance here."""
        self.finalizes.append(len(self.audio) // self.frame_bytes)
        self.connection.session.send(Finalize(finalize_id=len(self.finalizes) - 1))
        self._flush(cut_after)

    def bye(self, cut_after: int | None = None) -> None:
        """No more audio."""
        self.said_bye = True
        self.connection.session.send(Bye())
        self._flush(cut_after)

    def acknowledge(self) -> None:
        """Everything that has come."""
        self.listen()
        self.connection.send(Ack(len(self.events)))
        self.rig.settle()

    def _flush(self, cut_after: int | None) -> None:
        if cut_after is None:
            self.connection.flush()
            self.rig.settle()
            return
        data = self.connection.session.data_to_send()
        self.connection.sock.send(data[: cut_after % (len(data) + 1)])
        self.vanish()

    def vanish(self) -> None:
        """Without having read what is under way."""
        self.listen()
        self.connection.sock.close()
        self.rig.settle()

    def resume(self, rig: Rig | None = None, **changes: object) -> Resumed | Error:
        """On a new connection; then say what the server does not have."""
        self.listen()
        self.connection = self.knock(rig or self.rig, **changes)
        (answer, *_) = self.connection.of(Resumed) + self.connection.of(Error)
        if isinstance(answer, Error):  # of the connection, not of the session
            self._num_seen = len(self.connection.events)
            return answer
        self._num_seen = 0
        self.connection.session.frame_bytes = self.frame_bytes
        assert isinstance(answer, Resumed)
        if not answer.bye_received:
            self._repeat(answer)
        return answer

    def knock(self, rig: Rig, **changes: object) -> NativeClient:
        """A connection that says Resume."""
        client = rig.connect()
        fields: dict[str, object] = {
            "resume_token": self.started.resume_token, "events_received": len(self.events),
        }  # fmt: skip
        client.send(Resume(**{**fields, **changes}))  # type: ignore[arg-type]
        rig.settle()
        return client

    def _repeat(self, answer: Resumed) -> None:
        session = self.connection.session
        at = answer.client_samples
        for number, sample in enumerate(self.finalizes):
            if number >= answer.finalizes_received:
                session.send_audio(self._piece(at, sample))
                session.send(Finalize(finalize_id=number))
                at = max(at, sample)
        session.send_audio(self._piece(at, len(self.audio)))
        if self.said_bye:
            session.send(Bye())
        self.connection.flush()
        self.rig.settle()

    def _piece(self, first: int, end: int) -> bytes:
        return self.audio[first * self.frame_bytes : end * self.frame_bytes]


def pcm(num_samples: int, seed: int = 1) -> bytes:
    """Noise."""
    return random.Random(seed).randbytes(2 * num_samples)


def code_of(answer: Resumed | Error) -> ErrorCode:
    """Why the session cannot go on."""
    assert isinstance(answer, Error)
    return answer.code


def texts(client: ResumingClient) -> list[str]:
    """Of all finals so far."""
    client.listen()
    return [event.text for event in client.events if isinstance(event, Final)]


def closed(client: ResumingClient) -> Closed:
    """The last that it heard."""
    client.listen()
    record = client.events[-1]
    assert isinstance(record, Closed)
    return record


def resumes(rig: Rig, outcome: str) -> int:
    """Attempts that have ended so."""
    return int(rig.worker.metrics.resumes.labels(outcome).value)
