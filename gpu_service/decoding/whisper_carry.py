"""What a Whisper final hands on to the utterance behind a cut: its text, as tokens, in bytes.

Where a speaker goes on beyond the longest utterance, the text before the cut is context for what
follows (openai/whisper, transcribe.py: condition_on_previous_text). Text that may be nonsense is
not handed on. Context is only believed for which words there are and how they are written, never
for how many: a model that was shown a phrase takes its repetition for known and leaves it out, or
says again what it was shown. So a final behind a cut is decoded without context, too, and the one
with it is taken where both have as many words, and most of them in common, and neither may be
nonsense. Hotwords, which a model
is shown in the same place, do the same, and are believed by the same rule.

Word errors of tiny.en in percent, cut every so many seconds: without context, with all of it, by
that rule; over 44 s of a reading in which phrases repeat, and over it twice without its pauses.

          the reading         without pauses
     3 s  11.8  28.6  11.8    10.5  18.9   9.2
     5 s   8.4  12.6   7.6     8.4  16.0   8.4
     8 s   0.0   5.0   0.0     6.7   9.2   6.7
    12 s   0.8   0.8   0.8     6.3   6.7   5.0
    20 s   3.4   2.5   3.4     5.5   4.2   5.0
    29 s   0.0   0.0   0.0     8.4  25.6   8.4

Pure. Bytes come back from checkpoints, and may be of another model: what can not be tokens of this
one is no context.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..transcript import normalized
from ..words import Hypothesis
from .whisper_rules import MAX_CONTEXT_TEMPERATURE, Decoding

MAX_CARRIED = 223  # tokens: half of a decoder's positions, less <|startofprev|>
TOKEN_BYTES = 4  # little-endian


def carried(text_tokens: Sequence[int], decoding: Decoding, temperature: float) -> bytes:
    """The end of a final's text, or nothing where it had better be forgotten."""
    if temperature > MAX_CONTEXT_TEMPERATURE or not decoding.is_good:
        return b""
    kept = text_tokens[-MAX_CARRIED:]
    return b"".join(token.to_bytes(TOKEN_BYTES, "little") for token in kept)


def restored(carry: bytes, end: int) -> tuple[int, ...]:
    """The tokens, each below the token that ends texts; none where these bytes hold no such."""
    if len(carry) % TOKEN_BYTES or len(carry) > MAX_CARRIED * TOKEN_BYTES:
        return ()
    tokens = tuple(
        int.from_bytes(carry[at : at + TOKEN_BYTES], "little")
        for at in range(0, len(carry), TOKEN_BYTES)
    )
    return tokens if all(token < end for token in tokens) else ()


def believed(alone: Hypothesis, in_context: Hypothesis) -> Hypothesis:
    """Which final of the same audio: see the top of this file."""
    if not (alone.carry and in_context.carry):
        return alone  # one of them had better be forgotten
    words, others = ([normalized(word.text) for word in each.words] for each in (alone, in_context))
    if len(words) != len(others):
        return alone
    num_same = sum(word == other for word, other in zip(words, others, strict=True))
    return in_context if 2 * num_same >= len(words) else alone
