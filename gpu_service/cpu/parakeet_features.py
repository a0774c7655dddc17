"""Parakeet's features: log-mel frames, normalised over the utterance so far.

NeMo's FilterbankFeatures at inference: pre-emphasis, a symmetric Hann window of 400 samples every
160 in an FFT of 512, zeros beyond both ends, Slaney's mel filters, log(x + 2^-24), then each band
to mean 0 and deviation 1. MelStream takes one utterance in any pieces: the same audio gives the
same bits, whatever the pieces, because no frame is computed together with its neighbours and sums
are added frame by frame. log_mel_features() is that stream fed once.

Knows samples and frames, no model and no clock; parakeet engines call it. Rows of features are
frames. Shapes: T frames of 10 ms, F mel bands, n samples at 16 kHz.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .mel_bank import slaney_bank

NUM_MELS = 128
HOP_SAMPLES = 160
WINDOW_SAMPLES = 400
FFT_SAMPLES = 512
PRE_EMPHASIS = np.float32(0.97)
LOG_GUARD = np.float32(2.0**-24)
DEVIATION_GUARD = 1e-5
PIECE_SAMPLES = 128 * HOP_SAMPLES  # longer audio goes in pieces that stay in the cache
FIRST_CAPACITY_ROWS = 128

Array = NDArray[np.float32]


def mel_bank(num_mels: int = NUM_MELS) -> Array:
    """(F, 257) filters over the power spectrum."""
    return slaney_bank(num_mels, FFT_SAMPLES)


@functools.cache
def window() -> Array:
    """(400,) symmetric Hann."""
    return np.hanning(WINDOW_SAMPLES).astype(np.float32)


def num_mel_frames(num_samples: int) -> int:
    """T: the valid frames of that much audio."""
    return num_samples // HOP_SAMPLES


def log_mel(samples: NDArray[np.float32] | NDArray[np.int16], num_mels: int = NUM_MELS) -> Array:
    """(T, F) log-mel frames of a whole utterance, not normalised."""
    stream = MelStream(num_mels)
    stream.append(samples)
    return stream.raw()


def normalise(raw: Array) -> Array:
    """Each band of (T, F) log-mel frames to mean 0 and deviation 1."""
    return Sums.zero(raw.shape[1]).plus(raw).statistics().apply(raw)


def log_mel_features(
    samples: NDArray[np.float32] | NDArray[np.int16], num_mels: int = NUM_MELS
) -> Array:
    """(T, F) features of a whole utterance of (n,) samples, as float32 in [-1, 1) or int16."""
    stream = MelStream(num_mels)
    stream.append(samples)
    return stream.features()


@dataclass(frozen=True, slots=True)
class Statistics:
    """How to normalise a frame."""

    mean: NDArray[np.float64]  # (F,)
    deviation: NDArray[np.float64]  # (F,), over count - 1; zero where there is one frame

    def apply(self, raw: Array) -> Array:
        """(T, F) normalised."""
        scale = (self.deviation + DEVIATION_GUARD).astype(np.float32)
        features: Array = (raw - self.mean.astype(np.float32)) / scale
        return features


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the frames so far; all that normalising needs to know of frames gone by."""

    count: int
    total: NDArray[np.float64]  # (F,)
    squares: NDArray[np.float64]  # (F,)

    @classmethod
    def zero(cls, num_mels: int) -> Sums:
        """Of no frames."""
        return cls(0, np.zeros(num_mels), np.zeros(num_mels))

    def plus(self, raw: Array) -> Sums:
        """With (T, F) further frames, added one after the other so that no split changes a bit."""
        rows = raw.astype(np.float64)
        return Sums(
            self.count + len(raw), _add_rows(self.total, rows), _add_rows(self.squares, rows**2)
        )

    def statistics(self) -> Statistics:
        """Mean and deviation of the frames; of none, a mean of 0."""
        mean = self.total / max(self.count, 1)
        # Rounding may leave a little less than nothing of a band that never changes.
        spread = np.maximum(self.squares - mean * self.total, 0.0)
        deviation = np.sqrt(spread / (self.count - 1)) if self.count > 1 else np.zeros_like(mean)
        return Statistics(mean, deviation)


