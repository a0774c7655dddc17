"""Sections of bench/whisper_gpu.py about one model on the device: is it right, and how fast is it.

    correct  states, logits and decisions against the oracle (numpy, float32), led along its path
    window   one window at batch 1: encoder, prompt, a step of the token loop, the same by products
             and kernels of their own, and its share of what reading the weights alone would take
    bulk     batches of windows, audio in host memory to tokens

Every row says the same number of tokens: the end is suppressed, for a random model's text has none.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_service.builder.accuracy import LIMITS, closeness
from gpu_service.builder.whisper_gate import examine_whisper
from gpu_service.builder.whisper_reference import WhisperUtterance, make_whisper_reference
from gpu_service.decoding.whisper_oracle import WhisperOracle
from gpu_service.decoding.whisper_rules import TokenRules, start_tokens
from gpu_service.gpu.device import Device
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.slot_audio import NewAudio
from gpu_service.gpu.whisper_decoder import GpuWhisperDecoder, Request
from gpu_service.gpu.whisper_gate_backend import WhisperDeviceBackend
from gpu_service.gpu.whisper_parts import (
    WhisperParts,
    WhisperSizes,
    load_whisper_parts,
    prepare_whisper_parts,
)
from gpu_service.weights.whisper_checkpoint import WhisperCheckpoint

from .gpu_audio import Clip, Samples, pinned_speech
from .gpu_section import Progress, Section, Table

HALF_BYTES = 2
MAX_LOGIT_ERROR = 1e-2  # relative, of the logits along the oracle's path


@dataclass(frozen=True, slots=True)
class MeasureSizes:
    """How much is measured. The defaults are what is published; tests have less."""

    batch: int = 32  # of bulk
    num_batches: int = 4
    num_tokens: int = 100  # of each window: 30 s of speech have about so many
    runs: int = 5
    positions: int = 1500  # of a window; fewer in tests only
    bandwidth_bytes_per_s: float = 4.8e12  # of the device's memory: H200; H100 3.35e12

    @property
    def window_samples(self) -> int:
        """Of one window."""
        return 2 * self.positions * 160

    def sizes(self) -> WhisperSizes:
        """Of the service's parts."""
        return WhisperSizes(
            max_streams=self.batch, max_batch=self.batch, final_batch=1, positions=self.positions
        )


@dataclass(frozen=True, slots=True)
class Bench:
    """One model on the device."""

    checkpoint: WhisperCheckpoint
    parts: WhisperParts
    gemms: Gemms
    sizes: MeasureSizes

    @classmethod
    def load(
        cls, checkpoint: WhisperCheckpoint, device: Device, gemms: Gemms, sizes: MeasureSizes
    ) -> Bench:
        """In fp16, every graph recorded; no row ends by itself. Raises ModelError, DeviceError."""
        words = checkpoint.vocabulary
        endless = replace(words, suppressed=tuple(sorted({*words.suppressed, words.end})))
        checkpoint = replace(checkpoint, vocabulary=endless)
        parts = load_whisper_parts(checkpoint, device, gemms, "fp16", sizes.sizes())
        prepare_whisper_parts(parts)
        return cls(checkpoint, parts, gemms, sizes)

    def request(self, num_tokens: int) -> Request:
        """Text without times behind the start."""
        words = self.checkpoint.vocabulary
        language = next(iter(words.languages), None)
        prompt = (*start_tokens(words, language), words.no_timestamps)
        return Request(prompt, TokenRules(words, timestamps=False), num_tokens)

    def bring(self, clips: Sequence[Clip]) -> None:
        """Each clip into a slot of its own, from page-locked memory."""
        store = self.parts.store
        for slot, _ in enumerate(clips):
            store.reset(slot)
        store.append([NewAudio(slot, [(c.address, c.num_samples)]) for slot, c in enumerate(clips)])

    def encode(self, batch: int) -> None:
        """The first slots."""
        self.parts.encoder.encode([self.parts.window(slot) for slot in range(batch)], batch)

    def say(self, batch: int, num_tokens: int) -> int:
        """Decode, wait, read; how many tokens came."""
        self.parts.decoder.decode(batch, [self.request(num_tokens)] * batch)
        self.parts.device.wait(self.parts.device.record())
        return sum(len(said.tokens) for said in self.parts.decoder.read(batch))

    def device_ms(self, run: Any) -> float:
        """Median time of what run() enqueues, the first run not counted."""
        device, times = self.parts.device, []
        for _ in range(self.sizes.runs + 1):
            begin = device.record()
            run()
            end = device.record()
            device.wait(end)
            times.append(device.elapsed_ms(begin, end))
        return statistics.median(times[1:])


