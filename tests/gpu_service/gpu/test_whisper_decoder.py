"""Whisper's decoder on the device says the oracle's tokens: every mode, batch and rule."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from gpu_service.decoding.whisper_oracle import Decoded, TextState
from gpu_service.decoding.whisper_rules import TokenRules
from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder_weights import Precision
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.tdt_search import GraphMode
from gpu_service.gpu.whisper_decoder import MODES, GpuWhisperDecoder, Request
from gpu_service.gpu.whisper_weights import load_whisper_decoder

from .test_whisper_encoder import WINDOWS, Rig, checkpoint

MAX_TOKENS = 10


@dataclass(frozen=True, slots=True)
class Pair:
    """An encoder and a decoder on the device, and their oracle."""

    rig: Rig
    decoder: GpuWhisperDecoder

    @classmethod
    def of(cls, device: Device, gemms: Gemms, precision: Precision, multilingual: bool) -> Pair:
        model = checkpoint(multilingual=multilingual)
        rig = Rig.of(device, gemms, model, precision)
        weights = load_whisper_decoder(device, model, rig.encoder.weights)
        decoder = GpuWhisperDecoder(device, gemms, rig.encoder, weights, model.vocabulary)
        return cls(rig, decoder)

    def requests(self) -> list[Request]:
        """With times, without them and with context, and at a temperature."""
        words = self.rig.oracle.vocabulary
        start = [words.start]
        if words.is_multilingual:
            start += [words.languages["fr"], words.transcribe]
        timed, plain = TokenRules(words, True), TokenRules(words, False)
        return [
            Request(tuple(start), timed, MAX_TOKENS),
            Request((words.previous, 5, 6, *start, words.no_timestamps), plain, 4),
            Request(tuple(start), timed, 7, temperature=0.8, seed=3_000_000_000),
        ]

    def expected(self, requests: list[Request]) -> list[Decoded]:
        oracle, answers = self.rig.oracle, []
        for window, request in zip(WINDOWS, requests, strict=False):
            states = oracle.encode(self.rig.store.window(window))
            answers.append(
                oracle.decode(
                    states, request.prompt, request.rules, request.max_tokens,
                    temperature=request.temperature, seed=request.seed,
                )
            )  # fmt: skip
        return answers

    def said(self, requests: list[Request], mode: GraphMode) -> list[Decoded]:
        batch = self.rig.encoder.encode(WINDOWS[: len(requests)])
        self.decoder.decode(batch, requests, mode)
        self.rig.device.synchronize()
        return self.decoder.read(len(requests))

    def check(self, requests: list[Request], mode: GraphMode, tolerance: float = 1e-3) -> None:
        for said, expected in zip(self.said(requests, mode), self.expected(requests), strict=True):
            assert said.tokens == expected.tokens
            assert said.ended is expected.ended
            assert said.log_probabilities == pytest.approx(
                expected.log_probabilities, abs=tolerance
            )
            assert said.no_speech == pytest.approx(expected.no_speech, rel=10 * tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_says_what_the_oracle_says(
    device: Device, gemms: Gemms, mode: GraphMode
) -> None:
    pair = Pair.of(device, gemms, "fp32", multilingual=True)
    pair.check(pair.requests(), mode)
    pair.check(pair.requests()[:1], mode)  # another batch, and what was there before is gone


def test_an_english_model_says_what_the_oracle_says(device: Device, gemms: Gemms) -> None:
    pair = Pair.of(device, gemms, "fp32", multilingual=False)
    pair.check(pair.requests(), GraphMode.FULL_GRAPH)


def test_rows_end_at_different_times_and_by_themselves(device: Device, gemms: Gemms) -> None:
    pair = Pair.of(device, gemms, "fp32", multilingual=True)
    first, second, third = pair.requests()
    words = pair.rig.oracle.vocabulary
    prompt = (words.start, words.languages["fr"], words.transcribe, words.no_timestamps)
    # The second says 17 tokens and its end by itself.
    requests = [first, replace(second, prompt=prompt, max_tokens=40), replace(third, max_tokens=22)]
    pair.check(requests, GraphMode.FULL_GRAPH)
    answers = pair.said(requests, GraphMode.FULL_GRAPH)
    assert [answer.ended for answer in answers] == [False, True, False]
    assert [len(answer.tokens) for answer in answers] == [10, 17, 22]


def test_the_language_is_the_oracles_and_a_window_may_be_passed_over(
    device: Device, gemms: Gemms
) -> None:
    pair = Pair.of(device, gemms, "fp32", multilingual=True)
    words = pair.rig.oracle.vocabulary
    asked = Request((words.start,), TokenRules(words, False), 1, detects=True)
    batch = pair.rig.encoder.encode(WINDOWS)
    pair.decoder.decode(batch, [None, asked, asked])
    device.synchronize()
    nobody, *answers = pair.decoder.read(3)
    assert (nobody.tokens, nobody.ended) == ((), False)
    for window, answer in zip(WINDOWS[1:], answers, strict=True):
        shares = pair.rig.oracle.detect(pair.rig.oracle.encode(pair.rig.store.window(window)))
        best = next(iter(shares))
        assert answer.tokens == (words.languages[best],)
        assert np.exp(answer.log_probabilities[0]) == pytest.approx(shares[best], abs=1e-3)


def test_halves_say_the_same_tokens(device: Device, gemms: Gemms) -> None:
    pair = Pair.of(device, gemms, "fp16", multilingual=False)
    pair.check(pair.requests()[:2], GraphMode.FULL_GRAPH, tolerance=0.05)


def test_a_row_does_not_depend_on_its_neighbours(device: Device, gemms: Gemms) -> None:
    pair = Pair.of(device, gemms, "fp32", multilingual=False)
    requests = pair.requests()[:2]
    first = pair.said(requests, GraphMode.FULL_GRAPH)[0]
    changed = [requests[0], replace(requests[1], max_tokens=1)]
    assert pair.said(changed, GraphMode.FULL_GRAPH)[0] == first


def test_nobody_asks_for_nothing(device: Device, gemms: Gemms) -> None:
    pair = Pair.of(device, gemms, "fp32", multilingual=False)
    batch = pair.rig.encoder.encode(WINDOWS[:1])
    for mode in MODES:
        pair.decoder.decode(batch, [], mode)
    device.synchronize()
    assert pair.decoder.read(0) == []


def test_what_can_not_be_decoded_is_refused(device: Device, gemms: Gemms) -> None:
    pair = Pair.of(device, gemms, "fp32", multilingual=False)
    request = pair.requests()[0]
    for wrong, what in (
        (replace(request, prompt=(5,)), "startoftranscript"),
        (replace(request, prompt=request.prompt * 448), "no room"),
        (replace(request, max_tokens=0), "no room"),
    ):
        with pytest.raises(ValueError, match=what):
            pair.decoder.decode(1, [wrong])
    with pytest.raises(ValueError, match="2 requests"):
        pair.decoder.decode(1, [request, request])
    assert np.isfinite(device.download(pair.decoder.buffers.x)).all()


def test_long_contexts_are_filled_in_at_once(device: Device, gemms: Gemms) -> None:
    """Of several lengths in one batch, each of which ends behind the start or goes on in text."""
    pair = Pair.of(device, gemms, "fp32", multilingual=True)
    first, second, _ = pair.requests()
    words = pair.rig.oracle.vocabulary
    context = (words.previous, *(token % 90 for token in range(3, 38)))
    text = (*first.prompt, words.no_timestamps, 40, 41)
    requests = [
        replace(first, prompt=context + first.prompt, max_tokens=4),
        replace(second, prompt=text, rules=TokenRules(words, False, continues=True)),
    ]
    pair.check(requests, GraphMode.FULL_GRAPH)


def test_what_ends_at_once_may_end_behind_text_only(device: Device, gemms: Gemms) -> None:
    """The end is not a first token, but it may be the next one behind text."""
    pair = Pair.of(device, gemms, "fp32", multilingual=True)
    first, second, _ = pair.requests()
    words = pair.rig.oracle.vocabulary
    prompt = (words.start, words.languages["fr"], words.transcribe, words.no_timestamps)
    first = replace(first, max_tokens=1)
    whole = replace(second, prompt=prompt, max_tokens=40)
    said = pair.said([first, whole], GraphMode.FULL_GRAPH)[1]
    assert said.ended
    again = replace(whole, prompt=prompt + said.tokens)
    rules = TokenRules(words, False, continues=True)
    nothing = pair.said([first, replace(again, rules=rules)], GraphMode.FULL_GRAPH)[1]
    assert (nothing.tokens, nothing.ended) == ((), True)
    assert pair.said([first, again], GraphMode.FULL_GRAPH)[1].tokens


def test_watched_rows_say_what_their_aligned_heads_listened_to(
    device: Device, gemms: Gemms
) -> None:
    pair = Pair.of(device, gemms, "fp32", multilingual=True)
    plain, request, _ = pair.requests()
    batch = pair.rig.encoder.encode(WINDOWS[:2])
    pair.decoder.decode(batch, [plain, replace(request, watched=True)])
    device.synchronize()
    said = pair.decoder.read(2)[1]
    num_steps = len(said.log_probabilities)
    found = pair.decoder.attention(1, num_steps)
    oracle, heard = pair.rig.oracle, []

    def watch(state: TextState) -> None:
        layers_and_heads = oracle.vocabulary.alignment_heads
        heard.append([state.attention[layer][head, -1] for layer, head in layers_and_heads])

    states = oracle.encode(pair.rig.store.window(WINDOWS[1]))
    oracle.decode(states, request.prompt, request.rules, request.max_tokens, watch=watch)
    odds = np.exp(found - found.max(axis=-1, keepdims=True))
    shares = odds / odds.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(shares, np.array(heard[:num_steps]), atol=1e-4)
