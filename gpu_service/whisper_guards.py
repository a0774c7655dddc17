"""Guards against words that nobody said: which of Whisper's words become an answer.

Whisper writes into noise and silence, and repeats itself; what is believed is decided here, the
same way for every engine (cpu/whisper.py, gpu/whisper.py). Pure: words and numbers in, a hypothesis
out. How a decoding is judged before it has words is decoding/whisper_rules.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

from .decoding.whisper_rules import NO_SPEECH, is_doubtful
from .draft_policy import Verdict
from .transcript import text_of, without_repetition
from .words import Hypothesis, Word

NO_VERDICT = Verdict(0, 0)
DEFAULT_LANGUAGE = "en"  # of models that know no other


def guarded_final(
    words: Sequence[Word],
    text: str,
    num_samples: int,
    no_speech: float,
    language: str | None,
    *,
    is_loop: bool,
) -> Hypothesis:
    """A final (or candidate): no words where nobody spoke, and none of a loop's repetitions.

    Args:
        text: the words with the model's own spacing.
        no_speech: the model's belief that nobody speaks.
        is_loop: the text repeats itself (Decoding.is_loop).
    """
    kept = without_repetition(words) if is_loop else tuple(words)
    if no_speech > NO_SPEECH and is_doubtful([word.confidence for word in kept]):
        kept, text = (), ""
    elif is_loop:
        text = text_of(kept)
    return Hypothesis(
        kept, text, num_samples, True, no_speech, language or DEFAULT_LANGUAGE, looped=is_loop
    )


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
