"""What a client said and may have to say again: audio, finalizes and bye, in their order. Pure.

Everything passes through here on its way to the server. A cursor stands behind what went out on the
present connection. What the server is known to have is released; on a new connection `rewind` puts
the cursor where the server says that it stands. connection.py owns one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from protocol.client_messages import MAX_AUDIO_BYTES, Audio, Bye, Finalize
from protocol.errors import LocalProtocolError

MAX_KEPT_AUDIO_S = 120  # behind the newest watermark; whoever sends waits above this
MAX_KEPT_FINALIZES = 1_024  # the server takes no more unanswered ones either


@dataclass(frozen=True, slots=True)
class _Mark:
    """A finalize: its number in the session, and the client sample at which it was said."""

    number: int
    at_sample: int
    message: Finalize


class KeptInput:
    """Positions are client samples from the start of the session."""

    def __init__(self, sample_rate_hz: int, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes
        self._max_samples = MAX_KEPT_AUDIO_S * sample_rate_hz
        self._items: deque[Audio | _Mark] = deque()
        self._cursor = 0  # items before it went out on the present connection
        self._next_sample = 0  # of the audio at the cursor
        self._first_due = 0  # finalizes before this one are not sent again
        self._bye_is_due = False
        self._is_cut = False  # the server ends the session by itself: it takes nothing more
        self._num_marks = 0  # in _items
        self._num_finalizes = 0
        self._num_answered = 0
        self._sent_sample = 0  # the highest that ever went out
        self.start_sample = 0  # audio before it is gone
        self.end_sample = 0
        self.is_ended = False  # bye was said

    @property
    def is_full(self) -> bool:
        """More audio is kept than should be: wait before sending more."""
        return self.end_sample - self.start_sample > self._max_samples

    @property
    def has_everything(self) -> bool:
        """Nothing of the session is gone yet: it could be said from its beginning."""
        return self.start_sample == 0 and self._num_marks == self._num_finalizes

    # From the program

    def audio(self, pcm: bytes) -> None:
        """Whole samples that follow the last ones."""
        limit = MAX_AUDIO_BYTES // self._frame_bytes * self._frame_bytes
        for start in range(0, len(pcm), limit):
            piece = pcm[start : start + limit]
            self._items.append(Audio(self.end_sample, piece))
            self.end_sample += len(piece) // self._frame_bytes

    def finalize(self, message: Finalize) -> None:
        """Behind all audio so far. Raises LocalProtocolError when too many have no answer."""
        if self._num_marks >= MAX_KEPT_FINALIZES:
            raise LocalProtocolError(f"{self._num_marks} finalizes have no answer yet")
        self._items.append(_Mark(self._num_finalizes, self.end_sample, message))
        self._num_finalizes += 1
        self._num_marks += 1

    def bye(self) -> None:
        """Behind everything."""
        self.is_ended = self._bye_is_due = True

    # To the server

    def take(self, may_end: bool = True) -> Audio | Finalize | Bye | None:
        """What goes out next on the present connection; None when all of it went. `may_end`: the
        server takes a bye by now."""
        if self._is_cut:
            self._items.clear()
            self._cursor = self._num_marks = 0
            return None
        while self._cursor < len(self._items):
            item = self._items[self._cursor]
            self._cursor += 1
            if isinstance(item, Audio):
                if (audio := self._rest_of(item)) is not None:
                    return audio
            elif item.number >= self._first_due:
                return item.message
        if self._bye_is_due and may_end:
            self._bye_is_due = False
            return Bye()
        return None

    def _rest_of(self, audio: Audio) -> Audio | None:
        """What of a piece is still to be sent."""
        first = max(audio.client_offset, self._next_sample)
        end = self._end_of(audio)
        if first >= end:
            return None
        self._next_sample = end
        self._sent_sample = max(self._sent_sample, end)
        num_known_bytes = (first - audio.client_offset) * self._frame_bytes
        return Audio(first, audio.pcm[num_known_bytes:]) if num_known_bytes else audio

    def _end_of(self, audio: Audio) -> int:
        return audio.client_offset + len(audio.pcm) // self._frame_bytes

    # From the server

    def received(self, client_samples: int) -> None:
        """The server has all audio before this (a watermark): it need not be kept."""
        self.start_sample = max(self.start_sample, min(client_samples, self._sent_sample))
        self._next_sample = max(self._next_sample, self.start_sample)
        self._release()

    def answered(self) -> None:
        """A finalize got its answer; answers come in the order of the questions."""
        self._num_answered = min(self._num_answered + 1, self._num_finalizes)
        self._release()

    def forget_sent(self) -> None:
        """Keep nothing that went out: this session can not be resumed."""
        self.start_sample = self._next_sample
        for _ in range(self._cursor):
            self._pop()

    def _release(self) -> None:
        while self._items and self._is_known(self._items[0]):
            self._pop()

    def _is_known(self, item: Audio | _Mark) -> bool:
        if isinstance(item, Audio):
            return self._end_of(item) <= self.start_sample
        # Whoever has audio from behind a finalize has the finalize.
        return item.number < self._num_answered or item.at_sample < self.start_sample

    def _pop(self) -> None:
        self._num_marks -= isinstance(self._items.popleft(), _Mark)
        self._cursor = max(0, self._cursor - 1)

    def rewind(self, client_samples: int, num_finalizes: int, bye_received: bool) -> bool:
        """A new connection, to a server that has so much of the session.

        False when that can not be: it has not all that was released, or what was never sent, or
        audio from behind a finalize that it has not.
        """
        if bye_received and not self._is_all(client_samples, num_finalizes):
            self._is_cut = True
            return True
        first_kept = self._num_finalizes - self._num_marks
        if not self.start_sample <= client_samples <= self._sent_sample:
            return False
        if not first_kept <= num_finalizes <= self._num_finalizes:
            return False
        if any(m.at_sample < client_samples for m in self._marks_from(num_finalizes)):
            return False
        self._cursor = 0
        self._next_sample = client_samples
        self._first_due = num_finalizes
        self._bye_is_due = self.is_ended and not bye_received
        return True

    def restart(self) -> None:
        """A new session, to which everything is said again; only with `has_everything`."""
        assert self.has_everything
        self._is_cut = False
        self._cursor = self._next_sample = self._first_due = self._num_answered = 0
        self._bye_is_due = self.is_ended

    def _is_all(self, client_samples: int, num_finalizes: int) -> bool:
        everything = (self.end_sample, self._num_finalizes)
        return self.is_ended and (client_samples, num_finalizes) == everything

    def _marks_from(self, number: int) -> list[_Mark]:
        return [m for m in self._items if isinstance(m, _Mark) and m.number >= number]
