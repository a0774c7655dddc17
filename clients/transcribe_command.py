"""`earwire transcribe`: files through a server, one after the other, results to stdout or files."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol.audio import RING_RATE_HZ
from protocol.client_messages import Hello, ServerMessage, VadOptions

from .address import NO_CREDENTIALS, Credentials
from .audio_file import AudioFile
from .blocking import Client
from .errors import ClientError
from .progress import progress_bar
from .server_process import ServerProcess
from .session_feed import feed, finish, say_connection
from .transcript import SUFFIXES, Transcript

REALTIME_BLOCK_MS = 20


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    form: str  # a key of SUFFIXES
    model: str | None = None
    language: str | None = None
    realtime: bool = False
    vad: bool = True
    server: str | None = None
    out: Path | None = None
    hotwords: tuple[str, ...] = ()
    max_utterance_ms: int | None = None
    credentials: Credentials = NO_CREDENTIALS


def run(files: Sequence[Path], options: Options) -> int:
    """Exit status: 0, or 1 when a file failed (the others are still done)."""
    try:
        names = output_names(files, options)
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
        with server_url(options.server, options.model, options.max_utterance_ms) as url:
            done = [_is_done(f, name, url, options) for f, name in zip(files, names, strict=True)]
    except _NoOutputError as error:
        if str(error):
            print(f"earwire: stdout: {error}", file=sys.stderr)
        return 1
    except (ClientError, OSError) as error:
        print(f"earwire: {error}", file=sys.stderr)
        return 1
    failed = done.count(False)
    if failed and len(files) > 1:
        print(f"earwire: {failed} of {len(files)} files failed", file=sys.stderr)
    return 1 if failed else 0


def _is_done(file: Path, name: Path | None, url: str, options: Options) -> bool:
    try:
        _write(_transcribe(file, url, options), file, name, options)
    except (ClientError, OSError) as error:
        text = str(error) if str(file) in str(error) else f"{file}: {error}"
        print(f"earwire: {text}", file=sys.stderr)
        return False
    return True


class _NoOutputError(Exception):
    """Nothing can be written to stdout any more: no other file is worth its work."""


@contextlib.contextmanager
def server_url(
    server: str | None, model: str | None, max_utterance_ms: int | None = None
) -> Iterator[str]:
    """The URL given, or that of a private server that lives as long as the context."""
    if server is not None:
        yield server
        return
    flags = ["--model", model] if model else []
    if max_utterance_ms is not None:
        flags += ["--max-utterance-ms", str(max_utterance_ms)]
    with progress_bar("starting the server"):
        process = ServerProcess(flags)
    with process:
        yield process.url


def output_names(files: Sequence[Path], options: Options) -> list[Path | None]:
    """Where each result goes: DIR/stem.suffix, with the whole file name where stems are equal.

    Raises ClientError where two would go to one place.
    """
    if options.out is None:
        return [None] * len(files)
    stems = [file.stem for file in files]
    names: list[Path | None] = [
        options.out / ((f.stem if stems.count(f.stem) == 1 else f.name) + SUFFIXES[options.form])
        for f in files
    ]
    if len(set(names)) < len(names):
        raise ClientError("several files would get one name in --out: use a folder for each")
    return names


def _transcribe(file: Path, url: str, options: Options) -> Transcript:
    transcript = Transcript()
    credentials = options.credentials
    with (
        AudioFile(str(file)) as audio,
        Client.connect(
            url,
            token=credentials.token,
            tls_ca=credentials.tls_ca,
            on_connection=say_connection,
        ) as client,
        progress_bar(file.name, audio.duration_s) as progress,
    ):

        def on_event(event: ServerMessage) -> None:
            transcript.add(event)
            decoded = getattr(event, "audio_decoded", None)
            if decoded is not None:
                progress.update(decoded / RING_RATE_HZ)

        client.open(
            Hello(
                sample_rate_hz=audio.sample_rate_hz,
                language=options.language,
                model=options.model if options.server else None,  # a private server has it
                partials=False,
                hotwords=options.hotwords,
                tokens=options.form == "json",
                vad=VadOptions(enabled=options.vad, max_utterance_ms=options.max_utterance_ms),
                client="earwire-transcribe",
            )
        )
        if options.realtime:
            blocks = audio.blocks(audio.sample_rate_hz * REALTIME_BLOCK_MS // 1000)
            feed(client, blocks, on_event, audio.sample_rate_hz)
        else:
            feed(client, audio.blocks(), on_event)
        finish(client, on_event)
    return transcript


def _write(transcript: Transcript, file: Path, name: Path | None, options: Options) -> None:
    text = transcript.render(options.form, os.fsencode(file).decode("utf-8", "replace"))
    if name is not None:
        name.write_text(text, encoding="utf-8")
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (or Python flushes it once more)
        is_unread = isinstance(error, BrokenPipeError)  # as by `| head -1`: that is all right
        raise _NoOutputError("" if is_unread else str(error)) from error
