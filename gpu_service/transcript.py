"""Transcript: the text of one stream's open utterance, as it is shown while it grows.

Pure. Drafts come in, LocalAgreement-2 (whisper_streaming, Macháček et al. 2023) decides: words on
which two successive drafts agree become stable, the rest is volatile. A word that its model does
not believe in takes more drafts, and so does all behind it. Words that the engine's policy settled
(draft_policy.py) are stable at once. Stable text only grows until the final, which replaces
everything and says whether it took back what was stable.

It knows no audio, no model and no stream position. The service makes one per stream and turns
what it returns into messages.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from protocol.joined_text import joined

from .words import SAMPLE_RATE_HZ, Hypothesis, Word

HOLD_SAMPLES = 3 * SAMPLE_RATE_HZ // 10  # words that end in the last 0.3 s are still being spoken
NUM_AGREEING = 2  # drafts that make a word stable
MIN_CONFIDENCE = 0.3  # tiny.en wrote "And sure" twice at 0.14 before it heard "In short"
NUM_AGREEING_DOUBTFUL = 4  # drafts that make a word of less confidence stable
MAX_REPEATED_WORDS = 12  # the longest phrase that the repetition guard looks for
MIN_REPEATS = 3  # "no, no" is speech, the third time is a loop


@dataclass(frozen=True, slots=True)
class Partial:
    """What to show now: `stable` will not change before the final, `volatile` may."""

    stable: str
    volatile: str
    stable_words: tuple[Word, ...]
    volatile_words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Final:
    """The text of the utterance, for good."""

    text: str
    words: tuple[Word, ...]
    revised: bool  # text that was shown as stable is not how this begins
    language: str | None = None


def normalized(text: str) -> str:
    """A word for comparing: case folded, without punctuation (Unicode P*) and symbols (S*).

    A word of nothing else stays as it is, so that it equals itself only.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c for c in folded if unicodedata.category(c)[0] not in "PSZ")
    return kept or folded.strip()


def common_prefix_length(left: Sequence[Word], right: Sequence[Word]) -> int:
    """How many words the two begin with in common, compared normalized."""
    length = 0
    for one, other in zip(left, right, strict=False):
        if one.text != other.text and normalized(one.text) != normalized(other.text):
            break
        length += 1
    return length


def without_repetition(words: Sequence[Word]) -> tuple[Word, ...]:
    """The words up to and with the first time of a phrase that is said MIN_REPEATS times or more
    in a row at the end (the last time may be incomplete): how a decoder's loop looks.
    """
    keys = [normalized(word.text) for word in words]
    for start in range(len(keys)):
        longest = min(MAX_REPEATED_WORDS, (len(keys) - start) // MIN_REPEATS)
        for period in range(1, longest + 1):
            if all(keys[i] == keys[i - period] for i in range(start + period, len(keys))):
                return tuple(words[: start + period])
    return tuple(words)


def text_of(words: Sequence[Word]) -> str:
    """The words as one text."""
    return joined([word.text for word in words])


@dataclass(slots=True)
class Transcript:
    """The text state of one stream. on_final() empties it for the next utterance."""

    hold_samples: int = HOLD_SAMPLES
    _stable: list[Word] = field(default_factory=list)
    _stable_texts: list[str] = field(default_factory=list)  # of each
    _stable_text: str = ""  # joined
    _volatile: tuple[Word, ...] = ()  # behind the stable words, of the last draft
    _num_agreeing: tuple[int, ...] = ()  # how many drafts in a row said each volatile word
    _shown: tuple[str, str] = ("", "")  # stable and volatile text of the last Partial

    @property
    def stable_words(self) -> tuple[str, ...]:
        """The text of the stable words: the forced prefix of the next draft."""
        return tuple(self._stable_texts)

    @property
    def stable(self) -> tuple[Word, ...]:
        """The stable words themselves, for a checkpoint."""
        return tuple(self._stable)

    def restore(self, stable: Sequence[Word]) -> None:
        """Go on with an utterance of which these words were shown as stable."""
        self._set_stable(stable)
        self._shown = (self._stable_text, "")

    def on_draft(self, hypothesis: Hypothesis) -> Partial | None:
        """Take a draft (a candidate counts as one); return what to show if that changed."""
        new = self._behind_stable(hypothesis.words)
        agreed = common_prefix_length(self._volatile, new)
        counts = [*(n + 1 for n in self._num_agreeing[:agreed]), *[1] * (len(new) - agreed)]
        num_stable = self._num_stable(new, counts, hypothesis.num_samples - self.hold_samples)
        num_stable = min(num_stable, max(0, len(new) - hypothesis.open_words))
        num_settled = hypothesis.settled_words - (len(hypothesis.words) - len(new))
        num_stable = max(num_stable, num_settled)
        if num_stable:
            self._set_stable([*self._stable, *new[:num_stable]])
        self._volatile = tuple(new[num_stable:])
        self._num_agreeing = tuple(counts[num_stable:])
        shown = (self._stable_text, text_of(self._volatile))
        if shown == self._shown:
            return None
        self._shown = shown
        return Partial(*shown, tuple(self._stable), self._volatile)

    def on_final(self, hypothesis: Hypothesis) -> Final:
        """Take the final hypothesis and begin the next utterance."""
        revised = common_prefix_length(self._stable, hypothesis.words) < len(self._stable)
        self._set_stable(())
        self._volatile = ()
        self._num_agreeing = ()
        self._shown = ("", "")
        return Final(hypothesis.text, hypothesis.words, revised, hypothesis.language)

    def _num_stable(self, words: Sequence[Word], counts: Sequence[int], held_from: int) -> int:
        """How many words, from the first on, enough drafts have said; none that ends too late."""
        num_stable = 0
        for word, count in zip(words, counts, strict=True):
            is_doubtful = word.confidence < MIN_CONFIDENCE
            needed = NUM_AGREEING_DOUBTFUL if is_doubtful else NUM_AGREEING
            if count < needed or word.end_sample > held_from:
                break
            num_stable += 1
        return num_stable

    def _set_stable(self, words: Sequence[Word]) -> None:
        self._stable = list(words)
        self._stable_texts = [word.text for word in words]
        self._stable_text = joined(self._stable_texts)

    def _behind_stable(self, words: tuple[Word, ...]) -> tuple[Word, ...]:
        """The words behind the stable ones: by text where the draft repeats those, else by time."""
        num_stable = len(self._stable)
        # Mostly to the letter, and there are a hundred of them after half a minute.
        if [word.text for word in words[:num_stable]] == self._stable_texts:
            return words[num_stable:]
        if common_prefix_length(self._stable, words) == num_stable:
            return words[num_stable:]
        stable_end = self._stable[-1].end_sample
        return tuple(w for w in words if (w.start_sample + w.end_sample) // 2 >= stable_end)
