"""Reference of Whisper: fixed audio, what the oracle's encoder makes of it, and what it then says.

An engine is checked against it when it is built, and again when it is first loaded on another GPU
or driver: it lies in the engine folder. For each utterance there is a path of tokens, and for each
step of it what the oracle chooses there and by what margin; an engine is led along the path and
asked the same (teacher forcing), so that one decision of two minds does not change all that follow.

The oracle is decoding/whisper_oracle.py, in float32. Knows audio, states and tokens; no device.
Shapes: N positions, D width, P steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..cpu.log_mel import HOP_SAMPLES, log_mel
from ..decoding.whisper_oracle import NEVER, WhisperOracle, mask_logits
from ..decoding.whisper_rules import TokenRules, prompt_tokens, start_tokens
from ..errors import ModelFileError
from ..weights.safetensors_file import read_safetensors
from ..weights.saving import save_tensors
from ..weights.stored_tensor import StoredTensor
from ..weights.whisper_checkpoint import WhisperCheckpoint
from ..weights.whisper_config import WINDOW_POSITIONS
from .reference import signal

NUM_STEPS = 16  # of each path
SHARES = (1.0, 0.23)  # of the window, that the utterances fill
ROWS_PER_POSITION = 2

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WhisperUtterance:
    """Audio, and what the oracle makes of it."""

    samples: NDArray[np.int16]
    states: Array  # (N, D)
    prompt: tuple[int, ...]
    path: tuple[int, ...]  # (P,) tokens that an engine is led along
    chosen: tuple[int, ...]  # (P,) what the oracle says at each step
    margins: tuple[float, ...]  # (P,) before its second, in deviations of its logits

    def prompts(self) -> list[tuple[int, ...]]:
        """(P,) what stands before each decision."""
        return [self.prompt + self.path[:step] for step in range(len(self.path))]


def make_whisper_reference(
    checkpoint: WhisperCheckpoint,
    positions: int = WINDOW_POSITIONS,
    done: Callable[[int, int], None] = lambda *_: None,
) -> list[WhisperUtterance]:
    """Compute it; `positions` of the window are fewer in tests only."""
    oracle = WhisperOracle(checkpoint)
    utterances = []
    for number, share in enumerate(SHARES):
        num_samples = int(share * positions) * ROWS_PER_POSITION * HOP_SAMPLES
        samples = signal(num_samples, seed=num_samples)
        mel = log_mel(samples, checkpoint.config.num_mels).padded(ROWS_PER_POSITION * positions)
        utterances.append(_utterance(oracle, samples, oracle.encode(mel)))
        done(number + 1, len(SHARES))
    return utterances


def _utterance(
    oracle: WhisperOracle, samples: NDArray[np.int16], states: Array
) -> WhisperUtterance:
    vocabulary = oracle.vocabulary
    language = next(iter(vocabulary.languages), None)
    prompt = prompt_tokens(
        vocabulary, start_tokens(vocabulary, language),
        timestamps=False, text_positions=oracle.config.text_positions,
    )  # fmt: skip
    rules = TokenRules(vocabulary, timestamps=False)
    state = oracle.begin(states)
    path: list[int] = []
    chosen: list[int] = []
    margins: list[float] = []
    fed = prompt
    for _ in range(NUM_STEPS):
        # Each decision is asked for as the first behind its prompt, with the rules of a first one.
        logits = mask_logits(oracle.step(state, fed)[-1], rules, ())
        chosen.append(int(logits.argmax()))
        margins.append(_margin(logits))
        logits[vocabulary.end] = NEVER
        path.append(int(logits.argmax()))
        fed = (path[-1],)
    return WhisperUtterance(samples, states, prompt, tuple(path), tuple(chosen), tuple(margins))


def _margin(logits: Array) -> float:
    """Of the best before the second, in deviations of those that may come."""
    best, second = np.sort(logits)[-1:-3:-1]
    deviation = float(logits[np.isfinite(logits)].std())
    return float(best - second) / max(deviation, 1e-6)


def save_whisper_reference(path: Path, utterances: list[WhisperUtterance]) -> None:
    """As safetensors: N.samples, N.states, N.prompt, N.path, N.chosen, N.margins."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, utterance in enumerate(utterances):
        arrays[f"{number}.states"] = np.ascontiguousarray(utterance.states, np.float32)
        for name in ("samples", "prompt", "path", "chosen", "margins"):
            # Integers of less than 24 bits; our reader has floating point numbers only.
            arrays[f"{number}.{name}"] = np.array(getattr(utterance, name), np.float32)
    save_tensors(arrays, path)


def load_whisper_reference(path: Path) -> list[WhisperUtterance]:
    """What save_whisper_reference() wrote. Raises ModelFileError."""
    tensors = read_safetensors(path)
    numbers = sorted({int(name.partition(".")[0]) for name in tensors if name[0].isdigit()})
    try:
        return [_loaded(tensors, number) for number in numbers]
    except KeyError as error:
        raise ModelFileError(f"{path} has no {error}", "build it again") from error


def _loaded(tensors: dict[str, StoredTensor], number: int) -> WhisperUtterance:
    def values(name: str) -> Array:
        return tensors[f"{number}.{name}"].to_float32()

    def integers(name: str) -> tuple[int, ...]:
        return tuple(values(name).astype(np.int64).tolist())

    return WhisperUtterance(
        values("samples").astype(np.int16),
        values("states"),
        integers("prompt"),
        integers("path"),
        integers("chosen"),
        tuple(values("margins").tolist()),
    )
