"""The weights of an engine folder: written once by `earwire build`, read at every start.

Prepared weights (weights/parakeet_weights.py) as safetensors, so that a service needs neither the
model that they came from nor any folding. What every encoder multiplies in the engine's precision
is stored in it; the rest, and the decoder, is float32. Encoders are built and checked from
as_stored(), so they are what a service will make of the files. No pickle.

Names: those of ParakeetWeights for the encoder; for the decoder embedding, projector.weight,
projector.bias, head.weight, head.bias, lstm.N.w_input, lstm.N.w_hidden, lstm.N.bias.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..decoding.tdt_weights import DecoderWeights, LstmLayer
from ..errors import ModelFileError
from ..gpu.trt_compat import TrtPrecision
from ..weights.parakeet_weights import ParakeetWeights
from ..weights.safetensors_file import read_safetensors
from ..weights.saving import save_tensors
from .manifest import (
    DECODER_WEIGHTS,
    ENCODER_WEIGHTS,
    REBUILD,
    VOCABULARY,
    Manifest,
)

Array = NDArray[np.float32]


FLOAT32_MATRICES = (".bias_u", ".bias_v", ".depthwise.weight")  # elementwise kernels read these


def as_stored(weights: ParakeetWeights, precision: TrtPrecision) -> ParakeetWeights:
    """The weights as read_weights() will give them."""
    encoder = {
        name: array.astype(_stored_type(name, array, precision)).astype(np.float32)
        for name, array in weights.encoder.items()
    }
    return replace(weights, encoder=encoder)


def write_weights(folder: Path, weights: ParakeetWeights, precision: TrtPrecision) -> None:
    """All of a model. bfloat16 is kept as float32: the rounding is the network's to do."""
    encoder = {
        name: np.ascontiguousarray(array, _stored_type(name, array, precision))
        for name, array in weights.encoder.items()
    }
    save_tensors(encoder, folder / ENCODER_WEIGHTS)
    decoder = {
        name: np.ascontiguousarray(array)
        for name, array in _decoder_arrays(weights.decoder).items()
    }
    save_tensors(decoder, folder / DECODER_WEIGHTS)
    (folder / VOCABULARY).write_bytes(msgspec.json.encode(weights.vocabulary))


def read_weights(folder: Path, manifest: Manifest) -> ParakeetWeights:
    """What write_weights() wrote, in float32. Raises ModelFileError."""
    encoder = _read(folder / ENCODER_WEIGHTS)
    try:
        decoder = _decoder(_read(folder / DECODER_WEIGHTS), manifest)
        data = (folder / VOCABULARY).read_bytes()
        vocabulary = msgspec.json.decode(data, type=tuple[str, ...] | None)
    except (KeyError, OSError, msgspec.DecodeError) as error:
        raise ModelFileError(f"{folder} is damaged: {error!r}", REBUILD) from error
    return ParakeetWeights(manifest.config, manifest.max_frames, encoder, decoder, vocabulary)


def _stored_type(name: str, array: Array, precision: TrtPrecision) -> DTypeLike:
    is_matrix = array.ndim == 2 and not name.endswith(FLOAT32_MATRICES)
    return np.float16 if precision == "fp16" and is_matrix else np.float32


def _read(path: Path) -> dict[str, Array]:
    return {name: tensor.to_float32() for name, tensor in read_safetensors(path).items()}


def _decoder_arrays(decoder: DecoderWeights) -> dict[str, Array]:
    arrays = {
        "embedding": decoder.embedding,
        "projector.weight": decoder.projector_weight,
        "projector.bias": decoder.projector_bias,
        "head.weight": decoder.head_weight,
        "head.bias": decoder.head_bias,
    }
    for number, layer in enumerate(decoder.lstm):
        arrays[f"lstm.{number}.w_input"] = layer.w_input
        arrays[f"lstm.{number}.w_hidden"] = layer.w_hidden
        arrays[f"lstm.{number}.bias"] = layer.bias
    return arrays


def _decoder(arrays: dict[str, Array], manifest: Manifest) -> DecoderWeights:
    config = manifest.config
    return DecoderWeights(
        embedding=arrays["embedding"],
        lstm=tuple(
            LstmLayer(
                w_input=arrays[f"lstm.{number}.w_input"],
                w_hidden=arrays[f"lstm.{number}.w_hidden"],
                bias=arrays[f"lstm.{number}.bias"],
            )
            for number in range(config.decoder_layers)
        ),
        projector_weight=arrays["projector.weight"],
        projector_bias=arrays["projector.bias"],
        head_weight=arrays["head.weight"],
        head_bias=arrays["head.bias"],
        blank_id=config.blank_id,
        durations=config.durations,
        max_symbols=config.max_symbols,
    )
