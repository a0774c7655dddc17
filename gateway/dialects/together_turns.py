"""The turns of Together's API: which turn events a client that asked for them gets, and when.

Pure. together.py feeds it the stream's events, one object a connection, and sends what it returns.
A turn starts with speech and ends with the stream's end of turn. A client that wants to answer
early is told at each final behind which nobody speaks yet, and told again when somebody does.

The stream says that speech started as soon as that is known, but that a turn ended behind its last
final: where recognition is behind, the next turn's speech may come first. Utterance numbers tell.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.client_messages import EndOfTurn, Final, SpeechStarted

MAX_TURN_CHARS = 65_536  # of a turn's text; of a longer one the end is kept

START = "start_of_turn"
END = "end_of_turn"
EAGER = "eager_end_of_turn"
RESUMED = "turn_resumed"


@dataclass(frozen=True, slots=True)
class TurnEvent:
    """One event for the client; `transcript` is the text of the turn so far."""

    kind: str
    transcript: str = ""


class Turns:
    """The turns of one connection, of which one may be open."""

    def __init__(self, *, eager: bool) -> None:
        self.wants_eager = eager  # the client wants to know when the turn may have ended
        self._first_utterance: int | None = None  # of the open turn
        self._newest_utterance = 0
        self._is_eager = False  # the client may be answering already
        self._transcript = ""

    def on_speech_started(self, event: SpeechStarted) -> TurnEvent | None:
        """A turn begins or goes on."""
        self._newest_utterance = event.utterance
        if self._first_utterance is None:
            self._first_utterance = event.utterance
            return TurnEvent(START)
        if not self._is_eager:
            return None
        self._is_eager = False
        return TurnEvent(RESUMED, self._transcript)

    def on_final(self, event: Final) -> TurnEvent | None:
        """The turn has more text, and this may have been all of it."""
        text = event.text.strip()
        if not text or self._first_utterance is None or event.utterance < self._first_utterance:
            return None  # nobody's, or of what was said before the turn
        self._transcript = f"{self._transcript} {text}".strip()[-MAX_TURN_CHARS:]
        if not self.wants_eager or event.utterance != self._newest_utterance:
            return None
        self._is_eager = True
        return TurnEvent(EAGER, self._transcript)

    def on_end(self, event: EndOfTurn) -> list[TurnEvent]:
        """The turn is over; the next one may have begun already."""
        if self._first_utterance is None or event.utterance < self._first_utterance:
            return []  # of a turn that was forgotten
        events = [TurnEvent(END, self._transcript)]
        self.forget()
        if event.utterance < self._newest_utterance:
            self._first_utterance = event.utterance + 1
            events.append(TurnEvent(START))
        return events

    def forget(self) -> None:
        """No turn is open, and nothing that was said belongs to the next one."""
        self._first_utterance = None
        self._is_eager = False
        self._transcript = ""
