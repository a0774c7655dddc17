"""A Whisper checkpoint written in transformers' form: what `earwire build` makes an engine of.

Whatever form it came in, load_whisper() reads the folder again. Matrices are in a precision,
everything else (norms, biases, the encoder's table of positions) is float32. No pickle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .model_parts import CONFIG, GENERATION_CONFIG, SINGLE_FILE
from .saving import save_tensors
from .whisper_checkpoint import PREFIX, TOKENIZER, WhisperCheckpoint
from .whisper_config import MODEL_TYPE, WINDOW_POSITIONS, WhisperConfig
from .whisper_vocabulary import WhisperVocabulary

FLOAT32_MATRICES = ("embed_positions.weight",)


def write_whisper_folder(
    folder: Path, checkpoint: WhisperCheckpoint, matrices: DTypeLike = np.float16
) -> None:
    """All of a checkpoint, its matrices as `matrices`."""
    config, vocabulary = checkpoint.config, checkpoint.vocabulary
    for name, values in (
        (CONFIG, {**config_values(config), **_special_tokens(vocabulary)}),
        (GENERATION_CONFIG, generation_values(vocabulary, config.text_positions)),
    ):
        (folder / name).write_text(json.dumps(values, indent=1) + "\n")
    shutil.copyfile(checkpoint.tokenizer, folder / TOKENIZER)
    arrays: dict[str, NDArray[Any]] = {}
    for name in checkpoint.tensors:
        array = checkpoint.tensor(name)
        is_matrix = array.ndim > 1 and not name.endswith(FLOAT32_MATRICES)
        arrays[PREFIX + name] = np.ascontiguousarray(array, matrices if is_matrix else np.float32)
    save_tensors(arrays, folder / SINGLE_FILE, {"format": "pt"})


def config_values(config: WhisperConfig) -> Mapping[str, Any]:
    """The sizes as transformers writes them."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["WhisperForConditionalGeneration"],
        "activation_function": "gelu",
        "num_mel_bins": config.num_mels,
        "d_model": config.width,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.ffn_width,
        "decoder_ffn_dim": config.ffn_width,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
        "max_source_positions": WINDOW_POSITIONS,
        "max_target_positions": config.text_positions,
        "vocab_size": config.vocabulary_size,
        "scale_embedding": False,
        "tie_word_embeddings": True,
    }


def generation_values(vocabulary: WhisperVocabulary, text_positions: int) -> Mapping[str, Any]:
    """Ids and lists as transformers writes them."""
    values: dict[str, Any] = {
        "is_multilingual": vocabulary.is_multilingual,
        "suppress_tokens": list(vocabulary.suppressed),
        "begin_suppress_tokens": list(vocabulary.suppressed_first),
        "no_timestamps_token_id": vocabulary.no_timestamps,
        "prev_sot_token_id": vocabulary.previous,
        "alignment_heads": [list(head) for head in vocabulary.alignment_heads],
        "max_length": text_positions,
        "return_timestamps": False,
        **_special_tokens(vocabulary),
    }
    if vocabulary.is_multilingual:
        values["lang_to_id"] = {f"<|{code}|>": id_ for code, id_ in vocabulary.languages.items()}
        values["task_to_id"] = {
            "transcribe": vocabulary.transcribe, "translate": vocabulary.translate,
        }  # fmt: skip
    return values


def _special_tokens(vocabulary: WhisperVocabulary) -> dict[str, int]:
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), vocabulary.end)
    return {**ends, "decoder_start_token_id": vocabulary.start}
