"""Transcript: agreement, holding back, finals, and the repetition guard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gpu_service.transcript import Partial, Transcript, normalized, without_repetition
from gpu_service.words import Hypothesis, Word

STEP = 8000  # half a second a word


def words(text: str, confidence: float = 0.9) -> tuple[Word, ...]:
    return tuple(Word(w, i * STEP, (i + 1) * STEP, confidence) for i, w in enumerate(text.split()))


def draft(
    text: str,
    *,
    num_samples: int | None = None,
    is_final: bool = False,
    confidence: float = 0.9,
) -> Hypothesis:
    heard = words(text, confidence)
    length = len(heard) * STEP + STEP if num_samples is None else num_samples
    return Hypothesis(heard, text, length, is_final, language="en")


def shown(partial: Partial | None) -> tuple[str, str]:
    assert partial is not None
    return partial.stable, partial.volatile


def test_a_word_that_may_still_become_a_longer_one_is_never_stable() -> None:
    transcript = Transcript()
    shown_so_far = [transcript.on_draft(replace(draft("It was the"), open_words=1)) for _ in "abc"]
    assert shown(shown_so_far[1]) == ("It was", "the")
    assert shown_so_far[2] is None


def test_settled_words_are_stable_at_once_and_open_ones_are_not() -> None:
    transcript = Transcript()
    settled = replace(draft("It was the", num_samples=STEP), settled_words=2, open_words=1)
    assert shown(transcript.on_draft(settled)) == ("It was", "the")
    assert transcript.on_draft(settled) is None
    longer = replace(draft("It was the best", num_samples=STEP), settled_words=3, open_words=1)
    assert shown(transcript.on_draft(longer)) == ("It was the", "best")


def test_words_of_a_script_without_spaces_have_none() -> None:
    transcript = Transcript()
    transcript.on_draft(draft("我 们 去"))
    assert shown(transcript.on_draft(draft("我 们 去 北 京"))) == ("我们去", "北京")


def test_two_drafts_that_agree_make_words_stable() -> None:
    transcript = Transcript()
    assert shown(transcript.on_draft(draft("It was"))) == ("", "It was")
    assert shown(transcript.on_draft(draft("It was the breast"))) == ("It was", "the breast")
    assert shown(transcript.on_draft(draft("It was the best of"))) == ("It was the", "best of")
    assert transcript.stable_words == ("It", "was", "the")


def test_agreement_ignores_case_and_punctuation_and_keeps_the_newest_spelling() -> None:
    transcript = Transcript()
    transcript.on_draft(draft("well, Done."))
    assert shown(transcript.on_draft(draft("Well done my"))) == ("Well done", "my")


def test_a_word_at_the_end_of_the_audio_is_held_back() -> None:
    transcript = Transcript()
    transcript.on_draft(draft("one two", num_samples=2 * STEP))
    partial = transcript.on_draft(draft("one two", num_samples=2 * STEP))
    assert shown(partial) == ("one", "two")


def test_a_doubtful_word_takes_four_drafts() -> None:
    transcript = Transcript()
    for _ in range(3):
        transcript.on_draft(draft("And sure", confidence=0.1))
        assert transcript.stable_words == ()
    assert shown(transcript.on_draft(draft("And sure", confidence=0.1))) == ("And sure", "")


def test_nothing_changed_is_none() -> None:
    transcript = Transcript()
    assert transcript.on_draft(draft("")) is None
    transcript.on_draft(draft("one two"))
    transcript.on_draft(draft("one two"))
    assert transcript.on_draft(draft("one two")) is None


def test_a_draft_that_changes_stable_words_is_joined_by_time() -> None:
    transcript = Transcript()
    for _ in range(2):
        transcript.on_draft(draft("one two"))
    assert shown(transcript.on_draft(draft("won two three"))) == ("one two", "three")


def test_final_keeps_or_revises() -> None:
    transcript = Transcript()
    for _ in range(2):
        transcript.on_draft(draft("one two"))
    final = transcript.on_final(draft("One, two three.", is_final=True))
    assert (final.text, final.revised, final.language) == ("One, two three.", False, "en")
    for _ in range(2):
        transcript.on_draft(draft("one two"))
    assert transcript.on_final(draft("one", is_final=True)).revised
    assert transcript.stable_words == ()
    assert not transcript.on_final(draft("", is_final=True)).revised


def test_normalized() -> None:
    assert normalized("Don\u2019t,") == normalized("don't") == "dont"
    assert normalized("...") == "..."
    assert normalized("$5") == "5"


def test_loops_are_cut_to_their_first_time() -> None:
    def guarded(text: str) -> str:
        return " ".join(w.text for w in without_repetition(words(text)))

    assert guarded("yes it was it was it was it") == "yes it was"
    assert guarded("no no") == "no no"
    assert guarded("no No, no!") == "no"
    assert guarded("It was the best. It was the best. It was the best.") == "It was the best."
    assert guarded("go go go now") == "go go go now"
    assert guarded("") == ""


@given(st.lists(st.text("abA,. ", max_size=3).map(str.strip).filter(bool), max_size=14))
def test_the_guard_only_shortens(texts: list[str]) -> None:
    heard = words(" ".join(texts))
    kept = without_repetition(heard)
    assert heard[: len(kept)] == kept


@given(st.lists(st.lists(st.sampled_from(["a", "b", "A.", "c"]), max_size=6), max_size=8))
def test_stable_text_only_grows(drafts: list[list[str]]) -> None:
    transcript = Transcript()
    stable = ""
    for texts in drafts:
        partial = transcript.on_draft(draft(" ".join(texts)))
        if partial is not None:
            assert partial.stable.startswith(stable)
            stable = partial.stable
