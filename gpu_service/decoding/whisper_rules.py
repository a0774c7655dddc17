"""The rules around Whisper's decoder: what a prompt is, which tokens may follow, what to believe.

Every engine decodes by these (the oracle, the GPU's kernels, and the CPU's as far as CTranslate2
leaves it to us). Follows openai/whisper, whisper/decoding.py and transcribe.py. Token rules come as
ranges of ids, so that a host can apply them to an array and a kernel to an index. Pure: ids and
numbers in, decisions out; no arithmetic over a vocabulary, no text and no audio.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..weights.whisper_vocabulary import NUM_TIMESTAMPS, WhisperVocabulary

SAMPLES_PER_TIMESTAMP = 320  # 20 ms at 16 kHz
MAX_INITIAL_TIMESTAMP = 50  # 1 s
MIN_LOG_PROBABILITY = -1.0  # mean of the tokens; below, the decoding failed
MAX_COMPRESSION = 2.4  # characters per zlib byte; above, the text repeats itself
NO_SPEECH = 0.6
# What tiny.en writes into silence ("you", "Thank you.") has 0.03 to 0.3 a word, speech over 0.5.
MIN_CONFIDENCE = 0.3
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# Text that was sampled this hot may be nonsense: what follows is not conditioned on it.
MAX_CONTEXT_TEMPERATURE = 0.5

# So much has to be heard of an utterance until drafts stop asking in which language it is.
LANGUAGE_SURE_SAMPLES = 48_000

# Behind the last timestamp: less than 0.25 s is the padding of the VAD, no word.
MIN_REST_SAMPLES = 4_000
MAX_WINDOWS = 32  # of one utterance of 30 s

Tokens = tuple[int, ...]


# ---------------------------------------------------------------------------- prompts


def start_tokens(
    vocabulary: WhisperVocabulary, language: str | None, *, translate: bool = False
) -> Tokens:
    """What every decoding begins with. English-only models name neither language nor task.

    Raises KeyError for a language that the model does not know.
    """
    if not vocabulary.is_multilingual:
        return (vocabulary.start,)
    task = vocabulary.translate if translate else vocabulary.transcribe
    return (vocabulary.start, vocabulary.languages[language or "en"], task)


def context_tokens(previous: Sequence[int], hotwords: Sequence[int], text_positions: int) -> Tokens:
    """What follows <|startofprev|>; see prompt_tokens().

    Context gets at most half of the positions, less one for <|startofprev|>; hotwords at most half
    of that, from their beginning, and previous text what they leave, from its end.
    """
    room = text_positions // 2 - 1
    words = tuple(hotwords[: room // 2])
    return words + tuple(previous[-(room - len(words)) :])


def prompt_tokens(
    vocabulary: WhisperVocabulary,
    start: Sequence[int],
    *,
    timestamps: bool,
    text_positions: int,
    previous: Sequence[int] = (),
    hotwords: Sequence[int] = (),
) -> Tokens:
    """The whole prompt: hotwords and the text before, then `start`.

    Args:
        previous: text that came before, oldest first.
        text_positions: of the decoder (WhisperConfig).
    """
    context = context_tokens(previous, hotwords, text_positions)
    tail = () if timestamps else (vocabulary.no_timestamps,)
    return ((vocabulary.previous, *context) if context else ()) + tuple(start) + tail


# ----------------------------------------------------------------- which tokens may follow


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Which tokens may come next, by those that were chosen behind the prompt."""

    vocabulary: WhisperVocabulary
    timestamps: bool
    max_initial_timestamp: int = MAX_INITIAL_TIMESTAMP  # in steps of 20 ms
    continues: bool = False  # the prompt ends in text: what comes next is not the first

    def always(self) -> Tokens:
        """Single tokens that never come."""
        return self.vocabulary.suppressed

    def at_first(self) -> Tokens:
        """Single tokens that do not come as the first, besides."""
        return () if self.continues else self.vocabulary.suppressed_first

    def banned(self, chosen: Sequence[int]) -> tuple[range, ...]:
        """Ranges of tokens that do not come behind `chosen`."""
        vocabulary = self.vocabulary
        first = vocabulary.first_timestamp
        behind = range(first + NUM_TIMESTAMPS, vocabulary.size)  # what pads the vocabulary
        if not self.timestamps:
            return (range(first, behind.stop),)
        times = range(first, behind.start)
        unwanted = (range(vocabulary.no_timestamps, first), behind)
        if not chosen:
            begin = first + self.max_initial_timestamp + 1
            return (*unwanted, range(first), range(begin, times.stop))
        return (*unwanted, *self._banned_by_pairs(chosen, times))

    def _banned_by_pairs(self, chosen: Sequence[int], times: range) -> tuple[range, ...]:
        """Times come in pairs but for the first and the last, and never go back."""
        was_time = chosen[-1] in times
        was_pair = was_time and (len(chosen) < 2 or chosen[-2] in times)
        latest = next((token for token in reversed(chosen) if token in times), None)
        if latest is None:
            return ()
        # The time that ends a segment may begin the next one; any other has to go on.
        may_repeat = was_time and not was_pair
        passed = range(times.start, latest if may_repeat else latest + 1)
        if was_pair:
            return (times,)  # text follows
        if was_time:
            return (passed, range(self.vocabulary.end))  # a time or the end
        return (passed,)


