"""The Whisper recognizer on the device: random models and short windows against the oracle."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs
from numpy.typing import NDArray

from gpu_service import whisper_guards
from gpu_service.cpu.log_mel import log_mel
from gpu_service.cpu.whisper_tokens import WhisperTokens
from gpu_service.decoding.whisper_carry import carried
from gpu_service.decoding.whisper_lengths import most_tokens
from gpu_service.decoding.whisper_oracle import Decoded, WhisperOracle
from gpu_service.decoding.whisper_rules import (
    TEMPERATURES,
    Decoding,
    TokenRules,
    prompt_tokens,
    start_tokens,
)
from gpu_service.draft_policy import POLICIES
from gpu_service.errors import ModelError, RecognizerError
from gpu_service.gpu import whisper, whisper_runs
from gpu_service.gpu.device import Device
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.whisper import GpuWhisperRecognizer
from gpu_service.gpu.whisper_decoder import Request
from gpu_service.gpu.whisper_parts import WhisperSizes
from gpu_service.recognizer import Hypothesis, Recognizer, SessionOptions, StepInput, Want
from gpu_service.whisper_text import timed_words, words_by_attention
from tests.fixtures.whisper.signals import signal

from .test_whisper_encoder import POSITIONS, checkpoint

Samples = NDArray[np.int16]

AUDIO = [signal(1.2, seed) for seed in (3, 4, 5)]
NOTHING = np.zeros(0, np.int16)
SIZES = WhisperSizes(max_streams=4, max_batch=4, final_batch=2, positions=POSITIONS)


@pytest.fixture
def recognizer(
    device: Device, gemms: Gemms, monkeypatch: pytest.MonkeyPatch
) -> GpuWhisperRecognizer:
    """Multilingual and random: no text of it is believable, so nothing is gated or tried again."""
    monkeypatch.setattr(whisper_runs, "TEMPERATURES", (0.0,))
    monkeypatch.setattr(whisper_guards, "is_doubtful", lambda confidences: False)
    return GpuWhisperRecognizer(checkpoint(multilingual=True), device, gemms, "fp32", SIZES)


@functools.cache
def oracle() -> WhisperOracle:
    return WhisperOracle(checkpoint(multilingual=True))


def said(samples: Samples, language: str | None, timestamps: bool, max_tokens: int) -> Decoded:
    """What the oracle says, with the language that it hears."""
    words = oracle().vocabulary
    states = oracle().encode(log_mel(samples, 128).padded(2 * POSITIONS))
    heard = language or next(iter(oracle().detect(states)))
    start = start_tokens(words, heard)
    prompt = prompt_tokens(words, start, timestamps=timestamps, text_positions=448)
    return oracle().decode(states, prompt, TokenRules(words, timestamps), max_tokens)


def one(recognizer: Recognizer, handle: int, samples: Samples, want: Want) -> Hypothesis:
    answer = recognizer.step([StepInput(handle, samples, want)])[0]
    assert answer is not None
    return answer


def rounded(hypothesis: Hypothesis) -> Hypothesis:
    """Products of matrices round a row by how many rows there are."""
    return structs.replace(hypothesis, no_speech=round(hypothesis.no_speech, 6))


def texts(decoded: Decoded) -> str:
    model = checkpoint(multilingual=True)
    tokens = WhisperTokens(model.tokenizer, model.source.path / "config.json")
    return tokens.decode(decoded.tokens).strip()


@pytest.mark.parametrize("language", [None, "fr"])
def test_a_final_says_what_the_oracle_says(
    recognizer: GpuWhisperRecognizer, language: str | None
) -> None:
    handle = recognizer.open(SessionOptions(language=language))
    assert recognizer.step([StepInput(handle, AUDIO[0][:7_000], Want.NOTHING)]) == [None]
    final = one(recognizer, handle, AUDIO[0][7_000:], Want.FINAL)
    expected = said(AUDIO[0], language, True, 24 + 12 * len(AUDIO[0]) // 16_000)
    assert final.is_final
    assert final.num_samples == len(AUDIO[0])
    assert final.looped or final.text == texts(expected)
    assert final.language in ("en", "de", "fr")
    assert language is None or final.language == language
    assert all(w.end_sample <= final.num_samples for w in final.words)
    recognizer.close(handle)


def test_the_same_audio_gives_the_same_final_whoever_is_beside_it(
    recognizer: GpuWhisperRecognizer,
) -> None:
    handles = [recognizer.open(SessionOptions()) for _ in AUDIO]

    def finals(order: Sequence[int]) -> dict[int, Hypothesis]:
        steps = [StepInput(handles[i], AUDIO[i], Want.FINAL) for i in order]
        answers = zip(order, recognizer.step(steps), strict=True)
        return {i: rounded(h) for i, h in answers if h is not None}

    together, alone = finals([0, 1, 2]), {i: finals([i])[i] for i in range(3)}
    assert together == alone == finals([2, 0, 1])


def test_what_timestamps_stop_before_is_heard_in_a_window_of_its_own(
    recognizer: GpuWhisperRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the row on where they stop, and words lie where they are in the utterance."""
    cuts = [3, 5]  # tokens that the first two windows keep; each is about 0.4 s

    def cut(tokens: Sequence[int], first_timestamp: int) -> tuple[tuple[int, ...], int]:
        return (tuple(tokens[: cuts.pop(0)]), 6_400) if cuts else (tuple(tokens), 0)

    monkeypatch.setattr(whisper_runs, "seek", cut)
    monkeypatch.setattr(whisper_runs, "compression_ratio", lambda text: 1.0)  # a random text loops
    handle = recognizer.open(SessionOptions(language="de"))
    final = one(recognizer, handle, AUDIO[0], Want.FINAL)
    words = oracle().vocabulary
    mel = log_mel(AUDIO[0], 128)
    expected, previous = [], list[int]()
    for number, kept in enumerate((3, 5, None)):
        rows = np.full((128, 2 * POSITIONS), mel.pad_value, np.float32)
        own = mel.frames[:, 40 * number :]
        rows[:, : own.shape[1]] = own[:, : 2 * POSITIONS]
        prompt = prompt_tokens(
            words, start_tokens(words, "de"), timestamps=True, text_positions=448, previous=previous
        )
        most = most_tokens(len(AUDIO[0]) - 6_400 * number, "de", is_draft=False)
        decoded = oracle().decode(oracle().encode(rows), prompt, TokenRules(words, True), most)
        expected.append(texts(replace(decoded, tokens=decoded.tokens[:kept])))
        if decoded.total / (len(decoded.tokens) + 1) >= -1.0:  # believed: context of the next
            previous += [token for token in decoded.tokens[:kept] if token < words.end]
    assert not final.looped
    assert final.text == " ".join(text for text in expected if text)
    starts = [word.start_sample for word in final.words]
    assert starts == sorted(starts)
    assert final.words[-1].end_sample <= len(AUDIO[0])
    assert final.num_samples == len(AUDIO[0])


