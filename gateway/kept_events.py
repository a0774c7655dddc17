"""What a resumable session has said and its client has not acknowledged. Pure.

Numbered events count from 0 over all connections of the session, in the order sent
(protocol.message_types.NUMBERED). Each is kept until the client says that it has it, so that the
next connection can go on behind the last one that arrived. How much is kept is bounded: a client
that acknowledges nothing is a slow reader.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from protocol.client_messages import ServerMessage, encode_payload

# Of one session, as they travel. Less than outbox.MAX_OUT_BYTES: a client that gets all of them
# again at once is no slow reader for it.
MAX_KEPT_EVENT_BYTES = 960 * 1024
EVENT_BYTES = 64  # counted for each besides its payload: many tiny events cost memory, too


class KeptEvents:
    """See the module text. `first_number` is of the oldest event that is kept."""

    __slots__ = ("_events", "_num_bytes", "first_number")

    def __init__(self, first_number: int = 0, events: Iterable[ServerMessage] = ()) -> None:
        self.first_number = first_number
        self._events: deque[tuple[ServerMessage, int]] = deque()
        self._num_bytes = 0
        for event in events:
            self.append(event)

    @property
    def next_number(self) -> int:
        """Of the event that comes next: so many were sent."""
        return self.first_number + len(self._events)

    @property
    def messages(self) -> tuple[ServerMessage, ...]:
        """All that are kept, in order."""
        return tuple(event for event, _ in self._events)

    @property
    def is_empty(self) -> bool:
        """The client has all that was sent."""
        return not self._events

    @property
    def is_full(self) -> bool:
        """The client has left too much unacknowledged."""
        return self._num_bytes > MAX_KEPT_EVENT_BYTES

    @property
    def payload_bytes(self) -> int:
        """What is kept, as it travels: no copy of it can be smaller."""
        return self._num_bytes - EVENT_BYTES * len(self._events)

    def append(self, event: ServerMessage) -> None:
        """A numbered event is sent now, or would be if there were a connection."""
        num_bytes = len(encode_payload(event)) + EVENT_BYTES
        self._events.append((event, num_bytes))
        self._num_bytes += num_bytes

    def acknowledge(self, num_events: int) -> bool:
        """The client has so many; False, and nothing happens, when so many were not sent."""
        if num_events > self.next_number:
            return False
        while self.first_number < num_events:
            self._num_bytes -= self._events.popleft()[1]
            self.first_number += 1
        return True

    def since(self, number: int) -> tuple[ServerMessage, ...] | None:
        """The events from this number on; None when they are not all here, or never were."""
        if not self.first_number <= number <= self.next_number:
            return None
        return self.messages[number - self.first_number :]
