"""The Parakeet recognizer on a tiny random checkpoint: finals are the reference's, token for token,
in any pieces, beside any neighbours, across cuts and restarts; drafts change nothing in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpu_service.cpu.parakeet import CUT_RULE, ParakeetRecognizer, ParakeetSettings
from gpu_service.decoding.tokens import FRAME_SAMPLES
from gpu_service.errors import RecognizerError
from gpu_service.recognizer import SessionOptions, StepInput, Want
from gpu_service.words import Hypothesis
from tests.fixtures.parakeet.signals import SPEECH_SAMPLES, golden_signal, signal
from tests.gpu_service.speech import two_cities

Samples = NDArray[np.int16]
FOLDER = Path(__file__).parents[2] / "fixtures" / "parakeet"
TINY = str(FOLDER / "tiny")
NOTHING: Samples = np.zeros(0, np.int16)


@pytest.fixture(scope="module")
def recognizer() -> ParakeetRecognizer:
    return ParakeetRecognizer(TINY, ParakeetSettings(num_threads=1))


@pytest.fixture(scope="module")
def windowed() -> ParakeetRecognizer:
    return ParakeetRecognizer(TINY, ParakeetSettings(draft="window", window_frames=25))


def golden(name: str) -> list[tuple[int, int, int]]:
    stored = np.load(FOLDER / f"{name}.npz")
    columns = (stored[key].tolist() for key in ("tokens", "frames", "durations"))
    return list(zip(*columns, strict=True))


def speech() -> Samples:
    """The audio of the golden file `speech`."""
    return two_cities()[:SPEECH_SAMPLES]


def to_int16(audio: NDArray[np.float32]) -> Samples:
    return np.clip(np.rint(audio * 32768), -32768, 32767).astype(np.int16)


def listed(hypothesis: Hypothesis) -> list[tuple[int, int, int]]:
    return [(token.id, token.frame, token.duration) for token in hypothesis.tokens]


def step(recognizer: ParakeetRecognizer, *items: StepInput) -> list[Hypothesis]:
    answers = recognizer.step(items)
    return [answer for answer in answers if answer is not None]


def final(
    recognizer: ParakeetRecognizer,
    samples: Samples,
    cuts: Sequence[int] = (),
    want: Want = Want.NOTHING,
    **context: Any,
) -> Hypothesis:
    """The final of one utterance, fed in pieces that end at `cuts`, each asking for `want`."""
    handle = recognizer.open(SessionOptions())
    for piece in np.split(samples, sorted(cuts)):
        recognizer.step([StepInput(handle, piece, want, **context)])
    last = StepInput(handle, NOTHING, Want.FINAL, **context)
    (answer,) = step(recognizer, last)
    recognizer.close(handle)
    return answer


@pytest.mark.parametrize("name", ["signal_0_5s", "signal_1s", "signal_3_2s", "signal_7_77s"])
def test_finals_are_the_references_tokens(recognizer: ParakeetRecognizer, name: str) -> None:
    assert listed(final(recognizer, to_int16(golden_signal(name)))) == golden(name)


def test_thirty_seconds_are_one_pass(recognizer: ParakeetRecognizer) -> None:
    assert listed(final(recognizer, to_int16(golden_signal("signal_30s")))) == golden("signal_30s")


def test_real_speech_is_the_references_tokens(recognizer: ParakeetRecognizer) -> None:
    hypothesis = final(recognizer, speech())
    assert listed(hypothesis) == golden("speech")
    assert hypothesis.num_samples == SPEECH_SAMPLES
    assert hypothesis.text == " ".join(word.text for word in hypothesis.words)


@settings(deadline=None, max_examples=20)
@given(
    cuts=st.lists(st.integers(0, 32_000), max_size=12),
    want=st.sampled_from([Want.NOTHING, Want.DRAFT, Want.CANDIDATE]),
)
def test_no_chunking_and_no_draft_changes_a_final(
    recognizer: ParakeetRecognizer, cuts: list[int], want: Want
) -> None:
    samples = speech()[16_000:48_000]
    assert final(recognizer, samples, cuts, want) == final(recognizer, samples)


def test_one_sample_at_a_time(recognizer: ParakeetRecognizer) -> None:
    samples = speech()[20_000:22_500]
    assert final(recognizer, samples, range(1, len(samples))) == final(recognizer, samples)


@pytest.mark.parametrize("num_neighbours", [0, 2, 7])
def test_neighbours_in_a_batch_change_nothing(
    recognizer: ParakeetRecognizer, num_neighbours: int
) -> None:
    samples = speech()[:64_000]
    others = [to_int16(signal(0.3 + 0.6 * n, n))[:64_000] for n in range(num_neighbours)]
    handles = [recognizer.open(SessionOptions()) for _ in range(1 + num_neighbours)]
    for start in range(0, 64_000, 8_000):  # drafts of all in one run of the encoder
        pieces = [audio[start : start + 8_000] for audio in (samples, *others)]
        batch = [StepInput(h, p, Want.DRAFT) for h, p in zip(handles, pieces, strict=True)]
        recognizer.step(batch)
    answers = step(recognizer, *[StepInput(h, NOTHING, Want.FINAL) for h in handles])
    for handle in handles:
        recognizer.close(handle)
    assert answers == [final(recognizer, audio) for audio in (samples, *others)]


# Cuts


def cut_in_two(
    recognizer: ParakeetRecognizer, samples: Samples, cut: int, left: int, right: int
) -> tuple[Hypothesis, Hypothesis]:
    """One utterance cut at `cut`, as the service feeds it."""
    first = final(recognizer, samples[: cut + right], right_samples=right)
    second = final(recognizer, samples[cut - left :], left_samples=left, carry=first.carry)
    return first, second


def test_a_cut_with_all_context_loses_and_doubles_nothing(recognizer: ParakeetRecognizer) -> None:
    """With everything before and behind a cut in sight, the two halves are the uncut utterance."""
    samples = speech()
    whole = final(recognizer, samples)
    for cut_frame in (1, 13, 40, 77, 124):
        cut = cut_frame * FRAME_SAMPLES
        first, second = cut_in_two(recognizer, samples, cut, cut, len(samples) - cut)
        shifted = [(i, frame + cut_frame, d) for i, frame, d in listed(second)]
        assert listed(first) + shifted == listed(whole)
        assert first.num_samples == cut
        assert second.num_samples == len(samples) - cut


def test_a_final_at_a_cut_is_no_candidate_of_the_same_samples(
    recognizer: ParakeetRecognizer,
) -> None:
    """A candidate over what later is the context behind a cut would say it, and carry nothing."""
    samples = speech()
    right = len(samples) - 64 * FRAME_SAMPLES
    expected = final(recognizer, samples, right_samples=right)
    handle = recognizer.open(SessionOptions())
    step(recognizer, StepInput(handle, samples, Want.CANDIDATE))
    (answer,) = step(recognizer, StepInput(handle, NOTHING, Want.FINAL, right_samples=right))
    recognizer.close(handle)
    assert answer == expected
    assert answer.carry


def test_words_of_an_utterance_behind_a_cut_count_from_the_cut(
    recognizer: ParakeetRecognizer,
) -> None:
    samples = to_int16(golden_signal("signal_30s"))
    left, right = CUT_RULE.left_samples, CUT_RULE.right_samples
    _, second = cut_in_two(recognizer, samples, 160 * FRAME_SAMPLES, left, right)
    assert second.words
    assert all(0 <= w.start_sample <= w.end_sample <= second.num_samples for w in second.words)


def test_the_carried_state_decides_what_comes_behind_a_cut(recognizer: ParakeetRecognizer) -> None:
    """Not only the audio: without the carry, a duration that runs over the cut is forgotten."""
    samples = to_int16(golden_signal("signal_30s"))
    whole = golden("signal_30s")
    over = next(frame + d for _, frame, d in whole if frame > 100 and d >= 3) - 1
    cut = over * FRAME_SAMPLES  # one frame before the duration ends
    first, second = cut_in_two(recognizer, samples, cut, cut, len(samples) - cut)
    assert listed(second)[0][1] >= 1
    forgotten = final(recognizer, samples, left_samples=cut)
    assert listed(forgotten) != listed(second)
    assert first.carry


def test_a_carry_of_another_model_begins_anew(recognizer: ParakeetRecognizer) -> None:
    samples = speech()[:32_000]
    assert final(recognizer, samples, carry=b"\1\1\1\0") == final(recognizer, samples)


def test_drafts_behind_a_cut_know_what_was_before(recognizer: ParakeetRecognizer) -> None:
    samples = speech()
    cut = 64 * FRAME_SAMPLES
    first = final(recognizer, samples, right_samples=len(samples) - cut)
    handle = recognizer.open(SessionOptions())
    context = {"left_samples": cut, "carry": first.carry}
    (draft,) = step(recognizer, StepInput(handle, samples, Want.DRAFT, **context))
    (last,) = step(recognizer, StepInput(handle, NOTHING, Want.FINAL, **context))
    recognizer.close(handle)
    assert draft.num_samples == len(samples) - cut
    assert draft.open_words == 1
    assert all(token.frame >= 0 for token in draft.tokens)
    assert len(draft.tokens) > 0
    assert len(last.tokens) > 0


# Drafts


def drafts(recognizer: ParakeetRecognizer, samples: Samples, hop: int) -> list[Hypothesis]:
    handle = recognizer.open(SessionOptions())
    shown = [
        step(recognizer, StepInput(handle, samples[at : at + hop], Want.DRAFT))[0]
        for at in range(0, len(samples), hop)
    ]
    recognizer.close(handle)
    return shown


def test_a_window_draft_is_the_offline_pass_of_what_was_heard(windowed: ParakeetRecognizer) -> None:
    samples = speech()[:30_000]
    for draft in drafts(windowed, samples, 5_120):
        assert draft.tokens == final(windowed, samples[: draft.num_samples]).tokens


@pytest.mark.parametrize("kind", ["recognizer", "windowed"])
def test_what_a_draft_committed_stays(kind: str, request: pytest.FixtureRequest) -> None:
    """Tokens well behind the newest audio are never taken back, however long it goes on."""
    shown = drafts(request.getfixturevalue(kind), to_int16(golden_signal("signal_30s")), 5_120)
    for before, after in pairwise(shown):
        # 2.5 s: behind the increments' look-ahead and what a sliding window keeps open
        settled_frame = before.num_samples // FRAME_SAMPLES - 31
        settled = [t for t in before.tokens if t.frame < settled_frame]
        if kind == "recognizer":
            assert list(after.tokens[: len(settled)]) == settled
        assert [t.frame for t in after.tokens] == sorted(t.frame for t in after.tokens)
        assert all(t.frame * FRAME_SAMPLES < after.num_samples for t in after.tokens)
        assert after.num_samples == before.num_samples + min(5_120, 480_000 - before.num_samples)


def test_drafts_that_paused_catch_up_in_pieces(recognizer: ParakeetRecognizer) -> None:
    samples = to_int16(golden_signal("signal_30s"))
    (draft,) = drafts(recognizer, samples, len(samples))
    assert draft.tokens[-1].frame > 300


# Edges


@pytest.mark.parametrize("num_samples", [0, 1, 159, 160, 320, 1_599])
def test_short_utterances(recognizer: ParakeetRecognizer, num_samples: int) -> None:
    samples = speech()[24_000 : 24_000 + num_samples]
    hypothesis = final(recognizer, samples, want=Want.DRAFT)
    assert hypothesis.num_samples == num_samples
    assert hypothesis.is_final


def test_an_hour_of_zeros_and_then_speech(recognizer: ParakeetRecognizer) -> None:
    """In utterances of 30 s, as without voice activity detection; then the words come."""
    handle = recognizer.open(SessionOptions())
    zeros = np.zeros(480_000, np.int16)
    for _ in range(3):  # each utterance begins anew: the third is like the hundred-and-twentieth
        step(recognizer, StepInput(handle, zeros, Want.FINAL))
    (answer,) = step(recognizer, StepInput(handle, speech(), Want.FINAL))
    recognizer.close(handle)
    assert listed(answer) == golden("speech")


def test_too_long_an_utterance_is_refused(recognizer: ParakeetRecognizer) -> None:
    with pytest.raises(RecognizerError, match="are allowed"):
        final(recognizer, np.zeros(recognizer.max_utterance_samples + 1, np.int16))


def test_a_context_of_broken_frames_is_refused(recognizer: ParakeetRecognizer) -> None:
    with pytest.raises(RecognizerError, match="whole frames"):
        final(recognizer, speech()[:5_000], left_samples=100)


def test_no_parakeet_translates(recognizer: ParakeetRecognizer) -> None:
    with pytest.raises(RecognizerError, match="does not translate"):
        recognizer.open(SessionOptions(translate=True))


def test_unknown_handles(recognizer: ParakeetRecognizer) -> None:
    with pytest.raises(RecognizerError):
        recognizer.close(999_999)
    with pytest.raises(RecognizerError):
        recognizer.step([StepInput(999_999, NOTHING, Want.DRAFT)])


def test_nothing_wanted_and_warm_up(recognizer: ParakeetRecognizer) -> None:
    recognizer.warm_up()
    handle = recognizer.open(SessionOptions())
    assert recognizer.step([StepInput(handle, speech(), Want.NOTHING)]) == [None]
    recognizer.close(handle)


# Hotwords


def test_hotwords_pull_their_phrase_in(recognizer: ParakeetRecognizer) -> None:
    plain = final(recognizer, speech())
    wanted = plain.words[3].text + " " + plain.words[1].text
    strong = ParakeetRecognizer(TINY, ParakeetSettings(hotword_weight=50.0))
    handle = strong.open(SessionOptions(hotwords=(wanted,)))
    (boosted,) = step(strong, StepInput(handle, speech(), Want.FINAL))
    assert boosted.text.count(wanted) > plain.text.count(wanted)
    off = ParakeetRecognizer(TINY, ParakeetSettings(hotword_weight=0.0))
    handle = off.open(SessionOptions(hotwords=(wanted,)))
    assert step(off, StepInput(handle, speech(), Want.FINAL)) == [plain]


def test_hotwords_that_the_model_cannot_spell_are_left_out(recognizer: ParakeetRecognizer) -> None:
    plain = final(recognizer, speech())
    wanted = plain.words[3].text + " " + plain.words[1].text
    strong = ParakeetRecognizer(TINY, ParakeetSettings(hotword_weight=50.0))
    found = []
    for hotwords in ((wanted,), ("\N{SNOWMAN}", " ", wanted, f"{wanted} " * 12)):
        handle = strong.open(SessionOptions(hotwords=hotwords))
        found += step(strong, StepInput(handle, speech(), Want.FINAL))
    assert found[0] == found[1] != plain
    handle = strong.open(SessionOptions(hotwords=("\N{SNOWMAN}",)))
    assert step(strong, StepInput(handle, speech(), Want.FINAL)) == [plain]


def test_a_model_without_a_tokenizer_says_ids(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(FOLDER / "tiny" / name)
    bare = ParakeetRecognizer(str(tmp_path))
    hypothesis = final(bare, speech())
    assert hypothesis.text == " ".join(f"<{token.id}>" for token in hypothesis.tokens)
    handle = bare.open(SessionOptions(hotwords=("a",)))
    assert step(bare, StepInput(handle, speech(), Want.FINAL)) == [hypothesis]


def test_the_state_at_a_cut_is_small(recognizer: ParakeetRecognizer) -> None:
    """It goes into a checkpoint of 64 KiB with all else."""
    answer = final(recognizer, speech(), right_samples=32_000)
    assert len(answer.carry) < 16_384
