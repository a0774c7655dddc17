"""The wire format does not change by accident: what is encoded today is, byte for byte, what
tests/fixtures holds, and what it holds is still understood.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from protocol.client_messages import MessageType, decode_payload
from protocol.framing import CLIENT_MAGIC, SERVICE_MAGIC, Frame, FrameDecoder
from protocol.service_messages import ServiceMessageType, decode_samples, decode_service_payload
from tests.fixtures.write_golden_frames import FOLDER, SEQUENCE, golden_frames

from .examples import CLIENT_MESSAGES, SAMPLES_RECORDS, SERVICE_MESSAGES

GOLDEN = dict(golden_frames())


def stored_frame(name: str, magic: int) -> Frame:
    decoder = FrameDecoder(magic)
    decoder.next_sequence = SEQUENCE
    decoder.receive_data((FOLDER / name).read_bytes())
    frame = decoder.next_frame()
    assert frame is not None
    assert decoder.buffered_bytes == 0
    return frame


def assert_understood(
    name: str, magic: int, decode: Callable[[int, bytes], object], message: object
) -> None:
    frame = stored_frame(name, magic)
    assert decode(frame.type, frame.payload) == message


def test_there_is_one_file_for_every_frame() -> None:
    assert {path.name for path in FOLDER.glob("*.bin")} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_on_the_wire_have_not_changed(name: str) -> None:
    assert (FOLDER / name).read_bytes() == GOLDEN[name]


@pytest.mark.parametrize("type_", CLIENT_MESSAGES, ids=lambda t: t.name)
def test_a_stored_client_frame_is_understood(type_: MessageType) -> None:
    name = f"client_{type_.name.lower()}.bin"
    assert_understood(name, CLIENT_MAGIC, decode_payload, CLIENT_MESSAGES[type_])


@pytest.mark.parametrize("type_", SERVICE_MESSAGES, ids=lambda t: t.name)
def test_a_stored_service_frame_is_understood(type_: ServiceMessageType) -> None:
    name = f"service_{type_.name.lower()}.bin"
    assert_understood(name, SERVICE_MAGIC, decode_service_payload, SERVICE_MESSAGES[type_])


def test_stored_samples_are_understood() -> None:
    frame = stored_frame("service_samples.bin", SERVICE_MAGIC)
    assert frame.type == ServiceMessageType.SAMPLES
    assert tuple(decode_samples(frame.payload)) == SAMPLES_RECORDS
