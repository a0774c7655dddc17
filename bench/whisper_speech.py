"""Section speech of bench/whisper_gpu.py: the real tiny.en on real speech, against transformers.

Golden tokens of transformers (tests/fixtures/whisper/golden.json) for pieces of a recording: in
single precision ours have to be equal, in half the words, and times to 40 ms.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gpu_service.cpu.model_files import EMBEDDED_MODEL_ID
from gpu_service.decoding.whisper_rules import TokenRules
from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder_weights import Precision
from gpu_service.gpu.gemm import Gemms
from gpu_service.gpu.whisper_decoder import Request
from gpu_service.gpu.whisper_parts import WhisperSizes, load_whisper_parts
from gpu_service.weights.whisper_checkpoint import WhisperCheckpoint, load_whisper

from .gpu_audio import Samples, pinned_samples
from .gpu_section import Progress, Section, Table
from .whisper_measure import Bench, MeasureSizes

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "whisper" / "golden.json"
MAX_TOKENS = 200
FINAL_BATCH = 4  # as a service has it
MAX_STEPS = 2  # of 20 ms, that a time may differ in half precision
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")

Case = dict[str, Any]


def run_speech(
    device: Device, gemms: Gemms, recording: Samples, progress: Progress, max_cases: int = 8
) -> Section:
    """`recording`: the one that the golden tokens are of. Raises ModelError, DeviceError."""
    cases: list[Case] = json.loads(GOLDEN.read_text())[EMBEDDED_MODEL_ID][:max_cases]
    checkpoint = load_whisper(EMBEDDED_MODEL_ID)
    fields: dict[str, Any] = {"cases": len(cases)}
    for precision in PRECISIONS:
        said = _say(device, gemms, checkpoint, precision, cases, recording)
        fields[precision] = compared(said, cases, checkpoint.vocabulary.end)
        progress.say(f"speech in {precision}: {fields[precision]}")
    names = list(fields[PRECISIONS[0]])
    rows = [[name, *(fields[precision][name] for precision in PRECISIONS)] for name in names]
    title = f"tiny.en, {len(cases)} pieces of speech, against transformers"
    return Section(fields, [Table(title, ["what", *PRECISIONS], rows)])


def compared(said: list[tuple[int, ...]], cases: list[Case], end: int) -> dict[str, Any]:
    """Of how many cases tokens, words and times are the golden ones."""
    pairs = [(list(ours), list(case["tokens"])) for ours, case in zip(said, cases, strict=True)]
    words = [_texts(ours, end) == _texts(golden, end) for ours, golden in pairs]
    return {
        "equal_tokens": sum(ours == golden for ours, golden in pairs),
        "equal_words": sum(words),
        "times_within_40_ms": sum(_are_near(*pair, end) for pair in pairs),
    }


def _texts(tokens: list[int], end: int) -> list[int]:
    return [token for token in tokens if token < end]


def _are_near(ours: list[int], golden: list[int], end: int) -> bool:
    found, expected = ([t for t in tokens if t > end] for tokens in (ours, golden))
    if len(found) != len(expected):
        return False
    return all(abs(a - b) <= MAX_STEPS for a, b in zip(found, expected, strict=True))


def _say(
    device: Device,
    gemms: Gemms,
    checkpoint: WhisperCheckpoint,
    precision: Precision,
    cases: list[Case],
    recording: Samples,
) -> list[tuple[int, ...]]:
    """What the device says of all cases, in batches as large as those of finals."""
    sizes = WhisperSizes(max_streams=len(cases), max_batch=FINAL_BATCH, final_batch=FINAL_BATCH)
    parts = load_whisper_parts(checkpoint, device, gemms, precision, sizes)
    pieces = [recording[16_000 * case["begin_s"] : 16_000 * case["end_s"]] for case in cases]
    clips = pinned_samples(device, pieces)
    Bench(checkpoint, parts, gemms, MeasureSizes()).bring(clips.clips)
    requests = [
        Request(
            tuple(case["prompt"]), TokenRules(checkpoint.vocabulary, case["timestamps"]), MAX_TOKENS
        )
        for case in cases
    ]
    said: list[tuple[int, ...]] = []
    for start in range(0, len(cases), FINAL_BATCH):
        group = requests[start : start + FINAL_BATCH]
        slots = range(start, start + len(group))
        batch = parts.encoder.encode([parts.window(slot) for slot in slots], FINAL_BATCH)
        parts.decoder.decode(batch, group)
        device.synchronize()
        said += [decoded.tokens for decoded in parts.decoder.read(len(group))]
    return said
