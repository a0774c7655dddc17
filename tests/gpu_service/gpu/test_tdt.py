"""GpuTdtDecoder against TdtDecoder: tokens, states, hotwords, batches, splits, in every mode."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gpu_service.decoding.hotwords import HotwordTrie
from gpu_service.decoding.tdt import TdtDecoder
from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder_weights import Precision
from gpu_service.gpu.tdt import DecodeRow
from gpu_service.gpu.tdt_buffers import persistent_shared_bytes
from gpu_service.gpu.tdt_search import GraphMode

from ..decoding.networks import (
    GOLDEN,
    golden_weights,
    random_frames,
    scripted_frame,
    scripted_weights,
)
from .tdt_pair import (
    PRECISIONS,
    WIDTH,
    assert_said,
    assert_state,
    bits,
    make_decoder,
    make_oracle,
    run,
    said,
    small_weights,
    tries,
    upload_frames,
)

MODES = list(GraphMode)
by_mode = pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
by_precision = pytest.mark.parametrize("precision", PRECISIONS)


# -- the oracle's tokens and states -------------------------------------------------------


@by_mode
@by_precision
@pytest.mark.parametrize("lengths", [[25], [9, 0, 30], [12, 1, 0, 17, 5, 8, 22, 3, 14]], ids=len)
def test_a_batch_of_mixed_lengths_says_what_the_oracle_says(
    device: Device, precision: Precision, mode: GraphMode, lengths: list[int]
) -> None:
    weights = small_weights(1)
    decoder, oracle = make_decoder(device, weights, precision), make_oracle(weights, precision)
    frames, on_device = upload_frames(device, lengths, seed=2)
    rows = [DecodeRow(i, 0, n, decoder.START, i) for i, n in enumerate(lengths)]
    results = run(device, decoder, on_device, rows, mode)
    for index, length in enumerate(lengths):
        tokens, state = oracle.decode(frames[index, :length], oracle.start())
        assert_said(results[index], tokens)
        assert_state(decoder.get_state(index), state)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.npz")), ids=lambda path: path.stem)
def test_golden_frames_give_the_reference_tokens(device: Device, path: str) -> None:
    with np.load(path) as arrays:
        frames = arrays["projected"][None]
        expected = [arrays[name].tolist() for name in ("tokens", "frames", "durations")]
    decoder = make_decoder(device, golden_weights(), "fp32")
    rows = [DecodeRow(0, 0, frames.shape[1], decoder.START, 0)]
    (result,) = run(device, decoder, device.upload(frames), rows)
    assert said(result) == list(zip(*expected, strict=True))


@by_mode
@pytest.mark.parametrize("num_layers", [1, 3])
def test_other_depths_of_the_network(device: Device, num_layers: int, mode: GraphMode) -> None:
    weights = small_weights(3, num_layers=num_layers)
    decoder, oracle = make_decoder(device, weights), make_oracle(weights)
    frames, on_device = upload_frames(device, [20, 20, 20], seed=4)
    rows = [DecodeRow(i, 0, 20, decoder.START, i) for i in range(3)]
    results = run(device, decoder, on_device, rows, mode)
    for index in range(3):
        tokens, state = oracle.decode(frames[index], oracle.start())
        assert_said(results[index], tokens)
        assert_state(decoder.get_state(index), state)


@by_precision
@pytest.mark.parametrize("num_resident", [0, 2, 99])
@pytest.mark.parametrize("num_blocks", [1, 3])
def test_shares_of_one_block_or_of_many_in_shared_memory_or_not(
    device: Device, precision: Precision, num_blocks: int, num_resident: int
) -> None:
    weights = small_weights(5)
    oracle = make_oracle(weights, precision)
    frames, on_device = upload_frames(device, [10, 10], seed=6)
    shared = persistent_shared_bytes(
        make_decoder(device, weights, precision)._buffers, num_resident
    )
    decoder = make_decoder(device, weights, precision, num_blocks=num_blocks, shared_bytes=shared)
    rows = [DecodeRow(i, 0, 10, decoder.START, i) for i in range(2)]
    for index, result in enumerate(run(device, decoder, on_device, rows)):
        assert_said(result, oracle.decode(frames[index], oracle.start())[0])


def test_a_batch_of_more_rows_than_shared_memory_takes_at_once(device: Device) -> None:
    weights = small_weights(7)
    decoder, oracle = make_decoder(device, weights), make_oracle(weights)
    frames, on_device = upload_frames(device, [8] * 24, seed=8)
    rows = [DecodeRow(i, 0, 8, decoder.START, decoder.scratch(i)) for i in range(24)]
    for index, result in enumerate(run(device, decoder, on_device, rows)):
        tokens, state = oracle.decode(frames[index], oracle.start())
        assert_said(result, tokens)
        assert_state(decoder.get_state(decoder.scratch(index)), state)


def test_rows_of_a_launch_are_any_part_of_the_frames(device: Device) -> None:
    weights = small_weights(9)
    decoder, oracle = make_decoder(device, weights), make_oracle(weights)
    frames, on_device = upload_frames(device, [30] * 4, seed=10)
    parts = [(3, 5, 20), (0, 29, 1), (3, 0, 5), (1, 30, 0)]
    rows = [DecodeRow(*part, decoder.START, i) for i, part in enumerate(parts)]
    results = run(device, decoder, on_device, rows)
    for result, (row, first, count) in zip(results, parts, strict=True):
        assert_said(result, oracle.decode(frames[row, first : first + count], oracle.start())[0])


def test_no_rows_are_no_work(device: Device) -> None:
    decoder = make_decoder(device, small_weights(1))
    ticket = decoder.enqueue(device.zeros((1, 4, WIDTH), np.float32), [])
    device.synchronize()
    said = decoder.read(ticket)
    assert (said.rows(), said.num_turns) == ([], 0)


def test_the_start_is_the_oracles(device: Device) -> None:
    weights = small_weights(2)
    decoder, oracle = make_decoder(device, weights), make_oracle(weights)
    assert decoder.get_state(decoder.START).to_bytes() == oracle.start().to_bytes()


# -- the rules of the search --------------------------------------------------------------

RULES = dataclasses.replace(scripted_weights(num_tokens=42), max_symbols=3)  # J = 48
BLANK = 42


@by_mode
def test_the_rules_of_the_search(device: Device, mode: GraphMode) -> None:
    """Durations of tokens and blanks, the guard, equal logits, and what runs over the end."""
    tie = np.zeros(RULES.width, np.float32)
    tie[7:9] = 2.0
    scripts = [
        [(0, 2), (1, 1), (2, 1)],
        [(BLANK, 2), (1, 1), (2, 1)],
        [(BLANK, 0), (1, 1)],
        [(0, 0), (1, 0), (BLANK, 1)],
        [(0, 4)],
        [(BLANK, 4), (1, 1)],
    ]
    rows = [
        np.stack([scripted_frame(RULES, {label: 5.0}, duration) for label, duration in script])
        for script in scripts
    ]
    rows.append(tie[None])
    decoder, oracle = make_decoder(device, RULES), TdtDecoder(RULES)
    frames = np.zeros((len(rows), 3, RULES.width), np.float32)
    for index, row in enumerate(rows):
        frames[index, : len(row)] = row
    requests = [DecodeRow(i, 0, len(row), decoder.START, i) for i, row in enumerate(rows)]
    results = run(device, decoder, device.upload(frames), requests, mode)
    for index, row in enumerate(rows):
        tokens, state = oracle.decode(row, oracle.start())
        assert_said(results[index], tokens)
        assert decoder.get_state(index).overshoot == state.overshoot
    assert said(results[3]) == [(0, 0, 0)] * 3 + [(1, 1, 0)] * 3
    assert said(results[6]) == [(7, 0, 0)] * 3


def test_durations_are_values_and_not_indices(device: Device) -> None:
    weights = scripted_weights(num_tokens=45, durations=(1, 5))
    frames = np.stack([scripted_frame(weights, {0: 5.0}, 5)] * 6)[None]
    decoder = make_decoder(device, weights)
    (result,) = run(device, decoder, device.upload(frames), [DecodeRow(0, 0, 6, decoder.START, 0)])
    assert said(result) == [(0, 0, 5), (0, 5, 5)]


def test_turns_are_those_of_the_longest_row(device: Device) -> None:
    decoder = make_decoder(device, RULES)
    blank = scripted_frame(RULES, {BLANK: 5.0}, 1)
    frames = device.upload(np.stack([blank] * 9)[None])
    rows = [DecodeRow(0, 0, 4, decoder.START, 0), DecodeRow(0, 0, 9, decoder.START, 1)]
    for mode in MODES:
        ticket = decoder.enqueue(frames, rows, mode)
        device.synchronize()
        assert decoder.read(ticket).num_turns == 9


# -- pieces, bit for bit (batches and modes: test_tdt_batches.py) --------------------------


@by_mode
def test_pieces_say_the_same_bits_as_the_whole(device: Device, mode: GraphMode) -> None:
    """Overshoots run over the ends of pieces, also of empty ones."""
    decoder = make_decoder(device, small_weights(13), num_hotwords=1)
    decoder.load_hotwords(0, tries(1)[0])
    _, frames = upload_frames(device, [40], seed=14)
    (whole,) = run(device, decoder, frames, [DecodeRow(0, 0, 40, decoder.START, 0, 0)], mode)
    lengths = np.random.default_rng(0).integers(0, 5, 40).tolist()
    first, before, pieces = 0, decoder.START, []
    for length in [*lengths, 40]:
        count = min(length, 40 - first)
        (piece,) = run(device, decoder, frames, [DecodeRow(0, first, count, before, 1, 0)], mode)
        pieces += [(i, f + first, d) for i, f, d in said(piece)]
        first, before = first + count, 1
    assert pieces == said(whole)
    assert decoder.get_state(1).to_bytes() == decoder.get_state(0).to_bytes()


def test_a_draft_leaves_the_state_it_came_from_alone(device: Device) -> None:
    decoder = make_decoder(device, small_weights(15))
    _, frames = upload_frames(device, [20, 20], seed=16)
    rows = [DecodeRow(i, 0, 8, decoder.START, i) for i in range(2)]
    drafts = [DecodeRow(i, 8, 12, i, decoder.scratch(i)) for i in range(2)]
    run(device, decoder, frames, rows)
    before = [decoder.get_state(i).to_bytes() for i in range(2)]
    first = [bits(result) for result in run(device, decoder, frames, drafts)]
    assert [decoder.get_state(i).to_bytes() for i in range(2)] == before
    assert [bits(result) for result in run(device, decoder, frames, drafts)] == first


def test_a_restored_state_goes_on_as_if_nothing_had_happened(device: Device) -> None:
    decoder = make_decoder(device, small_weights(17))
    _, frames = upload_frames(device, [30], seed=18)
    run(device, decoder, frames, [DecodeRow(0, 0, 12, decoder.START, 0)])
    decoder.set_state(5, decoder.get_state(0))
    rows = [DecodeRow(0, 12, 18, 0, 0), DecodeRow(0, 12, 18, 5, 5)]
    kept, restored = run(device, decoder, frames, rows)
    assert bits(kept) == bits(restored)
    assert decoder.get_state(0).to_bytes() == decoder.get_state(5).to_bytes()


# -- hotwords -----------------------------------------------------------------------------


@by_mode
@by_precision
def test_hotwords_choose_what_the_oracle_chooses(
    device: Device, precision: Precision, mode: GraphMode
) -> None:
    weights = small_weights(19)
    decoder = make_decoder(device, weights, precision, num_hotwords=4)
    oracle = make_oracle(weights, precision)
    loaded = tries(4)
    for index, trie in enumerate(loaded):
        decoder.load_hotwords(index, trie)
    frames, on_device = upload_frames(device, [30] * 5, seed=20)
    rows = [DecodeRow(i, 0, 30, decoder.START, i, i if i < 4 else -1) for i in range(5)]
    results = run(device, decoder, on_device, rows, mode)
    changed = 0
    for index, result in enumerate(results):
        hotwords = loaded[index] if index < 4 else None
        tokens, state = oracle.decode(frames[index], oracle.start(), 0, hotwords)
        assert_said(result, tokens)
        assert_state(decoder.get_state(index), state)
        changed += tokens != oracle.decode(frames[index], oracle.start())[0]
    assert changed >= 3


def test_hotwords_touch_neither_blanks_nor_durations(device: Device) -> None:
    steps = [({BLANK: 3.0, 1: 2.9}, 2), ({1: 3.0}, 1), ({0: 3.0, 1: 2.5, BLANK: 2.9}, 1)]
    frames = device.upload(np.stack([scripted_frame(RULES, *step) for step in steps])[None])
    decoder = make_decoder(device, RULES, num_hotwords=1)
    decoder.load_hotwords(0, HotwordTrie([(1,)], 1.0))
    (result,) = run(device, decoder, frames, [DecodeRow(0, 0, 3, decoder.START, 0, 0)])
    assert said(result) == [(1, 2, 1)]
    odds = np.exp([3.0, 2.5, 2.9])
    assert result.confidences[0] == pytest.approx(odds[1] / (odds.sum() + 40), rel=1e-5)


def test_a_longer_end_decides_over_a_shorter_one(device: Device) -> None:
    """The bonus of token 3 behind 1, 2 is that of (1, 2, 3), not the larger one of (2, 3)."""
    trie = HotwordTrie([(1, 2), (1, 2, 3), (2, 3)], 1.0)
    assert trie.bonus(trie.next(trie.next(0, 1), 2))[3] == 1.0
    steps = [({1: 9.0}, 1), ({2: 9.0}, 1), ({3: 3.0, 4: 4.5}, 1)]
    frames = device.upload(np.stack([scripted_frame(RULES, *step) for step in steps])[None])
    decoder = make_decoder(device, RULES, num_hotwords=1)
    decoder.load_hotwords(0, trie)
    (result,) = run(device, decoder, frames, [DecodeRow(0, 0, 3, decoder.START, 0, 0)])
    assert result.ids.tolist() == [1, 2, 4]


def test_hotwords_of_a_state_without_any_begin_anew(device: Device) -> None:
    decoder = make_decoder(device, RULES, num_hotwords=1)
    decoder.load_hotwords(0, HotwordTrie([(1, 2)], 1.0))
    frames = device.upload(scripted_frame(RULES, {1: 5.0}, 1)[None, None])
    run(device, decoder, frames, [DecodeRow(0, 0, 1, decoder.START, 0, 0)])
    assert decoder.get_state(0).hotword_node == 1
    run(device, decoder, frames, [DecodeRow(0, 0, 0, 0, 0)])
    assert decoder.get_state(0).hotword_node == 0


# -- tickets, and what is refused -----------------------------------------------------------


def test_many_launches_may_be_outstanding_before_one_wait(device: Device) -> None:
    weights = small_weights(21)
    decoder, oracle = make_decoder(device, weights), make_oracle(weights)
    frames, on_device = upload_frames(device, [30], seed=22)
    lengths = [4, 0, 7, 1, 9, 9]
    tickets, first, before = [], 0, decoder.START
    for count in lengths:
        tickets.append(decoder.enqueue(on_device, [DecodeRow(0, first, count, before, 0)]))
        first, before = first + count, 0
    device.synchronize()
    found, first = [], 0
    for ticket, count in zip(tickets, lengths, strict=True):
        (piece,) = decoder.results(ticket)
        found += [(i, f + first, d) for i, f, d in said(piece)]
        first += count
    tokens, _ = oracle.decode(frames[0], oracle.start())
    assert found == [(t.id, t.frame, t.duration) for t in tokens]


START = 12  # of make_decoder()


@pytest.mark.parametrize(
    "rows",
    [
        [DecodeRow(2, 0, 1, START, 0)],
        [DecodeRow(-1, 0, 1, START, 0)],
        [DecodeRow(0, 3, 2, START, 0)],
        [DecodeRow(0, -1, 2, START, 0)],
        [DecodeRow(0, 0, -1, START, 0)],
        [DecodeRow(0, 0, 1, 0, START)],
        [DecodeRow(0, 0, 1, START + 25, 0)],
        [DecodeRow(0, 0, 1, START, -1)],
        [DecodeRow(0, 0, 1, START, 1), DecodeRow(1, 0, 1, START, 1)],
        [DecodeRow(0, 0, 1, START, 1), DecodeRow(1, 0, 1, 1, 2)],
        [DecodeRow(0, 0, 1, START, 0, hotwords=0)],
        [DecodeRow(0, 0, 0, START, i % 12) for i in range(25)],
    ],
)
def test_rows_that_are_wrong_are_refused(device: Device, rows: list[DecodeRow]) -> None:
    decoder = make_decoder(device, RULES)
    with pytest.raises(ValueError, match=r"rows|state|hotwords"):
        decoder.enqueue(device.zeros((2, 4, RULES.width), np.float32), rows)


def test_frames_of_another_width_or_type_are_refused(device: Device) -> None:
    decoder = make_decoder(device, RULES)
    for shape in ((1, 4, 32), (4, 48)):
        with pytest.raises(ValueError, match="frames"):
            decoder.enqueue(device.zeros(shape, np.float32), [])
    with pytest.raises(ValueError, match="frames"):
        decoder.enqueue(device.zeros((1, 4, 48), np.float16), [])


def test_sizes_that_can_not_be_are_refused(device: Device) -> None:
    with pytest.raises(ValueError, match="batch"):
        make_decoder(device, RULES, max_batch=513)
    with pytest.raises(ValueError, match="shared memory"):
        make_decoder(device, RULES, shared_bytes=10_000)
    with pytest.raises(ValueError, match="tries"):
        make_decoder(device, RULES, num_hotwords=2**15)
    with pytest.raises(ValueError, match="symbols"):
        make_decoder(device, dataclasses.replace(RULES, max_symbols=256))
    with pytest.raises(ValueError, match="multiple of 16"):
        make_decoder(device, scripted_weights(num_tokens=3))
    decoder = make_decoder(device, RULES)
    with pytest.raises(ValueError, match="start"):
        decoder.set_state(decoder.START, decoder.get_state(0))
    with pytest.raises(IndexError):
        decoder.scratch(24)


def test_frames_of_a_big_network(device: Device) -> None:
    weights = small_weights(23, width=160)  # several steps for each warp
    decoder, oracle = make_decoder(device, weights), make_oracle(weights)
    frames = np.stack([random_frames(24 + i, 6, 160) for i in range(9)])
    rows = [DecodeRow(i, 0, 6, decoder.START, i) for i in range(9)]
    for index, result in enumerate(run(device, decoder, device.upload(frames), rows)):
        tokens, state = oracle.decode(frames[index], oracle.start())
        assert_said(result, tokens)
        assert_state(decoder.get_state(index), state)
