"""How many tokens there may be: by time, and by how a language is spelled."""

from __future__ import annotations

import pytest

from gpu_service.decoding.whisper_lengths import SPARE_TOKENS, most_tokens

SECOND = 16_000


@pytest.mark.parametrize(
    ("language", "tokens_a_second"),
    [(None, 8), ("en", 8), ("de", 16), ("ru", 16), ("el", 32), ("ja", 32), ("hi", 112)],
)
def test_a_language_may_have_what_its_spelling_takes(
    language: str | None, tokens_a_second: int
) -> None:
    assert most_tokens(0, language, is_draft=True) == SPARE_TOKENS
    for seconds in (1, 10):
        most = most_tokens(seconds * SECOND, language, is_draft=True)
        assert most == SPARE_TOKENS + tokens_a_second * seconds
        final = most_tokens(seconds * SECOND, language, is_draft=False)
        assert final == SPARE_TOKENS + tokens_a_second * seconds * 3 // 2  # with timestamps


# Tokens of article 1 of the Universal Declaration of Human Rights, which takes some 5 s to read.
@pytest.mark.parametrize(
    ("language", "tokens"),
    [("en", 13), ("fi", 28), ("el", 43), ("fa", 47), ("th", 61), ("hi", 89), ("te", 158),
     ("ka", 188), ("my", 357)],
)  # fmt: skip
def test_a_sentence_fits(language: str, tokens: int) -> None:
    assert most_tokens(5 * SECOND, language, is_draft=True) > 1.5 * tokens
