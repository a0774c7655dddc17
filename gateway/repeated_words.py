"""Whether a text goes round in circles, as recognizers do when they lose their way. Pure.

People repeat themselves as well: "no, no, no" is speech. So the shorter the phrase, the more often
it has to come in a row.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from operator import eq

MAX_WORDS = 2_000  # of a text that are looked at; a minute of speech has some three hundred
MAX_PHRASE_WORDS = 10
MIN_TIMES = {1: 6, 2: 4}  # by words of the phrase
MIN_TIMES_LONGER = 3
_PUNCTUATION = string.punctuation + "\u2026\u201c\u201d\u201e\u2018\u2019\xab\xbb\xbf\xa1"


@dataclass(frozen=True, slots=True)
class Repeat:
    """A phrase of so many words comes so many times in a row."""

    num_words: int
    times: int


def find_repeat(text: str) -> Repeat | None:
    """The shortest phrase that comes too often in a row."""
    words = [word.strip(_PUNCTUATION) or word for word in text.casefold().split()[:MAX_WORDS]]
    for num_words in range(1, MAX_PHRASE_WORDS + 1):
        # 1 where a word is as the one a phrase before it
        are_equal = bytes(map(eq, words[num_words:], words))
        min_times = MIN_TIMES.get(num_words, MIN_TIMES_LONGER)
        if bytes([1]) * (num_words * (min_times - 1)) in are_equal:
            longest_run = max(map(len, are_equal.split(b"\0")))
            return Repeat(num_words, longest_run // num_words + 1)
    return None
