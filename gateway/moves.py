"""Streams on their way from services that retire to others of the same rank. Pure.

A service that retires gets no new stream, and each stream that it has is asked to leave it: the
service lets go of it between two utterances, and the router treats it as one whose service has
died, which costs its client nothing but a later draft. An utterance that does not end is not
waited for for ever. The worker passes on what the parent says, and asks for reports once a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from protocol.service_messages import Leave
from protocol.supervisor_messages import Link as LinkMessage
from protocol.supervisor_messages import Remaining, Retire

from .admission import Admission
from .stream import DirtyList, Stream

# Behind the longest utterance: for what was announced and is not decoded yet.
SLACK_NS = 5_000_000_000


class Link(DirtyList, Protocol):
    """What is asked of a service's link here."""

    def send(self, message: Leave) -> None:
        """Queue a message behind all samples written so far."""


class Moves:
    """See the module text."""

    __slots__ = ("_admission", "_hurry_at_ns", "_links", "_open_streams", "_patience_ns")

    def __init__(
        self,
        admission: Admission,
        links: Mapping[int, Link],
        open_streams: Callable[[], Iterable[Stream]],
        max_utterance_ms: int,
    ) -> None:
        self._admission = admission
        self._links = links
        self._open_streams = open_streams
        self._patience_ns = max_utterance_ms * 1_000_000 + SLACK_NS
        self._hurry_at_ns: dict[int, int] = {}  # by service, until its streams were told to hurry

    def linked(self, message: LinkMessage, now_ns: int) -> None:
        """A service is linked: what the parent says about it holds before its first stream."""
        load = self._admission.services[message.peer]
        load.rank, load.aliases = message.rank, message.aliases
        if message.retiring:
            self.retire(Retire(message.peer, aliases=message.aliases), now_ns)

    def retire(self, message: Retire, now_ns: int) -> None:
        """Move the streams of a service; or let it serve. It may be said again and again."""
        service = message.peer
        if message.retiring:
            self._admission.forget_service(service)
        load = self._admission.services.get(service)
        if load is None:  # dead: its streams go wherever there is room
            return
        was_retiring, load.retiring = load.retiring, message.retiring
        load.aliases = message.aliases
        if not message.retiring:
            self._hurry_at_ns.pop(service, None)
        elif not was_retiring:
            self._hurry_at_ns[service] = now_ns + self._patience_ns
            self._ask(service, at_once=False)

    def _ask(self, service: int, *, at_once: bool) -> None:
        link = self._links[service]
        for stream in self._open_streams():
            if stream.link is link and not stream.closing:  # else it ends there
                link.send(Leave(stream.slot, stream.generation, at_once))

    def reports(self, now_ns: int) -> list[Remaining]:
        """How many streams are left at each service that retires."""
        services = self._admission.services
        for service in [s for s, due_ns in self._hurry_at_ns.items() if now_ns >= due_ns]:
            del self._hurry_at_ns[service]
            if service in services:
                self._ask(service, at_once=True)
        return [Remaining(s, load.open_streams) for s, load in services.items() if load.retiring]
