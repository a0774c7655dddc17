"""How many tokens of text there may be in so much speech: more is a loop. Pure.

Fast English has 6 tokens a second, a reader 3. Other languages take more for the same: the first
article of the Universal Declaration of Human Rights has 13 tokens of Whisper's multilingual
vocabulary in English, in French 1.8 times as many, Russian 1.7, Finnish 2.2; Arabic 2.2, Korean
2.3, Hebrew 2.5, Japanese 3.1, Greek 3.3, Persian 3.6, Thai 4.7; Tamil 6.6, Hindi 6.8, Armenian 7.2,
Amharic 8.1, Bengali 10.5, Khmer and Telugu 12.1, Georgian 14.5, Burmese 27.
"""

from __future__ import annotations

from ..words import SAMPLE_RATE_HZ

DRAFT_TOKENS_PER_SECOND = 8  # of English
FINAL_TOKENS_PER_SECOND = 12  # timestamps come on top
SPARE_TOKENS = 24
OTHERS, MANY, MOST = 2, 4, 14  # times as many as English
# By Whisper's codes of languages.
_MANY_TOKENS = ("ar", "el", "fa", "he", "ja", "ko", "ps", "sd", "th", "ur", "yi", "yue", "zh")
_MOST_TOKENS = (
    "am", "as", "bn", "bo", "gu", "hi", "hy", "ka", "km", "kn", "lo", "ml", "mr", "my", "ne", "pa",
    "sa", "si", "ta", "te",
)  # fmt: skip
_TIMES = dict.fromkeys(_MANY_TOKENS, MANY) | dict.fromkeys(_MOST_TOKENS, MOST)


def most_tokens(num_samples: int, language: str | None, *, is_draft: bool) -> int:
    """Tokens that an utterance may have.

    Args:
        language: of the text; None where the model knows English only.
    """
    rate = DRAFT_TOKENS_PER_SECOND if is_draft else FINAL_TOKENS_PER_SECOND
    times = 1 if language in (None, "en") else _TIMES.get(language, OTHERS)
    return SPARE_TOKENS + rate * times * num_samples // SAMPLE_RATE_HZ
