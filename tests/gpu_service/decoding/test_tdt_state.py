"""TdtState: its bytes, and everything that is not its bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.decoding.tdt_state import TdtState, TdtStateError
from gpu_service.errors import ServiceError


def state(num_layers: int = 2, width: int = 5) -> TdtState:
    random = np.random.default_rng(num_layers * 1000 + width)
    hidden, cell = random.standard_normal((2, num_layers, width)).astype(np.float32)
    predicted = random.standard_normal(width).astype(np.float32)
    return TdtState(8192, hidden, cell, predicted, 3, 77)


@given(st.integers(1, 3), st.integers(1, 9))
def test_bytes_come_back_bit_for_bit(num_layers: int, width: int) -> None:
    before = state(num_layers, width)
    after = TdtState.from_bytes(before.to_bytes())
    assert after.to_bytes() == before.to_bytes()
    assert (after.label, after.overshoot, after.hotword_node) == (8192, 3, 77)
    for name in ("hidden", "cell", "predicted"):
        array = getattr(after, name)
        assert array.dtype == np.float32
        assert array.tobytes() == getattr(before, name).tobytes()


def test_the_layout_is_the_documented_one() -> None:
    data = state(1, 2).to_bytes()
    assert data[:16] == bytes([1, 1, 2, 0, 0, 32, 0, 0, 3, 0, 0, 0, 77, 0, 0, 0])
    assert len(data) == 16 + 4 * (2 + 2 + 2)


def test_the_full_size_fits_well_into_a_checkpoint() -> None:
    assert len(state(2, 640).to_bytes()) == 12_816 < 16 << 10


def test_arrays_are_read_only() -> None:
    for made in (state(), TdtState.from_bytes(state().to_bytes())):
        for array in (made.hidden, made.cell, made.predicted):
            assert not array.flags.writeable


def test_every_other_length_is_refused() -> None:
    data = state().to_bytes()
    for length in range(len(data)):
        with pytest.raises(TdtStateError):
            TdtState.from_bytes(data[:length])
    with pytest.raises(TdtStateError, match="instead of"):
        TdtState.from_bytes(data + b"\0")


def test_another_version_is_refused() -> None:
    with pytest.raises(TdtStateError, match="version 2"):
        TdtState.from_bytes(b"\2" + state().to_bytes()[1:])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    data = state().to_bytes()[:-4] + struct.pack("<f", value)
    with pytest.raises(TdtStateError, match="finite"):
        TdtState.from_bytes(data)


@given(st.binary(min_size=15, max_size=15), st.binary(max_size=60))
def test_noise_is_refused_or_a_state(header: bytes, numbers: bytes) -> None:
    data = b"\1" + header + numbers
    try:
        made = TdtState.from_bytes(data)
    except ServiceError:
        return
    assert made.to_bytes() == data


def test_sizes_of_nothing_are_refused() -> None:
    for num_layers, width in ((0, 0), (0, 1), (1, 0)):
        floats = bytes(4 * (2 * num_layers + 1) * width)
        header = struct.pack("<BBHIII", 1, num_layers, width, 0, 0, 0)
        with pytest.raises(TdtStateError, match=r"0 layers|width 0"):
            TdtState.from_bytes(header + floats)
