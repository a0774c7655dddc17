"""The service over the GPU recognizer: audio through the arena, and finals as the CPU's are."""

from __future__ import annotations

import pytest

from gpu_service.gpu.device import Device
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.parakeet import GpuParakeetRecognizer
from protocol import service_messages as messages
from tests.gpu_service.cpu.test_parakeet import speech
from tests.gpu_service.turned_service import LAYOUT, Rig, of_type

from .parakeet_rig import cpu_recognizer, final, gpu_recognizer


@pytest.fixture
def rig(device: Device, gemms: Gemms) -> Rig[GpuParakeetRecognizer]:
    return Rig(gpu_recognizer(device, gemms))


def test_streams_that_speak_together_get_the_finals_of_each(
    rig: Rig[GpuParakeetRecognizer],
) -> None:
    """Around the end of their rings, with drafts all the while and finals in one step with drafts.
    One is longer, so that steps of its drafts run while the others' finals are published.
    """
    samples = speech()
    lengths = [20_000, 20_001, 50_000]
    worker = rig.worker()
    for slot in range(3):
        worker.open(slot, tokens=True)
    for start in range(0, 50_000, 3_000):
        for slot, length in enumerate(lengths):
            if start < length:
                worker.say(slot, samples[start : min(start + 3_000, length)])
                if start + 3_000 >= length:
                    worker.close(slot)
        rig.turn()
    rig.run_dry()
    heard = worker.received()
    finals = {m.slot: m for m in of_type(heard, messages.Final)}  # type: ignore[union-attr]
    assert of_type(heard, messages.Partial)  # how many, goes by how fast this device is
    for slot, length in enumerate(lengths):
        expected = final(cpu_recognizer(), samples[:length])
        answer = finals[slot]
        assert isinstance(answer, messages.Final)
        assert (answer.text, answer.end_sample) == (expected.text, length)
        assert [(t.id, t.frame) for t in answer.tokens] == [
            (t.id, t.frame) for t in expected.tokens
        ]
    assert len(of_type(heard, messages.StreamClosed)) == 3
    leave(rig, worker)


def test_a_ring_that_wraps_around(rig: Rig[GpuParakeetRecognizer]) -> None:
    samples = speech()
    worker = rig.worker()
    worker.open(0, tokens=True)
    silent = LAYOUT.ring_samples - 30_000
    worker.say(0, samples[:silent])
    worker.send(messages.Finalize(0, 1, 1, silent))
    rig.run_dry()
    for start in range(0, 64_000, 6_000):
        worker.say(0, samples[start : min(64_000, start + 6_000)])
        rig.turn()
    worker.close(0)
    rig.run_dry()
    answer = of_type(worker.received(), messages.Final)[-1]
    assert isinstance(answer, messages.Final)
    assert answer.start_sample == silent
    expected = final(cpu_recognizer(), samples[:64_000])
    assert [t.id for t in answer.tokens] == [t.id for t in expected.tokens]
    leave(rig, worker)


def leave(rig: Rig[GpuParakeetRecognizer], worker: object) -> None:
    """The recognizer goes on in other tests: it keeps no session and no memory of this one."""
    worker.sock.close()  # type: ignore[attr-defined]
    rig.run_dry()
    assert not rig.recognizer._sessions
    assert not rig.recognizer._audio._arenas
