"""Client PCM to 16 kHz mono s16le, the same samples in any chunking.

One Resampler per stream that is not in ring format. It owns soxr's state and the last input
samples; it knows no stream and no ring. Everything is computed in float32 and rounded here,
because soxr's own int16 streams dither and differ from run to run. Output is a function of the
input and of the positions at which `drain` was called, and of nothing else: soxr's float32
streams return the same values in any chunking (tests/gateway/test_resampler.py holds that).

soxr's state does not outlive the worker. A successor hears the last 100 ms again, from a client
sample that `restart_sample` names, and goes on where the ring was: the same samples but for
rounding.
"""

from __future__ import annotations

from collections import deque
from math import gcd

import numpy as np
import numpy.typing as npt
import soxr

from protocol.audio import RING_RATE_HZ, AudioFormat, Encoding
from protocol.client_messages import Hello

Floats = npt.NDArray[np.float32]

_QUALITY = "HQ"
_FULL_SCALE = np.float32(32768.0)
# Input that primes the filter after a drain. HQ's impulse response is some 20 ms long at 8 kHz
# and shorter above; 100 ms are past its reach.
_PRIME_MS = 100
_MAX_DELAY_MS = 200  # upper bound of what the filter holds back and may return at once
# Pieces of the last input are joined until one is so long: a client may send single samples, and
# every array has its price, in memory and again at each drain.
MIN_KEPT_SAMPLES = 1_024


