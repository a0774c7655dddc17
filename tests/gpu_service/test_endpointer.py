"""Endpointer: named situations, then properties over any probabilities."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_service.endpointer import FRAME_SAMPLES, Endpointer, State
from gpu_service.speech_events import (
    CandidateEnd,
    Cut,
    CutRule,
    EndOfTurn,
    Event,
    NonSpeech,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
    VadOptions,
)

F = FRAME_SAMPLES
PAD = 160 * 16
OPTIONS = VadOptions()  # 400 ms of silence: 13 frames; 160 ms of padding: 5 frames


def run(text: str, options: VadOptions = OPTIONS) -> list[Event]:
    """Events of frames drawn as text: S speech, h between the thresholds, any other silence."""
    levels = {"S": 0.9, "h": 0.4}
    return Endpointer(options).push_all(levels.get(c, 0.01) for c in text)


def test_speech_then_a_long_pause() -> None:
    events = run("." * 10 + "S" * 20 + "." * 13)
    assert events == [
        NonSpeech(0, 10 * F - PAD),
        SpeechStarted(10 * F - PAD, 10 * F),
        CandidateEnd(30 * F + PAD),
        SpeechStopped(30 * F + PAD),
    ]


def test_candidate_comes_as_soon_as_the_padding_is_known() -> None:
    assert not any(isinstance(e, CandidateEnd) for e in run("SSSS...."))
    assert run("SSSS.....")[-1] == CandidateEnd(4 * F + PAD)


def test_a_short_pause_resumes() -> None:
    events = run("SSSS" + "." * 8 + "S" + "." * 13)
    assert events[1:] == [
        CandidateEnd(4 * F + PAD),
        SpeechResumed(12 * F),
        CandidateEnd(13 * F + PAD),
        SpeechStopped(13 * F + PAD),
    ]


def test_between_the_thresholds_speech_goes_on_but_does_not_begin() -> None:
    assert run("h" * 50) == []
    assert run("SS" + "h" * 30 + "." * 5)[-1] == CandidateEnd(32 * F + PAD)
    assert run("SS.hhhh.")[-1] == CandidateEnd(2 * F + PAD)  # a pause goes on below threshold


def test_a_click_is_no_speech_but_finalize_keeps_it() -> None:
    assert run("....S" + "." * 20) == []
    endpointer = Endpointer(OPTIONS)
    endpointer.push_all([0.0] * 20 + [0.9])
    assert endpointer.state is State.PENDING
    assert endpointer.released_sample() == 20 * F - PAD
    assert endpointer.finalize(21 * F + 100) == [
        NonSpeech(0, 20 * F - PAD),
        SpeechStarted(20 * F - PAD, 20 * F),
        SpeechStopped(21 * F + 100),
    ]


def test_finalize_in_a_pause_keeps_the_padding_and_reports_the_rest() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.push_all([0.9] * 4 + [0.0] * 8)
    assert endpointer.finalize(12 * F + 7) == [
        SpeechStopped(4 * F + PAD),
        NonSpeech(4 * F + PAD, 12 * F + 7),
    ]


def test_after_finalize_the_frame_grid_stays_and_padding_does_not_reach_back() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.push_all([0.9] * 4)
    assert endpointer.finalize(4 * F + 9) == [SpeechStopped(4 * F + 9)]
    assert endpointer.push_all([0.9] * 2) == [SpeechStarted(4 * F + 9, 4 * F)]
    assert endpointer.utterance_start == 4 * F + 9


def test_finalize_twice_at_one_sample_says_nothing_more() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.push_all([0.0] * 4)
    assert endpointer.finalize(4 * F) == [NonSpeech(0, 4 * F)]
    assert endpointer.finalize(4 * F) == []


@pytest.mark.parametrize("at_sample", [3 * F, 5 * F, 4 * F - 1])
def test_finalize_wants_all_whole_frames_first(at_sample: int) -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.push_all([0.9] * 4)
    with pytest.raises(ValueError, match="finalize at"):
        endpointer.finalize(at_sample)


def test_long_silence_is_reported_and_released() -> None:
    endpointer = Endpointer(OPTIONS)
    events = endpointer.push_all([0.0] * 1000)
    assert [type(e) for e in events] == [NonSpeech] * 3
    assert endpointer.released_sample() == 1000 * F - PAD


SHORT = VadOptions(max_utterance_ms=4000)  # 125 frames


def test_endless_speech_is_cut_at_its_best_gap() -> None:
    events = run("S" * 80 + "." * 5 + "S" * 15 + "." * 3 + "S" * 100, SHORT)
    cut = 82 * F + F // 2
    where = next(i for i, event in enumerate(events) if isinstance(event, Cut))
    assert events[where].end_sample == cut
    assert events[where + 1] == SpeechStarted(cut, cut, continues=True)


def test_a_gap_in_the_first_half_is_no_place_to_cut() -> None:
    cut = run("S" * 20 + "." * 5 + "S" * 120, SHORT)[-2]
    assert isinstance(cut, Cut)
    assert cut.end_sample > 62 * F


def test_a_candidate_at_the_maximum_becomes_the_end() -> None:
    options = VadOptions(max_utterance_ms=4000, min_silence_ms=1500)
    events = run("S" * 110 + "." * 40, options)
    assert events[1:] == [CandidateEnd(110 * F + PAD), SpeechStopped(110 * F + PAD)]


@pytest.mark.parametrize("seconds", [1, 2, 3, 4])
def test_what_a_model_hears_behind_a_cut_does_not_move_it(seconds: int) -> None:
    """The gap is looked for in the second half of the longest utterance, not of what is heard."""
    options = VadOptions(max_utterance_ms=1_000 * seconds)
    endpointer = Endpointer(options, CutRule(right_samples=32_000))
    period = 10  # frames, of which two are a gap that is no pause
    events = endpointer.push_all(0.4 if i % period < 2 else 0.9 for i in range(period * 50))
    cuts = [event.end_sample for event in events if isinstance(event, Cut)]
    assert len(cuts) > 2
    assert all(cut // F % period < 2 for cut in cuts)
    lengths = [end - start for start, end in pairwise(cuts)]
    assert all(500 * 16 * seconds < length <= 1_000 * 16 * seconds for length in lengths)


def test_a_cut_in_the_last_pause_leaves_silence() -> None:
    events = run("S" * 120 + "." * 60, VadOptions(max_utterance_ms=4000, speech_pad_ms=300))
    assert events == [SpeechStarted(0, 0), Cut(120 * F + F // 2, 125 * F)]


def test_safe_samples_never_pass_the_end_of_a_pause_that_lasts() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.push_all([0.9] * 4)
    assert endpointer.safe_sample() == 4 * F
    endpointer.push_all([0.0] * 8)
    assert endpointer.safe_sample() == 4 * F + PAD


def test_off_hears_everything() -> None:
    off = VadOptions(enabled=False, max_utterance_ms=4000)
    endpointer = Endpointer(off)
    assert endpointer.push(0.0) == [SpeechStarted(0, 0)]
    assert endpointer.finalize(F + 5) == [SpeechStopped(F + 5)]
    assert endpointer.finalize(F + 5) == []
    assert endpointer.finalize(F + 8) == [SpeechStarted(F + 5, F + 5), SpeechStopped(F + 8)]


# 800 ms of patience are 25 frames; a pause of 11 frames ends an utterance
TURNS = VadOptions(end_of_turn_ms=800)


def turns(text: str, options: VadOptions = TURNS) -> list[Event]:
    """What says where somebody spoke and where a turn ended."""
    return [e for e in run(text, options) if isinstance(e, SpeechStopped | Cut | EndOfTurn)]


def test_a_turn_ends_when_nobody_spoke_for_its_patience() -> None:
    stopped = SpeechStopped(10 * F + PAD)
    assert turns("S" * 10 + "." * 24) == [stopped]
    assert turns("S" * 10 + "." * 25) == [stopped, EndOfTurn(10 * F + PAD)]
    assert turns("S" * 10 + "." * 900) == [stopped, EndOfTurn(10 * F + PAD)]


def test_a_turn_goes_on_over_utterances_while_somebody_speaks_in_time() -> None:
    events = turns("S" * 10 + "." * 24 + "SS" + "." * 24)
    assert [type(e) for e in events] == [SpeechStopped, SpeechStopped]
    events = turns("S" * 10 + "." * 24 + "SS" + "." * 25)
    assert events[2:] == [EndOfTurn(36 * F + PAD)]


def test_patience_shorter_than_a_pause_ends_the_turn_with_the_utterance() -> None:
    options = VadOptions(end_of_turn_ms=0)
    assert turns("S" * 10 + "." * 10, options) == []
    end = 10 * F + PAD
    assert turns("S" * 10 + "." * 11, options) == [SpeechStopped(end), EndOfTurn(end)]


def test_a_sound_is_waited_for_until_it_is_speech_or_not() -> None:
    stopped, ended = SpeechStopped(10 * F + PAD), EndOfTurn(10 * F + PAD)
    click = "S" * 10 + "." * 24 + "S"
    assert turns(click + "." * 10) == [stopped]
    assert turns(click + "." * 11) == [stopped, ended]
    assert turns(click + "..S" + "." * 11) == [stopped, SpeechStopped(38 * F + PAD)]


def test_without_speech_or_without_being_asked_there_is_no_turn() -> None:
    assert turns("." * 400 + "S" + "." * 100) == []
    assert turns("S" * 10 + "." * 400, OPTIONS) == [SpeechStopped(10 * F + PAD)]
    off = VadOptions(enabled=False, end_of_turn_ms=800, max_utterance_ms=4000)
    endpointer = Endpointer(off)
    events = endpointer.push_all([0.0] * 300) + endpointer.finalize(300 * F)
    assert not any(isinstance(e, EndOfTurn) for e in events)


def test_finalize_counts_patience_from_where_it_ended_the_speech() -> None:
    endpointer = Endpointer(TURNS)
    endpointer.push_all([0.9] * 10)
    assert endpointer.finalize(10 * F + 9) == [SpeechStopped(10 * F + 9)]
    assert endpointer.push_all([0.0] * 25) == []
    assert endpointer.push(0.0) == [EndOfTurn(10 * F + 9)]


def test_finalize_in_a_pause_and_in_the_silence_behind_it_changes_nothing_about_the_turn() -> None:
    endpointer = Endpointer(TURNS)
    endpointer.push_all([0.9] * 10 + [0.0] * 8)
    endpointer.finalize(18 * F)
    endpointer.push_all([0.0] * 8)
    endpointer.finalize(26 * F + 100)
    assert endpointer.push_all([0.0] * 8) == []
    assert endpointer.push(0.0) == [EndOfTurn(10 * F + PAD)]


def test_finalize_in_the_middle_of_speech_leaves_the_turn_open() -> None:
    endpointer = Endpointer(TURNS)
    endpointer.push_all([0.9] * 10)
    endpointer.finalize(10 * F)
    events = endpointer.push_all([0.9] * 10 + [0.0] * 25)
    ends = [e for e in events if isinstance(e, EndOfTurn)]
    assert ends == [EndOfTurn(20 * F + PAD)]


def test_speech_that_is_cut_is_one_turn() -> None:
    options = VadOptions(max_utterance_ms=4000, end_of_turn_ms=800)
    events = turns("S" * 300 + "." * 25, options)
    assert [type(e) for e in events] == [Cut, Cut, SpeechStopped, EndOfTurn]
    assert events[-1] == EndOfTurn(300 * F + PAD)


def test_a_cut_in_the_last_pause_ends_the_last_utterance_of_the_turn() -> None:
    options = VadOptions(max_utterance_ms=4000, speech_pad_ms=300, end_of_turn_ms=800)
    cut = Cut(120 * F + F // 2, 125 * F)
    assert turns("S" * 120 + "." * 24, options) == [cut]
    assert turns("S" * 120 + "." * 25, options) == [cut, EndOfTurn(cut.end_sample)]


def test_options_that_change_hold_for_the_turn_that_waits() -> None:
    def changed(options: VadOptions, more: int) -> list[Event]:
        endpointer = Endpointer(TURNS)
        endpointer.push_all([0.9] * 10 + [0.0] * 15)
        endpointer.options = options
        return endpointer.push_all([0.0] * more)

    ended = EndOfTurn(10 * F + PAD)
    assert changed(VadOptions(end_of_turn_ms=500), 1) == [ended]
    assert changed(VadOptions(end_of_turn_ms=1600), 34) == []
    assert changed(VadOptions(end_of_turn_ms=1600), 35) == [ended]
    assert changed(VadOptions(), 100) == []
    off = changed(VadOptions(enabled=False), 100)
    assert not any(isinstance(e, EndOfTurn) for e in off)


def test_a_turn_that_nobody_asked_for_is_forgotten() -> None:
    endpointer = Endpointer(OPTIONS)
    endpointer.push_all([0.9] * 10 + [0.0] * 15)
    endpointer.options = TURNS
    assert endpointer.push_all([0.0] * 100) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"end_of_turn_ms": -1},
        {"threshold": 0.0},
        {"neg_threshold": 0.6},
        {"min_speech_ms": -1},
        {"min_silence_ms": 100},
        {"max_utterance_ms": 61_000},
        {"max_utterance_ms": 1000, "min_silence_ms": 900},
    ],
)
def test_contradicting_options_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must|negative"):
        VadOptions(**wrong)  # type: ignore[arg-type]


# -- properties ------------------------------------------------------------------------------

runs = st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), st.integers(1, 60))
probability_lists = st.lists(runs, max_size=25).map(lambda rs: [p for p, n in rs for _ in range(n)])
options_lists = st.builds(
    VadOptions,
    enabled=st.sampled_from([True, True, True, False]),
    min_speech_ms=st.sampled_from([0, 32, 64, 100]),
    min_silence_ms=st.sampled_from([200, 400, 700]),
    speech_pad_ms=st.sampled_from([0, 100, 160, 200]),
    max_utterance_ms=st.sampled_from([2000, 4000, 30_000]),
    end_of_turn_ms=st.sampled_from([None, 0, 500, 2000]),
)


def intervals(events: list[Event]) -> list[tuple[int, int, bool]]:
    """(start, end, is_speech) of the tiles, checking the order of events on the way."""
    tiles: list[tuple[int, int, bool]] = []
    start: int | None = None
    for event in events:
        if isinstance(event, NonSpeech):
            assert start is None
            tiles.append((event.start_sample, event.end_sample, False))
        elif isinstance(event, SpeechStarted):
            assert start is None
            start = event.start_sample
        elif isinstance(event, SpeechStopped | Cut):
            assert start is not None
            tiles.append((start, event.end_sample, True))
            start = None
        elif isinstance(event, EndOfTurn):
            assert start is None
        else:
            assert start is not None
    assert start is None
    return tiles


@given(probability_lists, options_lists, st.integers(0, F - 1))
@settings(max_examples=150, deadline=None)
def test_tiles_without_gap_and_holds_all_speech(
    probabilities: list[float], options: VadOptions, rest: int
) -> None:
    endpointer = Endpointer(options)
    events = endpointer.push_all(probabilities)
    total = len(probabilities) * F + rest
    tiles = intervals(events + endpointer.finalize(total))
    assert [t[0] for t in tiles] == [0, *(t[1] for t in tiles)][: len(tiles)]
    assert all(start < end for start, end, _ in tiles)
    assert (tiles[-1][1] if tiles else 0) == total
    assert all(e - s <= options.max_utterance_ms * 16 for s, e, is_speech in tiles if is_speech)
    if options.min_speech_ms <= 32:
        for frame, probability in enumerate(probabilities):
            if probability >= options.threshold:
                silent = [
                    t for t in tiles if not t[2] and t[0] < frame * F + F and t[1] > frame * F
                ]
                assert not silent


@given(probability_lists, options_lists, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_any_split_gives_the_same_events_and_keeps_what_they_name(
    probabilities: list[float], options: VadOptions, random: object
) -> None:
    together = Endpointer(options).push_all(probabilities)
    endpointer, apart, released = Endpointer(options), [], 0
    for probability in probabilities:
        events = endpointer.push(probability)
        for event in events:
            if isinstance(event, SpeechStarted):
                assert event.start_sample >= released
        apart += events
        assert endpointer.released_sample() >= released
        released = endpointer.released_sample()
    assert apart == together


@given(probability_lists, options_lists, st.integers(0, F - 1), st.integers(0, 1500))
@settings(max_examples=150, deadline=None)
def test_ends_of_turns_come_once_for_the_last_speech_and_change_nothing_else(
    probabilities: list[float], options: VadOptions, rest: int, finalize_at: int
) -> None:
    def life(options: VadOptions) -> list[Event]:
        endpointer = Endpointer(options)
        events = endpointer.push_all(probabilities[:finalize_at])
        events += endpointer.finalize(endpointer.position_sample + rest)
        events += endpointer.push_all(probabilities[finalize_at:])
        # long enough for any patience, and for a sound that may yet be speech
        return events + endpointer.push_all([0.0] * 120)

    asked = life(options)
    plain = life(replace(options, end_of_turn_ms=None))
    assert [e for e in asked if not isinstance(e, EndOfTurn)] == plain
    wants_turns = options.end_of_turn_ms is not None and options.enabled
    last_end: int | None = None  # of an utterance whose turn has not ended
    for event in asked:
        if isinstance(event, SpeechStopped | Cut):
            last_end = event.end_sample
        elif isinstance(event, EndOfTurn):
            assert wants_turns
            assert event.end_sample == last_end
            last_end = None
    assert last_end is None or not wants_turns
