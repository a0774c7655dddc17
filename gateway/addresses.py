"""Where one server listens: its reserved ports and its Unix listener, under one roof.

The supervisor opens this before it starts anything and closes it last. It knows how to describe
the addresses to people, to whoever started the server, and to a worker.
"""

from __future__ import annotations

import contextlib
from types import TracebackType

from .config import ServerConfig, WorkerConfig
from .reservation import UnixListener, reserve_port

BYTES_PER_MB = 1_000_000


class Addresses:
    """Context manager; raises AddressError when one of the addresses cannot be had."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._cleanup = contextlib.ExitStack()
        with self._cleanup:  # closes what was opened when a later one fails
            keep = self._cleanup.enter_context
            http = keep(reserve_port(config.host, config.port, "--port"))
            self.host, self.http_port = http.getsockname()[:2]
            self.native_port: int | None = None
            if config.native_port is not None:
                native = keep(reserve_port(config.host, config.native_port, "--native-port"))
                self.native_port = native.getsockname()[1]
            self.wyoming_port: int | None = None
            if config.wyoming_port is not None:
                wyoming = keep(reserve_port(config.host, config.wyoming_port, "--wyoming-port"))
                self.wyoming_port = wyoming.getsockname()[1]
            self._uds = UnixListener(config.uds) if config.uds else None
            if self._uds:
                self._cleanup.callback(self._uds.close)
            self._cleanup = self._cleanup.pop_all()

    def __enter__(self) -> Addresses:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    @property
    def uds_fd(self) -> int | None:
        """The listening Unix socket that workers inherit."""
        return self._uds.sock.fileno() if self._uds else None

    def describe(self) -> list[str]:
        """One line a listener."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        has_tls = self._config.tls_cert is not None
        http, native = ("https", "earwires") if has_tls else ("http", "earwire")
        lines = [f"{http}://{host}:{self.http_port} (HTTP and WebSocket)"]
        if self.native_port is not None:
            lines.append(f"{native}://{host}:{self.native_port} (native)")
        if self.wyoming_port is not None:
            lines.append(f"tcp://{host}:{self.wyoming_port} (Wyoming)")
        if self._uds:
            lines.append(f"unix://{self._uds.path} (native)")
        return lines

    def as_fields(self) -> dict[str, int | str | None]:
        """The same for programs: the line written to --ready-fd."""
        uds = self._uds.path if self._uds else None
        return {
            "http_port": self.http_port,
            "native_port": self.native_port,
            "wyoming_port": self.wyoming_port,
            "uds": uds,
        }

    def worker_config(
        self, index: int, epoch: int, control_fd: int, arena_fd: int, quota_fd: int | None
    ) -> WorkerConfig:
        """The settings of one worker: the server's, with addresses as they were resolved here."""
        config = self._config
        return WorkerConfig(
            index=index,
            epoch=epoch,
            host=self.host,
            port=self.http_port,
            native_port=self.native_port,
            control_fd=control_fd,
            arena_fd=arena_fd,
            uds_fd=self.uds_fd,
            max_connections=config.max_connections,
            vad=config.vad,
            hop_ms=config.hop_ms,
            max_utterance_ms=config.max_utterance_ms,
            ring_ms=config.ring_ms,
            allow_origins=config.allow_origins,
            handshake_timeout_ms=config.handshake_timeout_ms,
            idle_timeout_ms=config.idle_timeout_ms,
            gc_freeze=config.gc_freeze,
            log_level=config.log_level,
            num_workers=config.workers,
            wyoming_port=self.wyoming_port,
            awaits_access=config.reads_access_files,
            quota_fd=quota_fd,
            max_connections_per_address=config.max_per_address,
            max_upload_bytes=config.max_upload_mb * BYTES_PER_MB,
            max_file_seconds=config.max_file_minutes * 60,
            log_format=config.log_format,
            log_transcripts=config.log_transcripts,
            resume_window_ms=config.resume_window_ms,
            flight_recorder=config.flight_settings,
        )
