"""ParakeetText: a Parakeet model's tokens as hypotheses, and hotwords as its tokens.

What an engine says about an utterance, once it has tokens. Knows the vocabulary, no audio and no
engine.
"""

from __future__ import annotations

from collections.abc import Sequence

from .decoding.hotwords import MAX_PHRASE_TOKENS, MAX_PHRASES, HotwordTrie
from .decoding.pieces import Vocabulary
from .decoding.token_words import token_words
from .decoding.tokens import Token
from .errors import RecognizerError
from .recognizer import SessionOptions
from .words import Hypothesis, Word


class ParakeetText:
    """Of one model."""

    def __init__(self, model_id: str, pieces: Sequence[str] | None, hotword_weight: float) -> None:
        """`pieces`: None for a checkpoint without tokenizer, whose words are numbers of tokens."""
        self.vocabulary = Vocabulary(pieces)
        self._model_id = model_id
        self._has_vocabulary = pieces is not None
        self._hotword_weight = hotword_weight

    def check_task(self, options: SessionOptions) -> None:
        """Raise RecognizerError for what no Parakeet does."""
        if options.translate:
            raise RecognizerError(f"{self._model_id} does not translate")

    def hotwords(self, phrases: Sequence[str]) -> HotwordTrie | None:
        """Those of the phrases that the model can spell, in at most MAX_PHRASE_TOKENS tokens.

        The others are left out: names come by the list, and one in another script is no reason to
        hear nothing.
        """
        if self._hotword_weight == 0.0 or not self._has_vocabulary:
            return None
        spelled = list(filter(None, map(self._spelled, phrases)))
        return HotwordTrie(spelled[:MAX_PHRASES], self._hotword_weight) if spelled else None

    def _spelled(self, phrase: str) -> tuple[int, ...]:
        """Its tokens, or nothing."""
        try:
            tokens = self.vocabulary.encode(phrase)
        except ValueError:
            return ()
        return tokens if len(tokens) <= MAX_PHRASE_TOKENS else ()

    def final(self, tokens: Sequence[Token], num_samples: int, carry: bytes = b"") -> Hypothesis:
        """The hypothesis of an utterance that ends here, or may."""
        words = token_words(tokens, self.vocabulary, num_samples)
        text = self.vocabulary.text([token.id for token in tokens])
        return Hypothesis(
            words, text, num_samples, is_final=True, tokens=tuple(tokens), carry=carry
        )

    def draft(self, tokens: Sequence[Token], num_samples: int) -> Hypothesis:
        """The hypothesis of an open utterance."""
        words = token_words(tokens, self.vocabulary, num_samples)
        text = self.vocabulary.text([token.id for token in tokens])
        return draft_hypothesis(words, text, num_samples, tokens)


def draft_hypothesis(
    words: tuple[Word, ...], text: str, num_samples: int, tokens: Sequence[Token]
) -> Hypothesis:
    """A draft: its last word may still become a longer one."""
    return Hypothesis(
        words, text, num_samples, is_final=False,
        open_words=min(1, len(words)), tokens=tuple(tokens),
    )  # fmt: skip