def test_a_candidate_is_the_final_until_more_is_heard(recognizer: GpuWhisperRecognizer) -> None:
    handle = recognizer.open(SessionOptions(language="de"))
    candidate = one(recognizer, handle, AUDIO[1][:9_000], Want.CANDIDATE)
    assert one(recognizer, handle, NOTHING, Want.FINAL) is candidate
    one(recognizer, handle, AUDIO[1][:9_000], Want.CANDIDATE)
    longer = one(recognizer, handle, AUDIO[1][9_000:], Want.FINAL)
    assert longer.num_samples == len(AUDIO[1])


def test_drafts_grow_and_leave_finals_as_they_are(recognizer: GpuWhisperRecognizer) -> None:
    plain = recognizer.open(SessionOptions())
    expected = one(recognizer, plain, AUDIO[2], Want.FINAL)
    handle = recognizer.open(SessionOptions())
    assert one(recognizer, handle, AUDIO[2][:100], Want.DRAFT).words == ()
    draft = one(recognizer, handle, AUDIO[2][100:9_000], Want.DRAFT)
    assert not draft.is_final
    assert draft.num_samples == 9_000
    both = recognizer.step(
        [
            StepInput(handle, AUDIO[2][9_000:], Want.FINAL),
            StepInput(plain, AUDIO[0], Want.DRAFT),
        ]
    )
    assert both[0] == expected
    assert both[1] is not None
    assert not both[1].is_final


