"""What makes Whisper invent words or loop, with the real tiny.en: none of it may reach a user."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.cpu.whisper import WhisperRecognizer
from gpu_service.recognizer import Hypothesis, SessionOptions, StepInput, Want
from gpu_service.transcript import without_repetition
from tests.system.audio import spoken

from ..speech import two_cities

Samples = NDArray[np.int16]
RATE_HZ = 16_000
INVENTED = ("thank", "subscribe", "watching", "subtitle")


def heard(recognizer: WhisperRecognizer, samples: Samples, want: Want) -> Hypothesis:
    handle = recognizer.open(SessionOptions())
    (answer,) = recognizer.step([StepInput(handle, samples, want)])
    recognizer.close(handle)
    assert answer is not None
    return answer


def piece(begin_s: float, end_s: float) -> Samples:
    """Of the recording."""
    return two_cities()[int(begin_s * RATE_HZ) : int(end_s * RATE_HZ)]


def chords(seconds: float, seed: int) -> Samples:
    """Music: plucked chords, two a second."""
    time_s = np.arange(int(RATE_HZ * seconds)) / RATE_HZ
    random = np.random.default_rng(seed)
    out = np.zeros_like(time_s)
    for beat in range(int(seconds * 2)):
        since = np.maximum(time_s - beat / 2, 0.0)
        for semitones in random.choice([0, 3, 4, 7, 9, 12], 3, replace=False):
            tone = np.sin(2 * np.pi * 220 * 2 ** (semitones / 12) * since)
            out += tone * np.exp(-3 * since) * (time_s >= beat / 2)
    return np.clip(4000 * out, -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("want", [Want.DRAFT, Want.FINAL])
def test_music_has_no_text(recognizer: WhisperRecognizer, want: Want) -> None:
    assert heard(recognizer, chords(4, 0), want).text == ""


def test_who_repeats_himself_is_heard_and_nothing_is_said_oftener(
    recognizer: WhisperRecognizer,
) -> None:
    repeated = np.tile(piece(1.3, 4.1), 3)
    final = heard(recognizer, repeated, Want.FINAL)
    assert 1 <= final.text.lower().count("best of times") <= 3
    draft = heard(recognizer, repeated, Want.DRAFT)
    assert draft.text.startswith("It was the best of times")
    assert draft.text.lower().count("best of times") <= 3
    assert without_repetition(draft.words) == draft.words


@pytest.mark.parametrize("begin_s", [1.3, 5.0, 12.0])
def test_a_second_of_speech_is_a_few_words(recognizer: WhisperRecognizer, begin_s: float) -> None:
    final = heard(recognizer, piece(begin_s, begin_s + 1.0), Want.FINAL)
    assert 1 <= len(final.words) <= 7
    assert not final.looped
    assert not any(word in final.text.lower() for word in INVENTED)


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="needs espeak-ng")
def test_a_switch_of_language_disturbs_neither_side(recognizer: WhisperRecognizer) -> None:
    """The model knows English only: what is German is nonsense, and no more than that."""
    english = spoken("I will go for a walk.", 0.2)
    german = spoken("Guten Morgen, wie geht es Ihnen heute?", 0.2, voice="de")
    final = heard(recognizer, np.concatenate([english, german, english]), Want.FINAL)
    assert final.text.lower().count("go for a walk") == 2
    assert len(final.words) <= 30
    assert not final.looped
    assert not any(word in final.text.lower() for word in INVENTED)
