"""What a session keeps between increments: bounded, the newest last, nobody else's memory."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.cpu.parakeet_cache import EncoderCache, empty_cache, stacked_rows

from .parakeet_random import SMALL

Array = NDArray[np.float32]

LAYERS, WIDTH, KERNEL_ROWS = SMALL.num_layers, SMALL.width, SMALL.conv_kernel // 2


def frames(first: int, last: int) -> Array:
    """Rows (layers, c, D) that say which frame they are."""
    numbers = np.arange(first, last, dtype=np.float32)
    return np.tile(numbers[None, :, None], (LAYERS, 1, WIDTH))


def commit(cache: EncoderCache, num_new: int) -> None:
    """The next frames, and mel rows that say which row they are."""
    first = cache.next_frame
    rows = frames(first, first + num_new)
    mel = np.arange(8 * first, 8 * (first + num_new), dtype=np.float32)
    mel_rows = np.broadcast_to(mel[:, None], (8 * num_new, SMALL.num_mels)).copy()
    cache.commit({"key": rows, "value": rows + 1000, "conv": rows + 2000}, mel_rows)


def kept(cache: EncoderCache, kind: str) -> list[float]:
    """The frames of one kind, if all layers agree."""
    rows = cache.rows[kind]
    assert np.all(rows == rows[:1, :, :1])
    return [float(value) for value in rows[0, :, 0]]


def test_a_new_cache_is_silence() -> None:
    cache = empty_cache(SMALL, 5)
    assert (cache.next_frame, cache.num_frames, cache.first_row) == (0, 0, 8)
    assert cache.rows["conv"].shape == (LAYERS, KERNEL_ROWS, WIDTH)
    assert cache.mel_tail.shape == (8, SMALL.num_mels)
    assert not cache.mel_tail.any()
    assert not cache.rows["conv"].any()


@pytest.mark.parametrize("left_frames", [0, 1, 3, 5, 100])
@pytest.mark.parametrize("sizes", [[1] * 12, [12], [5, 1, 6], [2, 7, 3]])
def test_the_newest_frames_are_kept(left_frames: int, sizes: list[int]) -> None:
    cache = empty_cache(SMALL, left_frames)
    for size in sizes:
        commit(cache, size)
    expected = list(range(12))[max(0, 12 - left_frames) :]
    assert kept(cache, "key") == expected
    assert kept(cache, "value") == [frame + 1000 for frame in expected]
    assert kept(cache, "conv") == [2010, 2011]
    assert cache.num_frames == len(expected)
    assert cache.mel_tail[:, 0].tolist() == list(range(88, 96))
    assert (cache.next_frame, cache.first_row) == (12, 0)


def test_convolution_rows_before_the_utterance_are_zero() -> None:
    cache = empty_cache(SMALL, 4)
    commit(cache, 1)
    assert kept(cache, "conv") == [0, 2000]


def test_the_size_stops_growing() -> None:
    cache, sizes = empty_cache(SMALL, 6), []
    for _ in range(10):
        commit(cache, 2)
        sizes.append(cache.num_bytes)
    assert sizes[0] < sizes[2] == sizes[-1]
    rows = LAYERS * (6 + 6 + KERNEL_ROWS) * WIDTH
    assert sizes[-1] == 4 * (rows + 8 * SMALL.num_mels)


def test_nothing_of_a_run_is_kept_alive() -> None:
    cache = empty_cache(SMALL, 4)
    commit(cache, 12)
    for array in (*cache.rows.values(), cache.mel_tail):
        assert array.base is None or array.base.nbytes == array.nbytes


def test_a_negative_left_context_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        empty_cache(SMALL, -1)


def test_one_cache_is_stacked_without_a_copy() -> None:
    cache = empty_cache(SMALL, 4)
    commit(cache, 3)
    stacked = stacked_rows([cache], "key")
    assert stacked.shape == (LAYERS, 1, 3, WIDTH)
    assert np.shares_memory(stacked, cache.rows["key"])
    assert stacked[0].flags.c_contiguous


def test_shorter_caches_begin_with_zeros() -> None:
    caches = [empty_cache(SMALL, left) for left in (4, 0, 2)]
    for cache in caches:
        commit(cache, 3)
    stacked = stacked_rows(caches, "key")
    assert stacked.shape == (LAYERS, 3, 3, WIDTH)
    assert stacked[0, :, :, 0].tolist() == [[0, 1, 2], [0, 0, 0], [0, 1, 2]]
    assert kept(caches[2], "key") == [1, 2]
    conv = stacked_rows(caches, "conv")
    assert conv[0, :, :, 0].tolist() == [[2001, 2002]] * 3
