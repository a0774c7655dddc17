"""The service over the Whisper recognizer on a device: its loop, and finals as they are alone."""

from __future__ import annotations

import pytest

from gpu_service import whisper_guards
from gpu_service.gpu import whisper_runs
from gpu_service.gpu.device import Device
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.whisper import GpuWhisperRecognizer
from gpu_service.recognizer import SessionOptions, StepInput, Want
from protocol import service_messages as messages
from tests.gpu_service.turned_service import NO_VAD, Rig, of_type

from .test_whisper import AUDIO, SIZES
from .test_whisper_encoder import checkpoint


@pytest.fixture
def recognizer(
    device: Device, gemms: Gemms, monkeypatch: pytest.MonkeyPatch
) -> GpuWhisperRecognizer:
    """Random: no text of it is believable, so nothing is gated or tried again."""
    monkeypatch.setattr(whisper_runs, "TEMPERATURES", (0.0,))
    monkeypatch.setattr(whisper_guards, "is_doubtful", lambda confidences: False)
    return GpuWhisperRecognizer(checkpoint(multilingual=True), device, gemms, "fp32", SIZES)


def test_streams_that_speak_together_get_the_finals_of_each(
    recognizer: GpuWhisperRecognizer,
) -> None:
    """Drafts all the while; a language that is given reaches the model, and one that is heard
    comes back.
    """
    rig = Rig(recognizer)
    worker = rig.worker()
    languages = ("fr", None)
    for slot, language in enumerate(languages):
        worker.positions[slot] = 0
        worker.send(
            messages.Open(slot, 1, "s", language=language, vad=NO_VAD, hop_ms=200, prompt="%&")
        )
    for start in range(0, 16_000, 4_000):
        for slot in range(2):
            worker.say(slot, AUDIO[slot][start : start + 4_000])
        rig.turn()
    for slot in range(2):
        worker.close(slot)
    rig.run_dry()
    heard = worker.received()
    assert of_type(heard, messages.Partial)
    finals = {m.slot: m for m in of_type(heard, messages.Final)}  # type: ignore[union-attr]
    for slot, language in enumerate(languages):
        handle = recognizer.open(SessionOptions(language, "%&"))
        (expected,) = recognizer.step([StepInput(handle, AUDIO[slot][:16_000], Want.FINAL)])
        recognizer.close(handle)
        final = finals[slot]
        assert isinstance(final, messages.Final)
        assert expected is not None
        assert (final.text, final.language) == (expected.text, expected.language)
        assert final.end_sample == 16_000
    assert len(of_type(heard, messages.StreamClosed)) == 2


def test_a_step_is_begun_while_the_last_ones_words_are_made(
    recognizer: GpuWhisperRecognizer,
) -> None:
    """Between wait() and finish() another step begins, and slots change hands."""
    first, second = (recognizer.open(SessionOptions("de")) for _ in range(2))
    (expected,) = recognizer.step([StepInput(second, AUDIO[1], Want.FINAL)])
    running = recognizer.begin([StepInput(first, AUDIO[0], Want.FINAL)])
    recognizer.wait(running)
    recognizer.close(first)
    third = recognizer.open(SessionOptions("fr"))
    next_step = recognizer.begin(
        [StepInput(second, AUDIO[1], Want.FINAL), StepInput(third, AUDIO[2], Want.NOTHING)]
    )
    assert recognizer.finish(running) is not None
    recognizer.wait(next_step)
    answers = recognizer.finish(next_step)
    assert answers == [expected, None]
    (final,) = recognizer.step([StepInput(third, AUDIO[0][:0], Want.FINAL)])
    assert final is not None
    assert final.num_samples == len(AUDIO[2])