def only_time_may_follow(time_total: float, best_text: float) -> bool:
    """Whether a time comes next whatever it is: all of them together beat every other token.

    Args:
        time_total: logarithm of the sum over times; of probabilities, or of exponentials of logits.
        best_text: the largest logarithm of the tokens before <|0.00|>, on the same scale.
    """
    return time_total > best_text


# -------------------------------------------------------------------------- what to believe


@dataclass(frozen=True, slots=True)
class Decoding:
    """What one window, or one whole utterance, says."""

    tokens: Tokens  # timestamps included, the end not
    log_probability: float  # mean over the tokens, the end included
    no_speech: float
    compression: float

    @property
    def is_silence(self) -> bool:
        """The gate: no words for what is not speech."""
        return self.no_speech > NO_SPEECH and self.log_probability < MIN_LOG_PROBABILITY

    @property
    def is_loop(self) -> bool:
        """The text repeats itself."""
        return self.compression > MAX_COMPRESSION

    @property
    def is_good(self) -> bool:
        """Nothing to retry."""
        return not self.is_loop and self.log_probability >= MIN_LOG_PROBABILITY

    @property
    def is_settled(self) -> bool:
        """No other temperature is tried."""
        return self.is_good or self.is_silence

    @property
    def rank(self) -> tuple[bool, float]:
        """Which failed attempt is the best: one that does not loop, then the most probable."""
        return (not self.is_loop, self.log_probability)


def is_doubtful(confidences: Sequence[float]) -> bool:
    """The model does not believe the words it wrote."""
    return sum(confidences) < MIN_CONFIDENCE * len(confidences)


def compression_ratio(text: str) -> float:
    """Bytes of text per byte of its zlib stream (openai/whisper, utils.py)."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def mean_log_probability(total: float, num_tokens: int) -> float:
    """Of `num_tokens` tokens and the end behind them, whose logarithms add up to `total`."""
    return total / (num_tokens + 1)


def language_probabilities(
    vocabulary: WhisperVocabulary, probabilities: Mapping[int, float]
) -> dict[str, float]:
    """Each language's share, the most probable first; of equal ones the lowest id.

    Args:
        probabilities: of the language tokens behind <|startoftranscript|>, on any common scale.
    """
    total = sum(probabilities[token] for token in vocabulary.languages.values())
    shares = {code: probabilities[token] / total for code, token in vocabulary.languages.items()}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


# ------------------------------------------------------------------------ where to go on


def seek(tokens: Sequence[int], first_timestamp: int) -> tuple[Tokens, int]:
    """What to keep of a window's tokens, and how many samples that covers; 0: all of them.

    Where a segment ended (two timestamps in a row) and no single timestamp ends the text, the next
    window begins at that segment's end (openai/whisper, transcribe.py: seek).
    """
    is_time = [token >= first_timestamp for token in tokens]
    if is_time[-1:] == [True] and is_time[-2:-1] == [False]:
        return tuple(tokens), 0
    pairs = [i for i in range(1, len(tokens)) if is_time[i] and is_time[i - 1]]
    steps = tokens[pairs[-1] - 1] - first_timestamp if pairs else 0
    if steps == 0:
        return tuple(tokens), 0
    return tuple(tokens[: pairs[-1]]), steps * SAMPLES_PER_TIMESTAMP
