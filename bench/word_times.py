"""The words of a final: when each ended in the audio, and when a text first showed it. Pure.

A native final says when its words were spoken. Other dialects do not: their words take the times of
a native session that heard the same audio (live_reference.py), by their place among its words. What
is measured with the times, live_metrics.py knows; who heard the audio, and how, nobody here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from protocol.client_messages import Word

from .live_log import Shown
from .pacing import RING_RATE_HZ

# A word belongs to a final when its middle is no further than this from the final's interval: less
# than the silence between two utterances, more than dialects round and engines err.
MARGIN_SAMPLES = RING_RATE_HZ // 4
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A normalized word, and its end in the stream where that is known."""

    text: str
    end_sample: int | None


def normalize(text: str) -> str:
    """One word without case and punctuation."""
    return "".join(_WORD.findall(text.lower()))


def split_words(text: str) -> list[str]:
    """The words of a text, comparable with those of a final."""
    return [word for word in map(normalize, text.split()) if word]


def first_shown(texts: Iterable[tuple[int, str]], words: list[str]) -> list[int | None]:
    """For each final word the time of the first text that shows it, in its place among the
    others (longest matching blocks); None when none does."""
    seen: list[int | None] = [None] * len(words)
    for received_ns, text in texts:
        for index, _ in _matches(words, split_words(text)):
            if seen[index] is None:
                seen[index] = received_ns
    return seen


def own_words(final: Shown) -> list[TimedWord]:
    """A final's words by its own times; without any where it does not tell them."""
    if not final.words:
        return [TimedWord(text, None) for text in split_words(final.text)]
    return [TimedWord(normalize(word.text), word.end_sample) for word in final.words]


def words_heard(final: Shown, heard: Sequence[Word]) -> list[TimedWord]:
    """A final's words by the times of what was `heard` in the same audio.

    Words are the same when they lie in the final's interval and stand in the same order among the
    others (longest matching blocks); the rest have no time.
    """
    texts = split_words(final.text)
    nearby = [word for word in heard if _is_within(word, final)]
    ends: list[int | None] = [None] * len(texts)
    for index, place in _matches(texts, [normalize(word.text) for word in nearby]):
        ends[index] = nearby[place].end_sample
    return [TimedWord(text, end) for text, end in zip(texts, ends, strict=True)]


def _matches(some: list[str], others: list[str]) -> Iterator[tuple[int, int]]:
    """Places of equal words, in order, by the longest matching blocks."""
    matcher = SequenceMatcher(None, some, others, autojunk=False)
    for block in matcher.get_matching_blocks():
        yield from ((block.a + offset, block.b + offset) for offset in range(block.size))


def _is_within(word: Word, final: Shown) -> bool:
    middle = (word.start_sample + word.end_sample) // 2
    return final.start_sample - MARGIN_SAMPLES <= middle < final.end_sample + MARGIN_SAMPLES
