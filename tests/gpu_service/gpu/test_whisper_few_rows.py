"""A step of few rows in one kernel says what products and kernels of their own say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpu_service.gpu import whisper_few_rows
from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder_weights import Precision
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.tdt_search import GraphMode
from gpu_service.gpu.whisper_decoder import MODES, GpuWhisperDecoder, Request
from gpu_service.gpu.whisper_few_rows import MAX_ROWS, num_splits, supports
from gpu_service.gpu.whisper_weights import load_whisper_decoder

from .emulator import EmulatedDevice, EmulatedGemms, why_unavailable
from .test_whisper_decoder import Pair
from .test_whisper_encoder import POSITIONS, WINDOWS, Rig, checkpoint

WIDTH = 256
NARROW = 128
PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")
WIDER = 640  # a thread copies four times of a row
TRUE_FACTOR = 4  # of feed forward to width, in every true model


def pairs(
    device: Device,
    gemms: Gemms,
    *,
    multilingual: bool = False,
    width: int = WIDTH,
    ffn_factor: int = 2,
    positions: int = POSITIONS,
) -> tuple[Pair, Pair]:
    """Decoders with the kernel and without it, of one encoder."""
    model = checkpoint(multilingual=multilingual, width=width, ffn_factor=ffn_factor)
    rig = Rig.of(device, gemms, model, "fp16", positions=positions)
    assert supports(device, rig.encoder.weights, MAX_ROWS)
    weights = load_whisper_decoder(device, model, rig.encoder.weights)
    fused, plain = (
        GpuWhisperDecoder(
            device, gemms, rig.encoder, weights, model.vocabulary, fuses_few_rows=fuses
        )
        for fuses in (True, False)
    )
    return Pair(rig, fused), Pair(rig, plain)


def check_tokens(fused: Pair, plain: Pair, requests: list[Request]) -> None:
    """Both say the same."""
    ours, theirs = (pair.said(requests, GraphMode.FULL_GRAPH) for pair in (fused, plain))
    for said, expected in zip(ours, theirs, strict=True):
        assert said.tokens == expected.tokens
        assert said.ended is expected.ended
        assert said.log_probabilities == pytest.approx(expected.log_probabilities, abs=0.02)


def check_logits(fused: Pair, plain: Pair, request: Request) -> None:
    """Behind one step from the same x and cache they are near."""
    logits = []
    for pair in (fused, plain):
        pair.said([replace(request, max_tokens=1)], GraphMode.EAGER)
        logits.append(pair.rig.device.download(pair.decoder.buffers.logits)[0])
    size = fused.rig.oracle.vocabulary.size
    ours, theirs = (values[:size] for values in logits)
    assert np.linalg.norm(ours - theirs) < 2e-3 * np.linalg.norm(theirs)
    assert np.linalg.norm(theirs) > 1.0


@pytest.mark.parametrize("num_rows", [1, 2, 3])
def test_tokens_are_those_of_separate_kernels(device: Device, gemms: Gemms, num_rows: int) -> None:
    """Of rows with prompts of different lengths, which end at different times."""
    fused, plain = pairs(device, gemms)
    requests = [replace(r, max_tokens=2 + i) for i, r in enumerate(fused.requests()[:num_rows])]
    check_tokens(fused, plain, requests)


def test_words_that_were_left_over_are_not_taken(device: Device, gemms: Gemms) -> None:
    """Of other tokens, of rows that ended early, of batches of other sizes."""
    fused, plain = pairs(device, gemms)
    first, second, _ = fused.requests()
    check_tokens(fused, plain, [replace(first, max_tokens=1), replace(second, max_tokens=3)])
    check_tokens(fused, plain, [replace(second, max_tokens=3)])
    check_tokens(fused, plain, [replace(second, max_tokens=3), replace(first, max_tokens=2)])


@pytest.mark.parametrize(
    ("width", "ffn_factor"), [(NARROW, 2), (NARROW, TRUE_FACTOR), (WIDTH, 2), (WIDER, 2)]
)
def test_logits_are_those_of_separate_kernels(
    device: Device, gemms: Gemms, width: int, ffn_factor: int
) -> None:
    fused, plain = pairs(device, gemms, width=width, ffn_factor=ffn_factor)
    check_logits(fused, plain, fused.requests()[0])


def test_a_thread_copies_five_times_of_a_row(
    device: Device, gemms: Gemms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in large-v3: lanes have more words of an input than all can."""
    monkeypatch.setattr(whisper_few_rows, "MOST_WARPS", 2)
    fused, plain = pairs(device, gemms, width=320)
    check_logits(fused, plain, fused.requests()[0])


