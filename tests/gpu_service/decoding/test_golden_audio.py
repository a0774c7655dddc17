"""The whole chain on the golden checkpoint: audio, features, encoder, tokens, words."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_service.cpu.parakeet_encoder import ParakeetEncoder
from gpu_service.cpu.parakeet_features import log_mel_features
from gpu_service.decoding.pieces import Vocabulary
from gpu_service.decoding.tdt import TdtDecoder
from gpu_service.decoding.token_words import token_words
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare
from tests.fixtures.parakeet.signals import GOLDEN_SIGNALS, golden_signal

from .networks import GOLDEN


@pytest.fixture(scope="module")
def weights() -> ParakeetWeights:
    return prepare(load_checkpoint(str(GOLDEN / "tiny")), max_frames=400)


@pytest.mark.parametrize("name", GOLDEN_SIGNALS)
def test_audio_gives_the_reference_tokens(weights: ParakeetWeights, name: str) -> None:
    audio = golden_signal(name)
    frames = ParakeetEncoder(weights, num_threads=1).encode_exact(log_mel_features(audio))
    decoder = TdtDecoder(weights.decoder)
    tokens, _ = decoder.decode(frames, decoder.start())
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        assert [token.id for token in tokens] == arrays["tokens"].tolist()
        assert [token.frame for token in tokens] == arrays["frames"].tolist()
        assert [token.duration for token in tokens] == arrays["durations"].tolist()
    vocabulary = Vocabulary(weights.vocabulary)
    words = token_words(tokens, vocabulary, len(audio))
    text = vocabulary.text([token.id for token in tokens])
    assert " ".join(word.text for word in words).split() == text.split()
    assert all(0 <= word.start_sample < word.end_sample <= len(audio) for word in words)
