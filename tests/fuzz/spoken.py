"""A stream that says whatever a script makes it say, but always in the order that streams keep.

It stands behind a dialect in place of the router: it answers what the dialect asks for, and speaks.
Utterances are numbered, stable text only grows, every finalize is answered, nothing follows the
end: a dialect may lean on all of that, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.client_messages import (
    Closed,
    EndOfTurn,
    Error,
    Final,
    NonSpeech,
    Partial,
    ServerMessage,
    SpeechStarted,
    SpeechStopped,
    Watermark,
    Word,
)
from protocol.errors import RETRYABLE, ErrorCode
from tests.harness import STARTED

from .target import Script

WORDS = ("two", "cities", "best", "of", "times,", "It", "was", "É…")
CODES = tuple(ErrorCode)


class Spoken:
    """One stream. `say` hands an event to the dialect."""

    def __init__(self, say: Callable[[ServerMessage], None]) -> None:
        self._say = say
        self._sample = 0
        self._utterances = 0
        self._is_speaking = False
        self._start_sample = 0
        self._stable = ""
        self._finalizes: list[int] = []
        self.is_open = False
        self.has_ended = False

    # What the dialect asks

    def open(self, source: Script) -> None:
        """Admit it, or not."""
        if source.byte() % 16 == 15:
            self.fail(source)
        elif not self.has_ended:
            self.is_open = True
            self._say(STARTED)

    def finalize(self, finalize_id: int) -> None:
        """Owe an answer."""
        self._finalizes.append(finalize_id)

    def end(self) -> None:
        """Everything that is owed, then the close record."""
        if not self.is_open or self.has_ended:
            return
        self.answer_all()
        if self._is_speaking:
            self._stop(None, self._stable)
        self.has_ended = True
        counts = dict.fromkeys(("socket_samples", "ring_samples", "engine_samples"), self._sample)
        self._say(Closed(reason="client", client_samples=self._sample, **counts))

    def fail(self, source: Script) -> None:
        """The stream ends for any reason there is."""
        if not self.has_ended:
            self.has_ended = True
            code = source.choice(CODES)
            self._say(Error(code=code, message=source.text(), retryable=code in RETRYABLE))

    # What it says by itself

    def speak(self, source: Script) -> None:
        """The next thing, whatever it is."""
        if not self.is_open or self.has_ended:
            return
        choices = (self._begin, self._draft, self._finish, self._turn, self._other, self._answer)
        source.choice(choices)(source)

    def answer_all(self) -> None:
        """Every finalize that is owed."""
        while self._finalizes:
            self._answer(Script(b""))

    def _begin(self, source: Script) -> None:
        if self._is_speaking:
            return
        self._sample += 160 * source.byte()
        self._is_speaking, self._stable = True, ""
        self._start_sample = self._sample
        self._say(
            SpeechStarted(
                audio_received=self._sample,
                audio_decoded=self._sample,
                utterance=self._utterances,
                start_sample=self._start_sample,
            )
        )

    def _draft(self, source: Script) -> None:
        if not self._is_speaking:
            return
        self._sample += 160 * source.byte()
        more = " ".join(source.choice(WORDS) for _ in range(source.byte() % 4))
        self._stable = f"{self._stable} {more}".strip()
        self._say(
            Partial(
                audio_received=self._sample,
                audio_decoded=self._sample,
                utterance=self._utterances,
                start_sample=self._start_sample,
                end_sample=self._sample,
                stable=self._stable,
                volatile=source.text(),
            )
        )

    def _finish(self, source: Script) -> None:
        if self._is_speaking:
            self._stop(None, self._final_text(source))

    def _final_text(self, source: Script) -> str:
        """As it was shown, longer, or something else."""
        how = source.byte() % 4
        if how == 0:
            return source.text()
        return self._stable if how < 3 else f"{self._stable} {source.choice(WORDS)}".strip()

    def _stop(self, finalize_id: int | None, text: str) -> None:
        number, self._utterances = self._utterances, self._utterances + 1
        self._is_speaking = False
        decoded = {"audio_received": self._sample, "audio_decoded": self._sample}
        self._say(SpeechStopped(**decoded, utterance=number, end_sample=self._sample))
        words = tuple(
            Word(word, self._start_sample, self._sample, 0.5) for word in text.split()[:50]
        )
        self._say(
            Final(
                **decoded,
                utterance=number,
                start_sample=self._start_sample,
                end_sample=self._sample,
                text=text,
                words=words,
                language="en",
                finalize_id=finalize_id,
            )
        )

    def _answer(self, source: Script) -> None:
        if not self._finalizes:
            return
        finalize_id = self._finalizes.pop(0)
        if self._is_speaking:
            self._stop(finalize_id, self._final_text(source))
            return
        self._say(
            Final(
                audio_received=self._sample,
                audio_decoded=self._sample,
                utterance=self._utterances,
                start_sample=self._sample,
                end_sample=self._sample,
                text="",
                finalize_id=finalize_id,
            )
        )

    def _turn(self, source: Script) -> None:
        if self._utterances and not self._is_speaking:
            self._say(
                EndOfTurn(
                    audio_received=self._sample,
                    audio_decoded=self._sample,
                    utterance=self._utterances - 1,
                    end_sample=self._sample,
                )
            )

    def _other(self, source: Script) -> None:
        start, self._sample = self._sample, self._sample + source.byte()
        decoded = {"audio_received": self._sample, "audio_decoded": self._sample}
        if not self._is_speaking:
            self._say(NonSpeech(**decoded, start_sample=start, end_sample=self._sample))
        self._say(Watermark(self._sample, self._sample, self._sample))