def test_more_keys_than_a_block_takes_at_once(device: Device, gemms: Gemms) -> None:
    """A block of this width takes 128."""
    fused, plain = pairs(device, gemms, width=NARROW, positions=280)
    request, words = fused.requests()[1], fused.rig.oracle.vocabulary
    context = [5 + i % 80 for i in range(150)]
    longer = replace(request, prompt=(words.previous, *context, *request.prompt[3:]))
    check_logits(fused, plain, longer)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_says_the_same(device: Device, gemms: Gemms, mode: GraphMode) -> None:
    fused, _ = pairs(device, gemms, multilingual=True)
    requests = [replace(fused.requests()[0], max_tokens=3)]
    assert fused.said(requests, mode) == fused.said(requests, GraphMode.EAGER)


def test_a_row_does_not_depend_on_its_neighbours(device: Device, gemms: Gemms) -> None:
    fused, _ = pairs(device, gemms)
    requests = [replace(request, max_tokens=3) for request in fused.requests()[:2]]
    first = fused.said(requests, GraphMode.FULL_GRAPH)[0]
    changed = [requests[0], replace(requests[1], max_tokens=1)]
    assert fused.said(changed, GraphMode.FULL_GRAPH)[0] == first
    fused.decoder.decode(fused.rig.encoder.encode(WINDOWS[:2]), [requests[0], None])
    device.synchronize()
    assert fused.decoder.read(1)[0] == first
    assert np.isfinite(device.download(fused.decoder.buffers.x)).all()


def test_watched_rows_keep_what_separate_kernels_keep(device: Device, gemms: Gemms) -> None:
    kept = []
    for pair in pairs(device, gemms, multilingual=True):
        request = replace(pair.requests()[1], watched=True)
        said = pair.said([request], GraphMode.FULL_GRAPH)[0]
        kept.append(pair.decoder.attention(0, len(said.log_probabilities)))
    assert kept[0].size
    np.testing.assert_allclose(kept[0], kept[1], atol=0.02)


@pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
def test_blocks_share_the_audio_where_there_are_more_than_heads() -> None:
    device = EmulatedDevice(num_sms=9)  # of 4 heads, two each, and one has nothing to hear
    fused, plain = pairs(device, EmulatedGemms(device), multilingual=True, positions=150)
    logits, kept = [], []
    for pair in (fused, plain):
        request = replace(pair.requests()[1], watched=True, max_tokens=1)
        pair.said([request], GraphMode.EAGER)
        logits.append(device.download(pair.decoder.buffers.logits)[0])
        kept.append(pair.decoder.attention(0, 1))
    assert num_splits(device, fused.rig.encoder.weights.config, 1, 150) == 2
    np.testing.assert_allclose(logits[0], logits[1], atol=0.05)
    np.testing.assert_allclose(kept[0], kept[1], atol=0.02)
    assert kept[0].shape[-1] == 150


@pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
def test_every_block_has_rows_of_a_narrow_model() -> None:
    """Of 64 blocks two of each matrix, and the other multiprocessors have none."""
    device = EmulatedDevice(num_sms=80)
    fused, plain = pairs(device, EmulatedGemms(device), width=NARROW, positions=150)
    check_logits(fused, plain, fused.requests()[0])


@pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))
def test_a_short_ring_is_filled_in_the_middle_of_a_product() -> None:
    device = EmulatedDevice()
    device.shared_bytes_per_block = 60 * 1024  # five or six places, six units in a slice of FC2
    fused, plain = pairs(device, EmulatedGemms(device))
    check_logits(fused, plain, fused.requests()[0])
    check_tokens(fused, plain, [replace(request, max_tokens=2) for request in fused.requests()])


def test_what_it_is_not_made_for(device: Device, gemms: Gemms) -> None:
    half, single = (
        Rig.of(device, gemms, checkpoint(width=WIDTH), precision).encoder.weights
        for precision in PRECISIONS
    )
    assert supports(device, half, MAX_ROWS)
    assert not supports(device, half, MAX_ROWS + 1)
    assert not supports(device, single, 1)
    odd = replace(half, config=replace(half.config, ffn_width=3 * WIDTH // 2))
    assert not supports(device, odd, 1)
    wide_heads = replace(half, config=replace(half.config, num_heads=WIDTH // 128))
    assert not supports(device, wide_heads, 1)
    single_layer = replace(half, config=replace(half.config, decoder_layers=1))
    assert not supports(device, single_layer, 1)
    huge = replace(half, config=replace(half.config, width=1 << 14, ffn_width=1 << 16))
    assert not supports(device, huge, 1)
