"""The encoder against its formulas: whole utterances, increments of every kind, batches."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpu_service.cpu.parakeet_encoder import ParakeetEncoder, open_encoder
from gpu_service.weights.parakeet_weights import prepare

from .encoder_oracle import Oracle, Step
from .parakeet_random import SMALL, random_checkpoint, random_features

Array = NDArray[np.float32]

MAX_FRAMES = 64
TOLERANCE = 1e-4  # outputs are of order 1
NUM_ROWS = 165  # 20 frames and a part of the 21st
ALL_LEFT = 40
CHECKPOINT = random_checkpoint(SMALL)
ORACLE = Oracle(CHECKPOINT)


@pytest.fixture(scope="module")
def encoder() -> ParakeetEncoder:
    return ParakeetEncoder(prepare(CHECKPOINT, MAX_FRAMES), 1)


def chunked(num_rows: int, chunk_frames: int, ahead_frames: int) -> list[Step]:
    """Equal chunks to the end, each with look-ahead as far as there is audio."""
    steps, start = [], 0
    while start * 8 < num_rows:
        end_row = min(num_rows, 8 * (start + chunk_frames + ahead_frames))
        num_commit = min(chunk_frames, end_row // 8 - start)
        steps.append(Step(num_commit, end_row))
        if num_commit == 0:
            break
        start += num_commit
    return steps


def run_steps(
    encoder: ParakeetEncoder, features: Array, steps: list[Step], left_frames: int
) -> list[Array]:
    cache = encoder.new_cache(left_frames)
    return [
        encoder.encode_chunk(cache, features[8 * cache.next_frame : step.end_row], step.num_commit)
        for step in steps
    ]


def assert_equal_to_oracle(
    encoder: ParakeetEncoder, features: Array, steps: list[Step], left_frames: int
) -> None:
    expected = ORACLE.encode_steps(features, steps, left_frames)
    answers = run_steps(encoder, features, steps, left_frames)
    assert len(answers) == len(expected)
    for answer, frames in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, frames, atol=TOLERANCE)


@pytest.mark.parametrize("num_rows", [1, 2, 7, 8, 9, 16, 17, 100, 165, 512])
def test_an_utterance_of_any_length_equals_the_formulas(
    encoder: ParakeetEncoder, num_rows: int
) -> None:
    features = random_features(num_rows, seed=num_rows)
    frames = encoder.encode_exact(features)
    assert frames.shape == (-(-num_rows // 8), SMALL.decoder_width)
    assert frames.dtype == np.float32
    np.testing.assert_allclose(frames, ORACLE.encode(features), atol=TOLERANCE)


@pytest.mark.parametrize("left_frames", [0, 3, 16, ALL_LEFT])
@pytest.mark.parametrize("ahead_frames", [0, 1, 4, 13])
def test_increments_equal_the_formulas(
    encoder: ParakeetEncoder, left_frames: int, ahead_frames: int
) -> None:
    features = random_features(NUM_ROWS)
    for chunk_frames in (1, 2, 3, 5, 8, 21):
        steps = chunked(NUM_ROWS, chunk_frames, ahead_frames)
        assert_equal_to_oracle(encoder, features, steps, left_frames)


@settings(max_examples=30)
@given(
    commits=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    aheads=st.lists(st.integers(0, 40), min_size=8, max_size=8),
    left_frames=st.integers(0, ALL_LEFT),
)
def test_increments_of_any_sizes_equal_the_formulas(
    encoder: ParakeetEncoder, commits: list[int], aheads: list[int], left_frames: int
) -> None:
    """Look-ahead counted in mel rows, so that frames at the end are often not whole."""
    ends = 8 * np.cumsum(commits) + aheads[: len(commits)]
    steps = [Step(commit, max(1, int(end))) for commit, end in zip(commits, ends, strict=True)]
    features = random_features(max(step.end_row for step in steps))
    assert_equal_to_oracle(encoder, features, steps, left_frames)


def test_one_chunk_of_everything_equals_the_whole_utterance(encoder: ParakeetEncoder) -> None:
    features = random_features(NUM_ROWS)
    cache = encoder.new_cache(ALL_LEFT)
    frames = encoder.encode_chunk(cache, features, NUM_ROWS // 8)
    np.testing.assert_array_equal(frames, encoder.encode_exact(features))
    assert cache.next_frame == NUM_ROWS // 8


def test_look_ahead_leaves_nothing_behind(encoder: ParakeetEncoder) -> None:
    features = random_features(NUM_ROWS)
    looked, plain = encoder.new_cache(16), encoder.new_cache(16)
    for start in range(0, 160, 40):
        encoder.encode_chunk(looked, features[start : start + 90], 0)
        frames, expected = (
            encoder.encode_chunk(cache, features[start : start + 64], 5)
            for cache in (looked, plain)
        )
        np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("num_utterances", [1, 3, 8])
def test_an_utterance_in_a_batch_equals_itself_alone(
    encoder: ParakeetEncoder, num_utterances: int
) -> None:
    lengths = np.array([165, 8, 300, 1, 0, 97, 64, 299])[:num_utterances]
    features = np.full((num_utterances, 320, 128), np.nan, np.float32)
    for index, length in enumerate(lengths):
        features[index, :length] = random_features(length, seed=index)
    frames, num_frames = encoder.encode(features, lengths)
    assert num_frames.tolist() == [-(-length // 8) for length in lengths]
    assert frames.shape == (num_utterances, num_frames.max(), SMALL.decoder_width)
    for index, length in enumerate(lengths):
        alone = encoder.encode_exact(features[index, :length])
        np.testing.assert_allclose(frames[index, : num_frames[index]], alone, atol=1e-5)


@pytest.mark.parametrize("num_sessions", [1, 3, 8])
def test_a_session_in_a_batch_equals_itself_alone(
    encoder: ParakeetEncoder, num_sessions: int
) -> None:
    """Sessions at different places, with chunks, look-ahead and left contexts of their own."""
    lefts = [16, 3, 0, ALL_LEFT, 16, 16, 5, 1][:num_sessions]
    utterances = [random_features(400, seed=index) for index in range(num_sessions)]
    batched = [encoder.new_cache(left) for left in lefts]
    alone = [encoder.new_cache(left) for left in lefts]
    for turn in range(6):
        commits = [(3 * turn + 5 * index) % 7 for index in range(num_sessions)]
        chunks = [
            rows[8 * cache.next_frame :][: 8 * commit + (turn + index) % 11]
            for index, (rows, cache, commit) in enumerate(
                zip(utterances, batched, commits, strict=True)
            )
        ]
        together = encoder.encode_chunks(batched, chunks, commits)
        for frames, cache, chunk, commit in zip(together, alone, chunks, commits, strict=True):
            expected = encoder.encode_chunk(cache, chunk, commit)
            assert frames.shape == expected.shape
            np.testing.assert_allclose(frames, expected, atol=1e-5)
    assert [cache.next_frame for cache in batched] == [cache.next_frame for cache in alone]


def test_a_chunk_of_no_rows_is_no_frames(encoder: ParakeetEncoder) -> None:
    cache = encoder.new_cache(4)
    nothing = np.zeros((0, 128), np.float32)
    assert encoder.encode_chunk(cache, nothing, 0).shape == (0, SMALL.decoder_width)
    assert encoder.encode_exact(nothing).shape == (0, SMALL.decoder_width)
    assert cache.next_frame == 0


def test_nobody_gets_nothing(encoder: ParakeetEncoder) -> None:
    assert encoder.encode_chunks([], [], []) == []
    frames, num_frames = encoder.encode(np.zeros((0, 16, 128), np.float32), np.zeros(0, np.int64))
    assert frames.shape == (0, 0, SMALL.decoder_width)
    assert num_frames.shape == (0,)


@pytest.mark.parametrize(("num_rows", "num_commit"), [(23, 3), (24, 4), (24, -1), (0, 1)])
def test_only_whole_frames_that_are_there_are_committed(
    encoder: ParakeetEncoder, num_rows: int, num_commit: int
) -> None:
    good, bad = encoder.new_cache(4), encoder.new_cache(4)
    chunks = [random_features(16), random_features(num_rows)]
    with pytest.raises(ValueError, match=f"{num_commit} frames of {num_rows} mel rows"):
        encoder.encode_chunks([good, bad], chunks, [2, num_commit])
    assert good.next_frame == bad.next_frame == 0


def test_the_longest_utterance_fits_and_no_longer_one(encoder: ParakeetEncoder) -> None:
    features = random_features(8 * MAX_FRAMES + 1)
    frames = encoder.encode_exact(features[:-1])
    np.testing.assert_allclose(frames, ORACLE.encode(features[:-1]), atol=TOLERANCE)
    with pytest.raises(ValueError, match="0 \\+ 65 frames are more than 64"):
        encoder.encode_exact(features)


def test_a_cache_and_its_chunk_fill_the_limit_together(encoder: ParakeetEncoder) -> None:
    features = random_features(8 * MAX_FRAMES)
    steps = [Step(40, 320), Step(0, 8 * MAX_FRAMES)]
    assert_equal_to_oracle(encoder, features, steps, ALL_LEFT)
    cache = encoder.new_cache(ALL_LEFT)
    encoder.encode_chunk(cache, features[:320], 40)
    with pytest.raises(ValueError, match="40 \\+ 25 frames are more than 64"):
        encoder.encode_chunk(cache, random_features(200), 1)
    assert cache.next_frame == 40


@pytest.mark.parametrize("left_frames", [-1, MAX_FRAMES])
def test_a_cache_leaves_room_for_a_frame(encoder: ParakeetEncoder, left_frames: int) -> None:
    with pytest.raises(ValueError, match="room for 64"):
        encoder.new_cache(left_frames)


def test_threads_share_an_encoder(encoder: ParakeetEncoder) -> None:
    utterances = [random_features(160, seed=index) for index in range(8)]
    alone = [encoder.encode_exact(features) for features in utterances]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encoder.encode_exact, utterances))
    for frames, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(frames, expected)


def test_an_opened_checkpoint_encodes_the_same_and_keeps_nothing(encoder: ParakeetEncoder) -> None:
    opened, decoder = open_encoder(CHECKPOINT, MAX_FRAMES, 1)
    features = random_features(100)
    np.testing.assert_array_equal(opened.encode_exact(features), encoder.encode_exact(features))
    stored = CHECKPOINT.tensor("joint.head.weight")
    np.testing.assert_array_equal(decoder.head_weight, stored)
    assert not np.shares_memory(decoder.head_weight, stored)
