"""Log-mel features against faster-whisper's."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_service.cpu.log_mel import WINDOW_FRAMES, WINDOW_SAMPLES, log_mel

from ..speech import two_cities


@pytest.mark.parametrize("num_samples", [1, 150, 160, 3_333, 64_000, WINDOW_SAMPLES - 100])
@pytest.mark.parametrize("num_bands", [80, 128])
def test_equals_faster_whisper_over_the_padded_window(num_samples: int, num_bands: int) -> None:
    from faster_whisper.feature_extractor import FeatureExtractor

    samples = two_cities()[:num_samples]
    window = np.pad(samples.astype(np.float32) / 32768.0, (0, WINDOW_SAMPLES - num_samples))
    expected = FeatureExtractor(feature_size=num_bands)(window)[:, :WINDOW_FRAMES]
    np.testing.assert_allclose(log_mel(samples, num_bands).padded(), expected, atol=1e-4)


def test_silence_has_one_value() -> None:
    mel = log_mel(np.zeros(16_000, np.int16), 80)
    assert mel.pad_value == pytest.approx(-1.5)
    assert np.ptp(mel.padded(500)) == 0.0


def test_a_longer_window_is_refused() -> None:
    with pytest.raises(ValueError, match="30 s"):
        log_mel(np.zeros(WINDOW_SAMPLES + 1, np.int16), 80)
