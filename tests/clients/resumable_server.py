"""A server's side of a resumable session without socket or recognition, for tests of the client.

It holds what a real one would hold: the audio it took, the finalizes in their places, the numbered
events from the last acknowledged one on. Bytes go in and out as over a network that may end
between any two of them.
"""

from __future__ import annotations

from protocol.client_messages import (
    NUMBERED,
    Ack,
    Audio,
    Bye,
    Closed,
    Error,
    Final,
    Finalize,
    Hello,
    Message,
    NonSpeech,
    Ping,
    Pong,
    Resume,
    Resumed,
    ServerMessage,
    Watermark,
)
from protocol.errors import ErrorCode
from protocol.session import Failed, Role, Session, State

from .server import RESUMABLE, closed

FRAME_BYTES = 2
WINDOW_MS = RESUMABLE.limits.resume_window_ms


def non_speech(number: int) -> NonSpeech:
    """A numbered event that tells its number."""
    return NonSpeech(audio_received=0, audio_decoded=0, start_sample=number, end_sample=number + 1)


class ResumableServer:
    """One session; `connect` is a new connection to it."""

    def __init__(self) -> None:
        self.audio = bytearray()
        self.finalizes: list[tuple[int, int]] = []  # id, client sample
        self.has_bye = False
        self.events: list[ServerMessage] = []  # numbered, all of them
        self.acknowledged = 0
        self.num_sessions = 0
        self.session = Session(Role.SERVER)

    def connect(self) -> None:
        """Whatever was before is cut off."""
        self.session = Session(Role.SERVER)

    def forget(self) -> None:
        """As if it had been started again."""
        self.__init__()  # type: ignore[misc]

    @property
    def num_samples(self) -> int:
        """Client samples taken."""
        return len(self.audio) // FRAME_BYTES

    def receive_data(self, data: bytes) -> None:
        """Bytes of the client."""
        self.session.receive_data(data)
        while (event := self.session.next_event()) is not None:
            assert not isinstance(event, Failed), event
            self._take(event)

    def data_to_send(self) -> bytes:
        """Bytes for the client."""
        return self.session.data_to_send()

    def say(self, message: ServerMessage) -> None:
        """Now, or when the client is back."""
        if message.TYPE in NUMBERED:
            self.events.append(message)
        if self.session.state in (State.ACTIVE, State.ENDING):
            self.session.send(message)

    def watermark(self) -> None:
        """What it has so far."""
        self.say(Watermark(self.num_samples, self.num_samples, 0))

    def _take(self, message: Message) -> None:
        if isinstance(message, Hello):
            assert message.resumable
            self.num_sessions += 1
            self.session.send(RESUMABLE)
        elif isinstance(message, Resume):
            self._resume(message)
        elif isinstance(message, Audio):
            assert message.client_offset == self.num_samples
            self.audio += message.pcm
        elif isinstance(message, Finalize):
            self.finalizes.append((message.finalize_id, self.num_samples))
            self.say(self._answer(message.finalize_id))
        elif isinstance(message, Ack):
            assert self.acknowledged <= message.events_received <= len(self.events)
            self.acknowledged = message.events_received
        elif isinstance(message, Ping):
            self.session.send(Pong(message.nonce))
        elif isinstance(message, Bye):
            assert not self.has_bye
            self.has_bye = True
            self.say(self._close_record())

    def _resume(self, resume: Resume) -> None:
        if not self.num_sessions:
            self.session.send(Error(code=ErrorCode.RESUME_FAILED, message="it is not here"))
            return
        assert resume.resume_token == RESUMABLE.resume_token
        assert self.acknowledged <= resume.events_received <= len(self.events)
        self.acknowledged = resume.events_received
        self.session.frame_bytes = FRAME_BYTES
        self.session.send(
            Resumed(
                session_id="s",
                client_samples=self.num_samples,
                finalizes_received=len(self.finalizes),
                bye_received=self.has_bye,
                hop_ms=RESUMABLE.hop_ms,
            )
        )
        for event in self.events[resume.events_received :]:
            self.session.send(event)

    def _answer(self, finalize_id: int) -> Final:
        at = self.num_samples
        return Final(
            audio_received=at, audio_decoded=at, utterance=0, start_sample=at, end_sample=at,
            text="", finalize_id=finalize_id,
        )  # fmt: skip

    def _close_record(self) -> Closed:
        return closed(self.num_samples)
