"""The batched Silero graph against the original one, on real speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from gpu_service.errors import ModelFileError, ModelNotFoundError
from gpu_service.vad import Vad, default_threads, find_model_file, read_model_file

from .speech import two_cities


def speech_frames() -> NDArray[np.float32]:
    audio = two_cities()[: 512 * 300].astype(np.float32) / 32768.0
    return audio.reshape(-1, 512)


def original(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """The unchanged graph over one stream: the oracle."""
    session = onnxruntime.InferenceSession(
        str(find_model_file()), providers=["CPUExecutionProvider"]
    )
    context = np.concatenate([np.zeros((1, 64), np.float32), frames[:-1, -64:]])
    state = np.zeros((1, 1, 128), np.float32)
    inputs = {"input": np.concatenate([context, frames], axis=1), "h": state, "c": state}
    return np.asarray(session.run(None, inputs)[0])


def alone(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    vad = Vad(1)
    return np.array([vad.step(np.array([0]), frame[None])[0] for frame in frames])


def test_one_row_equals_the_original_graph() -> None:
    frames = speech_frames()
    np.testing.assert_allclose(alone(frames), original(frames), atol=1e-5)


def test_rows_of_any_batch_equal_a_row_alone_bit_for_bit() -> None:
    frames = speech_frames()
    starts = [0, 40, 80, 120, 160, 200]
    streams = [frames[start : start + 100] for start in starts]
    expected = [alone(stream) for stream in streams]
    vad, position, seen = Vad(9), [0] * 6, [[0.0] * 0 for _ in starts]
    random = np.random.default_rng(1)
    while min(position) < 100:
        rows = [r for r in range(6) if position[r] < 100 and random.random() < 0.6]
        random.shuffle(rows)
        batch = np.array([streams[r][position[r]] for r in rows], np.float32).reshape(-1, 512)
        for row, probability in zip(rows, vad.step(np.array(rows, int), batch), strict=True):
            seen[row].append(float(probability))
            position[row] += 1
    for got, want in zip(seen, expected, strict=True):
        assert got == want.tolist()


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_rows_of_a_batch_split_over_threads_equal_a_row_alone_bit_for_bit(num_threads: int) -> None:
    frames = speech_frames()
    starts = np.arange(100) * 2
    expected = {start: alone(frames[start : start + 8]).tolist() for start in starts[::9]}
    vad, rows = Vad(100, num_threads=num_threads), np.random.default_rng(2).permutation(100)
    got = np.stack([vad.step(rows, frames[starts + i]) for i in range(8)], axis=1)
    assert {start: row.tolist() for start, row in zip(starts[::9], got[::9], strict=True)} == (
        expected
    )


def test_threads_by_streams_and_cores() -> None:
    assert [default_threads(32, cores) for cores in (1, 2, 16)] == [1, 1, 1]
    assert [default_threads(1_000, cores) for cores in (1, 2, 8, 16)] == [1, 1, 4, 6]


def test_reset_forgets_the_stream() -> None:
    frames = speech_frames()[40:60]
    vad = Vad(2)
    rows = np.array([1])
    first = [float(vad.step(rows, frame[None])[0]) for frame in frames]
    vad.reset(1)
    assert [float(vad.step(rows, frame[None])[0]) for frame in frames] == first


def test_wrong_calls_are_refused() -> None:
    vad = Vad(2)
    with pytest.raises(ValueError, match="distinct rows"):
        vad.step(np.array([0, 0]), np.zeros((2, 512), np.float32))
    with pytest.raises(ValueError, match="512"):
        vad.step(np.array([0]), np.zeros((1, 500), np.float32))


def test_another_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "vad.onnx"
    other.write_bytes(b"not a model")
    with pytest.raises(ModelFileError, match="sha256"):
        read_model_file(other)
    with pytest.raises(ModelNotFoundError, match="pip install"):
        read_model_file(tmp_path / "missing.onnx")
