"""`earwire replay`: a flight record through a server again, with what was said then beside it."""

from __future__ import annotations

import contextlib
import sys
import time
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from protocol.audio import RING_RATE_HZ, RING_SAMPLE_BYTES
from protocol.client_messages import Final, Partial, ServerMessage
from protocol.errors import EarwireError
from protocol.flight_record import MAX_RECORD_BYTES, FlightRecord, FlightRecordError, decode_record
from protocol.joined_text import joined

from .address import NO_CREDENTIALS, Credentials
from .blocking import Client
from .errors import ClientError
from .progress import progress_bar
from .replay import Finalize, Row, Segment, Verdict, compare, differs, printable, segments, shifted
from .server_process import ServerProcess
from .session_feed import EventHandler, finish, show_until


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    server: str | None = None  # None: a private one with the recorded settings
    credentials: Credentials = NO_CREDENTIALS
    model: str | None = None  # in place of the recorded one
    realtime: bool = False
    wav: Path | None = None
    events: bool = False


def run(file: Path, options: Options) -> int:
    """Exit status: 0, or 1 when a final differs or the record could not be replayed."""
    try:
        record = read_record(file)
        if options.wav is not None:
            _write_wav(record, options.wav)
            return 0
        if options.events:
            _print_events(record)
            return 0
        rows = compare(record, _replay(record, options))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""  # a silent server has no name
        return _fail(f"{where}{error.strerror or error}")
    except ClientError as error:
        return _fail(str(error))
    except EarwireError as error:
        return _fail(f"{file}: {error}")
    _print_rows(record, rows)
    return 1 if differs(rows) else 0


def read_record(file: Path) -> FlightRecord:
    """Raises OSError, FlightRecordError."""
    with file.open("rb") as opened:
        data = opened.read(MAX_RECORD_BYTES + 1)
    if len(data) > MAX_RECORD_BYTES:
        raise FlightRecordError("it is too large for a flight record")
    return decode_record(data)


def _fail(text: str) -> int:
    print(f"earwire: {printable(text)}", file=sys.stderr)
    return 1


# Without a server


def _write_wav(record: FlightRecord, path: Path) -> None:
    with wave.open(str(path), "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(RING_SAMPLE_BYTES)
        writer.setframerate(RING_RATE_HZ)
        writer.writeframes(record.pcm)


def _print_events(record: FlightRecord) -> None:
    """One JSON object a line: the head, the controls, then what the client was told and when."""
    head = {name: getattr(record.head, name) for name in record.head.__struct_fields__}
    del head["events"], head["controls"]
    lines: list[object] = [{"head": head}]
    lines += [{"control": control} for control in record.head.controls]
    for time_ns, event in record.events():
        before_s = round((time_ns - record.head.saved_ns) / 1e9, 3)
        lines.append({"at_s": before_s, "type": type(event).__name__, "event": event})
    for line in lines:
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")


# With one


def _replay(record: FlightRecord, options: Options) -> list[Final]:
    """What the server says now, in positions of the recorded stream."""
    finals: list[Final] = []
    first_sample, duration_s = record.head.first_sample, record.head.num_samples / RING_RATE_HZ
    credentials = options.credentials
    parts = segments(record, any_model=options.server is None and options.model is not None)
    with _server_url(record, options) as url, progress_bar("replaying", duration_s) as progress:
        for segment in parts:

            def on_event(event: ServerMessage, segment: Segment = segment) -> None:
                if isinstance(event, Final):
                    finals.append(shifted(event, segment))
                decoded = segment.first_sample + getattr(event, "audio_decoded", 0)
                progress.update((decoded - first_sample) / RING_RATE_HZ)

            with Client.connect(url, token=credentials.token, tls_ca=credentials.tls_ca) as client:
                client.open(segment.hello)
                _send(client, segment.steps(record), on_event, options.realtime)
                finish(client, on_event)
    return finals


def _send(
    client: Client, steps: Iterable[bytes | Finalize], on_event: EventHandler, realtime: bool
) -> None:
    start_s, num_samples = time.monotonic(), 0
    for step in steps:
        if isinstance(step, Finalize):
            client.finalize()
            continue
        num_samples += len(step) // RING_SAMPLE_BYTES
        due_s = start_s + num_samples / RING_RATE_HZ if realtime else 0.0
        show_until(client, on_event, due_s)
        client.send_audio(step)


@contextlib.contextmanager
def _server_url(record: FlightRecord, options: Options) -> Iterator[str]:
    """The one given, or one that recognises as the recorded one did."""
    if options.server is not None:
        yield options.server
        return
    settings = record.head.server
    if options.model is not None:
        settings = msgspec.structs.replace(
            settings, model=options.model, engine="auto", precision="auto"
        )
    flags = ["--config", msgspec.json.encode(settings).decode()]
    with progress_bar("starting the server"):
        process = ServerProcess(flags)
    with process:
        yield process.url


# What is shown


def describe(record: FlightRecord) -> list[str]:
    """What the record is, for people."""
    head = record.head
    saved = datetime.fromtimestamp(head.saved_wall_ns // 10**9, timezone.utc)
    seconds = head.num_samples / RING_RATE_HZ
    lines = [
        f"{head.reason.value} in session {head.session_id} ({head.dialect}), "
        f"{saved:%Y-%m-%d %H:%M:%S} UTC",
        f"{head.detail}; {seconds:.1f} s of audio from {head.first_sample / RING_RATE_HZ:.1f} s on",
    ]
    if head.overwritten_samples:
        lost = head.overwritten_samples / RING_RATE_HZ
        lines.append(f"{lost:.1f} s before that were overwritten already")
    if head.lost_client_samples:
        lines.append(f"{head.lost_client_samples} client samples were lost, and announced")
    if head.num_events_dropped:
        lines.append(f"{head.num_events_dropped} older events were dropped")
    return [printable(line) for line in lines]


def _print_rows(record: FlightRecord, rows: list[Row]) -> None:
    console = Console(highlight=False)
    for line in describe(record):
        console.print(line, markup=False)
    table = Table("", "at", "recorded", "replayed", show_lines=False)
    for column in table.columns[2:]:
        column.overflow = "fold"
        column.ratio = 1
    for row in rows:
        final = row.recorded or row.replayed
        assert final is not None
        at = f"{final.start_sample / RING_RATE_HZ:.2f}"
        style = "bold" if row.verdict is Verdict.DIFFERENT else ""
        cells = (row.verdict.value, at, _text_of(row.recorded), _text_of(row.replayed))
        table.add_row(*(Text(cell, style=style) for cell in cells))
    console.print(table)
    console.print(summary(rows), markup=False)


def _text_of(event: Final | Partial | None) -> str:
    if event is None:
        return "-"
    if isinstance(event, Partial):
        text = joined((event.stable, event.volatile)).strip()
        return printable(f"(draft) {text}")
    return printable(event.text.strip()) or "(no words)"


def summary(rows: list[Row]) -> str:
    """One line."""
    num = {verdict: sum(row.verdict is verdict for row in rows) for verdict in Verdict}
    text = f"{num[Verdict.SAME]} as recorded, {num[Verdict.DIFFERENT]} different"
    if num[Verdict.NOT_COMPARED]:
        text += f", {num[Verdict.NOT_COMPARED]} not compared: the record has only a part of them"
    return text
