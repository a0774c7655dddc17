"""Turns of a stream: an end comes once, in its place in the order, at any pace of the engine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpu_service.endpointer import FRAME_SAMPLES, VadOptions
from gpu_service.speech_events import NO_CUT_RULE, CutRule
from protocol import service_messages as messages
from protocol.client_messages import VadOptions as AskedVadOptions

from .test_stream import (
    CUTS,
    OPTIONS,
    SILENCE,
    SPEECH,
    TURNS,
    Life,
    assert_tiles,
    finals,
    probability_runs,
    whole_life,
)

F = FRAME_SAMPLES
PAD = 160 * 16


def in_order(life: Life) -> list[tuple[str, int, int]]:
    """What has its place in the order: name, utterance or start, end."""
    return [
        ("end of turn", m.utterance, m.end_sample)
        if isinstance(m, messages.EndOfTurn)
        else (type(m).__name__.lower(), m.start_sample, m.end_sample)
        for m in life.out
        if isinstance(m, messages.Final | messages.NonSpeech | messages.EndOfTurn)
    ]


def test_a_turn_ends_behind_the_final_of_its_last_utterance_and_says_which_that_was() -> None:
    two = [SPEECH] * 10 + [SILENCE] * 15 + [SPEECH] * 10 + [SILENCE] * 30
    life = whole_life([*two, *two], [], [], options=TURNS)
    assert [m for m in in_order(life) if m[0] != "nonspeech"] == [
        ("final", 0, 10 * F + PAD),
        ("final", 25 * F - PAD, 35 * F + PAD),
        ("end of turn", 1, 35 * F + PAD),
        ("final", 65 * F - PAD, 75 * F + PAD),
        ("final", 90 * F - PAD, 100 * F + PAD),
        ("end of turn", 3, 100 * F + PAD),
    ]


def test_a_turn_that_ended_while_recognition_was_behind_waits_for_its_final() -> None:
    life = Life([SPEECH] * 10 + [SILENCE] * 30 + [SPEECH] * 10, TURNS)
    life.announce(life.total_samples)
    life.listen()
    assert not life.of(messages.EndOfTurn, messages.Final)
    assert len(life.of(messages.SpeechStarted)) == 2
    assert life.recognize()
    assert [type(m) for m in life.out[-3:]] == [
        messages.Final, messages.EndOfTurn, messages.NonSpeech,
    ]  # fmt: skip
    (ended,) = life.of(messages.EndOfTurn)
    assert ended == messages.EndOfTurn(3, 7, life.total_samples, 0, 10 * F + PAD)


def test_a_turn_is_committed_so_that_a_new_service_does_not_say_it_again() -> None:
    life = Life([SPEECH] * 10 + [SILENCE] * 30, TURNS)
    kinds: list[type] = []
    for until in range(F, life.total_samples + 1, F):
        num_out = len(life.out)
        life.announce(until)
        life.run_dry()
        if life.stream.take_committed():
            kinds += [type(m) for m in life.out[num_out:]]
    assert kinds == [messages.SpeechStopped, messages.Final, messages.EndOfTurn]


def test_a_finalize_in_the_silence_before_the_turn_ends_is_answered_first() -> None:
    life = whole_life([SPEECH] * 10 + [SILENCE] * 40, [22 * F], [], options=TURNS)
    kinds = [kind for kind, *_ in in_order(life)]
    assert kinds == ["final", "nonspeech", "final", "end of turn", "nonspeech"]


def reconfigured(first: VadOptions, then: AskedVadOptions, at_frame: int) -> Life:
    life = Life([SPEECH] * 10 + [SILENCE] * 90, first)
    life.announce(at_frame * F)
    life.run_dry()
    life.stream.control(messages.Configure(3, 7, at_frame * F, then))
    life.announce(life.total_samples)
    life.stream.control(messages.Close(3, 7, life.total_samples))
    life.run_dry()
    return life


def test_turns_follow_the_options_that_hold() -> None:
    asked = AskedVadOptions(end_of_turn_ms=800)
    assert reconfigured(OPTIONS, asked, 5).of(messages.EndOfTurn)
    assert reconfigured(TURNS, AskedVadOptions(end_of_turn_ms=1_500), 25).of(messages.EndOfTurn)
    assert not reconfigured(TURNS, AskedVadOptions(), 25).of(messages.EndOfTurn)
    off = AskedVadOptions(enabled=False, end_of_turn_ms=800)
    assert not reconfigured(TURNS, off, 25).of(messages.EndOfTurn)


def test_what_a_configure_leaves_open_is_the_servers_default_again() -> None:
    life = reconfigured(
        VadOptions(enabled=False, min_silence_ms=640, max_utterance_ms=2_000), AskedVadOptions(), 5
    )
    assert life.stream.options == life.stream.defaults == VadOptions()
    assert len(finals(life)) == 2  # up to there without, behind it with voice activity detection


@given(
    runs=probability_runs,
    fractions=st.lists(st.floats(0, 1), max_size=3),
    pieces=st.lists(st.integers(1, 20_000), max_size=12),
    cut_rule=st.sampled_from([NO_CUT_RULE, CUTS]),
)
def test_turns_do_not_depend_on_the_pace(
    runs: list[tuple[float, int]], fractions: list[float], pieces: list[int], cut_rule: CutRule
) -> None:
    probabilities = [p for p, count in runs for _ in range(count)]
    finalizes = [int(fraction * len(probabilities) * F) for fraction in fractions]
    paced = whole_life(probabilities, finalizes, pieces, cut_rule, TURNS)
    at_once = whole_life(probabilities, finalizes, [], cut_rule, TURNS)
    assert in_order(paced) == in_order(at_once)
    assert_tiles(paced)
