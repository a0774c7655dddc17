"""A scripted peer for client tests: the product's own Session in the server role, on a real socket.

It does what a test tells it, in a thread; no recognition, no gateway.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import structs

from protocol.client_messages import (
    Bye,
    Closed,
    Hello,
    Limits,
    Message,
    Resume,
    Resumed,
    Started,
)
from protocol.session import Failed, Role, Session

STARTED = Started(
    session_id="s", model="tiny.en", hop_ms=320,
    limits=Limits(max_utterance_ms=30_000, ring_ms=35_000, idle_timeout_ms=300_000),
)  # fmt: skip
RESUMABLE = structs.replace(
    STARTED,
    resume_token="resume-me",
    limits=structs.replace(STARTED.limits, resume_window_ms=30_000),
)

LIMIT_S = 30.0  # for what has to come: a test that misses it fails, and does not hang


def closed(num_samples: int = 0) -> Closed:
    return Closed(
        reason="client", client_samples=num_samples, socket_samples=num_samples,
        ring_samples=num_samples, engine_samples=num_samples,
    )  # fmt: skip


class Peer:
    """One accepted connection; a script calls `next` and `send`."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.accept()

    def accept(self) -> None:
        """Wait for a connection, as whoever has not seen the one before."""
        self.sock = self._listener.accept()[0]
        self.sock.settimeout(LIMIT_S)
        self.session = Session(Role.SERVER)
        self.received_bytes = 0

    def next(self) -> Message:
        """The client's next message. Raises EOFError when it is gone."""
        while (event := self.session.next_event()) is None:
            data = self.sock.recv(65_536)
            if not data:
                raise EOFError
            self.received_bytes += len(data)
            self.session.receive_data(data)
        assert not isinstance(event, Failed)
        return event

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.session.send(message)
        self.sock.sendall(self.session.data_to_send())

    def start(self, started: Started = STARTED) -> Hello:
        """Take the hello and admit the client."""
        hello = self.next()
        assert isinstance(hello, Hello)
        self.send(started)
        return hello

    def resume(self, client_samples: int, finalizes: int = 0) -> Resume:
        """Cut the connection, take the next one and go on."""
        self.sock.close()
        self.accept()
        resume = self.next()
        assert isinstance(resume, Resume)
        self.session.frame_bytes = 2
        self.send(
            Resumed(
                session_id="s", client_samples=client_samples, finalizes_received=finalizes,
                hop_ms=STARTED.hop_ms,
            )
        )  # fmt: skip
        return resume

    def read_until_bye(self) -> list[Message]:
        messages = []
        while not isinstance(message := self.next(), Bye):
            messages.append(message)
        return messages


Script = Callable[[Peer], None]


@contextlib.contextmanager
def serving(script: Script, directory: Path) -> Iterator[str]:
    """The URL of a server that runs `script` for one connection; fails when the script does."""
    path = str(directory / "s.sock")
    failures: list[BaseException] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(LIMIT_S)
        listener.bind(path)
        listener.listen()

        def run() -> None:
            try:
                peer = Peer(listener)
                try:
                    script(peer)
                finally:
                    peer.sock.close()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"unix://{path}"
        thread.join()
    if failures:
        raise failures[0]