class Resampler:
    """`convert` pieces, `drain` where the ring must be up to date with the client."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._format = audio_format
        rate_hz = audio_format.sample_rate_hz
        self._align = _align(rate_hz)
        self._keep_samples = _keep_samples(rate_hz)
        self._soxr = None if rate_hz == RING_RATE_HZ else self._new_stream()
        self._recent: deque[Floats] = deque()  # the last input, at least _keep_samples of it
        self._recent_samples = 0
        self._client_samples = 0
        self._ring_samples = 0
        self._skip_samples = 0  # output of the priming input, already in the ring
        self._fed_since_drain = False

    @classmethod
    def restart(cls, audio_format: AudioFormat, ring_samples: int) -> Resampler:
        """One that goes on at `ring_samples`, and is given what comes from `client_samples` on."""
        resampler = cls(audio_format)
        resampler._client_samples = restart_sample(audio_format, ring_samples)
        resampler._ring_samples = ring_samples
        begin = audio_format.ring_samples(resampler._client_samples)
        resampler._skip_samples = ring_samples - begin
        return resampler

    @property
    def client_samples(self) -> int:
        """Taken so far."""
        return self._client_samples

    def restart_sample(self, ring_samples: int) -> int:
        """Where a successor begins to listen that goes on at `ring_samples`."""
        return restart_sample(self._format, ring_samples)

    def convert(self, pcm: bytes | memoryview) -> bytes:
        """Ring samples that are certain by now."""
        mono = self._decode(pcm)
        if not len(mono):
            return b""
        self._client_samples += len(mono)
        if self._soxr is None:
            self._ring_samples += len(mono)
            return _to_s16(mono)
        self._remember(mono)
        self._fed_since_drain = True
        return self._emit(self._soxr.resample_chunk(mono))

    def drain(self) -> bytes:
        """The rest: afterwards the output is floor(client samples x 16000 / rate) long."""
        if self._soxr is None or not self._fed_since_drain:
            return b""
        self._fed_since_drain = False
        rest = self._skip(self._soxr.resample_chunk(np.empty(0, np.float32), last=True))
        # Below 0 where a client ends before the place at which this one goes on.
        due = max(0, self._format.ring_samples(self._client_samples) - self._ring_samples)
        exact = np.zeros(due, np.float32)
        exact[: min(due, len(rest))] = rest[:due]
        self._ring_samples += due
        self._reopen()
        return _to_s16(exact)

    def max_ring_samples(self, num_client_samples: int) -> int:
        """The most that `convert` of so many more samples can return."""
        return (
            self._format.ring_samples(num_client_samples) + 1 + RING_RATE_HZ * _MAX_DELAY_MS // 1000
        )

    def _reopen(self) -> None:
        """A new soxr stream that has already heard the last input, so that the filter goes on."""
        prime = np.concatenate(self._recent)
        first = self._client_samples - len(prime)
        start = max(first, self._client_samples - self._keep_samples)
        start += -start % self._align  # onto both grids
        if start > self._client_samples:
            raise AssertionError("the kept input spans at least one alignment step")
        self._soxr = self._new_stream()
        self._skip_samples = self._ring_samples - self._format.ring_samples(start)
        primed = self._soxr.resample_chunk(prime[start - first :])
        if len(self._skip(primed)):
            raise AssertionError("soxr answered with more samples than it was given")

    def _skip(self, samples: Floats) -> Floats:
        skipped = min(self._skip_samples, len(samples))
        self._skip_samples -= skipped
        return samples[skipped:]

    def _emit(self, samples: Floats) -> bytes:
        samples = self._skip(samples)
        # Never ahead of the client: a drain right now must not have to take samples back.
        self._ring_samples += len(samples)
        return _to_s16(samples)

    def _remember(self, mono: Floats) -> None:
        self._recent_samples += len(mono)
        if self._recent and len(self._recent[-1]) < MIN_KEPT_SAMPLES:
            mono = np.concatenate((self._recent.pop(), mono))
        self._recent.append(mono)
        while self._recent_samples - len(self._recent[0]) >= self._keep_samples:
            self._recent_samples -= len(self._recent.popleft())

    def _decode(self, pcm: bytes | memoryview) -> Floats:
        if self._format.encoding is Encoding.PCM_S16LE:
            samples: Floats = np.frombuffer(pcm, "<i2").astype(np.float32) / _FULL_SCALE
        else:
            # A copy, as the buffer is reused; and no NaN or infinity may reach the filter's state.
            samples = np.nan_to_num(np.frombuffer(pcm, "<f4"), nan=0.0, posinf=1.0, neginf=-1.0)
            samples = samples.clip(-2.0, 2.0).astype(np.float32)
        if self._format.channels == 1:
            return samples
        mono: Floats = samples.reshape(-1, self._format.channels).mean(axis=1, dtype=np.float32)
        return mono

    def _new_stream(self) -> soxr.ResampleStream:
        return soxr.ResampleStream(
            self._format.sample_rate_hz, RING_RATE_HZ, 1, dtype="float32", quality=_QUALITY
        )


def new_converter(hello: Hello) -> Resampler | None:
    """What turns this client's audio into ring samples; None when it is that already."""
    audio_format = hello.audio_format()
    return None if audio_format.is_ring_format else Resampler(audio_format)


def restart_converter(hello: Hello, ring_samples: int) -> Resampler | None:
    """The same for a ring that a dead worker has filled up to there."""
    audio_format = hello.audio_format()
    return None if audio_format.is_ring_format else Resampler.restart(audio_format, ring_samples)


def restart_sample(audio_format: AudioFormat, ring_samples: int) -> int:
    """The client sample from which on a new Resampler has to hear, to go on at `ring_samples`."""
    rate_hz = audio_format.sample_rate_hz
    if rate_hz == RING_RATE_HZ:
        return ring_samples
    start = max(0, ring_samples * rate_hz // RING_RATE_HZ - _keep_samples(rate_hz))
    return start - start % _align(rate_hz)


def _align(rate_hz: int) -> int:
    """The two grids meet every so many client samples: only there can a new soxr stream begin so
    that its output falls on ring positions.
    """
    return rate_hz // gcd(rate_hz, RING_RATE_HZ)


def _keep_samples(rate_hz: int) -> int:
    return rate_hz * _PRIME_MS // 1000 + _align(rate_hz)


def _to_s16(samples: Floats) -> bytes:
    scaled: Floats = np.rint(samples * _FULL_SCALE).clip(-32768, 32767)
    rounded: npt.NDArray[np.int16] = scaled.astype("<i2")
    return rounded.tobytes()
