"""What protocol tests share: two sessions joined in memory, and ways to split a byte stream.

No socket, no clock and no stand-in: the pair runs the product's own Session at both ends and
carries bytes from one to the other, in pieces as small as a test asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from hypothesis import strategies as st

from protocol.client_messages import Hello, Limits, Message, Started
from protocol.session import Event, Role, Session

STARTED = Started(
    session_id="s-1",
    model="tiny.en",
    hop_ms=320,
    limits=Limits(max_utterance_ms=30_000, ring_ms=35_000, idle_timeout_ms=60_000),
)


def chunkings(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and every way to cut `data` in two."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for cut in range(1, len(data)):
        yield [data[:cut], data[cut:]]


def cut_at(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` cut at these positions; no piece is empty."""
    edges = sorted({0, len(data), *(cut for cut in cuts if 0 < cut < len(data))})
    return [data[a:b] for a, b in pairwise(edges)]


def random_cuts(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """Any number of cuts anywhere in `data`."""
    return st.lists(st.integers(1, max(1, len(data) - 1)), max_size=40).map(
        lambda cuts: cut_at(data, cuts)
    )


def all_events(session: Session) -> list[Event]:
    """What the session has to say now."""
    events: list[Event] = []
    while (event := session.next_event()) is not None:
        events.append(event)
    return events


def feed(session: Session, chunks: Iterable[bytes]) -> list[Event]:
    """The events of these bytes, asked for after every chunk."""
    events: list[Event] = []
    for chunk in chunks:
        session.receive_data(chunk)
        events += all_events(session)
    return events


class SessionPair:
    """A client and a server session; what one sends the other receives, in pieces of a size."""

    def __init__(self, chunk_bytes: int = 1 << 20) -> None:
        self.client = Session(Role.CLIENT)
        self.server = Session(Role.SERVER)
        self.chunk_bytes = chunk_bytes

    def from_client(self, *messages: Message) -> list[Event]:
        """Send from the client; what the server saw."""
        for message in messages:
            self.client.send(message)
        return self.carry_to_server()

    def from_server(self, *messages: Message) -> list[Event]:
        """Send from the server; what the client saw."""
        for message in messages:
            self.server.send(message)
        return self.carry_to_client()

    def carry_to_server(self) -> list[Event]:
        """Deliver what the client has queued."""
        return feed(self.server, self._pieces(self.client.data_to_send()))

    def carry_to_client(self) -> list[Event]:
        """Deliver what the server has queued."""
        return feed(self.client, self._pieces(self.server.data_to_send()))

    def start(self, hello: Hello | None = None) -> None:
        """Bring both ends to ACTIVE."""
        self.from_client(hello or Hello())
        self.from_server(STARTED)

    def _pieces(self, data: bytes) -> list[bytes]:
        size = self.chunk_bytes
        return [data[i : i + size] for i in range(0, len(data), size)]
