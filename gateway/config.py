"""Settings of the parent and of one worker: frozen, checked, and passed on as JSON.

Only the __main__ modules read argv; everything else receives one of these. `service_json` builds
the argument of `python -m gpu_service`, which this package does not import: the field names are
the contract, and gpu_service/config.py decodes them strictly.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from protocol.audio import MAX_UTTERANCE_MS

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
# The ring holds the longest utterance and this: 10 s of context before a cut, 2 s behind it
# (gpu_service), and 5 s for what comes in while the final is computed.
RING_SLACK_SECONDS = 17


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What `earwire serve` was told; counts are for the whole server."""

    model: str = "tiny.en"
    engine: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "fp16", "fp32"] = "auto"  # of a GPU engine
    host: str = "127.0.0.1"
    port: Port = 8080  # HTTP and WebSocket
    native_port: Port | None = None  # None: no native TCP listener
    uds: str | None = None  # path of the native Unix listener
    workers: Positive = 1
    services: Positive = 1
    max_sessions: Positive = 32
    max_connections: Positive = 4096
    vad: bool = True
    hop_ms: Positive = 320
    guard_ms: Annotated[int, msgspec.Meta(ge=0, le=5_000)] = 300
    draft: Literal["incremental", "window"] = "incremental"
    window_s: Annotated[int, msgspec.Meta(ge=2, le=60)] = 15
    hotword_weight: Annotated[float, msgspec.Meta(ge=0, le=100)] = 3.0
    max_utterance_ms: Annotated[int, msgspec.Meta(ge=1_000, le=MAX_UTTERANCE_MS)] = 30_000
    threads: int = 0  # engine threads; 0: the engine's choice
    vad_threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0  # 0: by cores and max_sessions
    allow_origins: tuple[str, ...] = ()  # besides the server's own and no Origin at all
    insecure: bool = False  # bind beyond loopback without authentication
    handshake_timeout_ms: Positive = 10_000
    idle_timeout_ms: Positive = 300_000
    drain_timeout_ms: Positive = 30_000
    gc_freeze: bool = True
    log_level: str = "info"

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.insecure:
            raise ValueError(
                f"refusing to listen on {self.host} without authentication: "
                "use 127.0.0.1, or say --insecure if anybody there may use this server"
            )

    @property
    def ring_ms(self) -> int:
        """Audio a session's ring holds."""
        return self.max_utterance_ms + RING_SLACK_SECONDS * 1000

    @property
    def sessions_per_worker(self) -> int:
        """Ring slots of one worker's arena."""
        return -(-self.max_sessions // self.workers)


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker needs; descriptors are inherited under these numbers."""

    index: int
    epoch: int
    host: str
    port: Port
    native_port: Port | None
    control_fd: int
    arena_fd: int
    uds_fd: int | None
    max_connections: int
    vad: bool
    hop_ms: int
    max_utterance_ms: int
    ring_ms: int
    allow_origins: tuple[str, ...]
    handshake_timeout_ms: int
    idle_timeout_ms: int
    gc_freeze: bool
    log_level: str


def service_json(config: ServerConfig, index: int, control_fd: int) -> str:
    """The `--config` argument of a service process."""
    fields = {
        "index": index,
        "control_fd": control_fd,
        "model": config.model,
        "engine": config.engine,
        "precision": config.precision,
        "vad": config.vad,
        "hop_ms": config.hop_ms,
        "guard_ms": config.guard_ms,
        "draft": config.draft,
        "window_s": config.window_s,
        "hotword_weight": config.hotword_weight,
        "max_utterance_ms": config.max_utterance_ms,
        "max_streams": config.max_sessions,
        "threads": config.threads,
        "vad_threads": config.vad_threads,
        "gc_freeze": config.gc_freeze,
        "log_level": config.log_level,
    }
    return msgspec.json.encode(fields).decode()
