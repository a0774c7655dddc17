"""Whisper's encoder on the device against the oracle: random models, short windows, every batch."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.decoding.whisper_oracle import WhisperOracle
from gpu_service.gpu.device import Device, DeviceArray
from gpu_service.gpu.encoder_weights import Precision
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.whisper_attention import (
    FusedWindowAttention,
    ProductWindowAttention,
    make_attention,
)
from gpu_service.gpu.whisper_encoder import GpuWhisperEncoder, WindowRows
from gpu_service.gpu.whisper_weights import Residual, load_whisper_encoder
from gpu_service.weights.whisper_checkpoint import WhisperCheckpoint, load_whisper
from tests.fixtures.whisper.random_checkpoint import write_folder

from .encoder_rig import relative_error

Array = NDArray[np.float32]

POSITIONS = 70  # a part of a block's queries, two steps of keys
MORE_POSITIONS = 150  # two blocks of queries, three steps of keys
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2}  # of the norm; states are of order one
NUM_SLOTS = 4


@functools.cache
def checkpoint(
    *, multilingual: bool = False, width: int = 128, ffn_factor: int = 2
) -> WhisperCheckpoint:
    """Of a folder that stays until the tests end: its weights are mapped, its tokenizer read."""
    folder = Path(tempfile.mkdtemp(prefix="earwire-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_folder(folder, multilingual=multilingual, width=width, ffn_factor=ffn_factor)
    return load_whisper(str(folder))


@dataclass(frozen=True, slots=True)
class Store:
    """See WindowStore. Nobody's slot has a floor of NaN."""

    mel: DeviceArray
    floor: DeviceArray
    raw: Array
    floors: Array

    @classmethod
    def of(cls, device: Device, num_mels: int) -> Store:
        random = np.random.default_rng(1)
        raw = random.uniform(-9.0, 1.5, (NUM_SLOTS, 3000, num_mels)).astype(np.float32)
        floors = np.array([np.nan, -7.0, -5.0, -12.0], np.float32)
        return cls(device.upload(raw), device.upload(floors), raw, floors)

    def window(self, rows: WindowRows, positions: int = POSITIONS) -> Array:
        """(M, 2 N) as the oracle takes it."""
        values = np.full((2 * positions, self.raw.shape[2]), -10.0, np.float32)
        values[: rows.num_rows] = self.raw[rows.slot, : rows.num_rows]
        floor = self.floors[rows.slot] if rows.num_rows else -10.0
        clamped: Array = ((np.maximum(values, floor) + 4.0) / 4.0).T
        return clamped


@dataclass(frozen=True, slots=True)
class Rig:
    """An encoder and its oracle."""

    device: Device
    encoder: GpuWhisperEncoder
    store: Store
    oracle: WhisperOracle

    @classmethod
    def of(
        cls,
        device: Device,
        gemms: Gemms,
        model: WhisperCheckpoint,
        precision: Precision,
        residual: Residual = "float32",
        positions: int = POSITIONS,
    ) -> Rig:
        store = Store.of(device, model.config.num_mels)
        weights = load_whisper_encoder(device, model, precision, residual)
        encoder = GpuWhisperEncoder(device, gemms, weights, store, 4, positions)
        return cls(device, encoder, store, WhisperOracle(model))

    def check(self, windows: Sequence[WindowRows]) -> None:
        """States, and keys and values of every decoder layer."""
        batch = self.encoder.encode(windows)
        tolerance = TOLERANCE[self.encoder.weights.precision]
        states = self.device.download(self.encoder.states(batch))
        for index, rows in enumerate(windows):
            expected = self.oracle.encode(self.store.window(rows, self.encoder.positions))
            assert relative_error(states[index].astype(np.float32), expected) < tolerance
            state = self.oracle.begin(expected)
            for layer, pair in enumerate(state.cross):
                heard = self.device.download(self.encoder.cross(batch, layer))[index]
                flat = [part.transpose(1, 0, 2).reshape(len(expected), -1) for part in pair]
                both = np.concatenate(flat, axis=1)
                assert relative_error(heard.astype(np.float32), both) < tolerance


WINDOWS = [WindowRows(1, 2 * POSITIONS), WindowRows(3, 37), WindowRows(2, 90)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("multilingual", [True, False])
def test_windows_are_encoded_as_the_oracle_does(
    device: Device, gemms: Gemms, precision: Precision, multilingual: bool
) -> None:
    rig = Rig.of(device, gemms, checkpoint(multilingual=multilingual), precision)
    rig.check(WINDOWS[1:2])
    rig.check(WINDOWS)


def test_more_positions_than_a_block_has_at_once(device: Device, gemms: Gemms) -> None:
    rig = Rig.of(device, gemms, checkpoint(), "fp16", positions=MORE_POSITIONS)
    rig.check([WindowRows(1, 2 * MORE_POSITIONS), WindowRows(3, 37)])


def test_heads_that_the_kernel_has_no_room_for(device: Device, gemms: Gemms) -> None:
    weights = load_whisper_encoder(device, checkpoint(), "fp16")
    wide = replace(weights, config=replace(weights.config, num_heads=1))  # of 128 elements
    made = [make_attention(device, gemms, each, POSITIONS) for each in (weights, wide)]
    assert [type(each) for each in made] == [FusedWindowAttention, ProductWindowAttention]


def test_a_residual_of_halves_is_near(device: Device, gemms: Gemms) -> None:
    Rig.of(device, gemms, checkpoint(), "fp16", "storage").check(WINDOWS[:2])


def test_a_window_does_not_depend_on_its_neighbours(device: Device, gemms: Gemms) -> None:
    rig = Rig.of(device, gemms, checkpoint(), "fp16")
    rig.encoder.encode(WINDOWS[:2])
    first = rig.device.download(rig.encoder.states(2))
    rig.encoder.encode([WINDOWS[0], WINDOWS[2]])
    second = rig.device.download(rig.encoder.states(2))
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])
    assert np.isfinite(first).all()


def test_nobody_and_nothing_are_silence(device: Device, gemms: Gemms) -> None:
    rig = Rig.of(device, gemms, checkpoint(), "fp32")
    rig.check([WINDOWS[0], WindowRows(0, 0)])
    rig.check(WINDOWS)  # a fourth that is nobody's
    fourth = rig.device.download(rig.encoder.states(4))[3]
    assert relative_error(fourth, rig.oracle.encode(rig.store.window(WindowRows(0, 0)))) < 1e-5


def test_what_does_not_fit_is_refused(device: Device, gemms: Gemms) -> None:
    rig = Rig.of(device, gemms, checkpoint(), "fp32")
    with pytest.raises(ValueError, match="5 windows"):
        rig.encoder.encode([WINDOWS[0]] * 5)
    with pytest.raises(ValueError, match="140 rows"):
        rig.encoder.encode([WindowRows(0, 141)])
    assert [rig.encoder.bucket(n) for n in (1, 2, 3, 4)] == [1, 2, 4, 4]
