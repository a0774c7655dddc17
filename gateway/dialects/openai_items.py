"""The items of an OpenAI Realtime session: which of them a result of recognition belongs to.

Pure bookkeeping. Results come in the order of the audio, and a client's commits and clears are
answered in their order; so three places are enough:

    turns       utterances that voice activity began: one item each, until its final
    asked       commits and clears that wait for their answers, oldest first
    collecting  the item of a client that commits by itself, from one commit to the next

It knows no event and no message; openai_realtime.py says what becomes of an item.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .openai_text import GrowingText

MAX_TURNS = 16  # announced, their finals still due; the service itself has fewer


@dataclass(slots=True)
class Item:
    """One piece of the client's audio and its text."""

    item_id: str
    text: GrowingText = field(default_factory=GrowingText)
    num_samples: int = 0  # of audio transcribed
    is_committed: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A finalize that is not answered yet.

    A commit beside voice activity has no item before its answer says whether a turn was open.
    """

    finalize_id: int
    item: Item | None
    is_clear: bool = False


class Items:
    """See the module text."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self._turns: dict[int, Item] = {}  # by utterance
        self._asked: deque[Asked] = deque()
        self._collecting: Item | None = None
        self._num_finalizes = 0

    def new_item(self) -> Item:
        """An item that is in none of the places."""
        return Item(self._new_id())

    @property
    def is_clearing(self) -> bool:
        """A clear is not answered yet: what is being said may be what it forgets."""
        return any(asked.is_clear for asked in self._asked)

    def begin_turn(self, utterance: int) -> Item:
        """Voice activity began an utterance."""
        while len(self._turns) >= MAX_TURNS:
            del self._turns[next(iter(self._turns))]
        item = self._turns[utterance] = self.new_item()
        return item

    def turn(self, utterance: int) -> Item | None:
        """The item of an utterance that begin_turn was told of."""
        return self._turns.get(utterance)

    def end_turn(self, utterance: int) -> Item | None:
        """The same, when its text is complete."""
        return self._turns.pop(utterance, None)

    def collected(self) -> Item | None:
        """The item that results without a turn belong to; None when a clear forgets them."""
        for asked in self._asked:
            if asked.item is not None or asked.is_clear:
                return asked.item
        return self._collect()

    def _collect(self) -> Item:
        if self._collecting is None:
            self._collecting = self.new_item()
        return self._collecting

    def part(self) -> Item:
        """Take the collecting item out before its commit, because it has become too long."""
        item, self._collecting = self._collect(), None
        return item

    def commit(self, *, by_client: bool) -> Asked:
        """A commit is asked for; `by_client`: nobody else commits, so its item is known."""
        item = self._collect() if by_client else None
        return self._ask(item, is_clear=False)

    def clear(self) -> Asked:
        """A clear is asked for."""
        return self._ask(None, is_clear=True)

    def _ask(self, item: Item | None, *, is_clear: bool) -> Asked:
        self._collecting = None
        self._num_finalizes += 1
        asked = Asked(self._num_finalizes, item, is_clear)
        self._asked.append(asked)
        return asked

    def answered(self, finalize_id: int) -> Asked | None:
        """The commit or clear with this id, which is answered now; None for an unknown one."""
        while self._asked and self._asked[0].finalize_id <= finalize_id:
            asked = self._asked.popleft()
            if asked.finalize_id == finalize_id:
                return asked
        return None

    def take_all(self) -> list[Item]:
        """Every item whose text is not complete: nothing more will come."""
        items = [*self._turns.values(), *(a.item for a in self._asked if a.item is not None)]
        if self._collecting is not None:
            items.append(self._collecting)
        self._turns.clear()
        self._asked.clear()
        self._collecting = None
        return items
