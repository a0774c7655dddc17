"""What a Whisper final hands on to the utterance behind a cut: its text, as tokens, in bytes.

Where a speaker goes on beyond the longest utterance, the text before the cut is context for what
follows (openai/whisper, transcribe.py: condition_on_previous_text). Text that may be nonsense is
not handed on. Pure. Bytes come back from checkpoints, and may be of another model: what can not be
tokens of this one is no context.
"""

from __future__ import annotations

from collections.abc import Sequence

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