def test_a_batch_that_there_is_not_is_rounded_down(device: Device, gemms: Gemms) -> None:
    """Three drafts at once, where two fit in a batch."""
    model, sizes = checkpoint(multilingual=True), replace(SIZES, max_batch=3, final_batch=3)
    recognizer = GpuWhisperRecognizer(model, device, gemms, "fp32", sizes)
    assert recognizer.max_draft_batch == recognizer.parts.final_batch == 2
    handles = [recognizer.open(SessionOptions(language="de")) for _ in AUDIO]
    batch = [StepInput(h, audio, Want.DRAFT) for h, audio in zip(handles, AUDIO, strict=True)]
    answers = recognizer.step(batch)
    assert [a.num_samples for a in answers if a is not None] == [len(audio) for audio in AUDIO]


def test_a_prompt_is_context_and_hotwords_of_finals(
    recognizer: GpuWhisperRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whisper, "believed", lambda alone, in_context: in_context)
    plain = recognizer.open(SessionOptions(language="en"))
    prompted = recognizer.open(SessionOptions("en", "some words before"))
    hot = recognizer.open(SessionOptions("en", hotwords=("XYZ", "Q")))
    draft = one(recognizer, plain, AUDIO[0], Want.DRAFT)
    final = one(recognizer, plain, NOTHING, Want.FINAL)
    assert one(recognizer, prompted, AUDIO[0], Want.DRAFT) != draft
    assert one(recognizer, hot, AUDIO[0], Want.DRAFT) == draft
    assert one(recognizer, hot, NOTHING, Want.FINAL) != final


def test_the_contract_is_kept(recognizer: GpuWhisperRecognizer) -> None:
    with pytest.raises(RecognizerError, match="language xx"):
        recognizer.open(SessionOptions(language="xx"))
    with pytest.raises(RecognizerError, match="no session 9"):
        recognizer.step([StepInput(9, NOTHING, Want.DRAFT)])
    handle = recognizer.open(SessionOptions())
    empty = one(recognizer, handle, NOTHING, Want.FINAL)
    assert (empty.words, empty.text, empty.num_samples, empty.is_final) == ((), "", 0, True)
    too_long = np.zeros(recognizer.max_utterance_samples + 1, np.int16)
    with pytest.raises(RecognizerError, match="are allowed"):
        recognizer.step([StepInput(handle, too_long, Want.NOTHING)])
    for _ in range(SIZES.num_slots - 1):
        recognizer.open(SessionOptions())
    with pytest.raises(RecognizerError, match="all sessions"):
        recognizer.open(SessionOptions())
    recognizer.close(handle)
    with pytest.raises(RecognizerError, match=f"no session {handle}"):
        recognizer.close(handle)


def test_a_draft_goes_on_from_the_stable_words(recognizer: GpuWhisperRecognizer) -> None:
    """What was stable is not said otherwise, though the model would."""
    handle = recognizer.open(SessionOptions(language="de"))
    first = one(recognizer, handle, AUDIO[2][:9_000], Want.DRAFT)
    stable = tuple(word.text for word in first.words[:1])
    step = StepInput(handle, AUDIO[2][9_000:12_000], Want.DRAFT, stable)
    (second,) = recognizer.step([step])
    assert second is not None
    assert second.text.startswith(stable[0]), "a random word may go on"
    (third,) = recognizer.step([StepInput(handle, NOTHING, Want.DRAFT, ("never", "said"))])
    assert third is not None
    assert third.text.startswith("neversaid"), "a space alone begins no word of this vocabulary"


def test_a_policy_that_listens_settles_words_of_a_draft(
    device: Device, gemms: Gemms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whisper_guards, "is_doubtful", lambda confidences: False)
    model = checkpoint(multilingual=True)
    recognizer = GpuWhisperRecognizer(
        model, device, gemms, "fp32", SIZES, policy=POLICIES["alignatt"]
    )
    handle = recognizer.open(SessionOptions(language="de"))
    draft = one(recognizer, handle, AUDIO[0], Want.DRAFT)
    assert draft.settled_words + draft.open_words == len(draft.words)
    starts = [word.start_sample for word in draft.words]
    assert starts == sorted(starts)
    assert all(word.end_sample <= draft.num_samples for word in draft.words)


