"""WhisperSteps: one launcher for each kernel of Whisper's decoder, and the memory they share.

Knows kernels/whisper_decoder.cu and whisper_choose.cu, whose structs stand here once more; the
order of steps is whisper_decoder.py's. Shapes: B rows, P text positions, N audio positions, L
layers, D width, H heads, E = D / H, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..weights.whisper_config import WhisperConfig
from ..weights.whisper_vocabulary import Head, WhisperVocabulary
from .device import Condition, Device, DeviceArray
from .encoder_weights import VECTOR
from .whisper_weights import WhisperDecoderWeights, WhisperEncoderWeights

SOURCE, CHOOSE_SOURCE = "whisper_decoder.cu", "whisper_choose.cu"
# As in the sources.
MAX_POSITIONS = 448
ATTEND_THREADS = 128
CHOOSE_THREADS = 256
CHUNK = 4 * CHOOSE_THREADS  # tokens of a block
TALLIES_FLOATS = 3 * 4
EMBED_THREADS = 128
WARP = 32
SPLIT_KEYS = 128
ALWAYS, AT_FIRST = 1, 2
PLAIN, TIMED, LANGUAGE, CONTINUED = range(4)
ROW = np.dtype(
    [
        *[(name, np.int32) for name in ("prompt_length", "max_tokens", "start", "kind")],
        ("max_initial", np.int32), ("temperature", np.float32), ("seed", np.uint32),
        ("watched", np.int32), ("prompt", np.int32, (MAX_POSITIONS,)),
    ]
)  # fmt: skip
RESULT = np.dtype(
    [
        ("num_tokens", np.int32), ("has_ended", np.int32), ("no_speech", np.float32),
        ("unused", np.int32), ("tokens", np.int32, (MAX_POSITIONS,)),
        ("logs", np.float32, (MAX_POSITIONS,)),
    ]
)  # fmt: skip
PROGRESS_INTS = 4
MAX_ALIGNED = 32  # heads whose attention is kept; the models with the most name 23


@dataclass(frozen=True, slots=True)
class DecoderBuffers:
    """Of the largest batch. Smaller ones use their beginnings."""

    x: DeviceArray  # (B, D) of the residual's dtype
    normed: DeviceArray  # (B, D) T
    hidden: DeviceArray  # (B, widest) T; widest is F or 3 D
    heard: DeviceArray  # (B, D) T
    cache: DeviceArray  # (L, B, P, 2 D) T: keys and values of the text
    parts: DeviceArray  # (B, H, N / 128, E + 2) float32: of attention to the audio
    attention: DeviceArray  # (B, MAX_POSITIONS, A, N) T: scores of aligned heads, of watched rows
    logits: DeviceArray  # (B, V rounded up) float32
    tallies: DeviceArray  # (B, V / CHUNK, 12) float32: what the logits of a chunk come to
    progress: DeviceArray  # (B, 4) int32
    results: DeviceArray  # (B, RESULT) int32

    @classmethod
    def make(
        cls,
        device: Device,
        weights: WhisperEncoderWeights,
        max_batch: int,
        num_positions: int,
        num_aligned: int,
    ) -> DecoderBuffers:
        """Zeros: rows of nobody stay finite. Raises DeviceMemoryError."""
        config, storage = weights.config, weights.storage
        widest = max(config.ffn_width, 3 * config.width)
        splits = -(-num_positions // SPLIT_KEYS)
        cache = (config.decoder_layers, max_batch, config.text_positions, 2 * config.width)
        stride = -(-config.vocabulary_size // VECTOR) * VECTOR
        parts = (max_batch, config.num_heads, splits, config.head_width + 2)
        return cls(
            x=device.zeros((max_batch, config.width), weights.residual),
            normed=device.zeros((max_batch, config.width), storage),
            hidden=device.zeros((max_batch, widest), storage),
            heard=device.zeros((max_batch, config.width), storage),
            cache=device.zeros(cache, storage),
            parts=device.zeros(parts, np.float32),
            attention=device.empty((max_batch, MAX_POSITIONS, num_aligned, num_positions), storage),
            logits=device.zeros((max_batch, stride), np.float32),
            tallies=device.zeros((max_batch, -(-stride // CHUNK), TALLIES_FLOATS), np.float32),
            progress=device.zeros((max_batch, PROGRESS_INTS), np.int32),
            results=device.zeros((max_batch, RESULT.itemsize // 4), np.int32),
        )


class WhisperSteps:
    """Launches on one decoder's memory. `rows` (B, ROW) int32 is what the host asks."""

    def __init__(
        self,
        device: Device,
        encoder: WhisperEncoderWeights,
        weights: WhisperDecoderWeights,
        vocabulary: WhisperVocabulary,
        buffers: DecoderBuffers,
        rows: DeviceArray,
        num_positions: int,
    ) -> None:
        """Raises ValueError for sizes that the kernels are not made for, DeviceError."""
        config: WhisperConfig = encoder.config
        if ATTEND_THREADS % config.head_width:
            raise ValueError(f"heads {config.head_width} wide do not divide {ATTEND_THREADS}")
        self._device, self._config, self._weights = device, config, weights
        self._buffers, self._rows, self._num_positions = buffers, rows, num_positions
        if buffers.tallies.shape[1] > CHOOSE_THREADS:
            raise ValueError(f"{vocabulary.size} tokens, at most {CHUNK * CHOOSE_THREADS}")
        names = dict.fromkeys(("begin", "begin_loop", "embed", "self", "cross", "join"), SOURCE)
        names |= dict.fromkeys(("choose", "choose_loop"), CHOOSE_SOURCE)
        self._kernels = {
            name: device.kernel(source, f"whisper_{name}", encoder.defines)
            for name, source in names.items()
        }
        self.aligned = device.upload(_aligned(config, vocabulary))
        self._flag = device.pinned(1, np.int32)
        self._suppressed = device.upload(_suppressed(vocabulary, buffers.logits.shape[1]))
        self._arrived = device.zeros(buffers.logits.shape[0], np.uint32)  # choose() leaves zeros
        self._ended = device.zeros(1, np.uint32)  # as it does here
        languages = tuple(vocabulary.languages.values()) or (0,)
        ids = [vocabulary.size, vocabulary.end, vocabulary.no_speech, vocabulary.no_timestamps]
        ids += [languages[0], languages[-1] + 1]
        self.ids = device.upload(np.array(ids, np.int32))

    @property
    def is_active(self) -> bool:
        """What choose() told the host. The device has come past it."""
        return bool(self._flag.array[0])

    def begin(self, batch: int, loop: Condition | None = None) -> None:
        """Every row with a prompt is at its first token; `loop` asks whether there is one."""
        kernel = self._kernels["begin" if loop is None else "begin_loop"]
        buffers = self._buffers
        extra = () if loop is None else (loop,)
        self._device.launch(
            kernel, 1, WARP,
            self._rows, buffers.progress, buffers.results, np.int32(batch), *extra,
        )  # fmt: skip

    def embed(self, batch: int) -> None:
        """x = the token that each row begins with and its position; choose() embeds the others."""
        buffers = self._buffers
        self._device.launch(
            self._kernels["embed"], batch, EMBED_THREADS,
            self._weights.tokens, self._weights.positions, self._rows, buffers.progress, buffers.x,
        )  # fmt: skip

    def attend(self, layer: int, batch: int, qkv: DeviceArray, heard: DeviceArray) -> None:
        """qkv (B, 3 D) -> heard (B, D), by way of the layer's cache."""
        self._device.launch(
            self._kernels["self"], (self._config.num_heads, batch, 1), ATTEND_THREADS,
            qkv, self._buffers.progress, self._buffers.cache.at(layer), heard,
            np.int32(self._config.text_positions),
        )  # fmt: skip

    def hear(
        self, layer: int, batch: int, query: DeviceArray, cross: DeviceArray, heard: DeviceArray
    ) -> None:
        """query (B, D) of cross (B, N, 2 D) -> heard (B, D), and scores of watched rows."""
        buffers, heads = self._buffers, self._config.num_heads
        splits = buffers.parts.shape[2]
        self._device.launch(
            self._kernels["cross"], (splits, heads, batch), ATTEND_THREADS,
            query, cross, self._rows, buffers.progress, buffers.parts, self.aligned.at(layer),
            buffers.attention, np.int32(self._num_positions), np.int32(buffers.attention.shape[2]),
        )  # fmt: skip
        self._device.launch(
            self._kernels["join"], (heads, batch, 1), self._config.head_width,
            buffers.parts, buffers.progress, heard, np.int32(splits),
        )  # fmt: skip

    def choose(self, batch: int, loop: Condition | None = None) -> None:
        """Logits to each row's next token and its x, or its end; tells the graph, or the host,
        whether another step is needed.
        """
        kernel = self._kernels["choose" if loop is None else "choose_loop"]
        buffers, weights = self._buffers, self._weights
        self._device.launch(
            kernel, (buffers.tallies.shape[1], batch, 1), CHOOSE_THREADS,
            buffers.logits, self._suppressed, self._rows, buffers.progress, buffers.results,
            self.ids, buffers.tallies, self._arrived, self._ended, weights.tokens,
            weights.positions, buffers.x, np.int32(buffers.logits.shape[1]),
            self._flag if loop is None else loop,
        )  # fmt: skip


def aligned_heads(vocabulary: WhisperVocabulary) -> tuple[Head, ...]:
    """Those whose attention is kept, in the order that it has there."""
    return vocabulary.alignment_heads[-MAX_ALIGNED:]


def _aligned(
    config: WhisperConfig, vocabulary: WhisperVocabulary
) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    """(L, H) each head's place among the aligned ones, or -1."""
    places = np.full((config.decoder_layers, config.num_heads), -1, np.int32)
    for place, head in enumerate(aligned_heads(vocabulary)):
        places[head] = place
    return places


def _suppressed(
    vocabulary: WhisperVocabulary, size: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(V rounded up to `size`,) bits of the model's lists."""
    bits = np.zeros(size, np.uint8)
    bits[list(vocabulary.suppressed)] |= ALWAYS
    bits[list(vocabulary.suppressed_first)] |= AT_FIRST
    return bits
