"""`python -m gateway`: argv to ServerConfig to Supervisor.run.

The only place of the parent that reads argv. `earwire serve` execs this with the same options;
--config takes the whole ServerConfig as JSON, for programs that start servers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import msgspec

from protocol.errors import EarwireError

from .config import DEFAULT_PER_ADDRESS, ServerConfig
from .flight_files import prepare_folder
from .supervisor import Supervisor

_FIELDS = {field.name: field for field in msgspec.structs.fields(ServerConfig)}


class _Options:
    """An argparse parser that takes names and defaults from ServerConfig's fields."""

    def __init__(self) -> None:
        self.parser = argparse.ArgumentParser(
            prog="earwire serve",
            description="Serve speech recognition until SIGTERM or Ctrl-C. Then no new sessions "
            "are taken, the open ones get their last texts, and it exits with 0.",
            allow_abbrev=False,
        )
        self.begin_group("recognition")

    def begin_group(self, title: str) -> None:
        """What is added from here on stands under this title."""
        self.group = self.parser.add_argument_group(title)

    def add(self, name: str, help_: str, type_: type = str, **kwargs: object) -> None:
        """An option with a value."""
        default = _FIELDS[name].default
        value = "on" if default is True else default
        shown = "" if default in (None, (), "") else f" (default: {value})"
        flag = "--" + name.replace("_", "-")
        self.group.add_argument(flag, type=type_, help=help_ + shown, default=None, **kwargs)  # type: ignore[arg-type]


def _parser() -> argparse.ArgumentParser:
    options = _Options()
    _add_recognition(options)
    options.begin_group("where it listens")
    _add_listeners(options)
    options.begin_group("who may connect (docs/SECURITY.md)")
    _add_access(options)
    options.begin_group("limits")
    _add_limits(options)
    options.begin_group("processes and logs")
    _add_operation(options)
    options.begin_group("flight recorder (docs/FLIGHT_RECORDER.md)")
    _add_flight_recorder(options)
    return options.parser


def _add_recognition(options: _Options) -> None:
    add = options.add
    options.group.add_argument(
        "--model", action="append", metavar="MODEL", dest="models",
        help="tiny.en, a folder, a .nemo file, a hub id, or what earwire build made; may be "
        "repeated: sessions choose by its name, those that do not get the first one, or the first "
        "that knows their language (default: tiny.en)",
    )  # fmt: skip
    add(
        "engine", "what computes: auto takes the GPU for what earwire build made, else the CPU",
        choices=("auto", "cpu", "gpu"),
    )  # fmt: skip
    add("precision", "of a GPU engine, auto: as it was built", choices=("auto", "fp16", "fp32"))
    add("hop_ms", "milliseconds of speech between two partials", int)
    add("guard_ms", "speech this close to the end of the audio is never shown as stable", int)
    add(
        "draft",
        "how Parakeet makes partials: each hop encodes the new audio only, or all of it "
        "up to --window-s",
        choices=("incremental", "window"),
    )
    add(
        "draft_policy",
        "what makes Whisper's words stable: two partials that agree, or where in the audio they "
        "were heard",
        choices=("agreement", "alignatt"),
    )
    add("window_s", "audio that a partial of --draft window may encode", int)
    add("hotword_weight", "log-probability that a token of a client's hotwords gains", float)
    add("max_utterance_ms", "longest utterance; Parakeet goes on behind it with what it knows", int)
    add("vad", "voice activity detection", choices=("on", "off"))


def _add_listeners(options: _Options) -> None:
    add = options.add
    add("host", "address to listen on")
    add("port", "port for HTTP and WebSocket, 0 for any", int)
    add("native_port", "port for the native protocol, 0 for any (default: none)", int)
    add("wyoming_port", "port for Wyoming (Home Assistant), 0 for any (default: none)", int)
    add("uds", "path of a Unix socket for the native protocol (default: none)")
    add(
        "control",
        "path of a Unix socket for `earwire swap-model` (default: that of --uds with .control "
        "behind it, else in the user's runtime folder)",
    )