class MelStream:
    """The features of one utterance while it grows."""

    def __init__(self, num_mels: int = NUM_MELS) -> None:
        self.num_samples = 0
        self.num_certain = 0  # frames that no later sample can change
        self._sums = Sums.zero(num_mels)  # over the certain frames
        self._first_kept = 0  # the frame in row 0 of _rows
        self._rows = np.empty((FIRST_CAPACITY_ROWS, num_mels), np.float32)
        self._last_sample = np.float32(0.0)
        # Pre-emphasised audio from the window of frame `num_certain` on. The first window begins
        # before the audio, in zeros.
        self._tail = np.zeros(WINDOW_SAMPLES // 2, np.float32)

    @property
    def num_frames(self) -> int:
        """T: certain frames, and one more where its window reaches past the audio so far."""
        return num_mel_frames(self.num_samples)

    def append(self, samples: NDArray[np.float32] | NDArray[np.int16]) -> None:
        """Take the next (n,) samples: float32 in [-1, 1), or int16."""
        for start in range(0, len(samples), PIECE_SAMPLES):
            self._append_piece(_as_float(samples[start : start + PIECE_SAMPLES]))

    def raw(self, num_frames: int | None = None) -> Array:
        """(T, F) log-mel frames up to `num_frames` (all), as if the audio ended now.

        Raises ValueError for frames that are not there, or no longer.
        """
        return self._raw(0, self.num_frames if num_frames is None else num_frames)

    def sums(self) -> Sums:
        """Over all frames up to now, the uncertain one included."""
        return self._sums.plus(self._raw(self.num_certain, self.num_frames))

    def statistics(self) -> Statistics:
        """What features() normalises by now."""
        return self.sums().statistics()

    def features(self, from_row: int = 0) -> Array:
        """(T - from_row, F): frames from `from_row` on, normalised over all frames up to now.

        Raises ValueError for frames that are not there, or no longer.
        """
        return self.statistics().apply(self._raw(from_row, self.num_frames))

    def forget(self, before_row: int) -> None:
        """Drop certain frames before `before_row`; the statistics go on counting them."""
        first_kept = min(max(before_row, self._first_kept), self.num_certain)
        kept = self._rows[first_kept - self._first_kept : self.num_certain - self._first_kept]
        self._rows = _with_capacity(kept, max(len(kept), FIRST_CAPACITY_ROWS))
        self._first_kept = first_kept

    @property
    def num_bytes(self) -> int:
        """What this stream holds."""
        sums = self._sums.total.nbytes + self._sums.squares.nbytes
        return self._rows.nbytes + self._tail.nbytes + sums

    def _append_piece(self, samples: Array) -> None:
        if not len(samples):
            return
        before = np.concatenate([[self._last_sample], samples[:-1]])
        emphasised = samples - PRE_EMPHASIS * before
        if self.num_samples == 0:
            emphasised[0] = samples[0]
        self._last_sample = samples[-1]
        self.num_samples += len(samples)
        self._tail = np.concatenate([self._tail, emphasised])
        num_new = max(0, (len(self._tail) - WINDOW_SAMPLES) // HOP_SAMPLES + 1)
        if num_new:
            self._store(_log_mel_rows(self._tail, num_new, self._rows.shape[1]))
            self._tail = self._tail[num_new * HOP_SAMPLES :].copy()

    def _store(self, rows: Array) -> None:
        start = self.num_certain - self._first_kept
        stop = start + len(rows)
        if stop > len(self._rows):
            self._rows = _with_capacity(self._rows[:start], 2 * stop)
        self._rows[start:stop] = rows
        self._sums = self._sums.plus(rows)
        self.num_certain += len(rows)

    def _raw(self, start: int, stop: int) -> Array:
        """(stop - start, F) frames; a copy."""
        if not self._first_kept <= start <= stop <= self.num_frames:
            raise ValueError(
                f"frames {start} to {stop} of {self._first_kept} to {self.num_frames} asked for"
            )
        first = self._first_kept
        certain: Array = self._rows[start - first : min(stop, self.num_certain) - first].copy()
        if stop <= max(self.num_certain, start):
            return certain
        cut = np.zeros(WINDOW_SAMPLES, np.float32)
        cut[: len(self._tail)] = self._tail
        last = _log_mel_rows(cut, 1, self._rows.shape[1])
        together: Array = np.concatenate([certain, last])
        return together


def _as_float(samples: NDArray[np.float32] | NDArray[np.int16]) -> Array:
    """float32 in [-1, 1)."""
    if samples.dtype == np.int16:
        scaled: Array = samples.astype(np.float32) / np.float32(32768.0)
        return scaled
    return samples.astype(np.float32, copy=False)


def _with_capacity(rows: Array, capacity: int) -> Array:
    """A new array of `capacity` rows that begins with these."""
    grown = np.empty((capacity, rows.shape[1]), np.float32)
    grown[: len(rows)] = rows
    return grown


def _add_rows(start: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """start + row + row ..., in this order: sum() may pair rows as it likes, cumsum() may not."""
    sums: NDArray[np.float64] = np.cumsum(np.concatenate([start[None], rows]), axis=0)
    end: NDArray[np.float64] = sums[-1].copy()  # a view would keep all of them
    return end


@dataclass(frozen=True, slots=True)
class _Bands:
    """The mel bank without its zeros, band after band: 2 entries a bin, where the bank has 128."""

    bins: NDArray[np.intp]  # (W,) of the FFT
    weights: Array  # (W,)
    starts: NDArray[np.intp]  # (F,) of each band in the two above


@functools.cache
def _bands(num_mels: int) -> _Bands:
    bank = mel_bank(num_mels)
    bands, bins = np.nonzero(bank)
    starts = np.searchsorted(bands, np.arange(num_mels))
    return _Bands(bins, bank[bands, bins], starts)


def _log_mel_rows(emphasised: Array, num_frames: int, num_mels: int) -> Array:
    """(num_frames, F): frame i is the window that begins at sample 160 i.

    In double precision up to the power: in single precision, quiet bands beside loud ones lose
    digits. The filters are no matrix product: a BLAS may round a row differently in a product of
    another height, and one of 16 rows on two busy cores took 60 ms for its threads to meet.
    """
    windows = np.lib.stride_tricks.sliding_window_view(emphasised, WINDOW_SAMPLES)
    chosen = windows[: num_frames * HOP_SAMPLES : HOP_SAMPLES]
    spectrum = np.fft.rfft(chosen * window().astype(np.float64), FFT_SAMPLES, axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    bands = _bands(num_mels)
    mel = np.add.reduceat(power[:, bands.bins] * bands.weights, bands.starts, axis=1)
    rows: Array = np.log(mel + LOG_GUARD)
    return rows
