"""WhisperParts: everything of one Whisper model that lies on the device, made once.

load_whisper_parts() uploads a model and allocates what the sizes ask for; nothing is allocated
after prepare_parts(). Knows what is put together, and no session.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..cpu.whisper_tokens import WhisperTokens
from ..errors import ModelError
from ..weights.whisper_checkpoint import WhisperCheckpoint
from ..weights.whisper_config import WINDOW_POSITIONS, WhisperConfig
from ..weights.whisper_vocabulary import WhisperVocabulary
from .device import Device
from .encoder_weights import VECTOR, Precision
from .gemm import Gemms
from .memory_room import room_for
from .slot_audio import HOP_SAMPLES
from .whisper_decoder import GpuWhisperDecoder
from .whisper_encoder import GpuWhisperEncoder, Trunk, WindowRows, batches_up_to
from .whisper_features import WhisperFeatures
from .whisper_steps import ATTEND_THREADS, MAX_POSITIONS
from .whisper_weights import (
    WhisperDecoderWeights,
    load_whisper_decoder,
    load_whisper_encoder,
)


@dataclass(frozen=True, slots=True)
class WhisperSizes:
    """How much there is room for."""

    max_streams: int = 32
    max_batch: int = 32  # windows of drafts, encoded and decoded at once
    final_batch: int = 4  # of finals: always so many, whoever is in it
    max_finals: int = 8  # of one step, in batches one after the other
    max_step_ms: float = 200.0  # how long a step had better take
    staging_samples: int = 1 << 20  # of audio that the device can not read where it lies
    positions: int = WINDOW_POSITIONS  # fewer in tests only

    @property
    def num_slots(self) -> int:
        """Sessions on the device: the streams', and those of probes and of restarts."""
        return self.max_streams + 4

    @property
    def max_samples(self) -> int:
        """Of the longest utterance: one window."""
        return 2 * self.positions * HOP_SAMPLES

    def fitted(self) -> WhisperSizes:
        """With the largest batch that the encoder has, of those up to `max_batch`."""
        return replace(self, max_batch=batches_up_to(self.max_batch)[-1])


@dataclass(frozen=True, slots=True)
class WhisperParts:
    """See the module text."""

    device: Device
    sizes: WhisperSizes
    config: WhisperConfig
    vocabulary: WhisperVocabulary
    tokens: WhisperTokens
    store: WhisperFeatures
    encoder: GpuWhisperEncoder
    decoder: GpuWhisperDecoder
    decoder_weights: WhisperDecoderWeights

    def window(self, slot: int) -> WindowRows:
        """What a slot has to be encoded."""
        return WindowRows(slot, min(self.store.num_rows(slot), 2 * self.sizes.positions))

    @property
    def final_batch(self) -> int:
        """The batch that all finals are computed in."""
        return self.encoder.bucket(min(self.sizes.final_batch, self.sizes.max_batch))


def load_whisper_parts(
    checkpoint: WhisperCheckpoint,
    device: Device,
    gemms: Gemms,
    precision: Precision,
    sizes: WhisperSizes,
    trunk: Trunk | None = None,
) -> WhisperParts:
    """Upload, allocate, compile; `trunk` in the place of the encoder's own layers.

    Raises ModelError where memory is too little or no kernel is made for the model, DeviceError.
    """
    _require_kernels(checkpoint)
    config, sizes = checkpoint.config, sizes.fitted()
    with room_for(f"{sizes.num_slots} sessions", "lower --max-sessions"):
        store = WhisperFeatures(device, sizes.num_slots, config.num_mels)
    with room_for(f"the model in {precision}", "use a smaller one"):
        weights = load_whisper_encoder(device, checkpoint, precision)
        decoder_weights = load_whisper_decoder(device, checkpoint, weights)
    with room_for(f"batches of {sizes.max_batch} windows", "lower --max-sessions"):
        encoder = GpuWhisperEncoder(
            device, gemms, weights, store, sizes.max_batch, sizes.positions, trunk
        )
        decoder = GpuWhisperDecoder(device, gemms, encoder, decoder_weights, checkpoint.vocabulary)
    tokens = WhisperTokens(checkpoint.tokenizer, checkpoint.source.path / "config.json")
    return WhisperParts(
        device, sizes, config, checkpoint.vocabulary, tokens, store, encoder, decoder,
        decoder_weights,
    )  # fmt: skip


def _require_kernels(checkpoint: WhisperCheckpoint) -> None:
    """Raise ModelError for sizes that no kernel is made for. No model of OpenAI's has such."""
    config, head_width = checkpoint.config, checkpoint.config.head_width
    problem = ""
    if config.text_positions > MAX_POSITIONS:
        problem = f"{config.text_positions} text positions, more than {MAX_POSITIONS}"
    elif head_width % VECTOR or ATTEND_THREADS % head_width:
        problem = f"heads that are {head_width} wide, not 8, 16, 32, 64 or 128"
    elif config.ffn_width % VECTOR:
        problem = f"a feed forward {config.ffn_width} wide, no multiple of {VECTOR}"
    if problem:
        raise ModelError(f"{checkpoint.model_id} has {problem}", "name a model of OpenAI's sizes")


def prepare_whisper_parts(parts: WhisperParts) -> None:
    """Record every batch's graphs. Raises ModelError where memory is too little, DeviceError."""
    for batch in parts.encoder.batches:
        with room_for(f"a batch of {batch} windows", "lower --max-sessions"):
            parts.encoder.prepare(batch)
            parts.decoder.prepare(batch)
            parts.decoder.prepare_prompts(batch)
