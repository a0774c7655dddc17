"""Prompts, which tokens may follow, and what is believed: by ids and numbers alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.decoding.whisper_rules import (
    Decoding,
    TokenRules,
    compression_ratio,
    is_doubtful,
    language_probabilities,
    mean_log_probability,
    only_time_may_follow,
    prompt_tokens,
    seek,
    start_tokens,
)
from gpu_service.weights.whisper_vocabulary import WhisperVocabulary, read_vocabulary
from tests.fixtures.whisper.random_checkpoint import generation_json, sizes, tokenizer_json


def vocabulary(*, multilingual: bool = True) -> WhisperVocabulary:
    return read_vocabulary(
        tokenizer_json(multilingual=multilingual),
        generation_json(multilingual=multilingual),
        sizes(multilingual=multilingual),
        "model",
    )


WORDS = vocabulary()
FIRST = WORDS.first_timestamp
TIMED = TokenRules(WORDS, timestamps=True)


def allowed(rules: TokenRules, *chosen: int) -> set[int]:
    banned = {token for ids in rules.banned(chosen) for token in ids}
    return set(range(rules.vocabulary.size)) - banned


# ------------------------------------------------------------------------ prompts


def test_a_multilingual_prompt_names_language_and_task() -> None:
    german = WORDS.languages["de"]
    assert start_tokens(WORDS, "de") == (WORDS.start, german, WORDS.transcribe)
    assert start_tokens(WORDS, "de", translate=True) == (WORDS.start, german, WORDS.translate)
    assert start_tokens(WORDS, None)[1] == WORDS.languages["en"]
    with pytest.raises(KeyError):
        start_tokens(WORDS, "xx")


def test_an_english_prompt_is_one_token() -> None:
    english = vocabulary(multilingual=False)
    assert start_tokens(english, "en") == (english.start,)


def test_context_comes_first_and_gets_half_of_the_room() -> None:
    start = start_tokens(WORDS, "en")

    def prompt(**options: object) -> tuple[int, ...]:
        chosen = {"timestamps": True, "text_positions": 20, **options}
        return prompt_tokens(WORDS, start, **chosen)  # type: ignore[arg-type]

    assert prompt() == start
    assert prompt(timestamps=False) == (*start, WORDS.no_timestamps)
    assert prompt(previous=range(3)) == (WORDS.previous, 0, 1, 2, *start)
    # 20 positions: 9 for context, of which hotwords get up to 4, from their beginning.
    assert prompt(previous=range(20)) == (WORDS.previous, *range(11, 20), *start)
    assert prompt(hotwords=range(30, 36), previous=range(20)) == (
        *(WORDS.previous, 30, 31, 32, 33),
        *range(15, 20),
        *start,
    )
    assert prompt(hotwords=(30,)) == (WORDS.previous, 30, *start)


# ------------------------------------------------------------------ timestamp rules


def test_without_timestamps_no_time_comes() -> None:
    assert allowed(TokenRules(WORDS, timestamps=False)) == set(range(FIRST))


def test_the_first_token_is_a_time_of_the_first_second() -> None:
    assert allowed(TIMED) == set(range(FIRST, FIRST + 51))
    assert allowed(replace(TIMED, max_initial_timestamp=0)) == {FIRST}


def test_text_follows_the_first_time() -> None:
    assert allowed(TIMED, FIRST + 3) == set(range(FIRST)) - {WORDS.no_timestamps}


def test_behind_text_a_time_has_to_go_on() -> None:
    assert allowed(TIMED, FIRST + 3, 5) & set(range(FIRST, WORDS.size)) == set(
        range(FIRST + 4, FIRST + 1501)
    )
    assert WORDS.end in allowed(TIMED, FIRST + 3, 5)


def test_behind_the_end_of_a_segment_comes_a_time_or_the_end() -> None:
    now = allowed(TIMED, FIRST, 5, FIRST + 9)
    assert min(now) == WORDS.end
    assert now & set(range(FIRST, WORDS.size)) == set(range(FIRST + 9, FIRST + 1501))


def test_behind_a_pair_comes_text() -> None:
    now = allowed(TIMED, FIRST, 5, FIRST + 9, FIRST + 9)
    assert now == set(range(FIRST)) - {WORDS.no_timestamps}


def test_text_without_any_time_before_it_bans_no_time() -> None:
    assert FIRST in allowed(TIMED, 5)


def test_what_pads_a_vocabulary_never_comes() -> None:
    padded = replace(WORDS, size=WORDS.size + 64)
    for timestamps in (True, False):
        rules = TokenRules(padded, timestamps=timestamps)
        for chosen in ((), (FIRST, 5)):
            assert max(allowed(rules, *chosen)) < WORDS.size


def test_lists_are_the_models_own() -> None:
    assert (TIMED.always(), TIMED.at_first()) == (WORDS.suppressed, WORDS.suppressed_first)


@given(st.lists(st.integers(0, 3), max_size=12), st.randoms())
def test_whatever_is_chosen_something_may_follow_and_times_never_go_back(
    steps: list[int], random: object
) -> None:
    chosen: list[int] = []
    for step in steps:
        options = sorted(allowed(TIMED, *chosen))
        assert options
        times = [token for token in options if token >= FIRST]
        chosen.append(times[min(step, len(times) - 1)] if step and times else options[step])
    times = [token for token in chosen if token >= FIRST]
    assert times == sorted(times)


def test_times_win_together() -> None:
    assert only_time_may_follow(-0.5, -0.6)
    assert not only_time_may_follow(-0.5, -0.5)


# ------------------------------------------------------------------ what to believe


@pytest.mark.parametrize(
    ("log_probability", "no_speech", "compression", "good", "silence"),
    [
        (-0.3, 0.1, 1.2, True, False),
        (-1.2, 0.1, 1.2, False, False),
        (-1.2, 0.7, 1.2, False, True),
        (-0.3, 0.7, 1.2, True, False),
        (-0.3, 0.1, 2.5, False, False),
    ],
)
def test_a_decoding_is_good_or_silence_or_tried_again(
    log_probability: float, no_speech: float, compression: float, good: bool, silence: bool
) -> None:
    decoding = Decoding((), log_probability, no_speech, compression)
    assert (decoding.is_good, decoding.is_silence) == (good, silence)
    assert decoding.is_settled is (good or silence)


def test_of_failures_the_one_without_a_loop_is_better() -> None:
    loop, doubtful = Decoding((), -0.1, 0.0, 9.0), Decoding((), -2.0, 0.0, 1.0)
    assert doubtful.rank > loop.rank
    assert doubtful.rank < Decoding((), -1.5, 0.0, 1.0).rank


def test_words_that_are_not_believed_are_doubtful() -> None:
    assert is_doubtful([0.2, 0.3])
    assert not is_doubtful([0.2, 0.5])
    assert not is_doubtful([])


def test_repetition_compresses() -> None:
    assert (
        compression_ratio("and so on " * 20) > 2.4 > compression_ratio("It was the best of times")
    )


def test_the_end_counts_as_a_token() -> None:
    assert mean_log_probability(-3.0, 2) == -1.0


def test_languages_share_what_all_languages_have() -> None:
    first, second, third = WORDS.languages.values()
    shares = language_probabilities(WORDS, {first: 0.1, second: 0.3, third: 0.1})
    assert list(shares) == ["de", "en", "fr"]
    assert sum(shares.values()) == pytest.approx(1.0)


# ------------------------------------------------------------------------ where to go on


@pytest.mark.parametrize(
    ("tokens", "kept", "samples"),
    [
        ((), 0, 0),
        ((5, 6), 2, 0),
        ((FIRST, 5, FIRST + 9), 3, 0),  # one time ends the text: all was heard
        ((FIRST, 5, FIRST + 9, FIRST + 9, 6), 3, 9 * 320),
        ((FIRST, 5, FIRST + 9, FIRST + 9), 3, 9 * 320),
        ((FIRST, FIRST, 5), 3, 0),  # nothing before the pair: it would never go on
    ],
)
def test_the_next_window_begins_where_a_segment_ended(
    tokens: tuple[int, ...], kept: int, samples: int
) -> None:
    assert seek(tokens, FIRST) == (tokens[:kept], samples)