def test_a_translation_is_another_task(recognizer: GpuWhisperRecognizer) -> None:
    def job_of(options: SessionOptions) -> tuple[int, ...]:
        handle = recognizer.open(options)
        running = recognizer.begin([StepInput(handle, AUDIO[0], Want.FINAL)])
        recognizer.wait(running)
        recognizer.finish(running)
        recognizer.close(handle)
        return running.runs[0]._requests[0].prompt

    words = recognizer.parts.vocabulary
    start = (words.start, words.languages["de"])
    assert job_of(SessionOptions("de")) == (*start, words.transcribe)
    assert job_of(SessionOptions("de", translate=True)) == (*start, words.translate)


def test_text_before_a_cut_is_context_behind_it(
    recognizer: GpuWhisperRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen_of = []

    def keep(alone: Hypothesis, in_context: Hypothesis) -> Hypothesis:
        chosen_of.append((alone, in_context))
        return in_context

    monkeypatch.setattr(whisper, "believed", keep)
    handle = recognizer.open(SessionOptions("de"))
    plain = one(recognizer, handle, AUDIO[0], Want.FINAL)
    carry = carried([5, 6, 7], Decoding((), -0.1, 0.0, 1.0), 0.0)
    (drafted,) = recognizer.step([StepInput(handle, AUDIO[0], Want.DRAFT, carry=carry)])
    (behind,) = recognizer.step([StepInput(handle, NOTHING, Want.FINAL)])
    (other,) = recognizer.step([StepInput(handle, AUDIO[0], Want.FINAL, carry=b"of another")])
    ((alone, in_context),) = chosen_of
    assert rounded(alone) == rounded(plain)
    assert behind == in_context
    assert behind.text != plain.text
    assert rounded(other) == rounded(plain), "no token is no context; nothing is left of the last"
    (again,) = recognizer.step([StepInput(handle, AUDIO[0], Want.DRAFT)])
    assert drafted == again, "drafts have none"


def test_a_final_in_context_is_tried_once(
    recognizer: GpuWhisperRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one without is what there is if it fails: that is tried again."""
    asked = []
    enqueue = whisper_runs.WindowRun._enqueue

    def ask(run: whisper_runs.WindowRun, requests: Sequence[Request | None]) -> None:
        asked.append([request is not None for request in requests])
        enqueue(run, requests)

    monkeypatch.setattr(whisper_runs.WindowRun, "_enqueue", ask)
    monkeypatch.setattr(whisper_runs, "TEMPERATURES", (0.0, 0.4))
    monkeypatch.setattr(Decoding, "is_settled", property(lambda self: False))
    handle = recognizer.open(SessionOptions("de", hotwords=("ab",)))
    one(recognizer, handle, AUDIO[0], Want.FINAL)
    assert asked == [[True, True], [True, False]]


def test_drafts_ask_for_the_language_until_enough_is_heard(
    recognizer: GpuWhisperRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What half a second says of it may be wrong for all of an utterance."""
    times = []
    take = whisper_runs.WindowRun._take_languages

    def listen(run: whisper_runs.WindowRun) -> None:
        times.append(run)
        take(run)

    monkeypatch.setattr(whisper_runs.WindowRun, "_take_languages", listen)
    monkeypatch.setattr(whisper, "LANGUAGE_SURE_SAMPLES", 9_000)
    handle = recognizer.open(SessionOptions())
    for begin, end in ((0, 8_000), (8_000, 9_000), (9_000, 10_000)):
        one(recognizer, handle, AUDIO[0][begin:end], Want.DRAFT)
    assert len(times) == 2


def test_an_english_model_does_not_translate(device: Device, gemms: Gemms) -> None:
    model = checkpoint(multilingual=False)
    recognizer = GpuWhisperRecognizer(model, device, gemms, "fp32", SIZES)
    with pytest.raises(RecognizerError, match="does not translate"):
        recognizer.open(SessionOptions(translate=True))


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"text_positions": 449}, "449 text positions"),
        ({"width": 96, "num_heads": 1}, "heads that are 96 wide"),
        ({"width": 8, "num_heads": 2}, "heads that are 4 wide"),
        ({"ffn_width": 252}, "252 wide"),
    ],
)
def test_a_model_that_kernels_are_not_made_for_is_refused(
    device: Device, gemms: Gemms, sizes: dict[str, int], problem: str
) -> None:
    """Before anything is uploaded, and with what to do about it."""
    model = checkpoint()
    odd = replace(model, config=replace(model.config, **sizes))
    with pytest.raises(ModelError, match=problem) as refused:
        GpuWhisperRecognizer(odd, device, gemms, "fp32", SIZES)
    assert refused.value.remedy