def _add_access(options: _Options) -> None:
    add = options.add
    add("tokens", "file of who may connect, made by `earwire tokens`; SIGHUP reads it again")
    add(
        "tls_cert",
        "certificate with its chain (PEM), for HTTPS, WSS and native TLS; SIGHUP reads it again",
    )
    add("tls_key", "its key (PEM, without a passphrase), when it is not in the same file")
    options.group.add_argument(
        "--allow-origin", action="append", metavar="ORIGIN", dest="allow_origins",
        help="web origin that may connect, such as https://example.org; may be repeated",
    )  # fmt: skip
    options.group.add_argument(
        "--insecure", action="store_true", default=None,
        help="listen beyond this machine where no token is asked for",
    )  # fmt: skip


def _add_limits(options: _Options) -> None:
    add = options.add
    add("max_sessions", "most streams at a time, over all workers", int)
    add("max_connections", "most connections of one worker", int)
    add(
        "max_connections_per_address",
        "most connections of one peer address to one worker (default: none when --host is this "
        f"machine's own, else {DEFAULT_PER_ADDRESS})",
        int,
    )
    add("max_upload_mb", "largest audio file that is taken, in millions of bytes", int)
    add("max_file_minutes", "longest audio of a file that is transcribed", int)
    add("handshake_timeout_ms", "time for a client to say hello", int)
    add("idle_timeout_ms", "time without anything received before a connection is ended", int)
    add("drain_timeout_ms", "time for open sessions to end after SIGTERM", int)
    add(
        "resume_window_ms",
        "how long a session waits for its client to reconnect, 0: not at all",
        int,
    )


def _add_operation(options: _Options) -> None:
    add = options.add
    add("workers", "gateway processes", int)
    add("services", "recognition processes of each model", int)
    add(
        "service_timeout_ms",
        "a recognition process that does nothing for so long is started again, 0: never",
        int,
    )
    add("threads", "engine threads, 0: the engine chooses", int)
    add("vad_threads", "voice activity threads, 0: by cores and --max-sessions", int)
    add("log_level", "debug, info, warning or error", choices=("debug", "info", "warning", "error"))
    add("log_format", "lines for people, or JSON for programs", choices=("text", "json"))
    group = options.group
    group.add_argument("--log-transcripts", action="store_true", default=None,
                       help="log what people said; without it no text is ever logged")  # fmt: skip
    group.add_argument("--gc-freeze", action=argparse.BooleanOptionalAction, default=None,
                       help="keep start-up objects out of garbage collection")  # fmt: skip
    group.add_argument("--config", metavar="JSON", help="all settings at once; other flags win")
    group.add_argument("--ready-fd", type=int, metavar="FD",
                       help="write one JSON line with the addresses there when ready")  # fmt: skip
    group.add_argument("--lifeline-fd", type=int, metavar="FD",
                       help="drain and exit when this descriptor reads end of file")  # fmt: skip


def _add_flight_recorder(options: _Options) -> None:
    add = options.add
    add(
        "flight_recorder",
        "folder where the last 30 s of a stream are kept when something goes wrong: audio and "
        "text of what people said, for `earwire replay` (default: none)",
    )
    add("flight_recorder_mb", "most millions of bytes there; the oldest records are removed", int)
    add("flight_recorder_lag_ms", "text that comes so long after its audio has gone wrong", int)


def parse_config(options: argparse.Namespace) -> ServerConfig:
    """The settings of --config, overridden by flags. Raises ValueError or ValidationError."""
    fields = msgspec.json.decode(options.config, type=dict) if options.config else {}
    if options.models:
        fields["model"], fields["more_models"] = options.models[0], options.models[1:]
    for name in _FIELDS:
        value = getattr(options, name, None)
        if value is not None:
            fields[name] = value == "on" if name == "vad" else value
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(unknown)}")
    return msgspec.convert(fields, ServerConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 after a drain, 1 when the server cannot run, 2 for wrong options."""
    options = _parser().parse_args(argv)
    try:
        config = parse_config(options)
    except (ValueError, msgspec.ValidationError) as error:
        print(f"earwire: error: {error}", file=sys.stderr)
        return 2
    try:
        if config.flight_recorder is not None:
            prepare_folder(config.flight_recorder)
        return Supervisor(config, options.ready_fd, options.lifeline_fd).run()
    except EarwireError as error:
        print(f"earwire: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