# ---------------------------------------------------------------------------- correct


def run_correct(
    checkpoint: WhisperCheckpoint,
    device: Device,
    gemms: Gemms,
    sizes: MeasureSizes,
    progress: Progress,
) -> tuple[Section, list[WhisperUtterance]]:
    """With the model's own end, as a build checks it. The reference comes back for baselines."""
    reference = make_whisper_reference(checkpoint, sizes.positions)
    progress.say("correct: the oracle has computed")
    small = WhisperSizes(
        max_streams=4, max_batch=min(8, sizes.batch), final_batch=1, positions=sizes.positions
    )
    parts = load_whisper_parts(checkpoint, device, gemms, "fp16", small)
    backend = WhisperDeviceBackend("cublas", parts)
    candidate = examine_whisper(backend, reference, LIMITS["fp16"])
    logits = [_logit_error(checkpoint, parts, backend, each) for each in reference]
    assert candidate.decisions is not None
    fields = {
        "states_relative_error": max(r.relative_error for r in candidate.results),
        "states_worst_cosine": min(r.cosine for r in candidate.results),
        "logits_relative_error": max(logits),
        "decisions": candidate.decisions.count,
        "decisions_flipped": candidate.decisions.flips,
        "worst_margin": candidate.decisions.worst_margin,
        "passes": not candidate.problem and max(logits) <= MAX_LOGIT_ERROR,
        "problem": candidate.problem,
    }
    rows = [[name, value] for name, value in fields.items()]
    title = f"{checkpoint.model_id}: against the oracle in float32"
    return Section(fields, [Table(title, ["what", "value"], rows)]), reference


def _logit_error(
    checkpoint: WhisperCheckpoint,
    parts: WhisperParts,
    backend: WhisperDeviceBackend,
    utterance: WhisperUtterance,
) -> float:
    """Of all logits behind the prompt and each step of the path, from the oracle's states on."""
    expected = oracle_logits(checkpoint, utterance)
    found = []
    for prompt in utterance.prompts():
        backend.decide(utterance.samples, [prompt])
        logits = parts.device.download(parts.decoder.buffers.logits.rows(0, 1))
        found.append(logits[0, : checkpoint.config.vocabulary_size])
    return closeness([np.stack(found)], [expected]).relative_error


def oracle_logits(
    checkpoint: WhisperCheckpoint, utterance: WhisperUtterance
) -> NDArray[np.float32]:
    """(P, V) before any rule, at each step of the path."""
    oracle = WhisperOracle(checkpoint)
    fed = [*utterance.prompt, *utterance.path[:-1]]
    logits = oracle.step(oracle.begin(utterance.states), fed)
    return np.asarray(logits[len(utterance.prompt) - 1 :], np.float32)


# ----------------------------------------------------------------------- window, bulk