def test_warming_up_leaves_no_session(recognizer: GpuWhisperRecognizer) -> None:
    recognizer.warm_up()
    handles = [recognizer.open(SessionOptions()) for _ in range(4)]
    assert len(set(handles)) == 4


def test_what_fails_is_tried_again_and_always_alike(device: Device, gemms: Gemms) -> None:
    """With the true gates: a random model's text is retried up to the last temperature."""
    sizes = WhisperSizes(max_streams=2, max_batch=2, final_batch=2, positions=POSITIONS)
    model = checkpoint(multilingual=False)
    recognizer = GpuWhisperRecognizer(model, device, gemms, "fp32", sizes)
    handle = recognizer.open(SessionOptions())
    first = one(recognizer, handle, AUDIO[0], Want.FINAL)
    assert first == one(recognizer, handle, AUDIO[0], Want.FINAL)
    assert first.language == "en"
    running = recognizer.begin([StepInput(handle, AUDIO[0], Want.FINAL)])
    decodings: list[None] = []
    recognizer.wait(running, lambda: decodings.append(None))
    assert len(decodings) >= len(TEMPERATURES)  # a watchdog hears of each
    assert recognizer.finish(running) == [first]


def test_words_lie_between_the_times_of_their_segments() -> None:
    model = checkpoint(multilingual=False)
    tokens = WhisperTokens(model.tokenizer, model.source.path / "config.json")
    first, space = tokens.first_timestamp, 94
    ids = [first, 1, space, 2, first + 10, first + 10, space, 3, first + 20, space, 4]
    logs = [0.0, -0.1, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -9.0]
    words = timed_words(tokens, ids, logs, 8_000, "en")
    # A space alone begins no word: in true vocabularies it is part of one.
    assert [word.text for word in words] == ['"#', "$", "%"]
    spans = [(word.start_sample, word.end_sample) for word in words]
    assert spans == [(0, 3_200), (3_200, 6_400), (6_400, 8_000)]
    assert [word.confidence for word in words] == pytest.approx([0.6065, 1, 0.1353])


def test_words_lie_where_they_were_listened_to() -> None:
    model = checkpoint(multilingual=False)
    tokens = WhisperTokens(model.tokenizer, model.source.path / "config.json")
    first, space = tokens.first_timestamp, 94
    ids = [first, 1, space, 2, first + 10]
    logs = [0.0, -0.1, 0.0, -0.5, 0.0, 0.0]
    at = np.arange(70, dtype=np.float32)
    heard = [0, 5, 20, 40, 60, 65]  # by the steps that chose the tokens, and the end
    scores = np.array([[-((at - position) ** 2) / 8] for position in heard], np.float32)
    words = words_by_attention(tokens, ids, logs, scores, 22_000, "en")
    assert [word.text for word in words] == ['"#']  # a space alone begins no word
    (word,) = words
    assert word.start_sample == 0
    assert word.end_sample == pytest.approx(50 * 320, abs=3 * 320)
    assert word.confidence == pytest.approx(0.6065)
    # A stable token, two that steps chose, and the end, by which the last word ends.
    ids, logs = [3, 1, 2], [0.0, -0.1, -0.5, 0.0]
    (forced,) = words_by_attention(tokens, ids, logs, scores[1:4], 22_000, "en", num_forced=1)
    assert (forced.text, forced.start_sample) == ('$"#', 0)
    assert forced.end_sample == pytest.approx(30 * 320, abs=4 * 320)
    assert words_by_attention(tokens, [first], [0.0], scores[:1], 22_000, "en") == ()
