"""The microphone: 16 kHz mono s16le in 20 ms blocks from PortAudio, by sounddevice.

PortAudio calls back on its own real-time thread, which only copies: a full queue drops the block
and counts it, because waiting there loses audio in the device. Only a device that is faster than
real time (capture_watch.py) is made to wait. Every way a microphone can fail is a MicrophoneError
of one line that says what to do.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from protocol.audio import RING_RATE_HZ

from .capture_watch import PaceWatch
from .errors import ClientError

BLOCK_MS = 20
MAX_QUEUED_BLOCKS = 250  # 5 s
FIRST_BLOCK_TIMEOUT_S = 1.0
STALL_TIMEOUT_S = 3.0
CLOSE_TIMEOUT_S = 2.0
PROBE_TIMEOUT_S = 10.0
_MAX_WAIT_S = 0.1  # of one callback, so that a stop is never far away


class MicrophoneError(ClientError):
    """No microphone; the text says why and what to do."""


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """ALSA and JACK write lines of their own to descriptor 2 while they probe."""
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _check_that_portaudio_survives() -> None:
    """Import sounddevice in a child first: with an ALSA configuration that has no default device
    PortAudio aborts the whole process while it starts, and nobody can catch that.
    """
    command = [sys.executable, "-c", "import sounddevice"]
    quiet = subprocess.DEVNULL
    try:
        probe = subprocess.run(
            command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise MicrophoneError("the sound system does not answer; try `arecord -L`") from None
    if probe.returncode < 0:
        raise MicrophoneError(
            "the sound system is not usable: ALSA's configuration has no default device; "
            "check `arecord -L` and your .asoundrc"
        )


def load_sounddevice() -> Any:
    """The sounddevice module. Raises MicrophoneError when it or PortAudio is missing."""
    _check_that_portaudio_survives()
    try:
        with _quiet_stderr():
            import sounddevice
    except ImportError:
        raise MicrophoneError(
            "the microphone needs sounddevice: pip install 'earwire[mic]'"
        ) from None
    except OSError:
        raise MicrophoneError(
            "the PortAudio library is missing: apt install libportaudio2"
        ) from None
    return sounddevice


def list_devices() -> list[str]:
    """One line for each input device: number, name, channels, default rate."""
    devices = load_sounddevice().query_devices()
    return [
        f"{d['index']}: {d['name']} ({d['max_input_channels']} channels, "
        f"{d['default_samplerate']:.0f} Hz)"
        for d in devices
        if d["max_input_channels"] > 0
    ]


class Microphone:
    """An open input device; a context manager. Raises MicrophoneError.

    `rate_hz` is 16 kHz, or the device's own rate where it does not do that.
    """

    def __init__(self, device: int | str | None = None) -> None:
        self._sounddevice = load_sounddevice()
        self._info = self._find(device)
        self.name = str(self._info["name"])
        self.num_dropped_blocks = 0
        self.is_stuck = False  # the driver did not let go: only the end of this process will
        self._queue: queue.Queue[bytes] = queue.Queue(MAX_QUEUED_BLOCKS)
        self._stopping = threading.Event()
        self._stream, self.rate_hz = self._open()
        self._pace = PaceWatch(self.rate_hz)

    def _find(self, device: int | str | None) -> dict[str, Any]:
        try:
            info: dict[str, Any] = self._sounddevice.query_devices(device, "input")
        except (ValueError, self._sounddevice.PortAudioError) as error:
            if device is not None:
                raise MicrophoneError(f"{_first_line(error)}; see --list-devices") from None
            raise MicrophoneError(
                "no microphone found: plug one in, or choose a device from --list-devices"
            ) from None
        return info

    def _open(self) -> tuple[Any, int]:
        error: Exception | None = None
        for rate_hz in (RING_RATE_HZ, int(self._info["default_samplerate"])):
            try:
                with _quiet_stderr():
                    stream = self._sounddevice.RawInputStream(
                        device=self._info["index"],
                        samplerate=rate_hz,
                        channels=1,
                        dtype="int16",
                        blocksize=rate_hz * BLOCK_MS // 1000,
                        latency="low",
                        callback=self._on_block,
                    )
            except self._sounddevice.PortAudioError as problem:
                error = problem
            else:
                return stream, rate_hz
        assert error is not None
        raise MicrophoneError(f"cannot open microphone {self.name!r}: {_first_line(error)}")

    def _on_block(self, data: Any, num_samples: int, _time: Any, _status: Any) -> None:
        if self._stopping.is_set():
            raise self._sounddevice.CallbackAbort
        wait_s = self._pace.wait_s(num_samples, time.monotonic_ns())
        self._put(bytes(data))
        while wait_s > 0 and not self._stopping.wait(min(wait_s, _MAX_WAIT_S)):
            wait_s -= _MAX_WAIT_S

    def _put(self, block: bytes) -> None:
        while not self._stopping.is_set():
            try:
                self._queue.put(block, self._pace.is_unpaced, _MAX_WAIT_S)
            except queue.Full:
                if self._pace.is_unpaced:
                    continue
                self.num_dropped_blocks += 1
            return

    def start(self) -> None:
        """Begin to capture."""
        try:
            with _quiet_stderr():
                self._stream.start()
        except self._sounddevice.PortAudioError as error:
            reason = _first_line(error)
            raise MicrophoneError(f"cannot start microphone {self.name!r}: {reason}") from None

    def blocks(self) -> Iterator[bytes]:
        """Blocks for ever. Raises MicrophoneError when the device delivers none."""
        timeout_s, what = FIRST_BLOCK_TIMEOUT_S, "delivers no audio"
        while True:
            try:
                yield self._queue.get(timeout=timeout_s)
            except queue.Empty:
                raise MicrophoneError(
                    f"microphone {self.name!r} {what} ({timeout_s:g} s without any); "
                    "choose another one from --list-devices"
                ) from None
            timeout_s, what = STALL_TIMEOUT_S, "has stopped delivering audio"

    def close(self) -> None:
        """Stop and release the device; gives up on a driver that does not return."""
        self._stopping.set()
        closer = threading.Thread(target=self._close_stream, daemon=True)
        with _quiet_stderr():
            closer.start()
            closer.join(CLOSE_TIMEOUT_S)
        self.is_stuck = closer.is_alive()

    def _close_stream(self) -> None:
        with contextlib.suppress(self._sounddevice.PortAudioError):
            self._stream.close(ignore_errors=True)

    def __enter__(self) -> Microphone:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
