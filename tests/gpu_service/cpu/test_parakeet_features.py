"""Parakeet's features: against the reference, against the formula, and the same in any pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpu_service.cpu.mel_bank import slaney_bank
from gpu_service.cpu.parakeet_features import (
    MelStream,
    Sums,
    log_mel,
    log_mel_features,
    mel_bank,
    normalise,
    num_mel_frames,
    window,
)
from tests.fixtures.parakeet.signals import (
    GOLDEN_SIGNALS,
    SPEECH_NAME,
    SPEECH_SAMPLES,
    golden_signal,
    signal,
)

from ..speech import two_cities

Array = NDArray[np.float32]
GOLDEN = Path(__file__).parents[2] / "fixtures" / "parakeet"
AUDIO = signal(1.5, 7)  # 24000 samples, 150 frames
# Lengths around the edges of frames and windows.
EDGES = [0, 1, 40, 159, 160, 161, 199, 200, 201, 319, 320, 359, 360, 399, 400, 401, 520, 3_333]


def formula(samples: Array) -> NDArray[np.float64]:
    """(T, F) log-mel frames in double precision, one frame and one band after the other."""
    audio = samples.astype(np.float64)
    emphasised = np.concatenate([audio[:1], audio[1:] - 0.97 * audio[:-1]])
    padded = np.concatenate([np.zeros(256), emphasised, np.zeros(256)])
    hann = np.zeros(512)
    hann[56:456] = [0.5 - 0.5 * np.cos(2 * np.pi * i / 399) for i in range(400)]
    rows = []
    for frame in range(len(audio) // 160):
        power = np.abs(np.fft.rfft(padded[160 * frame : 160 * frame + 512] * hann)) ** 2
        rows.append([np.log(np.sum(power * band) + 2.0**-24) for band in mel_bank()])
    return np.array(rows).reshape(-1, 128)


def in_pieces(samples: Array, cuts: list[int]) -> MelStream:
    stream = MelStream()
    for piece in np.split(samples, sorted(cuts)):
        stream.append(piece)
    return stream


# Values


@pytest.mark.parametrize("name", [*GOLDEN_SIGNALS, SPEECH_NAME])
def test_features_equal_the_reference(name: str) -> None:
    """The reference computes in single precision: it errs by up to 1.5e-4, we by 5e-5."""
    if name == SPEECH_NAME:
        features = log_mel_features(two_cities()[:SPEECH_SAMPLES])
    else:
        features = log_mel_features(golden_signal(name))
    with np.load(GOLDEN / f"{name}.npz") as golden:
        rows, reference = golden["feature_rows"], golden["features"]
        assert features.shape == (golden["num_mel_frames"], 128)
    errors = np.abs(features[rows] - reference)
    assert errors.max() < 3e-4
    assert np.mean(errors > 1e-4) < 1e-4


@pytest.mark.parametrize("num_samples", EDGES)
def test_log_mel_equals_the_formula(num_samples: int) -> None:
    samples = AUDIO[5_000 : 5_000 + num_samples]
    raw = log_mel(samples)
    assert raw.shape == (num_mel_frames(num_samples), 128)
    assert raw.dtype == np.float32
    np.testing.assert_allclose(raw, formula(samples), atol=1e-4, rtol=0)


def test_a_normalised_band_has_mean_zero_and_deviation_one() -> None:
    raw = log_mel(AUDIO)
    features = normalise(raw)
    np.testing.assert_allclose(features.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(features.std(axis=0, ddof=1), 1.0, atol=1e-4)
    expected = (raw - raw.mean(axis=0)) / (raw.std(axis=0, ddof=1) + 1e-5)
    np.testing.assert_allclose(features, expected, atol=1e-4)
    assert np.array_equal(features, log_mel_features(AUDIO))


def test_int16_is_the_same_audio() -> None:
    samples = np.rint(AUDIO * 32768.0).astype(np.int16)
    assert np.array_equal(log_mel_features(samples), log_mel_features(AUDIO))


def test_doubles_are_taken_as_floats() -> None:
    assert np.array_equal(log_mel_features(AUDIO.astype(np.float64)), log_mel_features(AUDIO))


def test_digital_silence_is_zero_not_noise() -> None:
    assert np.allclose(log_mel(np.zeros(16_000, np.int16)), np.log(2.0**-24))
    assert np.array_equal(log_mel_features(np.zeros(16_000, np.int16)), np.zeros((100, 128)))


@pytest.mark.parametrize("level", [1e-4, 1.0])
def test_silence_before_speech_stays_finite(level: float) -> None:
    samples = np.concatenate([np.zeros(8_000, np.float32), level * AUDIO]).astype(np.float32)
    assert np.all(np.isfinite(log_mel_features(samples)))


def test_full_scale_clipping_stays_finite() -> None:
    square = np.where(np.arange(16_000) % 2 == 0, 32767, -32768).astype(np.int16)
    assert np.all(np.isfinite(log_mel_features(square)))


@pytest.mark.parametrize("num_samples", [160, 200, 319])
def test_one_frame_is_its_own_mean(num_samples: int) -> None:
    assert np.array_equal(log_mel_features(AUDIO[4_000 : 4_000 + num_samples]), np.zeros((1, 128)))


@pytest.mark.parametrize("num_samples", [0, 1, 159])
def test_less_than_a_frame_is_nothing(num_samples: int) -> None:
    assert log_mel_features(AUDIO[:num_samples]).shape == (0, 128)


# The mel bank and the window


def test_the_window_is_symmetric() -> None:
    assert window().shape == (400,)
    assert window()[0] == window()[-1] == 0.0
    np.testing.assert_allclose(window(), window()[::-1], atol=1e-7)


@pytest.mark.parametrize(("num_bands", "fft_samples"), [(128, 512), (80, 512), (128, 400)])
def test_mel_filters_are_triangles_of_unit_area(num_bands: int, fft_samples: int) -> None:
    bank = slaney_bank(num_bands, fft_samples)
    assert bank.shape == (num_bands, fft_samples // 2 + 1)
    assert bank.min() == 0.0
    peaks = bank.argmax(axis=1)
    assert np.all(np.diff(peaks) >= 0)
    wide = bank[-20:].sum(axis=1) * 16_000 / fft_samples  # wide enough to be sampled well
    np.testing.assert_allclose(wide, 1.0, atol=0.02)


def test_the_mel_bank_covers_the_spectrum_of_its_window() -> None:
    assert mel_bank().shape == (128, 257)


def test_the_mel_bank_can_not_be_changed_by_a_caller() -> None:
    with pytest.raises(ValueError, match="read-only"):
        mel_bank()[0, 0] = 1.0


@pytest.mark.parametrize("num_mels", [80, 128])
def test_other_numbers_of_bands(num_mels: int) -> None:
    features = log_mel_features(AUDIO, num_mels)
    assert features.shape == (150, num_mels)
    assert np.all(np.isfinite(features))
    assert np.array_equal(features, normalise(log_mel(AUDIO, num_mels)))


# Streams


@given(cuts=st.lists(st.integers(0, len(AUDIO)), max_size=30))
def test_no_chunking_changes_a_bit(cuts: list[int]) -> None:
    stream = in_pieces(AUDIO, cuts)
    assert np.array_equal(stream.raw(), log_mel(AUDIO))
    assert np.array_equal(stream.features(), log_mel_features(AUDIO))


@pytest.mark.parametrize("size", [1, 7, 159, 160, 161, 512, 5_120, 20_479, 20_480, 20_481])
def test_pieces_of_one_size(size: int) -> None:
    audio = AUDIO[: 2_000 * size]
    stream = in_pieces(audio, list(range(size, len(audio), size)))
    assert np.array_equal(stream.features(), log_mel_features(audio))


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 1_500), min_size=1, max_size=12), ask=st.lists(st.booleans())
)
def test_a_stream_is_the_whole_buffer_at_any_moment(lengths: list[int], ask: list[bool]) -> None:
    """Asking in between changes nothing, and each answer is that of the audio so far."""
    stream, end = MelStream(), 0
    for index, length in enumerate(lengths):
        stream.append(AUDIO[end : end + length])
        end += length
        if index < len(ask) and ask[index]:
            assert np.array_equal(stream.features(), log_mel_features(AUDIO[:end]))
    assert stream.num_samples == end
    assert stream.num_frames == num_mel_frames(end)
    assert np.array_equal(stream.raw(), log_mel(AUDIO[:end]))


@given(end=st.integers(0, len(AUDIO)), more=st.integers(0, 2_000))
def test_certain_frames_are_never_changed_by_later_samples(end: int, more: int) -> None:
    stream = MelStream()
    stream.append(AUDIO[:end])
    num_certain = stream.num_certain
    assert stream.num_frames - 1 <= num_certain <= stream.num_frames
    before = stream.raw(num_certain)
    stream.append(AUDIO[end : end + more])
    assert np.array_equal(stream.raw(num_certain), before)


@pytest.mark.parametrize("num_samples", EDGES)
def test_a_frame_is_certain_when_its_window_is_full(num_samples: int) -> None:
    stream = MelStream()
    stream.append(AUDIO[:num_samples])
    expected = sum(1 for frame in range(200) if 160 * frame + 200 <= num_samples)
    assert stream.num_certain == expected


def test_features_from_a_row_are_the_end_of_all() -> None:
    stream = MelStream()
    stream.append(AUDIO[:10_250])  # 64 frames, the last one not certain
    whole = stream.features()
    for row in (0, 1, 63, 64):
        assert np.array_equal(stream.features(row), whole[row:])


@pytest.mark.parametrize("row", [-1, 65])
def test_rows_that_are_not_there(row: int) -> None:
    stream = MelStream()
    stream.append(AUDIO[:10_250])
    with pytest.raises(ValueError, match="asked for"):
        stream.features(row)
    with pytest.raises(ValueError, match="asked for"):
        stream.raw(row)


def test_an_answer_is_the_callers_own() -> None:
    stream = MelStream()
    stream.append(AUDIO)
    stream.raw()[:] = 0.0
    assert np.array_equal(stream.raw(), log_mel(AUDIO))


def test_an_empty_stream() -> None:
    stream = MelStream()
    stream.append(AUDIO[:0])
    assert stream.features().shape == (0, 128)
    assert (stream.num_frames, stream.num_certain, stream.sums().count) == (0, 0, 0)


# Statistics


def test_sums_do_not_depend_on_how_frames_came() -> None:
    raw = log_mel(AUDIO)
    whole = Sums.zero(128).plus(raw)
    grown = Sums.zero(128)
    for row in raw:
        grown = grown.plus(row[None])
    assert grown.count == whole.count == 150
    assert np.array_equal(grown.total, whole.total)
    assert np.array_equal(grown.squares, whole.squares)


def test_statistics_count_the_frame_that_is_not_certain() -> None:
    stream = MelStream()
    stream.append(AUDIO[:10_250])
    assert stream.num_certain == 63
    assert stream.sums().count == 64
    raw = log_mel(AUDIO[:10_250]).astype(np.float64)
    np.testing.assert_allclose(stream.statistics().mean, raw.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(stream.statistics().deviation, raw.std(axis=0, ddof=1), atol=1e-9)


# Memory


def test_forgotten_frames_still_count() -> None:
    stream = MelStream()
    stream.append(AUDIO[:12_000])
    stream.forget(40)
    stream.append(AUDIO[12_000:])
    assert np.array_equal(stream.features(40), log_mel_features(AUDIO)[40:])
    with pytest.raises(ValueError, match="asked for"):
        stream.features(39)


def test_frames_to_come_are_not_forgotten() -> None:
    stream = MelStream()
    stream.append(AUDIO[:10_250])
    stream.forget(1_000)
    stream.forget(3)  # long gone
    stream.append(AUDIO[10_250:])
    assert np.array_equal(stream.features(63), log_mel_features(AUDIO)[63:])


def test_an_hour_that_is_forgotten_takes_no_memory() -> None:
    """A minute of it, by the size of what is held."""
    stream = MelStream()
    sizes = set()
    for _ in range(40):
        stream.append(AUDIO)
        stream.forget(stream.num_certain - 50)
        sizes.add(stream.num_bytes)
    assert stream.num_frames == 6_000
    assert max(sizes) < 128 * 4 * 200 + 4 * 400 + 2 * 8 * 128 + 1


def test_only_the_samples_of_open_windows_are_kept() -> None:
    stream = MelStream()
    stream.append(AUDIO)
    rows = 4 * 128 * 2 * stream.num_frames  # capacity at most doubles
    assert stream.num_bytes <= rows + 4 * 400 + 2 * 8 * 128
