"""`earwire listen`: the microphone to live captions in the terminal."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

from rich.console import Console

from protocol.audio import RING_RATE_HZ
from protocol.client_messages import Hello, VadOptions

from .address import NO_CREDENTIALS, Credentials
from .blocking import Client
from .captions import CaptionView
from .capture_watch import SILENCE_WARNING_S, SilenceWatch
from .errors import ClientError
from .microphone import BLOCK_MS, Microphone, MicrophoneError, list_devices
from .session_feed import feed, finish, say_connection
from .transcribe_command import server_url


def show_devices() -> int:
    """--list-devices; exit status."""
    try:
        lines = list_devices()
    except ClientError as error:
        return _fail(error)
    if not lines:
        return _fail("no microphone found: plug one in")
    print("\n".join(lines))
    return 0


def run(
    device: str | None,
    server: str | None,
    model: str | None,
    language: str | None,
    end_of_turn_ms: int | None = None,
    credentials: Credentials = NO_CREDENTIALS,
) -> int:
    """Exit status: 0 after Ctrl-C, 1 with one line on stderr."""
    number = int(device) if device is not None and device.isdecimal() else device
    try:
        microphone = Microphone(number)
    except ClientError as error:
        return _fail(error)
    # The device came first: it fails in milliseconds, the server starts in seconds.
    status = 0
    try:
        with microphone, server_url(server, model) as url:
            _caption(microphone, url, credentials, Hello(
                sample_rate_hz=microphone.rate_hz,
                language=language,
                model=model if server else None,
                vad=VadOptions(end_of_turn_ms=end_of_turn_ms),
                live=True,
                client="earwire-listen",
            ))  # fmt: skip
    except (ClientError, OSError) as error:
        status = _fail(error)
    if microphone.is_stuck:
        # PortAudio's own exit handler would wait for the driver as well, for ever.
        sys.stdout.flush()
        os._exit(status)
    return status


def _caption(microphone: Microphone, url: str, credentials: Credentials, hello: Hello) -> None:
    client = Client.connect(
        url,
        token=credentials.token,
        tls_ca=credentials.tls_ca,
        on_connection=say_connection,
    )
    with client, CaptionView(Console()) as view:
        client.open(hello)
        stop = _stop_on_signal()
        microphone.start()
        _say(f"listening to {microphone.name}; Ctrl-C ends")
        problem: MicrophoneError | None = None
        try:
            feed(client, _watched(microphone, stop), view.show)
        except MicrophoneError as error:
            problem = error
        microphone.close()
        closed = finish(client, view.show)  # what was said is still to be shown
    if microphone.num_dropped_blocks:
        _say(f"{microphone.num_dropped_blocks * BLOCK_MS} ms were lost: this machine is too slow")
    if closed.lost_samples:
        _say(f"{closed.lost_samples / RING_RATE_HZ:.1f} s were lost: the server is too slow")
    if problem is not None:
        raise problem


def _stop_on_signal() -> threading.Event:
    """Set at the first SIGINT or SIGTERM; the second one ends the program at once."""
    stop = threading.Event()

    def handler(*_: object) -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)
    return stop


def _watched(microphone: Microphone, stop: threading.Event) -> Iterator[bytes]:
    watch = SilenceWatch(microphone.rate_hz)
    for block in microphone.blocks():
        if stop.is_set():
            return
        if watch.is_mute(block):
            _say(
                f"{microphone.name} has delivered nothing but digital silence for "
                f"{SILENCE_WARNING_S:g} s: is it muted?"
            )
        yield block


def _say(text: str) -> None:
    print(f"earwire: {text}", file=sys.stderr, flush=True)


def _fail(reason: Exception | str) -> int:
    _say(str(reason))
    return 1
