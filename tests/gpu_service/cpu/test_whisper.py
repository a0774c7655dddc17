"""WhisperRecognizer with the real weights on real speech, against plain CTranslate2."""

from __future__ import annotations

from typing import Any

import jiwer
import numpy as np
import pytest
from numpy.typing import NDArray
from whisper_normalizer.english import EnglishTextNormalizer

from gpu_service.cpu import whisper
from gpu_service.cpu.log_mel import log_mel
from gpu_service.cpu.model_files import ModelFiles
from gpu_service.cpu.whisper import NO_SAMPLES, WhisperRecognizer
from gpu_service.cpu.whisper_decode import storage
from gpu_service.cpu.whisper_tokens import WhisperTokens
from gpu_service.decoding.whisper_carry import carried, restored
from gpu_service.decoding.whisper_rules import Decoding
from gpu_service.draft_policy import POLICIES
from gpu_service.endpointer import Cut, Endpointer, SpeechStarted, SpeechStopped, VadOptions
from gpu_service.errors import RecognizerError
from gpu_service.recognizer import Hypothesis, SessionOptions, StepInput, Want
from gpu_service.vad import Vad

from ..speech import TWO_CITIES_TEXT, two_cities

BEST_OF_TIMES = slice(0, 64_000)
normalize = EnglishTextNormalizer()


def step(
    recognizer: WhisperRecognizer,
    handle: int,
    samples: NDArray[np.int16],
    want: Want,
    stable_words: tuple[str, ...] = (),
) -> Hypothesis:
    (hypothesis,) = recognizer.step([StepInput(handle, samples, want, stable_words)])
    assert hypothesis is not None
    return hypothesis


def final(recognizer: WhisperRecognizer, samples: NDArray[np.int16]) -> Hypothesis:
    handle = recognizer.open(SessionOptions())
    hypothesis = step(recognizer, handle, samples, Want.FINAL)
    recognizer.close(handle)
    return hypothesis


def utterances(samples: NDArray[np.int16]) -> list[NDArray[np.int16]]:
    """The segments of the VAD."""
    vad, endpointer = Vad(1), Endpointer(VadOptions())
    audio = samples.astype(np.float32) / 32768.0
    row, events = np.array([0]), []
    for first in range(0, len(audio) - 511, 512):
        events += endpointer.push(float(vad.step(row, audio[None, first : first + 512])[0]))
    events += endpointer.finalize(len(audio))
    starts = [e.start_sample for e in events if isinstance(e, SpeechStarted)]
    ends = [e.end_sample for e in events if isinstance(e, SpeechStopped | Cut)]
    return [samples[start:end] for start, end in zip(starts, ends, strict=True)]


def test_final_has_words_with_times_and_confidences(recognizer: WhisperRecognizer) -> None:
    heard = final(recognizer, two_cities()[BEST_OF_TIMES])
    assert normalize(heard.text) == "it was the best of times it was the worst of times"
    assert heard.is_final
    assert heard.num_samples == 64_000
    assert [w.text for w in heard.words] == heard.text.split()
    times = [t for w in heard.words for t in (w.start_sample, w.end_sample)]
    assert times == sorted(times)
    assert 0 <= times[0] < 16_000 < times[-1] <= 64_000
    assert all(0.3 < w.confidence <= 1.0 for w in heard.words)


def test_a_prompt_is_text_whatever_it_spells(recognizer: WhisperRecognizer) -> None:
    """It begins no transcript and ends none."""
    prompt = "<|startoftranscript|><|notimestamps|> I am <|endoftext|>"
    handle = recognizer.open(SessionOptions(prompt=prompt))
    heard = step(recognizer, handle, two_cities()[:32_000], Want.FINAL)
    recognizer.close(handle)
    assert heard.text.startswith("It was the best")


def test_final_does_not_depend_on_drafts_or_on_the_batch(recognizer: WhisperRecognizer) -> None:
    speech = two_cities()[BEST_OF_TIMES]
    expected = final(recognizer, speech)
    handle, other = (recognizer.open(SessionOptions()) for _ in range(2))
    for first in range(0, 64_000, 8_000):
        batch = [
            StepInput(handle, speech[first : first + 8_000], Want.DRAFT, ("Or",)),
            StepInput(other, speech[:1_000], Want.CANDIDATE),
        ]
        recognizer.step(batch)
    assert step(recognizer, handle, NO_SAMPLES, Want.FINAL) == expected
    recognizer.close(handle)
    recognizer.close(other)


