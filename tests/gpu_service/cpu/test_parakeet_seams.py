"""What users of other stacks report at the seams of Parakeet, as cases that hold by construction:
words doubled or glued or deleted, tails dropped, short words lost, silence that wedges a stream.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_service.cpu.parakeet import CUT_RULE, ParakeetRecognizer, ParakeetSettings
from gpu_service.cpu.parakeet_session import ParakeetSession
from gpu_service.decoding.tokens import FRAME_SAMPLES
from gpu_service.recognizer import SessionOptions, StepInput, Want
from gpu_service.transcript import Transcript
from gpu_service.words import Hypothesis, Word
from tests.fixtures.parakeet.signals import SPEECH_SAMPLES, golden_signal
from tests.gpu_service.speech import two_cities

from .test_parakeet import NOTHING, TINY, Samples, final, golden, listed, step, to_int16


@pytest.fixture(scope="module")
def recognizer() -> ParakeetRecognizer:
    return ParakeetRecognizer(TINY, ParakeetSettings(num_threads=1))


def in_utterances(
    recognizer: ParakeetRecognizer, samples: Samples, cut_frames: list[int]
) -> list[Hypothesis]:
    """One speaker who does not stop, cut where the service might, with its context."""
    cuts = [frame * FRAME_SAMPLES for frame in cut_frames]
    finals: list[Hypothesis] = []
    carry, start = b"", 0
    for cut in [*cuts, len(samples)]:
        right = min(CUT_RULE.right_samples, len(samples) - cut)
        left = min(start, CUT_RULE.left_samples)
        one = final(
            recognizer, samples[start - left : cut + right],
            left_samples=left, right_samples=right, carry=carry,
        )  # fmt: skip
        finals.append(one)
        carry, start = one.carry, cut
    return finals


@settings(deadline=None, max_examples=25)
@given(cut_frames=st.lists(st.integers(1, 374), max_size=6, unique=True).map(sorted))
def test_no_word_is_doubled_or_out_of_order_at_a_cut(
    recognizer: ParakeetRecognizer, cut_frames: list[int]
) -> None:
    """The search passes each frame once, whatever the cuts: time only goes on across a seam, and a
    token whose duration runs over it keeps the next utterance from saying it again.
    """
    finals = in_utterances(recognizer, to_int16(golden_signal("signal_30s")), cut_frames)
    starts = [0, *cut_frames]
    said = [
        (start + token.frame, token.duration)
        for start, one in zip(starts, finals, strict=True)
        for token in one.tokens
    ]
    assert all(frame + duration <= after for (frame, duration), (after, _) in pairwise(said))
    for one in finals:
        assert all(0 <= token.frame * FRAME_SAMPLES < one.num_samples for token in one.tokens)


@pytest.mark.parametrize("extra", [0, 1, 159, 160, 161, 1_279, 1_280, 1_281])
def test_the_tail_is_encoded_however_the_audio_ends(
    recognizer: ParakeetRecognizer, extra: int
) -> None:
    """ceil(floor(n / 160) / 8) frames, the last of them with fewer than 8 mel rows; a constant pad
    that is shorter than what the model wants would drop it."""
    samples = two_cities()[: 40_000 + extra]
    session = ParakeetSession(len(samples))
    session.take(StepInput(0, samples, Want.NOTHING))
    frames = recognizer._encoder.encode_exact(session.features())
    assert len(frames) == -(-(len(samples) // 160) // 8)
    assert final(recognizer, samples).num_samples == len(samples)


def test_words_said_many_times_stay(recognizer: ParakeetRecognizer) -> None:
    """No token is taken for a repetition: not in finals, and not in what is shown before them."""
    repeats = [i for (i, _, _), (j, _, _) in pairwise(golden("signal_30s")) if i == j]
    assert repeats  # the model does say things twice in a row
    assert listed(final(recognizer, to_int16(golden_signal("signal_30s")))) == golden("signal_30s")
    heard = tuple(Word("no", i * 8_000, (i + 1) * 8_000, 0.9) for i in range(6))
    transcript = Transcript()
    shown = [
        transcript.on_draft(Hypothesis(heard, "no " * 6, 64_000, is_final=False, open_words=1))
        for _ in range(2)
    ]
    assert shown[1] is not None
    assert (shown[1].stable, shown[1].volatile) == ("no no no no no", "no")


@pytest.mark.parametrize("milliseconds", [100, 180, 250, 400])
def test_a_short_word_alone_is_a_pass_of_its_own(
    recognizer: ParakeetRecognizer, milliseconds: int
) -> None:
    """Nothing before it has a part in it: neither state nor features nor caches of other speech."""
    samples = two_cities()[24_000 : 24_000 + milliseconds * 16]
    alone = final(recognizer, samples)
    handle = recognizer.open(SessionOptions())
    step(recognizer, StepInput(handle, two_cities()[:SPEECH_SAMPLES], Want.FINAL))
    (behind,) = step(recognizer, StepInput(handle, samples, Want.FINAL))
    recognizer.close(handle)
    assert behind == alone


@pytest.mark.slow
def test_an_hour_of_zeros_and_then_speech(recognizer: ParakeetRecognizer) -> None:
    handle = recognizer.open(SessionOptions())
    zeros = np.zeros(480_000, np.int16)
    for _ in range(120):
        step(recognizer, StepInput(handle, zeros, Want.DRAFT))
        step(recognizer, StepInput(handle, NOTHING, Want.FINAL))
    (one,) = step(recognizer, StepInput(handle, two_cities()[:SPEECH_SAMPLES], Want.FINAL))
    recognizer.close(handle)
    assert listed(one) == golden("speech")
