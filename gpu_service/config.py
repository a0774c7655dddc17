"""Settings of one service process: a frozen struct decoded strictly from the parent's JSON.

gateway/config.py writes the JSON (`service_json`); an unknown or mistyped field is an error at
start, so the two cannot drift apart unnoticed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from protocol.audio import MAX_UTTERANCE_MS

Positive = Annotated[int, msgspec.Meta(ge=1)]


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a service is told at start."""

    index: int
    control_fd: int
    model: str = "tiny.en"
    engine: Literal["auto", "cpu", "gpu"] = "auto"  # auto: the GPU for what earwire build made
    precision: Literal["auto", "fp16", "fp32"] = "auto"  # of a GPU engine; auto: as it was built
    vad: bool = True
    hop_ms: Positive = 320
    guard_ms: Annotated[int, msgspec.Meta(ge=0, le=5_000)] = 300
    draft: Literal["incremental", "window"] = "incremental"
    draft_policy: Literal["agreement", "alignatt"] = "agreement"  # of Whisper
    window_s: Annotated[int, msgspec.Meta(ge=2, le=60)] = 15
    hotword_weight: Annotated[float, msgspec.Meta(ge=0, le=100)] = 3.0
    max_utterance_ms: Annotated[int, msgspec.Meta(ge=1_000, le=MAX_UTTERANCE_MS)] = 30_000
    max_streams: Positive = 32
    threads: int = 0  # 0: the engine's choice
    vad_threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0  # 0: by cores and max_streams
    gc_freeze: bool = True
    log_level: str = "info"
    log_format: Literal["text", "json"] = "text"


def decode_config(text: str) -> ServiceConfig:
    """The config of `--config`; raises msgspec.ValidationError with the field's path."""
    return msgspec.json.decode(text, type=ServiceConfig)