def test_a_candidate_is_the_final_unless_samples_follow(recognizer: WhisperRecognizer) -> None:
    speech = two_cities()[BEST_OF_TIMES]
    handle = recognizer.open(SessionOptions())
    first = step(recognizer, handle, speech[:32_000], Want.CANDIDATE)
    assert step(recognizer, handle, NO_SAMPLES, Want.CANDIDATE) is first
    second = step(recognizer, handle, speech[32_000:], Want.FINAL)
    assert second.num_samples == 64_000
    assert second == final(recognizer, speech)
    empty = step(recognizer, handle, NO_SAMPLES, Want.FINAL)
    assert (empty.text, empty.words, empty.num_samples) == ("", (), 0)
    recognizer.close(handle)


def test_drafts_grow_and_go_on_from_stable_words(recognizer: WhisperRecognizer) -> None:
    speech = two_cities()[BEST_OF_TIMES]
    handle = recognizer.open(SessionOptions())
    assert step(recognizer, handle, speech[:800], Want.DRAFT).words == ()
    one = step(recognizer, handle, speech[800:32_000], Want.DRAFT)
    assert one.text.startswith("It was the best")
    assert not one.is_final
    two = step(recognizer, handle, speech[32_000:], Want.DRAFT, ("It", "was", "one"))
    assert two.text.startswith("It was one")
    assert len(two.words) > len(one.words)
    assert two.words[-1].end_sample == 64_000
    recognizer.close(handle)


def test_a_policy_that_listens_settles_and_times_words(model_files: ModelFiles) -> None:
    """A word is settled by one draft, once it was heard long enough ago."""
    listening = WhisperRecognizer(model_files, policy=POLICIES["alignatt"])
    handle = listening.open(SessionOptions())
    draft = step(listening, handle, two_cities()[BEST_OF_TIMES], Want.DRAFT)
    assert draft.settled_words + draft.open_words == len(draft.words) >= 11
    assert 5 <= draft.settled_words <= 11
    aligned = step(listening, handle, NO_SAMPLES, Want.FINAL).words
    assert aligned[5].text == "times,"
    for index in range(1, 6):  # times as alignment has them
        assert abs(draft.words[index].start_sample - aligned[index].start_sample) <= 4_800
    listening.close(handle)


@pytest.mark.parametrize("seconds", [0.2, 1.0, 4.0])
@pytest.mark.parametrize("level", [0, 30, 3_000])
def test_silence_and_noise_have_no_text(
    recognizer: WhisperRecognizer, seconds: float, level: int
) -> None:
    noise = np.random.default_rng(7).normal(0, level, int(16_000 * seconds))
    assert final(recognizer, noise.astype(np.int16)).text == ""


def test_wrong_calls_are_refused(recognizer: WhisperRecognizer) -> None:
    with pytest.raises(RecognizerError, match="no session"):
        recognizer.close(987)
    with pytest.raises(RecognizerError, match="no session"):
        recognizer.step([StepInput(987, NO_SAMPLES, Want.NOTHING)])
    with pytest.raises(RecognizerError, match="language"):
        recognizer.open(SessionOptions(language="xx"))
    with pytest.raises(RecognizerError, match="does not translate"):
        recognizer.open(SessionOptions(translate=True))
    handle = recognizer.open(SessionOptions(language="en"))
    with pytest.raises(RecognizerError, match="480000 are allowed"):
        recognizer.step([StepInput(handle, np.zeros(480_001, np.int16), Want.NOTHING)])
    recognizer.close(handle)


@pytest.mark.parametrize("wrong", ["too long", "unknown"])
def test_a_refused_step_changes_nothing(recognizer: WhisperRecognizer, wrong: str) -> None:
    speech = two_cities()[:16_000]
    good, other = (recognizer.open(SessionOptions()) for _ in range(2))
    recognizer.step([StepInput(good, speech, Want.NOTHING)])
    refused = StepInput(other, np.zeros(480_001, np.int16), Want.NOTHING)
    if wrong == "unknown":
        refused = StepInput(987, speech, Want.NOTHING)
    for batch in (
        [StepInput(good, NO_SAMPLES, Want.FINAL), refused],
        [refused, StepInput(good, speech, Want.NOTHING)],
    ):
        with pytest.raises(RecognizerError):
            recognizer.step(batch)
    assert step(recognizer, good, NO_SAMPLES, Want.FINAL).num_samples == 16_000
    recognizer.close(good)
    recognizer.close(other)


