"""Too little memory says what for; and audio that the device can not read in place is staged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpu_service.errors import ModelError
from gpu_service.gpu.device import DeviceError, DeviceMemoryError
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.parakeet_audio import HostAudio
from gpu_service.gpu.parakeet_parts import room_for_bucket
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.gpu.slot_audio import NewAudio

from .emulator import EmulatedDevice, EmulatedGemms
from .parakeet_rig import SMALL, make_recognizer

SETTINGS = GpuParakeetSettings(**{**SMALL, "final_frames": (16, 304), "max_streams": 2})


class SmallDevice(EmulatedDevice):
    """Has room for a number of arrays."""

    def __init__(self, max_arrays: int) -> None:
        super().__init__()
        self.arrays_left = max_arrays
        self.refused: tuple[int, ...] | int = ()

    def empty(self, shape: Any, dtype: Any) -> Any:
        if self.arrays_left == 0:
            self.refused = shape
            raise DeviceMemoryError("out of memory")
        self.arrays_left -= 1
        return super().empty(shape, dtype)


def problems() -> list[str]:
    """What is said as the device gets larger, until the recognizer fits."""
    found: list[str] = []
    for max_arrays in range(500):
        device = SmallDevice(max_arrays)
        try:
            make_recognizer(device, EmulatedGemms(device), SETTINGS)
        except ModelError as error:
            if str(error) not in found:
                found.append(str(error))
        else:
            return found
    raise AssertionError("it never fits")


def test_too_little_memory_says_what_for_and_what_to_lower() -> None:
    said = problems()
    for part, remedy in (
        ("6 sessions", "--max-sessions or --max-utterance-ms"),
        ("the model in fp32", "--precision fp16"),
        ("the bucket of 4 x 304 frames", "--max-utterance-ms"),
        ("the caches of 6 sessions", "--max-sessions"),
    ):
        assert any(f"memory for {part}" in text and remedy in text for text in said), said
    assert len(said) == 4


def test_a_bucket_of_drafts_goes_with_fewer_sessions() -> None:
    settings = GpuParakeetSettings(max_drafts=64)
    refused = room_for_bucket(Bucket(64, 12), settings)
    with pytest.raises(ModelError, match=r"64 x 12 frames.*--max-sessions 32"), refused:
        raise DeviceMemoryError("none left")


class Store:
    """Takes addresses."""

    def __init__(self) -> None:
        self.taken: list[NewAudio] = []

    def append(self, items: list[NewAudio]) -> None:
        self.taken += items


class Unreadable(EmulatedDevice):
    """Does not page-lock what is not its own."""

    is_sticky = False

    def register(self, buffer: memoryview) -> int:
        raise DeviceError("not supported", is_sticky=self.is_sticky)


@pytest.mark.parametrize("is_readable", [True, False])
def test_samples_outside_of_registered_memory_are_staged(is_readable: bool) -> None:
    device = EmulatedDevice() if is_readable else Unreadable()
    store = Store()
    audio = HostAudio(device, store, 1_000)  # type: ignore[arg-type]
    arena = np.arange(2_000, dtype=np.int16)
    memory = memoryview(arena).cast("B")
    audio.register(memory)
    audio.begin()
    audio.add(3, arena[500:600])
    audio.add(4, arena[600:700].copy())
    audio.send()
    (one, two) = store.taken
    ((address, count),) = one.segments
    assert (one.slot, two.slot, count) == (3, 4, 100)
    assert (address == arena.ctypes.data + 1_000) == is_readable
    audio.unregister(memory)
    audio.add(3, arena[500:600])
    audio.send()
    assert store.taken[2].segments[0][0] != arena.ctypes.data + 1_000


def test_a_device_that_is_lost_is_no_reason_to_go_another_way() -> None:
    device = Unreadable()
    device.is_sticky = True
    audio = HostAudio(device, Store(), 1_000)  # type: ignore[arg-type]
    with pytest.raises(DeviceError):
        audio.register(memoryview(bytearray(100)))


def test_strided_samples_are_staged() -> None:
    store = Store()
    device = EmulatedDevice()
    audio = HostAudio(device, store, 1_000)  # type: ignore[arg-type]
    arena = np.arange(2_000, dtype=np.int16)
    audio.register(memoryview(arena).cast("B"))
    audio.add(0, arena[::2][:50])
    audio.send()
    assert np.array_equal(audio._staging.array[:50], arena[:100:2])
