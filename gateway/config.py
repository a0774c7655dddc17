"""Settings of the parent and of one worker: frozen, checked, and passed on as JSON.

Only the __main__ modules read argv; everything else receives one of these. `service_json` builds
the argument of `python -m gpu_service`, which this package does not import: the field names are
the contract, and gpu_service/config.py decodes them strictly.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from protocol.audio import MAX_UTTERANCE_MS
from protocol.flight_record import RecognitionSettings

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
# The ring holds the longest utterance and this: 10 s of context before a cut, 2 s behind it
# (gpu_service), and 5 s for what comes in while the final is computed.
RING_SLACK_SECONDS = 17


# More than a classroom behind one router has, and too few to take all connections of a server.
DEFAULT_PER_ADDRESS = 256
MAX_MODELS = 16
LogFormat: TypeAlias = Literal["text", "json"]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What `earwire serve` was told; counts are for the whole server."""

    model: str = "tiny.en"  # of sessions that name none
    more_models: tuple[str, ...] = ()  # besides that one
    engine: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["auto", "fp16", "fp32"] = "auto"  # of a GPU engine
    host: str = "127.0.0.1"
    port: Port = 8080  # HTTP and WebSocket
    native_port: Port | None = None  # None: no native TCP listener
    wyoming_port: Port | None = None  # None: no Wyoming listener
    uds: str | None = None  # path of the native Unix listener
    control: str | None = None  # path of the socket for `earwire swap-model`; None: a place of ours
    tokens: str | None = None  # path of the token file; None: everybody may connect
    tls_cert: str | None = None  # path of the certificate chain; None: no TLS
    tls_key: str | None = None  # path of its key; None: it is in the same file
    workers: Positive = 1
    services: Positive = 1  # of each model
    max_sessions: Positive = 32
    max_connections: Positive = 4096
    # None: no limit on loopback, DEFAULT_PER_ADDRESS elsewhere
    max_connections_per_address: Positive | None = None
    max_upload_mb: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 100
    max_file_minutes: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 120
    vad: bool = True
    hop_ms: Positive = 320
    guard_ms: Annotated[int, msgspec.Meta(ge=0, le=5_000)] = 300
    draft: Literal["incremental", "window"] = "incremental"
    draft_policy: Literal["agreement", "alignatt"] = "agreement"
    window_s: Annotated[int, msgspec.Meta(ge=2, le=60)] = 15
    hotword_weight: Annotated[float, msgspec.Meta(ge=0, le=100)] = 3.0
    max_utterance_ms: Annotated[int, msgspec.Meta(ge=1_000, le=MAX_UTTERANCE_MS)] = 30_000
    threads: int = 0  # engine threads; 0: the engine's choice
    vad_threads: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0  # 0: by cores and max_sessions
    allow_origins: tuple[str, ...] = ()  # besides the server's own and no Origin at all
    insecure: bool = False  # bind beyond loopback where no token is asked for
    handshake_timeout_ms: Positive = 10_000
    idle_timeout_ms: Positive = 300_000
    drain_timeout_ms: Positive = 30_000
    resume_window_ms: Annotated[int, msgspec.Meta(ge=0)] = 30_000  # 0: no session is resumable
    service_timeout_ms: Annotated[int, msgspec.Meta(ge=0)] = 10_000  # 0: wait for ever
    gc_freeze: bool = True
    log_level: str = "info"
    log_format: LogFormat = "text"
    log_transcripts: bool = False
    flight_recorder: str | None = None  # path of its folder; None: nothing is recorded
    flight_recorder_mb: Positive = 256
    flight_recorder_lag_ms: Annotated[int, msgspec.Meta(ge=1, le=600_000)] = 2_000

    def __post_init__(self) -> None:
        if len(set(self.models)) < len(self.models) or len(self.models) > MAX_MODELS:
            raise ValueError(f"--model: each model once, and at most {MAX_MODELS} of them")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("--tls-key goes with --tls-cert: there is no certificate")
        if not self.is_exposed or self.insecure:
            return
        if self.tokens is None:
            raise ValueError(
                f"refusing to listen on {self.host} without --tokens: use 127.0.0.1, make a token "
                "file with `earwire tokens add`, or say --insecure if anybody there may use this "
                "server"
            )
        if self.wyoming_port is not None:
            raise ValueError(
                f"refusing to listen on {self.host} with --wyoming-port: Wyoming has no tokens. "
                "Use 127.0.0.1, or say --insecure if anybody there may use the Wyoming port"
            )

    @property
    def models(self) -> tuple[str, ...]:
        """All that are served, the default one first."""
        return (self.model, *self.more_models)

    @property
    def is_exposed(self) -> bool:
        """Other machines can reach this server."""
        return self.host not in LOOPBACK

    @property
    def max_per_address(self) -> int | None:
        """Connections that one address may have to one worker; None: no limit."""
        if self.max_connections_per_address is None and self.is_exposed:
            return DEFAULT_PER_ADDRESS
        return self.max_connections_per_address

    @property
    def reads_access_files(self) -> bool:
        """There are files that SIGHUP reads again: tokens or a certificate."""
        return self.tokens is not None or self.tls_cert is not None

    @property
    def ring_ms(self) -> int:
        """Audio a session's ring holds."""
        return self.max_utterance_ms + RING_SLACK_SECONDS * 1000

    @property
    def sessions_per_worker(self) -> int:
        """Ring slots of one worker's arena."""
        return -(-self.max_sessions // self.workers)

    @property
    def flight_settings(self) -> FlightSettings | None:
        """What a worker has to know to record flights; None: it records none."""
        if self.flight_recorder is None:
            return None
        names = RecognitionSettings.__struct_fields__
        return FlightSettings(
            folder=self.flight_recorder,
            max_bytes=self.flight_recorder_mb * 1_000_000,
            lag_ms=self.flight_recorder_lag_ms,
            server=RecognitionSettings(**{name: getattr(self, name) for name in names}),
        )


class FlightSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where flight records go, and what of the server a replay has to know."""

    folder: str
    max_bytes: int
    lag_ms: int  # text that comes later than this after its audio is late
    server: RecognitionSettings


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
    num_workers: int = 1
    wyoming_port: Port | None = None
    awaits_access: bool = False  # an Access message comes before anything else
    quota_fd: int | None = None  # the table of sessions by token; None: no tokens
    max_connections_per_address: int | None = None
    max_upload_bytes: int = 100_000_000
    max_file_seconds: int = 7_200
    log_format: LogFormat = "text"
    log_transcripts: bool = False
    resume_window_ms: int = 0
    flight_recorder: FlightSettings | None = None


def service_json(config: ServerConfig, model: str, index: int, control_fd: int) -> str:
    """The `--config` argument of a service process, with one of the models."""
    fields = {
        "index": index,
        "control_fd": control_fd,
        "model": model,
        "engine": config.engine,
        "precision": config.precision,
        "vad": config.vad,
        "hop_ms": config.hop_ms,
        "guard_ms": config.guard_ms,
        "draft": config.draft,
        "draft_policy": config.draft_policy,
        "window_s": config.window_s,
        "hotword_weight": config.hotword_weight,
        "max_utterance_ms": config.max_utterance_ms,
        "max_streams": config.max_sessions,
        "threads": config.threads,
        "vad_threads": config.vad_threads,
        "gc_freeze": config.gc_freeze,
        "log_level": config.log_level,
        "log_format": config.log_format,
    }
    return msgspec.json.encode(fields).decode()