def run_window(bench: Bench, base: Samples, progress: Progress) -> Section:
    """Batch 1."""
    sizes = bench.sizes
    clips = pinned_speech(bench.parts.device, base, [sizes.window_samples])
    bench.bring(clips.clips)
    encoder_ms = bench.device_ms(lambda: bench.encode(1))
    one_ms, step_ms = _decoder_ms(bench, bench.parts.decoder)
    apart_ms = _decoder_ms(bench, _apart(bench))[1]
    whole_s = []
    for _ in range(sizes.runs):
        begin = time.perf_counter()
        bench.bring(clips.clips)
        bench.encode(1)
        bench.say(1, sizes.num_tokens)
        whole_s.append(time.perf_counter() - begin)
    floor_ms = step_floor_ms(bench, sizes.bandwidth_bytes_per_s)
    seconds = sizes.window_samples / 16_000
    fields = {
        "tokens": sizes.num_tokens,
        "encoder_ms": encoder_ms,
        "prompt_and_first_token_ms": one_ms,
        "step_ms": step_ms,
        "step_apart_ms": apart_ms,
        "step_floor_ms": floor_ms,
        "floor_share": floor_ms / step_ms if step_ms > 0 else 0.0,
        "whole_ms": 1000 * statistics.median(whole_s),
        "audio_s_per_s": seconds / statistics.median(whole_s),
    }
    progress.say(f"window: {fields['audio_s_per_s']:.0f} audio-s/s")
    rows = [[name, value] for name, value in fields.items()]
    title = f"{bench.checkpoint.model_id}: one window of {seconds:g} s"
    return Section(fields, [Table(title, ["what", "value"], rows)])


def run_bulk(bench: Bench, base: Samples, progress: Progress) -> Section:
    """Full batches, one after the other, audio in host memory to tokens on the host."""
    sizes = bench.sizes
    lengths = [sizes.window_samples] * sizes.batch
    clips = pinned_speech(bench.parts.device, base, lengths)
    num_tokens = 0
    bench.bring(clips.clips)  # a first time, which is not counted
    bench.encode(sizes.batch)
    bench.say(sizes.batch, sizes.num_tokens)
    begin = time.perf_counter()
    for _ in range(sizes.num_batches):
        bench.bring(clips.clips)
        bench.encode(sizes.batch)
        num_tokens += bench.say(sizes.batch, sizes.num_tokens)
    elapsed_s = time.perf_counter() - begin
    fields = {
        "batch": sizes.batch,
        "tokens_per_window": num_tokens / (sizes.batch * sizes.num_batches),
        "encoder_ms": bench.device_ms(lambda: bench.encode(sizes.batch)),
        "audio_s_per_s": clips.seconds * sizes.num_batches / elapsed_s,
    }
    progress.say(f"bulk: {fields['audio_s_per_s']:.0f} audio-s/s")
    rows = [[name, value] for name, value in fields.items()]
    title = f"{bench.checkpoint.model_id}: batches of {sizes.batch} windows"
    return Section(fields, [Table(title, ["what", "value"], rows)])


def step_floor_ms(bench: Bench, bandwidth_bytes_per_s: float) -> float:
    """What a step at batch 1 would take that only read what it has to: the decoder's matrices, the
    head, and the keys and values of the window.
    """
    config, positions = bench.checkpoint.config, bench.sizes.positions
    layer = 6 * config.width**2 + 2 * config.width * config.ffn_width  # keys of cross are made once
    weights = config.decoder_layers * layer + config.vocabulary_size * config.width
    heard = config.decoder_layers * 2 * positions * config.width
    return 1000 * HALF_BYTES * (weights + heard) / bandwidth_bytes_per_s


def _decoder_ms(bench: Bench, decoder: GpuWhisperDecoder) -> tuple[float, float]:
    """At batch 1: the prompt and the first token, and a step behind it."""

    def enqueue(num_tokens: int) -> None:
        decoder.decode(1, [bench.request(num_tokens)])

    num_tokens = bench.sizes.num_tokens
    one_ms = bench.device_ms(lambda: enqueue(1))
    all_ms = bench.device_ms(lambda: enqueue(num_tokens))
    return one_ms, (all_ms - one_ms) / max(1, num_tokens - 1)


def _apart(bench: Bench) -> GpuWhisperDecoder:
    """Of the same weights, without the kernel of few rows."""
    parts = bench.parts
    return GpuWhisperDecoder(
        parts.device, bench.gemms, parts.encoder, parts.decoder_weights,
        bench.checkpoint.vocabulary, fuses_few_rows=False,
    )  # fmt: skip
