"""Draft policies: which words of a draft are settled, and which may still become others.

Whisper's engines have one each (cpu/whisper.py, gpu/whisper.py) and put what it says into their
hypotheses; transcript.py shows it. LocalAgreement leaves all to what successive drafts agree on.
AlignAtt (Papi et al. 2023; as in SimulStreaming) needs no second draft: it believes the words that
were heard far enough before the end of the audio. Pure: numbers in, numbers out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

# AlignAtt, in positions of 20 ms. A token heard so near the end (0.5 s) may be of a word that goes
# on; one heard so far before the last (4 s) is of attention that lost its way.
NEAR_POSITIONS = 25
REWIND_POSITIONS = 200

PolicyName = Literal["agreement", "alignatt"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """About the words of one draft."""

    settled_words: int  # so many of the first need no other draft to agree
    open_words: int  # so many of the last may become others, whatever drafts agree on


class DraftPolicy(Protocol):
    """How an engine judges its drafts."""

    @property
    def listens(self) -> bool:
        """Whether judge() has to know where tokens were heard."""
        ...

    def judge(
        self, word_lengths: Sequence[int], attended: Sequence[int], num_positions: int
    ) -> Verdict:
        """About words of so many tokens each.

        Args:
            attended: the position of 20 ms that each of the last tokens was heard at; those before
                were settled by an earlier draft. Empty where the policy does not listen.
            num_positions: of the audio so far.
        """
        ...


class LocalAgreement:
    """All is left to transcript.py: two drafts in a row make a word stable."""

    listens = False

    def judge(
        self, word_lengths: Sequence[int], attended: Sequence[int], num_positions: int
    ) -> Verdict:
        """See DraftPolicy.judge."""
        return Verdict(0, 0)


class AlignAtt:
    """Words before the first token that was heard near the end. The last word may go on."""

    listens = True

    def judge(
        self, word_lengths: Sequence[int], attended: Sequence[int], num_positions: int
    ) -> Verdict:
        """See DraftPolicy.judge."""
        num_tokens = sum(word_lengths)
        first = max(0, num_tokens - len(attended))
        settled_tokens = first + num_settled(attended, num_positions)
        settled = num_whole(word_lengths, settled_tokens)
        if settled == len(word_lengths) and attended:
            settled -= 1
        settled = max(0, settled)
        return Verdict(settled, len(word_lengths) - settled)


AGREEMENT = LocalAgreement()
POLICIES: dict[PolicyName, DraftPolicy] = {"agreement": AGREEMENT, "alignatt": AlignAtt()}


def num_settled(attended: Sequence[int], num_positions: int) -> int:
    """How many tokens, from the first on, were heard far enough before the end of the audio."""
    latest = 0
    for count, position in enumerate(attended):
        is_near = num_positions - position <= NEAR_POSITIONS
        if is_near or latest - position > REWIND_POSITIONS:
            return count
        latest = position
    return len(attended)


def num_whole(word_lengths: Sequence[int], num_tokens: int) -> int:
    """How many of the first words lie within the first tokens."""
    end = 0
    for count, length in enumerate(word_lengths):
        end += length
        if end > num_tokens:
            return count
    return len(word_lengths)
