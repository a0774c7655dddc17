"""Drafts, finals and what comes between finals as messages. Pure: what a recognizer counts from the
utterance's start becomes positions of the stream. stream.py decides when they leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from protocol import service_messages as messages
from protocol.client_messages import Stages, Token, Word

from .decoding import tokens as decoded
from .transcript import Final, Partial
from .utterance import Answer, NonSpeech, TurnEnd, Utterance


class Speaker(Protocol):
    """What a message says of its stream (stream.Stream)."""

    @property
    def slot(self) -> int: ...

    @property
    def generation(self) -> int: ...

    @property
    def audio_decoded(self) -> int: ...


def partial_message(
    stream: Speaker, utterance: Utterance, end_sample: int, partial: Partial, stages: Stages
) -> messages.Partial:
    """What is shown of an open utterance, decoded up to `end_sample`."""
    return messages.Partial(
        stream.slot,
        stream.generation,
        stream.audio_decoded,
        utterance.number,
        utterance.start_sample,
        end_sample,
        partial.stable,
        partial.volatile,
        stages,
    )


def final_message(
    stream: Speaker,
    utterance: Utterance,
    final: Final,
    tokens: Sequence[decoded.Token],
    stages: Stages,
) -> messages.Final:
    """The text of an utterance that has ended."""
    assert utterance.end_sample is not None
    start = utterance.start_sample
    return messages.Final(
        stream.slot,
        stream.generation,
        stream.audio_decoded,
        utterance.number,
        start,
        utterance.end_sample,
        final.text,
        tuple(
            Word(w.text, start + w.start_sample, start + w.end_sample, round(w.confidence, 4))
            for w in final.words
        ),
        tuple(Token(token.id, token.frame, token.duration) for token in tokens),
        final.language,
        final.revised,
        utterance.finalize_id,
        stages,
    )


def empty_answer(stream: Speaker, answer: Answer) -> messages.Final:
    """A finalize that found no speech."""
    return messages.Final(
        stream.slot,
        stream.generation,
        stream.audio_decoded,
        answer.utterance,
        answer.at_sample,
        answer.at_sample,
        "",
        finalize_id=answer.finalize_id,
    )


def between_message(
    stream: Speaker, item: NonSpeech | Answer | TurnEnd
) -> messages.NonSpeech | messages.Final | messages.EndOfTurn:
    """What waits for its place in the order and for no recognizer."""
    if isinstance(item, Answer):
        return empty_answer(stream, item)
    if isinstance(item, TurnEnd):
        return messages.EndOfTurn(
            stream.slot, stream.generation, stream.audio_decoded, item.utterance, item.end_sample
        )
    return messages.NonSpeech(
        stream.slot, stream.generation, stream.audio_decoded, item.start_sample, item.end_sample
    )
