"""What the clears of a Together client hide: its commits and clears that wait for their answers.

Pure. together.py asks it about every result, one object a connection. Results come in the order of
the audio, and answers in the order of the questions: so while the oldest question is a clear, what
comes was said before that clear and behind the last commit, and nobody asked for it.
"""

from __future__ import annotations

from collections import deque

from protocol.client_messages import Final


class Clears:
    """The finalizes of one connection, and where its clock begins."""

    def __init__(self) -> None:
        self.clock_zero = 0  # ring sample at which the client's audio clock reads 0
        self._num_finalizes = 0
        # Not answered yet: finalize_id, and the ring sample that a clear was asked at.
        self._asked: deque[tuple[int, int | None]] = deque()

    def commit(self) -> int:
        """A commit is asked for; the id of its finalize."""
        return self._ask(None)

    def clear(self, at_sample: int) -> int:
        """A clear is asked for, at this ring sample; the id of its finalize."""
        return self._ask(at_sample)

    @property
    def hides_drafts(self) -> bool:
        """A draft that comes now is of what a clear forgets."""
        return bool(self._asked) and self._asked[0][1] is not None

    @property
    def newest_sample(self) -> int:
        """The ring sample of the newest clear that is not answered; 0 without one."""
        return max((at for _, at in self._asked if at is not None), default=0)

    def hides(self, event: Final) -> bool:
        """Is this final hidden? The answer to a clear is, and sets the clock."""
        if event.finalize_id is None:
            return self.hides_drafts
        cleared_at = None
        while self._asked and self._asked[0][0] <= event.finalize_id:
            _, cleared_at = self._asked.popleft()
        if cleared_at is not None:
            self.clock_zero = cleared_at
        return cleared_at is not None

    def _ask(self, cleared_at: int | None) -> int:
        self._num_finalizes += 1
        self._asked.append((self._num_finalizes, cleared_at))
        return self._num_finalizes
