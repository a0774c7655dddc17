"""The `earwire` command: argv to the commands, one small file each.

Only typer is imported here, so that --help is quick; a command's file, and what it needs, is
imported when it runs. `serve` becomes `python -m gateway`: processes meet by command line.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from protocol.audio import MAX_END_OF_TURN_MS, MAX_UTTERANCE_MS

from .python_child import child_environment

if TYPE_CHECKING:
    from .address import Credentials

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Earwire: streaming speech-to-text. Live audio in, captions out while people speak.",
)
bench = typer.Typer(no_args_is_help=True, help="Measure a server (from a source checkout).")
app.add_typer(bench, name="bench")


class Switch(str, Enum):
    """on or off."""

    ON = "on"
    OFF = "off"


ServerOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="earwire://HOST:PORT, unix:///PATH, ws://HOST:PORT or wss://HOST:PORT. "
        "Without it a private server is started, and stopped again.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="tiny.en (default), a folder, a .nemo file or a hub id."),
]
LanguageOption = Annotated[
    str | None, typer.Option(help="Language code such as en; default: the model decides.")
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        envvar="EARWIRE_TOKEN",
        help="For a --server that asks for one. The environment is the better place: other users "
        "of this machine can read command lines.",
    ),
]
TlsCaOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="EARWIRE_TLS_CA",
        help="PEM file of the certificates to trust, for a --server whose own is self-signed.",
    ),
]


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"earwire {version('earwire')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version)
    ] = False,
) -> None:
    """The options of `earwire` itself."""


def _interrupt(*_: object) -> NoReturn:
    # SIGTERM as Ctrl-C: private servers are stopped and temporary files removed on the way out.
    raise KeyboardInterrupt


_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASS_ON)
def serve(context: typer.Context) -> None:
    """Serve speech recognition until SIGTERM or Ctrl-C; its own --help lists the options."""
    # The gateway owns and checks these options: one list of them, not two that drift apart.
    command = [sys.executable, "-m", "gateway", *context.args]
    os.execve(sys.executable, command, child_environment())


@app.command(context_settings=_PASS_ON)
def models(context: typer.Context) -> None:
    """Fetch, list, inspect and remove models; its own --help lists the commands."""
    command = [sys.executable, "-m", "gpu_service.models_command", *context.args]
    os.execve(sys.executable, command, child_environment())


@app.command(context_settings=_PASS_ON)
def tokens(context: typer.Context) -> None:
    """Make, list and remove the tokens of a server; its own --help lists the commands."""
    command = [sys.executable, "-m", "gateway.tokens_command", *context.args]
    os.execve(sys.executable, command, child_environment())


@app.command("swap-model", context_settings=_PASS_ON)
def swap_model(context: typer.Context) -> None:
    """Replace a model of a running server; its own --help lists the options."""
    command = [sys.executable, "-m", "gateway.swap_command", *context.args]
    os.execve(sys.executable, command, child_environment())


@app.command(context_settings=_PASS_ON)
def build(context: typer.Context) -> None:
    """Build an engine of a model for this machine's GPU; its own --help lists the options."""
    command = [sys.executable, "-m", "gpu_service.builder", *context.args]
    os.execve(sys.executable, command, child_environment())


@app.command()
def transcribe(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Audio or video files of any kind.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Segments and words with times.")] = False,
    srt: Annotated[bool, typer.Option("--srt", help="SubRip subtitles.")] = False,
    vtt: Annotated[bool, typer.Option("--vtt", help="WebVTT subtitles.")] = False,
    txt: Annotated[bool, typer.Option("--txt", help="Plain text (default).")] = False,
    model: ModelOption = None,
    language: LanguageOption = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Send as a microphone would, not as fast as it goes.")
    ] = False,
    vad: Annotated[Switch, typer.Option(help="Voice activity detection.")] = Switch.ON,
    hotword: Annotated[
        list[str] | None,
        typer.Option(metavar="PHRASE", help="Prefer this phrase; may be repeated."),
    ] = None,
    max_utterance_ms: Annotated[
        int | None,
        typer.Option(min=1_000, max=MAX_UTTERANCE_MS, help="Cut longer speech than this."),
    ] = None,
    server: ServerOption = None,
    token: TokenOption = None,
    tls_ca: TlsCaOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write NAME.txt, NAME.json, ... there."),
    ] = None,
) -> None:
    """Transcribe audio files. The result alone goes to stdout; 1 is returned if a file failed."""
    from .transcribe_command import Options, run

    chosen = [n for n, on in (("json", json), ("srt", srt), ("vtt", vtt), ("txt", txt)) if on]
    if len(chosen) > 1:
        raise typer.BadParameter("choose one of --json, --srt, --vtt and --txt")
    form = chosen[0] if chosen else "txt"
    if len(files) > 1 and form in ("srt", "vtt") and out is None:
        raise typer.BadParameter(f"several files as --{form} need --out DIR")
    options = Options(
        form, model, language, realtime, vad is Switch.ON, server, out,
        tuple(hotword or ()), max_utterance_ms, _credentials(token, tls_ca),
    )  # fmt: skip
    raise typer.Exit(run(files, options))


