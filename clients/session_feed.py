"""Feeding a stream from PCM blocks while reading its events: the loop the commands share.

Blocking and single-threaded: a block is sent, then whatever events are there are handed to
`on_event`. With `realtime` a block leaves when its last sample would have been spoken.
`say_connection` is the commands' `on_connection`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable

from protocol.client_messages import Closed, ServerMessage

from .blocking import Client
from .errors import ClientError
from .resumption import Connectivity

# Without any event for this long after bye, the server is taken for stuck.
END_TIMEOUT_S = 120.0

EventHandler = Callable[[ServerMessage], None]


def say_connection(connectivity: Connectivity) -> None:
    """For `on_connection` of a command: tell the person in front of it."""
    texts = {
        Connectivity.RECONNECTING: "the connection is lost; reconnecting",
        Connectivity.CONNECTED: "connected again",
    }
    print(f"earwire: {texts[connectivity]}", file=sys.stderr, flush=True)


def feed(
    client: Client,
    blocks: Iterable[bytes],
    on_event: EventHandler,
    realtime_hz: int | None = None,
) -> None:
    """Send all blocks (mono s16le), handing over events as they come; does not end the stream."""
    start_s, num_samples = time.monotonic(), 0
    for block in blocks:
        num_samples += len(block) // 2
        if realtime_hz is not None:
            show_until(client, on_event, start_s + num_samples / realtime_hz)
        client.send_audio(block)
        show_until(client, on_event, 0.0)


def show_until(client: Client, on_event: EventHandler, deadline_s: float) -> None:
    """Hand over the events that come before a time of the monotonic clock."""
    while True:
        event = client.next_event(max(0.0, deadline_s - time.monotonic()))
        if event is None:
            return
        on_event(event)


def finish(client: Client, on_event: EventHandler) -> Closed:
    """Say bye and hand over what is left; the close record. Raises ClientError."""
    client.bye()
    while client.closed is None or not client.is_over:
        event = client.next_event(END_TIMEOUT_S)
        if event is not None:
            on_event(event)
        elif not client.is_over:
            raise ClientError(f"the server has been silent for {END_TIMEOUT_S:g} s")
    while (event := client.next_event(0.0)) is not None:
        on_event(event)
    if client.num_untaken_samples:
        reason = client.closed.reason
        raise ClientError(f"the server ended the session ({reason}) before it had all of the audio")
    return client.closed