def behind(recognizer: WhisperRecognizer, text: str, samples: NDArray[np.int16]) -> str:
    """The final of what follows a cut before which the text was said."""
    good = Decoding((), -0.1, 0.0, 1.0)
    carry = carried(recognizer._tokens.encode(text), good, 0.0) if text else b"of another model"
    handle = recognizer.open(SessionOptions())
    (heard,) = recognizer.step([StepInput(handle, samples, Want.FINAL, carry=carry)])
    recognizer.close(handle)
    assert heard is not None
    return heard.text


def test_a_final_hands_its_text_on(recognizer: WhisperRecognizer) -> None:
    before = final(recognizer, two_cities()[BEST_OF_TIMES])
    tokens = restored(before.carry, recognizer._tokens.eot)
    assert recognizer._tokens.decode(tokens).strip() == before.text


def test_text_before_a_cut_is_context_behind_it(recognizer: WhisperRecognizer) -> None:
    """It is written on as it was; what is no token is no context."""
    said = two_cities()[BEST_OF_TIMES]
    text = behind(recognizer, "", said)
    assert text == final(recognizer, said).text
    winter = " IT WAS THE WINTER OF OUR DISCONTENT. WE SHALL SEE WHAT COMES OF IT."
    shouted = behind(recognizer, winter, said)
    assert shouted.isupper()
    assert normalize(shouted) == normalize(text)


def test_hotwords_say_how_a_final_is_written(
    recognizer: WhisperRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = two_cities()[5 * 16_000 : 10 * 16_000]
    plain, hot = (recognizer.open(SessionOptions(hotwords=words)) for words in ((), ("Wisdome",)))
    drafts = [step(recognizer, handle, said, Want.DRAFT) for handle in (plain, hot)]
    finals = [step(recognizer, handle, NO_SAMPLES, Want.FINAL) for handle in (plain, hot)]
    recognizer.close(plain)
    recognizer.close(hot)
    assert drafts[0] == drafts[1], "drafts have none"
    assert "age of wisdom," in finals[0].text
    assert "age of Wisdome" in finals[1].text
    assert len(finals[0].words) == len(finals[1].words)


@pytest.mark.parametrize(
    "before",
    [
        " it was the winter of our discontent we shall see what comes of it",  # drops one, adds one
        " We were all going direct the other way.",  # says once more how that ended
    ],
)
def test_context_neither_adds_nor_drops_words(
    recognizer: WhisperRecognizer, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = two_cities()[20 * 16_000 : 28 * 16_000]
    text = final(recognizer, said).text
    assert behind(recognizer, before, said) == text
    monkeypatch.setattr(whisper, "believed", lambda alone, in_context: in_context)
    assert normalize(behind(recognizer, before, said)) != normalize(text)


def test_drafts_ask_for_the_language_until_enough_is_heard(
    recognizer: WhisperRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What half a second says of it may be wrong for all of an utterance."""
    asked = []

    def detect(states: NDArray[np.float32]) -> str:
        asked.append(states)
        return "en"

    monkeypatch.setattr(recognizer._tokens, "language_ids", {"en": recognizer._tokens.sot + 1})
    monkeypatch.setattr(recognizer, "_detect", detect)
    handle = recognizer.open(SessionOptions())
    for begin, end in ((0, 16_000), (16_000, 48_000), (48_000, 56_000)):
        draft = step(recognizer, handle, two_cities()[begin:end], Want.DRAFT)
        assert draft.language == "en"
    assert len(asked) == 2
    recognizer.close(handle)


def test_last_words_of_a_long_utterance_are_not_lost(recognizer: WhisperRecognizer) -> None:
    heard = final(recognizer, two_cities()[20 * 16_000 :])
    assert normalize(heard.text).endswith("superlative degree of comparison only")


@pytest.mark.slow
def test_words_equal_plain_ctranslate2(
    recognizer: WhisperRecognizer, ctranslate2_model: Any, model_files: Any
) -> None:
    tokens = WhisperTokens(model_files.tokenizer, model_files.config)
    ours, theirs = [], []
    for speech in utterances(two_cities()):
        ours.append(final(recognizer, speech).text)
        window = storage(log_mel(speech, 80).padded()[None])
        plain = ctranslate2_model.generate(window, [tokens.start(None)], beam_size=5)[0]
        theirs.append(tokens.decode(plain.sequences_ids[0]))
    ours_text, theirs_text = normalize(" ".join(ours)), normalize(" ".join(theirs))
    assert jiwer.wer(theirs_text, ours_text) <= 0.02
    assert jiwer.wer(normalize(TWO_CITIES_TEXT), ours_text) <= 0.05
