"""Log-mel features against faster-whisper's."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_service.cpu.log_mel import WINDOW_FRAMES, WINDOW_SAMPLES, log_mel
from gpu_service.cpu.mel_bank import slaney_bank

from ..speech import two_cities


@pytest.mark.parametrize("num_samples", [1, 150, 160, 3_333, 64_000, WINDOW_SAMPLES - 100])
@pytest.mark.parametrize("num_bands", [80, 128])
def test_equals_faster_whisper_over_the_padded_window(num_samples: int, num_bands: int) -> None:
    from faster_whisper.feature_extractor import FeatureExtractor

    samples = two_cities()[:num_samples]
    window = np.pad(samples.astype(np.float32) / 32768.0, (0, WINDOW_SAMPLES - num_samples))
    expected = FeatureExtractor(feature_size=num_bands)(window)[:, :WINDOW_FRAMES]
    np.testing.assert_allclose(log_mel(samples, num_bands).padded(), expected, atol=1e-4)


def test_a_whole_window_is_reflected_at_its_end() -> None:
    """As torch.stft does it; faster-whisper has zeros there, in the last frame only."""
    samples = np.zeros(WINDOW_SAMPLES, np.int16)
    samples[-4_000:] = two_cities()[16_000:20_000]
    signal = np.pad(samples / 32768.0, 200, mode="reflect")
    window = signal[160 * (WINDOW_FRAMES - 1) :][:400] * np.hanning(401)[:-1]
    power = np.abs(np.fft.rfft(window)) ** 2
    mel = log_mel(samples, 80)
    expected = np.log10(np.maximum(slaney_bank(80, 400) @ power, 1e-10))
    floor = 4.0 * mel.pad_value - 4.0
    np.testing.assert_allclose(
        mel.frames[:, -1], (np.maximum(expected, floor) + 4.0) / 4.0, atol=1e-4
    )


def test_silence_has_one_value() -> None:
    mel = log_mel(np.zeros(16_000, np.int16), 80)
    assert mel.pad_value == pytest.approx(-1.5)
    assert np.ptp(mel.padded(500)) == 0.0


def test_a_longer_window_is_refused() -> None:
    with pytest.raises(ValueError, match="30 s"):
        log_mel(np.zeros(WINDOW_SAMPLES + 1, np.int16), 80)