@app.command()
def listen(
    device: Annotated[
        str | None, typer.Option(help="Number or part of the name of the microphone.")
    ] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="Show the microphones and exit.")
    ] = False,
    server: ServerOption = None,
    token: TokenOption = None,
    tls_ca: TlsCaOption = None,
    model: ModelOption = None,
    language: LanguageOption = None,
    end_of_turn_ms: Annotated[
        int | None,
        typer.Option(
            min=0, max=MAX_END_OF_TURN_MS, help="Leave a line free after so much silence."
        ),
    ] = None,
) -> None:
    """Caption the microphone live, until Ctrl-C."""
    from .listen_command import run, show_devices

    if list_devices:
        raise typer.Exit(show_devices())
    credentials = _credentials(token, tls_ca)
    raise typer.Exit(run(device, server, model, language, end_of_turn_ms, credentials))


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of --flight-recorder.")],
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            "--url",
            metavar="URL",
            help="Without it a private server is started with the recorded settings.",
            show_default=False,
        ),
    ] = None,
    token: TokenOption = None,
    tls_ca: TlsCaOption = None,
    model: Annotated[
        str | None, typer.Option(help="Of the private server, in place of the recorded one.")
    ] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Send as the client did, not as fast as it goes.")
    ] = False,
    wav: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write the audio there, and do no more.")
    ] = None,
    events: Annotated[
        bool, typer.Option("--events", help="Print what is in it as JSON lines, and do no more.")
    ] = False,
) -> None:
    """Run a flight record again; 1 is returned if a text is not as it was."""
    from .replay_command import Options, run

    if wav is not None and events:
        raise typer.BadParameter("choose one of --wav and --events")
    credentials = _credentials(token, tls_ca)
    raise typer.Exit(run(file, Options(server, credentials, model, realtime, wav, events)))


@app.command()
def demo() -> None:
    """Caption a bundled clip at real time with a private server."""
    from .demo_command import run

    raise typer.Exit(run())


@bench.command("live", context_settings=_PASS_ON)
def bench_live(context: typer.Context) -> None:
    """Latency of N concurrent real-time streams against any server."""
    _run_bench("bench.live", context.args)


@bench.command("gateway", context_settings=_PASS_ON)
def bench_gateway(context: typer.Context) -> None:
    """Streams a core and added latency of the gateway alone."""
    _run_bench("bench.gateway", context.args)


@bench.command("gpu", context_settings=_PASS_ON)
def bench_gpu(context: typer.Context) -> None:
    """Speed and accuracy of Parakeet on an NVIDIA GPU; its own --help lists the options."""
    _run_bench("bench.gpu", context.args)


def _credentials(token: str | None, tls_ca: Path | None) -> Credentials:
    from .address import Credentials

    return Credentials(token or "", None if tls_ca is None else str(tls_ca))


def _run_bench(module_name: str, arguments: list[str]) -> NoReturn:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name not in ("bench", module_name):
            raise
        typer.echo(
            "earwire bench is not part of the installed package: run it from a source checkout "
            "that is installed with `pip install -e .`",
            err=True,
        )
        raise typer.Exit(1) from None
    raise typer.Exit(module.main(arguments))


def main() -> None:
    """Console script: exit status 0, 1 when it could not be done, 2 for wrong usage."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(prog_name="earwire")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
