"""Checkpoints: a stream that is restored goes on as if nothing had happened."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_service.checkpoint import CheckpointError, restore_checkpoint, take_checkpoint
from gpu_service.endpointer import FRAME_SAMPLES, VadOptions
from gpu_service.speech_events import NO_CUT_RULE, CutRule
from gpu_service.stream import Stream
from gpu_service.utterance import Job
from protocol import service_messages as messages
from protocol.client_messages import VadOptions as AskedVadOptions
from protocol.service_messages import CHECKPOINT_VERSION, MAX_CHECKPOINT_BYTES

from .test_stream import CUTS, OPTIONS, SILENCE, SPEECH, TURNS, Life, finals

ASKED = AskedVadOptions(threshold=0.4)

runs = st.lists(
    st.tuples(st.sampled_from([SPEECH, SILENCE, 0.375]), st.integers(1, 40)),
    min_size=1,
    max_size=10,
)


def advanced(
    probabilities: list[float],
    frames: int,
    cut_rule: CutRule = NO_CUT_RULE,
    options: VadOptions = OPTIONS,
) -> Life:
    """A life that has heard and decoded the first `frames` frames, partials included."""
    life = Life(probabilities, options, cut_rule)
    for frame in range(1, frames + 1):
        life.announce(frame * FRAME_SAMPLES)
        life.run_dry()
    return life


def identity(final: messages.Final) -> tuple[int, int, int, str]:
    return (final.utterance, final.start_sample, final.end_sample, final.text)


def ends_of_turns(life: Life) -> list[tuple[int, int]]:
    return [(m.utterance, m.end_sample) for m in life.out if isinstance(m, messages.EndOfTurn)]


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


@pytest.mark.parametrize("quiet", [0, 4, 6, 40])
@pytest.mark.parametrize("frames", [60, 66, 73, 74, 75])  # 62 are the longest, 75 with a cut's rest
@pytest.mark.parametrize("more", [0, 1, 50])
def test_a_model_that_hears_less_gets_no_more_than_it_can_hear(
    quiet: int, frames: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a swap: what the model before had open may be longer than this one's longest."""
    probabilities = [SPEECH] * (frames - min(quiet, 6)) + [SILENCE] * quiet + [SPEECH] * more
    first = advanced(probabilities, min(frames, len(probabilities)), CUTS)
    second = Life(probabilities)
    restore_checkpoint(second.stream, take_checkpoint(first.stream, b"").state)
    next_job, lengths = second.stream.next_job, []

    def limited(hop_samples: float) -> Job | None:
        job = next_job(hop_samples)
        if job is not None:
            lengths.append(job.feed_to - job.utterance.start_sample)
        return job

    monkeypatch.setattr(Stream, "next_job", lambda stream, hop: limited(hop))
    second.run_dry()
    finish(second)
    assert max(lengths, default=0) <= OPTIONS.max_utterance_ms * 16
    said = finals(first) + finals(second)
    assert all(one.end_sample <= next_one.start_sample for one, next_one in pairwise(said))
    assert said[-1].end_sample >= (frames - min(quiet, 6)) * FRAME_SAMPLES, "no word is lost"


def test_a_full_length_utterance_fits_the_limit() -> None:
    """Of the longest that is allowed, with its probabilities."""
    options = VadOptions(max_utterance_ms=60_000)
    life = advanced([SPEECH] * 1_800, 1_800, options=options)  # 57.6 s
    assert life.stream.endpointer.utterance_start == 0
    assert len(take_checkpoint(life.stream, b"v" * 1280).state) < MAX_CHECKPOINT_BYTES


@given(runs=runs, fraction=st.floats(0, 1), cut_rule=st.sampled_from([NO_CUT_RULE, CUTS]))
def test_a_restored_stream_ends_the_turns_that_it_would_have_ended(
    runs: list[tuple[float, int]], fraction: float, cut_rule: CutRule
) -> None:
    probabilities = [p for p, count in [*runs, (SPEECH, 5), (SILENCE, 30)] for _ in range(count)]
    first = advanced(probabilities, int(fraction * len(probabilities)), cut_rule, TURNS)
    second = Life(probabilities, TURNS, cut_rule)
    restore_checkpoint(second.stream, take_checkpoint(first.stream, b"").state)
    num_so_far = len(ends_of_turns(first))
    finish(first)
    finish(second)
    assert ends_of_turns(second) == ends_of_turns(first)[num_so_far:]
    assert ends_of_turns(first)


def test_a_turn_is_still_waited_for_behind_a_checkpoint() -> None:
    probabilities = [SPEECH] * 10 + [SILENCE] * 25
    first = advanced(probabilities, 34, options=TURNS)
    second = Life(probabilities, TURNS)
    restore_checkpoint(second.stream, take_checkpoint(first.stream, b"").state)
    assert not ends_of_turns(first)
    finish(second)
    assert ends_of_turns(second) == [(0, 10 * FRAME_SAMPLES + 160 * 16)]


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x90", b"\xdc"])
def test_damaged_checkpoints_are_refused(state: bytes) -> None:
    with pytest.raises(CheckpointError):
        restore_checkpoint(Stream(0, 0, OPTIONS), state)


def test_a_checkpoint_of_another_release_is_refused() -> None:
    fields = msgspec.msgpack.decode(take_checkpoint(Stream(0, 0, OPTIONS), b"").state)
    state = msgspec.msgpack.encode([CHECKPOINT_VERSION + 1, *fields[1:]])
    with pytest.raises(CheckpointError, match=f"version {CHECKPOINT_VERSION + 1}"):
        restore_checkpoint(Stream(0, 0, OPTIONS), state)


def test_a_checkpoint_counts_the_controls_before_it() -> None:
    """A gateway sends the others again; each control makes a checkpoint due."""
    life = advanced([SILENCE] * 20, 10)
    life.stream.take_committed()
    at = 10 * FRAME_SAMPLES
    for control in (messages.Finalize(3, 7, 1, at), messages.Configure(3, 7, at, ASKED)):
        life.stream.control(control)
        life.run_dry()
        assert life.stream.take_committed()
    checkpoint = take_checkpoint(life.stream, b"")
    assert checkpoint.controls == 2
    again = Life([SILENCE] * 20)
    restore_checkpoint(again.stream, checkpoint.state)
    assert take_checkpoint(again.stream, b"").controls == 2


def test_another_model_hears_an_open_utterance_from_its_start() -> None:
    """What the first model carried over a cut, and wants to hear again, is its own affair."""
    first = advanced([SPEECH] * 120, 120, CUTS)
    first.stream.model = "one"
    utterance = first.stream.open_utterance
    assert utterance is not None
    assert utterance.context_sample < utterance.start_sample
    assert utterance.carry
    checkpoint = take_checkpoint(first.stream, b"vad")
    for model, context_sample, carry in (
        ("one", utterance.context_sample, utterance.carry),
        ("two", utterance.start_sample, b""),
    ):
        second = Life([SPEECH] * 120, cut_rule=CUTS)
        second.stream.model = model
        assert restore_checkpoint(second.stream, checkpoint.state) == b"vad"
        restored = second.stream.open_utterance
        assert restored is not None
        assert (restored.number, restored.start_sample) == (
            utterance.number,
            utterance.start_sample,
        )
        assert (restored.context_sample, restored.carry) == (context_sample, carry)
        assert second.stream.released_sample >= checkpoint.sample
        assert second.stream.transcript.stable_words == first.stream.transcript.stable_words
        finish(second)
        assert finals(second)[0].utterance == utterance.number
