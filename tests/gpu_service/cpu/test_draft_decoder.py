"""Drafts: a guess changes the time that they take, not what they say."""

from __future__ import annotations

import pytest

from gpu_service.cpu.draft_decoder import DraftDecoder
from gpu_service.cpu.log_mel import log_mel
from gpu_service.cpu.model_files import ModelFiles
from gpu_service.cpu.whisper_encoder import WhisperEncoder
from gpu_service.cpu.whisper_tokens import WhisperTokens
from gpu_service.decoding.whisper_alignment import attended_positions

from ..speech import two_cities

SPEECH = two_cities()[:64_000]  # "It was the best of times, it was the worst of times."


@pytest.fixture(scope="module")
def tokens(model_files: ModelFiles) -> WhisperTokens:
    return WhisperTokens(model_files.tokenizer, model_files.config)


@pytest.fixture(scope="module")
def decoder(
    model_files: ModelFiles, encoder: WhisperEncoder, tokens: WhisperTokens
) -> DraftDecoder:
    return DraftDecoder(
        model_files.weights,
        encoder.shape,
        end=tokens.eot,
        suppressed=tokens.suppressed,
        suppressed_first=tokens.suppressed_first,
        num_threads=1,
    )


def test_decodes_speech(
    decoder: DraftDecoder, encoder: WhisperEncoder, tokens: WhisperTokens
) -> None:
    encoded = encoder.encode(log_mel(SPEECH, 80))
    prompt = [*tokens.start(None), tokens.no_timestamps]
    alone = decoder.decode(encoded, prompt, [], [], 60)
    assert tokens.decode(alone.tokens).startswith(" It was the best of times")
    assert len(alone.probabilities) == len(alone.tokens)
    assert all(0.0 <= probability <= 1.0 for probability in alone.probabilities)


def test_wrong_guesses_are_dropped_and_right_ones_kept(
    decoder: DraftDecoder, encoder: WhisperEncoder, tokens: WhisperTokens
) -> None:
    encoded = encoder.encode(log_mel(SPEECH, 80))
    prompt = [*tokens.start(None), tokens.no_timestamps]
    alone = decoder.decode(encoded, prompt, [], [], 60).tokens
    wrong = tokens.encode(" Completely other words")
    for kept in range(0, len(alone), 3):
        guess = [*alone[:kept], *wrong]
        assert decoder.decode(encoded, prompt, [], guess, 60).tokens == alone


def test_forced_tokens_stay(
    decoder: DraftDecoder, encoder: WhisperEncoder, tokens: WhisperTokens
) -> None:
    encoded = encoder.encode(log_mel(SPEECH, 80))
    forced = tokens.encode(" He said")
    prompt = [*tokens.start(None), tokens.no_timestamps]
    draft = decoder.decode(encoded, prompt, forced, [], 60)
    assert list(draft.tokens[: len(forced)]) == forced


def test_the_cap_holds(
    decoder: DraftDecoder, encoder: WhisperEncoder, tokens: WhisperTokens
) -> None:
    encoded = encoder.encode(log_mel(SPEECH, 80))
    prompt = [*tokens.start(None), tokens.no_timestamps]
    assert len(decoder.decode(encoded, prompt, [], [], 3).tokens) == 3


def test_aligned_heads_say_what_they_listened_to_and_change_no_token(
    decoder: DraftDecoder,
    encoder: WhisperEncoder,
    tokens: WhisperTokens,
    model_files: ModelFiles,
) -> None:
    """Of every token, guessed or chosen."""
    listening = DraftDecoder(
        model_files.weights,
        encoder.shape,
        end=tokens.eot,
        suppressed=tokens.suppressed,
        suppressed_first=tokens.suppressed_first,
        num_threads=1,
        aligned=tokens.alignment_heads,
    )
    encoded = encoder.encode(log_mel(SPEECH, 80))
    prompt = [*tokens.start(None), tokens.no_timestamps]
    plain = decoder.decode(encoded, prompt, [], [], 60)
    assert plain.scores is None
    heard = listening.decode(encoded, prompt, [], [], 60)
    assert heard.tokens == plain.tokens
    assert heard.scores is not None
    assert heard.scores.shape == (len(heard.tokens), len(tokens.alignment_heads), 1500)
    guess = [*plain.tokens[:6], *tokens.encode(" Completely other words")]
    again = listening.decode(encoded, prompt, [], guess, 60)
    assert again.tokens == plain.tokens
    assert again.scores is not None
    listened, once_more = (attended_positions(s, 200) for s in (heard.scores, again.scores))
    assert listened == pytest.approx(sorted(listened), abs=20), "the text follows the audio"
    assert once_more == pytest.approx(listened, abs=20), "but for rounding"
