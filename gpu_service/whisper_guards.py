"""Guards against words that nobody said: which of Whisper's words become an answer.

Whisper writes into noise and silence, and repeats itself; what is believed is decided here, the
same way for every engine (cpu/whisper.py, gpu/whisper.py). Pure: words and numbers in, a hypothesis
out. How a decoding is judged before it has words is decoding/whisper_rules.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from protocol.joined_text import joined

from .decoding.whisper_carry import carried
from .decoding.whisper_rules import NO_SPEECH, Decoding, is_doubtful
from .draft_policy import Verdict
from .transcript import text_of, without_repetition
from .words import Hypothesis, Word

NO_VERDICT = Verdict(0, 0)
DEFAULT_LANGUAGE = "en"  # of models that know no other


@dataclass(frozen=True, slots=True)
class FinalWindow:
    """What a decoder says of one window of a final."""

    words: tuple[Word, ...]
    text: str  # the words with the model's own spacing
    text_tokens: tuple[int, ...]
    decoding: Decoding
    temperature: float = 0.0


def guarded_final(
    windows: Sequence[FinalWindow], num_samples: int, language: str | None
) -> Hypothesis:
    """A final (or candidate): no words where nobody spoke, and none of a loop's repetitions.

    Each window is judged by itself: speech in one says nothing about the silence in another. What
    is kept is context for what follows, unless the worst of it may be nonsense.
    """
    kept = [_guarded(window) for window in windows]
    said = [window for window in kept if window.words]
    hypothesis = Hypothesis(
        tuple(word for window in said for word in window.words),
        joined(window.text for window in said), num_samples, True,
        min(window.decoding.no_speech for window in windows), language or DEFAULT_LANGUAGE,
        looped=any(window.decoding.is_loop for window in windows),
    )  # fmt: skip
    if not said:
        return hypothesis
    worst = min((window.decoding for window in said), key=lambda decoding: decoding.rank)
    hottest = max(window.temperature for window in said)
    tokens = [token for window in said for token in window.text_tokens]
    return structs.replace(hypothesis, carry=carried(tokens, worst, hottest))


def _guarded(window: FinalWindow) -> FinalWindow:
    is_loop = window.decoding.is_loop
    words = without_repetition(window.words) if is_loop else window.words
    is_noise = window.decoding.no_speech > NO_SPEECH
    if is_noise and is_doubtful([word.confidence for word in words]):
        return replace(window, words=(), text="", text_tokens=())
    return replace(window, words=words, text=text_of(words)) if is_loop else window


def guarded_draft(
    words: Sequence[Word], num_samples: int, language: str | None, verdict: Verdict = NO_VERDICT
) -> Hypothesis:
    """A draft: nothing where the model does not believe in its words, and no repetitions.

    `verdict`: about all the words, by a policy.
    """
    is_noise = is_doubtful([word.confidence for word in words])
    kept = () if is_noise else without_repetition(words)
    looped = 0 < len(kept) < len(words)
    return Hypothesis(
        kept, text_of(kept), num_samples, False, language=language or DEFAULT_LANGUAGE,
        looped=looped,
        open_words=max(0, verdict.open_words - (len(words) - len(kept))),
        settled_words=min(verdict.settled_words, len(kept)),
    )  # fmt: skip
