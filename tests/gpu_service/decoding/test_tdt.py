"""TdtDecoder: golden tokens, the rules of the search, carried state, batches and hotwords."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_service.decoding.hotwords import HotwordTrie
from gpu_service.decoding.tdt import TdtDecoder, TdtInput, Token
from gpu_service.decoding.tdt_state import TdtState, TdtStateError

from .networks import (
    DURATIONS,
    GOLDEN,
    Array,
    golden_weights,
    random_frames,
    random_weights,
    scripted_frame,
    scripted_weights,
)

GOLDEN_FILES = sorted(GOLDEN.glob("*.npz"))


def in_pieces(
    decoder: TdtDecoder, frames: Array, lengths: list[int], hotwords: HotwordTrie | None = None
) -> tuple[list[Token], TdtState]:
    """Decode pieces of these lengths and then the rest, with carried state."""
    tokens: list[Token] = []
    state, first = decoder.start(), 0
    for length in [*lengths, len(frames)]:
        new, state = decoder.decode(frames[first : first + length], state, first, hotwords)
        tokens += new
        first = min(first + length, len(frames))
    return tokens, state


def said(tokens: list[Token]) -> list[tuple[int, int, int]]:
    return [(token.id, token.frame, token.duration) for token in tokens]


# -- golden -------------------------------------------------------------------------------


def golden(path: object) -> tuple[Array, list[tuple[int, int, int]]]:
    with np.load(path) as arrays:  # type: ignore[arg-type]
        rows = [arrays[name].tolist() for name in ("tokens", "frames", "durations")]
        return arrays["projected"], list(zip(*rows, strict=True))


@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
def test_golden_frames_give_the_reference_tokens(path: object) -> None:
    frames, expected = golden(path)
    decoder = TdtDecoder(golden_weights())
    assert said(decoder.decode(frames, decoder.start())[0]) == expected


@pytest.mark.parametrize("path", GOLDEN_FILES, ids=lambda path: path.stem)
def test_golden_frames_in_pieces_give_the_reference_tokens(path: object) -> None:
    frames, expected = golden(path)
    decoder = TdtDecoder(golden_weights())
    lengths = np.random.default_rng(0).integers(1, 9, len(frames)).tolist()
    assert said(in_pieces(decoder, frames, lengths)[0]) == expected


def test_golden_frames_in_one_batch_give_the_reference_tokens() -> None:
    decoder = TdtDecoder(golden_weights())
    rows = [golden(path) for path in GOLDEN_FILES]
    results = decoder.decode_batch([TdtInput(frames, decoder.start()) for frames, _ in rows])
    assert [said(tokens) for tokens, _ in results] == [expected for _, expected in rows]


def test_golden_files_are_there_and_use_every_duration() -> None:
    durations = Counter(d for path in GOLDEN_FILES for _, _, d in golden(path)[1])
    assert len(GOLDEN_FILES) == 6
    assert set(durations) == set(DURATIONS)


# -- the rules of the search --------------------------------------------------------------

RULES = scripted_weights(num_tokens=3)
BLANK = 3
DECODER = TdtDecoder(RULES)


def script(*steps: tuple[int, int]) -> Array:
    """Frames that each say one label and one duration."""
    return np.stack([scripted_frame(RULES, {label: 5.0}, duration) for label, duration in steps])


def test_a_token_goes_on_by_its_duration() -> None:
    tokens, state = DECODER.decode(script((0, 2), (1, 1), (2, 1)), DECODER.start())
    assert said(tokens) == [(0, 0, 2), (2, 2, 1)]
    assert (state.label, state.overshoot) == (2, 0)


def test_a_blank_goes_on_by_its_duration_too() -> None:
    tokens, _ = DECODER.decode(script((BLANK, 2), (1, 1), (2, 1)), DECODER.start())
    assert said(tokens) == [(2, 2, 1)]


def test_a_blank_of_duration_0_goes_on_by_one_frame() -> None:
    tokens, _ = DECODER.decode(script((BLANK, 0), (1, 1)), DECODER.start())
    assert said(tokens) == [(1, 1, 1)]


def test_too_many_tokens_at_one_frame_go_on_by_one_frame() -> None:
    tokens, state = DECODER.decode(script((0, 0), (1, 0), (BLANK, 1)), DECODER.start())
    assert said(tokens) == [(0, 0, 0)] * 3 + [(1, 1, 0)] * 3
    assert state.overshoot == 0


def test_the_guard_counts_only_tokens_at_the_same_frame() -> None:
    """Two tokens of duration 0, then one that goes on: nothing is skipped after it."""
    weights = scripted_weights(num_tokens=3, max_symbols=1)
    decoder = TdtDecoder(weights)
    frames = np.stack([scripted_frame(weights, {0: 5.0}, d) for d in (1, 0, 1)])
    tokens, _ = decoder.decode(frames, decoder.start())
    assert said(tokens) == [(0, 0, 1), (0, 1, 0), (0, 2, 1)]


def test_equal_logits_choose_the_lowest_label_and_duration() -> None:
    frame = np.zeros((1, RULES.width), np.float32)
    frame[0, 1:3] = 2.0  # tokens 1 and 2 alike; all durations alike, the first is 0
    tokens, _ = DECODER.decode(frame, DECODER.start())
    assert said(tokens) == [(1, 0, 0)] * 3


def test_durations_are_values_and_not_indices() -> None:
    weights = scripted_weights(num_tokens=3, durations=(1, 5))
    decoder = TdtDecoder(weights)
    frames = np.stack([scripted_frame(weights, {0: 5.0}, 5)] * 6)
    assert said(decoder.decode(frames, decoder.start())[0]) == [(0, 0, 5), (0, 5, 5)]


def test_a_blank_leaves_the_network_alone_and_a_token_does_not() -> None:
    before = DECODER.start()
    _, after_blank = DECODER.decode(script((BLANK, 1)), before)
    _, after_token = DECODER.decode(script((0, 1)), before)
    assert after_blank.to_bytes() == before.to_bytes()
    assert not np.array_equal(after_token.hidden, before.hidden)
    assert not np.array_equal(after_token.cell, before.cell)


def test_a_duration_that_runs_over_the_end_is_carried_over() -> None:
    _, state = DECODER.decode(script((0, 4)), DECODER.start())
    assert state.overshoot == 3
    tokens, state = DECODER.decode(script((1, 1), (1, 1)), state, first_frame=1)
    assert (tokens, state.overshoot) == ([], 1)
    tokens, state = DECODER.decode(script((1, 1), (2, 1)), state, first_frame=3)
    assert said(tokens) == [(2, 4, 1)]


def test_no_frames_change_nothing() -> None:
    state = DECODER.decode(script((0, 3)), DECODER.start())[1]
    tokens, same = DECODER.decode(np.zeros((0, RULES.width), np.float32), state)
    assert tokens == []
    assert same.to_bytes() == state.to_bytes()


def test_confidence_is_the_probability_among_tokens_and_blank() -> None:
    frame = scripted_frame(RULES, {0: 1.0, 1: 3.0, BLANK: 2.0}, 1)
    (token,), _ = DECODER.decode(frame[None], DECODER.start())
    assert token.confidence == pytest.approx(np.exp(3) / (1 + np.exp([1, 3, 2]).sum()), rel=1e-6)


def test_the_start_is_the_blank_after_an_empty_lstm() -> None:
    """By the formulas of an LSTM, one unit after the other."""
    weights = random_weights(7)

    def sigmoid(x: float) -> float:
        return float(1.0 / (1.0 + np.exp(-x)))

    below = weights.embedding[weights.blank_id].astype(np.float64)
    for layer in weights.lstm:
        i, _, g, o = (layer.w_input @ below + layer.bias).reshape(4, -1)
        below = np.array(
            [
                sigmoid(out) * np.tanh(sigmoid(take) * np.tanh(new))
                for take, new, out in zip(i, g, o, strict=True)
            ]
        )
    expected = weights.projector_weight @ below + weights.projector_bias
    state = TdtDecoder(weights).start()
    np.testing.assert_allclose(state.predicted, expected, atol=1e-5)
    assert (state.label, state.overshoot, state.hotword_node) == (weights.blank_id, 0, 0)


# -- pieces and batches -------------------------------------------------------------------


def test_random_networks_exercise_the_search() -> None:
    """What the properties below rest on: tokens, blanks, all durations and the guard."""
    durations: set[int] = set()
    most_at_a_frame = 0
    for seed in range(10):
        decoder = TdtDecoder(random_weights(seed))
        tokens, _ = decoder.decode(random_frames(seed, 200), decoder.start())
        assert 20 < len(tokens) < 400
        durations |= {token.duration for token in tokens}
        at_a_frame = Counter(token.frame for token in tokens)
        most_at_a_frame = max(most_at_a_frame, *at_a_frame.values())
    assert durations == set(DURATIONS)
    assert most_at_a_frame == 3


@given(st.integers(0, 99), st.integers(0, 40), st.lists(st.integers(0, 12), max_size=12))
@settings(deadline=None)
def test_any_split_gives_the_same_tokens_bit_for_bit(
    seed: int, num_frames: int, lengths: list[int]
) -> None:
    decoder = TdtDecoder(random_weights(seed))
    frames = random_frames(seed + 1, num_frames)
    hotwords = HotwordTrie([(1, 2), (2, 3, 4), (5,)], 1.5)
    whole, whole_state = decoder.decode(frames, decoder.start(), 0, hotwords)
    tokens, state = in_pieces(decoder, frames, lengths, hotwords)
    assert tokens == whole
    assert state.to_bytes() == whole_state.to_bytes()


@given(st.integers(0, 99), st.lists(st.integers(0, 20), max_size=5), st.integers(0, 9))
@settings(deadline=None)
def test_a_batch_gives_what_each_row_gives_alone_bit_for_bit(
    seed: int, sizes: list[int], split: int
) -> None:
    decoder = TdtDecoder(random_weights(seed))
    pieces = []
    for number, num_frames in enumerate(sizes):
        frames = random_frames(seed + number, num_frames)
        state = decoder.decode(frames[:split], decoder.start())[1]
        hotwords = HotwordTrie([(1, 2, 3)], 2.0) if number % 2 else None
        pieces.append(TdtInput(frames[split:], state, 10 * number, hotwords))
    alone = [decoder.decode(p.frames, p.state, p.first_frame, p.hotwords) for p in pieces]
    together = decoder.decode_batch(pieces)
    assert [tokens for tokens, _ in together] == [tokens for tokens, _ in alone]
    assert [s.to_bytes() for _, s in together] == [s.to_bytes() for _, s in alone]


def test_an_empty_batch_is_no_work() -> None:
    assert DECODER.decode_batch([]) == []


def test_a_draft_leaves_the_state_it_came_from_alone() -> None:
    decoder = TdtDecoder(random_weights(5))
    frames = random_frames(6, 30)
    state = decoder.decode(frames[:10], decoder.start())[1]
    before = state.to_bytes()
    decoder.decode(frames[10:], state)
    decoder.decode_batch([TdtInput(frames[10:], state), TdtInput(frames, state)])
    assert state.to_bytes() == before
    with pytest.raises(ValueError, match="read-only"):
        state.hidden[0, 0] = 1.0


# -- hotwords -----------------------------------------------------------------------------


def test_a_hotword_wins_a_close_decision() -> None:
    frames = scripted_frame(RULES, {0: 3.0, 1: 2.5}, 1)[None]
    plain, state = DECODER.decode(frames, DECODER.start())
    boosted, boosted_state = DECODER.decode(frames, DECODER.start(), 0, HotwordTrie([(1, 2)], 1.0))
    assert (plain[0].id, boosted[0].id) == (0, 1)
    assert (state.hotword_node, boosted_state.hotword_node) == (0, 1)


def test_a_hotword_loses_a_clear_decision() -> None:
    frames = scripted_frame(RULES, {0: 3.0, 1: 1.5}, 1)[None]
    tokens, _ = DECODER.decode(frames, DECODER.start(), 0, HotwordTrie([(1, 2)], 1.0))
    assert tokens[0].id == 0


def test_confidence_is_that_without_hotwords() -> None:
    frame = scripted_frame(RULES, {0: 3.0, 1: 2.5}, 1)
    (token,), _ = DECODER.decode(frame[None], DECODER.start(), 0, HotwordTrie([(1,)], 1.0))
    odds = np.exp(frame[:4])
    assert token.confidence == pytest.approx(odds[1] / odds.sum(), rel=1e-6)


def test_confidence_survives_an_absurd_bonus() -> None:
    frame = scripted_frame(RULES, {0: 200.0, 1: 1.0}, 1)
    (token,), _ = DECODER.decode(frame[None], DECODER.start(), 0, HotwordTrie([(1,)], 1000.0))
    assert (token.id, token.confidence) == (1, 0.0)


def test_hotwords_touch_neither_blanks_nor_durations() -> None:
    frames = np.stack(
        [
            scripted_frame(RULES, {BLANK: 3.0, 1: 2.9}, 2),
            scripted_frame(RULES, {1: 3.0}, 1),
            scripted_frame(RULES, {0: 3.0, 1: 2.5, BLANK: 2.9}, 1),
        ]
    )
    tokens, _ = DECODER.decode(frames, DECODER.start(), 0, HotwordTrie([(1,)], 1.0))
    assert said(tokens) == [(1, 2, 1)]


def test_a_phrase_goes_on_over_the_edge_of_a_piece() -> None:
    hotwords = HotwordTrie([(1, 2)], 1.0)
    state = DECODER.decode(script((1, 1)), DECODER.start(), 0, hotwords)[1]
    frame = scripted_frame(RULES, {0: 4.0, 2: 2.5}, 1)[None]
    tokens, _ = DECODER.decode(frame, state, 1, hotwords)
    assert tokens[0].id == 2  # 2 tokens of a weight of 1 outweigh 1.5
    tokens, state = DECODER.decode(frame, state, 1)
    assert tokens[0].id == 0
    assert state.hotword_node == 0


# -- restoring ----------------------------------------------------------------------------


def test_a_restored_state_goes_on_as_if_nothing_had_happened() -> None:
    decoder = TdtDecoder(random_weights(8))
    frames = random_frames(9, 60)
    hotwords = HotwordTrie([(1, 2), (7,)], 2.0)
    state = decoder.decode(frames[:25], decoder.start(), 0, hotwords)[1]
    restored = decoder.restore(state.to_bytes(), hotwords)
    tokens, end = decoder.decode(frames[25:], restored, 25, hotwords)
    expected, expected_end = decoder.decode(frames[25:], state, 25, hotwords)
    assert tokens == expected
    assert end.to_bytes() == expected_end.to_bytes()


def test_a_state_of_another_model_is_refused() -> None:
    data = TdtDecoder(random_weights(1, width=8)).start().to_bytes()
    with pytest.raises(TdtStateError, match="shape"):
        TdtDecoder(random_weights(1)).restore(data)


@pytest.mark.parametrize("change", [{"label": 31}, {"hotword_node": 1}])
def test_a_state_of_other_tokens_or_hotwords_is_refused(change: dict[str, int]) -> None:
    decoder = TdtDecoder(random_weights(1))
    data = dataclasses.replace(decoder.start(), **change).to_bytes()  # type: ignore[arg-type]
    with pytest.raises(TdtStateError, match="other"):
        decoder.restore(data)


def test_a_hotword_node_is_checked_against_the_hotwords() -> None:
    decoder = TdtDecoder(random_weights(1))
    hotwords = HotwordTrie([(1, 2)], 1.0)
    for node, fits in ((2, True), (3, False)):
        data = dataclasses.replace(decoder.start(), hotword_node=node).to_bytes()
        if fits:
            assert decoder.restore(data, hotwords).hotword_node == node
        else:
            with pytest.raises(TdtStateError):
                decoder.restore(data, hotwords)
