"""What the CPU engine costs, stage by stage, and what its shortcut does to the words.

    python -m bench.engine WAV [--threads N]

Cuts the file into utterances with the real VAD, then times features, the encoder with cached
padding beside CTranslate2's own over the full window, the final beam decoding, alignment and a
live sequence of drafts every 350 ms. A table of p50, p95 and p99, then one JSON line: the last.
Set OPENBLAS_NUM_THREADS=1 as the service does: numpy's threads cost more than they save here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import wave
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import soxr
from numpy.typing import NDArray

from gpu_service.cpu.log_mel import log_mel
from gpu_service.cpu.model_files import find_model
from gpu_service.cpu.whisper import NO_SAMPLES, WhisperRecognizer
from gpu_service.cpu.whisper_decode import Hearing, Task, WhisperDecoder, Window, storage
from gpu_service.cpu.whisper_encoder import WhisperEncoder
from gpu_service.cpu.whisper_tokens import WhisperTokens
from gpu_service.cpu.whisper_words import aligned_words
from gpu_service.endpointer import Cut, Endpointer, SpeechStarted, SpeechStopped, VadOptions
from gpu_service.recognizer import SessionOptions, StepInput, Want
from gpu_service.transcript import Transcript
from gpu_service.vad import Vad

DRAFT_SAMPLES = 5_600  # 350 ms
Samples = NDArray[np.int16]
P = ParamSpec("P")
T = TypeVar("T")


class Stages:
    """Wall and CPU milliseconds by stage."""

    def __init__(self) -> None:
        self.wall_ms: dict[str, list[float]] = defaultdict(list)
        self.cpu_ms: dict[str, list[float]] = defaultdict(list)

    def time(self, stage: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` and keep what it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = work(*args, **kwargs)
        self.wall_ms[stage].append((time.perf_counter() - wall) * 1e3)
        self.cpu_ms[stage].append((time.process_time() - cpu) * 1e3)
        return result

    def summary(self, stage: str) -> dict[str, float]:
        """p50, p95, p99 of the wall time and the mean CPU time, all in ms."""
        p50, p95, p99 = np.percentile(self.wall_ms[stage], [50, 95, 99])
        values = {"p50": p50, "p95": p95, "p99": p99, "cpu": np.mean(self.cpu_ms[stage])}
        return {name: round(float(value), 1) for name, value in values.items()}


def read_wav(path: Path) -> Samples:
    """16 kHz mono int16."""
    with wave.open(str(path)) as reader:
        rate, channels = reader.getframerate(), reader.getnchannels()
        data = np.frombuffer(reader.readframes(reader.getnframes()), "<i2").reshape(-1, channels)
    resampled = soxr.resample(data.astype(np.float32).mean(axis=1) / 32768.0, rate, 16_000)
    samples: Samples = np.clip(np.rint(resampled * 32768.0), -32768, 32767).astype(np.int16)
    return samples


def cut_utterances(samples: Samples, stages: Stages) -> list[Samples]:
    """The segments that the service would make."""
    vad, endpointer = Vad(1), Endpointer(VadOptions())
    audio, row = samples.astype(np.float32) / 32768.0, np.array([0])
    starts, ends, events = [], [], []
    for first in range(0, len(audio) - 511, 512):
        frame = audio[None, first : first + 512]
        probability = stages.time("vad frame", vad.step, row, frame)
        events += endpointer.push(float(probability[0]))
    for event in events + endpointer.finalize(len(audio)):
        if isinstance(event, SpeechStarted):
            starts.append(event.start_sample)
        elif isinstance(event, SpeechStopped | Cut):
            ends.append(event.end_sample)
    return [samples[start:end] for start, end in zip(starts, ends, strict=True)]


def time_stages(
    utterances: list[Samples], model_name: str, num_threads: int, stages: Stages
) -> tuple[str, str]:
    """Time the parts of a final; return the text with the cache and with the full window."""
    import ctranslate2

    files = find_model(model_name)
    encoder = WhisperEncoder(files.weights, num_threads, is_int8=True)
    encoder.prepare()
    tokens = WhisperTokens(files.tokenizer, files.config)
    slow, fast = (
        ctranslate2.models.Whisper(str(files.folder), compute_type="int8", intra_threads=n)
        for n in (num_threads, 1)
    )
    start = tokens.start("en")
    cached_texts, full_texts = [], []
    for speech in utterances:
        mel = stages.time("features", log_mel, speech, encoder.shape.num_mels)
        encoded = stages.time("encoder, cached padding", encoder.encode, mel)
        window = storage(mel.padded()[None])
        full = stages.time("encoder, CTranslate2 full window", slow.encode, window)
        plain = stages.time("decode, full window", fast.generate, full, [start], beam_size=5)[0]
        full_texts.append(tokens.decode(plain.sequences_ids[0]))
        decoder = WhisperDecoder(fast, encoder, tokens)
        windows = list(decoder.windows(speech, Task(start), [], Hearing()))
        cached_texts += [tokens.decode(window.decoding.tokens) for window in windows]
        again = Window(0, len(speech), len(speech), encoded.states, windows[0].decoding)
        stages.time("align", aligned_words, fast, tokens, again, start, "en")
    return " ".join(cached_texts), " ".join(full_texts)


def run_live(
    utterances: list[Samples], recognizer: WhisperRecognizer, stages: Stages
) -> tuple[int, int]:
    """Drafts and a final for each utterance; return the finals that revised, and all."""
    num_revised = 0
    handle = recognizer.open(SessionOptions())
    for speech in utterances:
        transcript, done = Transcript(), 0
        while done + DRAFT_SAMPLES < len(speech):
            piece = speech[done : done + DRAFT_SAMPLES]
            done += DRAFT_SAMPLES
            item = StepInput(handle, piece, Want.DRAFT, transcript.stable_words)
            draft = stages.time("draft", recognizer.step, [item])[0]
            assert draft is not None
            transcript.on_draft(draft)
        item = StepInput(handle, speech[done:], Want.CANDIDATE)
        stages.time("final", recognizer.step, [item])
        final = recognizer.step([StepInput(handle, NO_SAMPLES, Want.FINAL)])[0]
        assert final is not None
        num_revised += transcript.on_final(final).revised
    recognizer.close(handle)
    return num_revised, len(utterances)


def word_error_rate(reference: str, text: str) -> float:
    """Of normalised texts, 0..1."""
    import jiwer
    from whisper_normalizer.english import EnglishTextNormalizer

    normalize = EnglishTextNormalizer()
    return float(jiwer.wer(normalize(reference), normalize(text)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("wav", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default="tiny.en")
    arguments = parser.parse_args()
    stages = Stages()
    utterances = cut_utterances(read_wav(arguments.wav), stages)
    recognizer = WhisperRecognizer(arguments.model, num_threads=arguments.threads)
    recognizer.warm_up()
    revised, num_finals = run_live(utterances, recognizer, stages)
    cached, full = time_stages(utterances, arguments.model, arguments.threads, stages)
    seconds = sum(map(len, utterances)) / 16_000
    live_ms = sum(sum(stages.cpu_ms[stage]) for stage in ("draft", "final"))
    report = {
        "stages_ms": {stage: stages.summary(stage) for stage in stages.wall_ms},
        "wer_cached_against_full": round(word_error_rate(full, cached), 4),
        "cpu_seconds_per_speech_second": round(live_ms / 1e3 / seconds, 3),
        "revised_finals": f"{revised}/{num_finals}",
        "speech_seconds": round(seconds, 1),
        "threads": arguments.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
    }
    print(f"{'stage':34s}{'p50 ms':>9s}{'p95':>9s}{'p99':>9s}{'cpu':>9s}")
    for stage in stages.wall_ms:
        print(f"{stage:34s}" + "".join(f"{v:9.1f}" for v in stages.summary(stage).values()))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
