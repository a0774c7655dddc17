"""Our encoder against CTranslate2's: equal over the full window, close with cached padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu_service.cpu import whisper_encoder
from gpu_service.cpu.log_mel import log_mel
from gpu_service.cpu.whisper_decode import storage
from gpu_service.cpu.whisper_encoder import WhisperEncoder

from ..speech import two_cities


def test_full_window_equals_ctranslate2(encoder: WhisperEncoder, ctranslate2_model: Any) -> None:
    mel = log_mel(two_cities()[:64_000], 80)
    expected = np.array(ctranslate2_model.encode(storage(mel.padded()[None])))
    np.testing.assert_allclose(encoder.encode(mel, exact=True).states, expected, atol=1e-3)


def test_cached_padding_computes_the_speech_only(encoder: WhisperEncoder) -> None:
    mel = log_mel(two_cities()[:64_000], 80)
    exact, cached = encoder.encode(mel, exact=True), encoder.encode(mel)
    assert exact.padding is None
    assert cached.padding is not None
    assert 200 < cached.num_computed < 300
    assert cached.states.shape == exact.states.shape == (1, 1500, 384)
    error = np.abs(cached.states - exact.states)[:, :200].mean()
    assert error < 0.1 * np.abs(exact.states).mean()


def test_the_same_audio_gives_the_same_bits(encoder: WhisperEncoder) -> None:
    mel = log_mel(two_cities()[:40_000], 80)
    first = encoder.encode(mel).states
    encoder.encode(log_mel(two_cities()[:90_000] // 8, 80))
    assert np.array_equal(encoder.encode(mel).states, first)


def test_long_audio_takes_the_full_window(encoder: WhisperEncoder) -> None:
    encoded = encoder.encode(log_mel(two_cities()[: 29 * 16_000], 80))
    assert encoded.num_computed == 1500
    assert encoded.padding is None


def test_padding_is_bounded_and_used_least_recently_goes_first(encoder: WhisperEncoder) -> None:
    audio = two_cities()[:16_000].astype(np.float32)
    for scale in (1.0, 0.3, 0.03, 0.003, 0.0003, 0.0):
        encoder.encode(log_mel((audio * scale).astype(np.int16), 80))
    assert 0 < encoder.num_cached_bytes() <= whisper_encoder.MAX_CACHE_BYTES
