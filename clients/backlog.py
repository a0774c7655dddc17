"""Events received and not yet read by the program: bounded, and what goes when it is full. Pure.

A partial is worth nothing once a newer one is there, so old partials go first. Finals are never
dropped: when only they remain, the program has stopped reading and is told so.
"""

from __future__ import annotations

from collections import deque

from protocol.client_messages import Partial, ServerMessage, Watermark

from .errors import EventsUnread

MAX_EVENTS = 4096


class Backlog:
    """Events in order."""

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._events: deque[ServerMessage] = deque()
        self._max_events = max_events

    def __len__(self) -> int:
        return len(self._events)

    def push(self, event: ServerMessage) -> None:
        """Raises EventsUnread when there is no room even without old partials."""
        if isinstance(event, Watermark) and self._events:
            # Watermarks only grow: of two in a row the first says nothing.
            if isinstance(self._events[-1], Watermark):
                self._events.pop()
        elif len(self._events) >= self._max_events:
            self._shed()
        self._events.append(event)

    def pop(self) -> ServerMessage | None:
        """The oldest event."""
        return self._events.popleft() if self._events else None

    def _shed(self) -> None:
        self._events = deque(e for e in self._events if not isinstance(e, Partial | Watermark))
        if len(self._events) >= self._max_events:
            raise EventsUnread(
                f"{len(self._events)} events wait unread; read events() while sending audio"
            )
