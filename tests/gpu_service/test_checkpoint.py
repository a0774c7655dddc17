"""Checkpoints: a stream that is restored goes on as if nothing had happened."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.checkpoint import CheckpointError, restore_checkpoint, take_checkpoint
from gpu_service.endpointer import FRAME_SAMPLES
from gpu_service.speech_events import NO_CUT_RULE, CutRule
from gpu_service.stream import Stream
from protocol import service_messages as messages
from protocol.service_messages import MAX_CHECKPOINT_BYTES

from .test_stream import CUTS, OPTIONS, SILENCE, SPEECH, Life, finals

runs = st.lists(
    st.tuples(st.sampled_from([SPEECH, SILENCE, 0.375]), st.integers(1, 40)),
    min_size=1,
    max_size=10,
)


def advanced(probabilities: list[float], frames: int, cut_rule: CutRule = NO_CUT_RULE) -> Life:
    """A life that has heard and decoded the first `frames` frames, partials included."""
    life = Life(probabilities, cut_rule=cut_rule)
    for frame in range(1, frames + 1):
        life.announce(frame * FRAME_SAMPLES)
        life.run_dry()
    return life


def identity(final: messages.Final) -> tuple[int, int, int, str]:
    return (final.utterance, final.start_sample, final.end_sample, final.text)


def finish(life: Life) -> None:
    life.announce(life.total_samples)
    life.stream.control(messages.Close(3, 7, life.total_samples))
    life.run_dry()


@given(runs=runs, fraction=st.floats(0, 1), cut_rule=st.sampled_from([NO_CUT_RULE, CUTS]))
def test_a_restored_stream_gives_the_finals_it_would_have_given(
    runs: list[tuple[float, int]], fraction: float, cut_rule: CutRule
) -> None:
    probabilities = [p for p, count in runs for _ in range(count)]
    first = advanced(probabilities, int(fraction * len(probabilities)), cut_rule)
    assert first.stream.can_checkpoint
    checkpoint = take_checkpoint(first.stream, b"vad")
    assert len(checkpoint.state) <= MAX_CHECKPOINT_BYTES
    second = Life(probabilities, cut_rule=cut_rule)
    assert restore_checkpoint(second.stream, checkpoint.state) == b"vad"
    assert second.stream.announced_sample == checkpoint.sample
    assert second.stream.transcript.stable_words == first.stream.transcript.stable_words
    given_so_far = len(finals(first))
    finish(first)
    finish(second)
    expected = [identity(final) for final in finals(first)[given_so_far:]]
    assert [identity(final) for final in finals(second)] == expected
    assert second.out[-1] == first.out[-1]  # the engine's count goes on too


def test_a_full_length_utterance_fits_the_limit() -> None:
    life = advanced([SPEECH] * 900, 900)
    assert len(take_checkpoint(life.stream, b"v" * 1280).state) < MAX_CHECKPOINT_BYTES


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x90", b"\xdc"])
def test_damaged_checkpoints_are_refused(state: bytes) -> None:
    with pytest.raises(CheckpointError):
        restore_checkpoint(Stream(0, 0, OPTIONS), state)
