"""What a stream and its router tell the journal of a session, and the journal of those that have
none. Pure.

journal_writer.StreamJournal is the one that keeps something.
"""

from __future__ import annotations

from typing import Protocol

from protocol.client_messages import ServerMessage

from .recovery import Control


class SessionJournal(Protocol):
    """Each is called when the session has changed, and before its client can know."""

    def note(self) -> None:
        """More audio is in the ring, or decoded."""

    def controlled(self, control: Control) -> None:
        """A control has its place."""

    def committed(self) -> None:
        """There is a newer checkpoint."""

    def drafted(self) -> None:
        """The client sees a draft."""

    def told(self, event: ServerMessage) -> None:
        """A numbered event is kept for the client."""

    def acknowledged(self) -> None:
        """The client has some of the kept events."""

    def forget(self) -> None:
        """The session has ended for good."""


class NoJournal:
    """Of streams that nobody can resume."""

    def note(self) -> None: ...

    def controlled(self, control: Control) -> None: ...

    def committed(self) -> None: ...

    def drafted(self) -> None: ...

    def told(self, event: ServerMessage) -> None: ...

    def acknowledged(self) -> None: ...

    def forget(self) -> None: ...


NO_JOURNAL = NoJournal()
