"""When a client acknowledges, asks whether the server lives, connects again, and gives up. Pure.

Times are arguments (`now_ns`, monotonic); each class says when it wants to be asked next. What is
sent is connection.py's affair, which owns one of each.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from enum import Enum

from protocol.resume_messages import ACK_EVERY_EVENTS, ACK_WITHIN_MS

from .errors import ClientError, ConnectionLost, ServerError

PING_AFTER_MS = 5_000  # nothing was heard for so long
DEAD_AFTER_MS = 10_000  # and no answer came for so long
FIRST_RETRY_MS = 100
MAX_RETRY_MS = 2_000
ATTEMPT_TIMEOUT_MS = 5_000  # of one attempt, until the server has answered
PROBE_NONCE = 0x4557_6C69_7665_3F3F  # of pings that are not the program's: "EWlive??"
_NS_PER_MS = 1_000_000
_ACK_DELAY_MS = ACK_WITHIN_MS // 2  # so that it is there in time


class Connectivity(Enum):
    """What `on_connection` is told."""

    CONNECTED = "connected"
    RECONNECTING = "reconnecting"  # nothing is lost; audio is kept until the server has it


class EventCount:
    """Numbered events received in a session, over all its connections, and the last Ack."""

    def __init__(self) -> None:
        self.received = 0
        self._acknowledged = 0
        self.due_ns: int | None = None  # when the next Ack has to go out

    def add(self, now_ns: int, is_last: bool = False) -> None:
        """One more; behind the last one nothing is waited for."""
        self.received += 1
        if is_last or self.received - self._acknowledged >= ACK_EVERY_EVENTS:
            self.due_ns = now_ns
        elif self.due_ns is None:
            self.due_ns = now_ns + _ACK_DELAY_MS * _NS_PER_MS

    def told(self) -> None:
        """The server was told `received`, by Ack or Resume."""
        self._acknowledged = self.received
        self.due_ns = None


class Verdict(Enum):
    """What Liveness wants done."""

    WAIT = "wait"
    PING = "ping"
    DEAD = "dead"


class Liveness:
    """Whether anything comes from the server; a network that is gone says nothing."""

    def __init__(self, now_ns: int) -> None:
        self._heard_ns = now_ns
        self._asked_ns: int | None = None

    def heard(self, now_ns: int) -> None:
        """Bytes came."""
        self._heard_ns = now_ns
        self._asked_ns = None

    @property
    def due_ns(self) -> int:
        """When `check` has something to say."""
        if self._asked_ns is None:
            return self._heard_ns + PING_AFTER_MS * _NS_PER_MS
        return self._asked_ns + DEAD_AFTER_MS * _NS_PER_MS

    def check(self, now_ns: int) -> Verdict:
        """PING once for each silence."""
        if now_ns < self.due_ns:
            return Verdict.WAIT
        if self._asked_ns is not None:
            return Verdict.DEAD
        self._asked_ns = now_ns
        return Verdict.PING


class Outage:
    """One loss of the connection, from its beginning to the server's answer on a new one."""

    def __init__(
        self,
        reason: ClientError,
        window_ms: int,
        now_ns: int,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.reason = reason
        self._window_ms = window_ms
        self._until_ns = now_ns + window_ms * _NS_PER_MS
        self._spread = spread  # 0 to 1: clients of one server come back apart
        self._num_failed = 0
        self._attempt_ns: int | None = None  # when the present attempt began
        self.retry_ns = now_ns + int(spread() * FIRST_RETRY_MS * _NS_PER_MS)

    @property
    def needs_socket(self) -> bool:
        """No attempt is under way: the next one begins at `retry_ns`."""
        return self._attempt_ns is None

    @property
    def due_ns(self) -> int:
        """When the next attempt begins, or the present one has taken too long."""
        if self._attempt_ns is None:
            return self.retry_ns
        return self._attempt_ns + ATTEMPT_TIMEOUT_MS * _NS_PER_MS

    def began(self, now_ns: int) -> None:
        """An attempt has a socket."""
        self._attempt_ns = now_ns

    def failed(self, reason: ClientError, now_ns: int) -> None:
        """The attempt came to nothing; the next one is later each time, and not before the
        server wants it."""
        self.reason = reason
        self._attempt_ns = None
        delay_ms = min(MAX_RETRY_MS, FIRST_RETRY_MS * 2**self._num_failed)
        delay_ms = max(delay_ms, reason.retry_after_ms or 0)
        self._num_failed = min(self._num_failed + 1, 16)
        self.retry_ns = now_ns + int(delay_ms * (1 + self._spread() / 2) * _NS_PER_MS)

    def again(self, now_ns: int) -> None:
        """The next attempt begins at once: it is to be another one than the last."""
        self._attempt_ns = None
        self.retry_ns = now_ns

    @property
    def is_hopeless(self) -> bool:
        """The next attempt would come behind the server's window."""
        return self.retry_ns > self._until_ns

    def failure(self) -> ClientError:
        """What a program is told that did not get its connection back."""
        if isinstance(self.reason, ServerError):
            return self.reason
        return ConnectionLost(f"{self.reason} (tried again for {self._window_ms / 1000:g} s)")
