"""What a stream of microphone blocks says about its device: too fast, or mute. Pure."""

from __future__ import annotations

# A real device delivers one second a second, give or take its buffers.
MAX_AHEAD_S = 1.0
SILENCE_WARNING_S = 3.0


class PaceWatch:
    """Compares the audio delivered with the time it took.

    A file behind an ALSA `file` device, or a loopback without a clock, delivers thousands of
    seconds a second. Such a device may be made to wait, a real one never: its samples would be
    lost in its own buffer.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._start_ns: int | None = None
        self._num_samples = 0
        self.is_unpaced = False  # it has been faster than real time

    def wait_s(self, num_samples: int, now_ns: int) -> float:
        """Take a block; how long its device must wait before the next one, 0 for a real one."""
        if self._start_ns is None:
            self._start_ns = now_ns
        self._num_samples += num_samples
        ahead_s = self._num_samples / self._rate_hz - (now_ns - self._start_ns) / 1e9
        wait_s = max(0.0, ahead_s - MAX_AHEAD_S)
        self.is_unpaced = self.is_unpaced or wait_s > 0
        return wait_s


class SilenceWatch:
    """Says once that a device has delivered nothing but zeros since it was opened."""

    def __init__(self, rate_hz: int) -> None:
        self._left = int(SILENCE_WARNING_S * rate_hz)
        self._done = False

    def is_mute(self, pcm: bytes) -> bool:
        """Take a block; True once, when it completes SILENCE_WARNING_S of digital silence."""
        if self._done:
            return False
        if pcm.strip(b"\0"):
            self._done = True  # even a quiet room has noise: this device works
            return False
        self._left -= len(pcm) // 2
        self._done = self._left <= 0
        return self._done
