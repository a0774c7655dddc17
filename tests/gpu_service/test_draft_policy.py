"""Which words of a draft are settled: by agreement none, by attention those heard long ago."""

from __future__ import annotations

import pytest

from gpu_service.draft_policy import (
    NEAR_POSITIONS,
    POLICIES,
    REWIND_POSITIONS,
    AlignAtt,
    LocalAgreement,
    Verdict,
    num_settled,
    num_whole,
)


def test_agreement_is_left_to_drafts() -> None:
    assert LocalAgreement().judge([1, 2], [5, 6, 7], 100) == Verdict(0, 0)
    assert not POLICIES["agreement"].listens
    assert POLICIES["alignatt"].listens


@pytest.mark.parametrize(
    ("lengths", "attended", "verdict"),
    [
        ([1, 2, 1], [10, 20, 30, 90], Verdict(2, 1)),  # the last token is near the end
        ([1, 2, 1], [10, 20, 90, 95], Verdict(1, 2)),  # the second word is half heard
        ([1, 2, 1], [10, 20, 30, 40], Verdict(2, 1)),  # all are far: the last may go on
        ([1, 2, 1], [90], Verdict(2, 1)),  # the others were settled before
        ([1, 2], [], Verdict(2, 0)),  # nothing new was said
        ([], [], Verdict(0, 0)),
        ([1], [10], Verdict(0, 1)),
        ([1], [90], Verdict(0, 1)),
    ],
)
def test_attention_settles_words_that_are_whole(
    lengths: list[int], attended: list[int], verdict: Verdict
) -> None:
    assert AlignAtt().judge(lengths, attended, 100) == verdict


def test_what_is_heard_near_the_end_is_not_settled() -> None:
    assert num_settled([10, 20, 30], 100) == 3
    assert num_settled([10, 20, 100 - NEAR_POSITIONS, 30], 100) == 2
    assert num_settled([], 100) == 0
    far = REWIND_POSITIONS + 1
    assert num_settled([10, 10 + far, 9, 20], 1000) == 2
    assert num_settled([10, 10 + far, 10, 20], 1000) == 2
    assert num_settled([10, 9 + far, 10, 20], 1000) == 4


def test_whole_words() -> None:
    assert [num_whole([2, 1], count) for count in (0, 1, 2, 3, 9)] == [0, 0, 1, 2, 2]
