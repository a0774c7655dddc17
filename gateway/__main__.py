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

from .config import ServerConfig
from .supervisor import Supervisor

_FIELDS = {field.name: field for field in msgspec.structs.fields(ServerConfig)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="earwire serve",
        description="Serve speech recognition until SIGTERM or Ctrl-C. Then no new sessions are "
        "taken, the open ones get their last texts, and it exits with 0.",
        allow_abbrev=False,
    )

    def add(name: str, help_: str, type_: type = str, **kwargs: object) -> None:
        default = _FIELDS[name].default
        shown = "" if default in (None, (), "") else f" (default: {default})"
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=type_, help=help_ + shown, default=None, **kwargs)  # type: ignore[arg-type]

    add("model", "tiny.en, a folder, a .nemo file, a hub id, or what earwire build made")
    add(
        "engine", "what computes: auto takes the GPU for what earwire build made, else the CPU",
        choices=("auto", "cpu", "gpu"),
    )  # fmt: skip
    add("precision", "of a GPU engine, auto: as it was built", choices=("auto", "fp16", "fp32"))
    add("host", "address to listen on")
    add("port", "port for HTTP and WebSocket, 0 for any", int)
    add("native_port", "port for the native protocol, 0 for any (default: none)", int)
    add("uds", "path of a Unix socket for the native protocol (default: none)")
    add("workers", "gateway processes", int)
    add("services", "recognition processes", int)
    add("max_sessions", "most streams at a time, over all workers", int)
    add("max_connections", "most connections of one worker", int)
    add("hop_ms", "milliseconds of speech between two partials", int)
    add("guard_ms", "speech this close to the end of the audio is never shown as stable", int)
    add(
        "draft",
        "how Parakeet makes partials: each hop encodes the new audio only, or all of it "
        "up to --window-s",
        choices=("incremental", "window"),
    )
    add("window_s", "audio that a partial of --draft window may encode", int)
    add("hotword_weight", "log-probability that a token of a client's hotwords gains", float)
    add("max_utterance_ms", "longest utterance; Parakeet goes on behind it with what it knows", int)
    add("threads", "engine threads, 0: the engine chooses", int)
    add("vad_threads", "voice activity threads, 0: by cores and --max-sessions", int)
    add("handshake_timeout_ms", "time for a client to say hello", int)
    add("idle_timeout_ms", "time without audio before a stream is closed", int)
    add("drain_timeout_ms", "time for open sessions to end after SIGTERM", int)
    add("log_level", "debug, info, warning or error", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--vad", choices=("on", "off"), help="voice activity detection")
    parser.add_argument(
        "--allow-origin", action="append", metavar="ORIGIN", dest="allow_origins",
        help="web origin that may connect, such as https://example.org; may be repeated",
    )  # fmt: skip
    parser.add_argument("--insecure", action="store_true", default=None,
                        help="listen beyond this machine without authentication")  # fmt: skip
    parser.add_argument("--gc-freeze", action=argparse.BooleanOptionalAction, default=None,
                        help="keep start-up objects out of garbage collection")  # fmt: skip
    parser.add_argument("--config", metavar="JSON", help="all settings at once; other flags win")
    parser.add_argument("--ready-fd", type=int, metavar="FD",
                        help="write one JSON line with the addresses there when ready")  # fmt: skip
    parser.add_argument("--lifeline-fd", type=int, metavar="FD",
                        help="drain and exit when this descriptor reads end of file")  # fmt: skip
    return parser


def parse_config(options: argparse.Namespace) -> ServerConfig:
    """The settings of --config, overridden by flags. Raises ValueError or ValidationError."""
    fields = msgspec.json.decode(options.config, type=dict) if options.config else {}
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
        return Supervisor(config, options.ready_fd, options.lifeline_fd).run()
    except EarwireError as error:
        print(f"earwire: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
