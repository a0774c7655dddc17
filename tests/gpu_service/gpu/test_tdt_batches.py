"""A row of GpuTdtDecoder says the same bits in every batch, order and mode."""

from __future__ import annotations

import pytest

from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder_weights import Precision
from gpu_service.gpu.tdt import DecodeRow
from gpu_service.gpu.tdt_search import GraphMode

from .tdt_pair import PRECISIONS, bits, make_decoder, run, small_weights, upload_frames


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_says_the_same_bits_alone_in_a_batch_and_in_every_mode(
    device: Device, precision: Precision
) -> None:
    """Of so many rows that the kernels' ways for few, some and many are all taken."""
    lengths = [15, 11, 20, 0, 9, 18, 7, 13, 16, 12, 10, 19, 6, 8, 9, 10, 11, 14, 5, 7]
    decoder = make_decoder(device, small_weights(11), precision)
    _, frames = upload_frames(device, lengths, seed=12)
    rows = [DecodeRow(i, 0, n, decoder.START, decoder.scratch(i)) for i, n in enumerate(lengths)]
    expected = [bits(run(device, decoder, frames, [row])[0]) for row in rows]
    states = [decoder.get_state(row.state_out).to_bytes() for row in rows]
    for mode in GraphMode:
        results = run(device, decoder, frames, rows[::-1], mode)[::-1]
        assert [bits(result) for result in results] == expected
        assert [decoder.get_state(row.state_out).to_bytes() for row in rows] == states


@pytest.mark.parametrize("count", [16, 17, 48, 49, 70])
def test_passes_of_few_and_of_many_rows_say_the_same_bits(device: Device, count: int) -> None:
    """Shared memory is divided in three ways, by the number of rows of a launch."""
    decoder = make_decoder(device, small_weights(25), max_batch=70)
    lengths = [3 + i % 5 for i in range(count)]
    _, frames = upload_frames(device, lengths, seed=26)
    rows = [DecodeRow(i, 0, n, decoder.START, decoder.scratch(i)) for i, n in enumerate(lengths)]
    results = run(device, decoder, frames, rows)
    for index in (0, 7, 8, 15, count - 1):
        (alone,) = run(device, decoder, frames, rows[index : index + 1])
        assert bits(results[index]) == bits(alone)
