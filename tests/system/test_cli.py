"""The `earwire` command as a person types it: files, formats, errors, the microphone."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest

from . import audio
from .audio import RATE_HZ, Samples, words_of
from .server import Server
from .waiting import wait_for

EARWIRE = [sys.executable, "-m", "clients.cli"]
TIMEOUT_S = 120
HAS_SOUNDDEVICE = importlib.util.find_spec("sounddevice") is not None
needs_sounddevice = pytest.mark.skipif(not HAS_SOUNDDEVICE, reason="sounddevice is not installed")
needs_portaudio = pytest.mark.skipif(
    not HAS_SOUNDDEVICE or find_library("portaudio") is None, reason="no PortAudio"
)

no_sound_card = pytest.mark.skipif(Path("/dev/snd").exists(), reason="there is a sound card")


def earwire(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EARWIRE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, **environment},
        check=False,
    )


def clip() -> Samples:
    """6.6 s: one sentence of the reading."""
    return audio.two_cities()[: int(6.6 * RATE_HZ)]


SENTENCE = "it was the best of times it was the worst of times it was the age of wisdom"


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audio.write_wav(tmp_path_factory.mktemp("audio") / "cities.wav", clip())


def assert_one_line(run: subprocess.CompletedProcess[str], status: int, *parts: str) -> None:
    """One line on stderr that says it all, nothing on stdout, no traceback."""
    assert run.returncode == status, run
    assert run.stdout == ""
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, run.stderr
    for part in parts:
        assert part in lines[0], lines[0]


# transcribe


def test_transcribe_with_a_private_server(wav: Path) -> None:
    """Without --server: the words alone on stdout, one line a final; no process is left."""
    run = earwire("transcribe", wav)
    assert run.returncode == 0, run.stderr
    assert words_of(run.stdout) == words_of(SENTENCE)
    assert "Traceback" not in run.stderr


def test_json(server: Server, wav: Path) -> None:
    """Segments and words with times inside each other, the duration, the close record."""
    run = earwire("transcribe", wav, "--json", "--server", server.unix_url)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert words_of(result["text"]) == words_of(SENTENCE)
    assert (result["model"], result["language"]) == ("tiny.en", "en")
    assert result["file"] == str(wav)
    assert result["duration"] == pytest.approx(6.6, abs=0.001)
    times = []
    for segment in result["segments"]:
        words = segment["words"]
        assert words_of(" ".join(w["word"] for w in words)) == words_of(segment["text"])
        times += [segment["start"], *(t for w in words for t in (w["start"], w["end"]))]
        times.append(segment["end"])
    assert times == sorted(times)
    assert times[-1] <= 6.6
    record = result["close_record"]
    assert record["socket_samples"] == record["ring_samples"] == record["engine_samples"]


SRT_TIME = r"\d\d:\d\d:\d\d,\d{3}"
VTT_TIME = r"(?:\d\d:)?\d\d:\d\d\.\d{3}"


@pytest.mark.parametrize(("form", "time"), [("srt", SRT_TIME), ("vtt", VTT_TIME)])
def test_subtitles(server: Server, wav: Path, form: str, time: str) -> None:
    """Cues in order that spell the text."""
    run = earwire("transcribe", wav, f"--{form}", "--server", server.native_url)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("WEBVTT") == (form == "vtt")
    cues = re.findall(rf"({time}) --> ({time})[^\n]*\n(.+?)(?:\n\n|\Z)", run.stdout, re.DOTALL)
    assert cues
    times = [t for cue in cues for t in cue[:2]]
    assert times == sorted(times)
    assert words_of(" ".join(cue[2] for cue in cues)) == words_of(SENTENCE)


def test_several_files_and_a_broken_one(server: Server, wav: Path, tmp_path: Path) -> None:
    """Exit status 1 and one line about the broken and the missing file; the others are written."""
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"this is no audio" * 100)
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    yes = audio.write_wav(tmp_path / "yes.wav", audio.spoken("yes"))
    out = tmp_path / "out"
    run = earwire(
        "transcribe", wav, broken, empty, tmp_path / "missing.wav", yes,
        "--srt", "--out", out, "--server", server.native_url,
    )  # fmt: skip
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert {path.name for path in out.iterdir()} == {"cities.srt", "yes.srt"}
    assert "yes" in (out / "yes.srt").read_text().lower()
    for name in ("broken.mp3", "empty.wav", "missing.wav"):
        assert len([line for line in run.stderr.splitlines() if name in line]) == 1, run.stderr
    assert "3 of 5" in run.stderr


@pytest.mark.parametrize(
    "suffix", [pytest.param(s, id=s) for s in ("wav", "flac", "ogg", "aiff", "au")]
)
def test_file_formats(server: Server, wav: Path, tmp_path: Path, suffix: str) -> None:
    """44.1 kHz stereo in the common containers, as sox writes them."""
    file = tmp_path / f"cities.{suffix}"
    made = subprocess.run(
        ["sox", str(wav), "-r", "44100", "-c", "2", str(file)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"this sox writes no {suffix}")
    run = earwire("transcribe", file, "--server", server.native_url)
    assert run.returncode == 0, run.stderr
    assert audio.word_error_rate(SENTENCE, run.stdout) <= 0.06


def test_mp3(server: Server, tmp_path: Path) -> None:
    """The most common file there is."""
    file = audio.write_mp3(tmp_path / "cities.mp3", clip())
    run = earwire("transcribe", file, "--server", server.native_url)
    assert run.returncode == 0, run.stderr
    assert audio.word_error_rate(SENTENCE, run.stdout) <= 0.06


def test_vad_off_is_one_segment(server: Server, wav: Path) -> None:
    """From 0 to the end."""
    run = earwire("transcribe", wav, "--json", "--vad", "off", "--server", server.native_url)
    (segment,) = json.loads(run.stdout)["segments"]
    assert (segment["start"], segment["end"]) == (0.0, pytest.approx(6.6, abs=0.001))


@pytest.mark.slow
def test_realtime_gives_the_same(server: Server, wav: Path) -> None:
    """--realtime changes the pace and nothing else."""
    runs = [
        earwire("transcribe", wav, "--json", "--server", server.native_url, *extra)
        for extra in ((), ("--realtime",))
    ]
    assert json.loads(runs[0].stdout) == json.loads(runs[1].stdout)


def test_no_server_there(wav: Path) -> None:
    """One line that names the URL."""
    run = earwire("transcribe", wav, "--server", "earwire://127.0.0.1:1")
    assert_one_line(run, 1, "127.0.0.1:1")


def test_a_server_url_that_makes_no_sense(wav: Path) -> None:
    """One line that shows the forms."""
    assert_one_line(earwire("transcribe", wav, "--server", "gopher://x"), 1, "earwire://HOST:PORT")


def test_an_unknown_model(wav: Path) -> None:
    """The private server cannot start: why, in one line, and not for long."""
    run = earwire("transcribe", wav, "--model", "whisper-huge")
    assert_one_line(run, 1, "whisper-huge")


# serve


def test_serve_refuses_other_machines() -> None:
    """Not beyond loopback without --insecure."""
    run = earwire("serve", "--host", "0.0.0.0", "--port", "0")
    assert_one_line(run, 2, "0.0.0.0", "--insecure")


def test_serve_says_that_a_port_is_in_use() -> None:
    """Which one, and what to do."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_line(earwire("serve", "--port", port), 1, f":{port}", "in use")
        run = earwire("serve", "--port", "0", "--native-port", port)
        assert_one_line(run, 1, f":{port}", "--native-port")


def test_serve_says_that_a_socket_is_in_use(server: Server) -> None:
    """The Unix socket of a living server is not taken away."""
    run = earwire("serve", "--port", "0", "--uds", server.uds)
    assert_one_line(run, 1, str(server.uds))
    assert server.uds.is_socket()


def test_serve_announces_itself(tmp_path: Path) -> None:
    """One line a listener, then ready; SIGTERM: exit 0, socket gone."""
    uds = tmp_path / "s.sock"
    process = subprocess.Popen(
        [*EARWIRE, "serve", "--port", "0", "--native-port", "0", "--uds", str(uds)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with lines_of(process.stderr) as lines:
            wait_for("ready", lambda: any(" ready in " in line for line in lines), 60)
            listeners = [line for line in lines if "listening on" in line]
            assert len(listeners) == 3
            assert str(uds) in listeners[-1]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert not uds.exists()


@contextmanager
def lines_of(pipe: Iterable[str] | None) -> Iterator[list[str]]:
    """The lines of a pipe as they come."""
    assert pipe is not None
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe), daemon=True)
    reader.start()
    yield lines
    reader.join(10)


# listen


def alsa(folder: Path, config: str) -> dict[str, str]:
    """An environment whose ALSA knows this configuration and nothing else."""
    file = folder / "asound.conf"
    file.write_text(config + "\nctl.!default { type null }\n")
    return {"ALSA_CONFIG_PATH": str(file), "HOME": str(folder)}


def capture_of(raw: Path) -> str:
    return (
        'pcm.!default { type file slave.pcm { type null } file "/dev/null" '
        f'infile "{raw}" format "raw" }}'
    )


@contextmanager
def listening(
    environment: dict[str, str], *arguments: str
) -> Iterator[tuple[subprocess.Popen[str], list[str], list[str]]]:
    """`earwire listen` with what it prints and what it says; interrupted at the end."""
    process = subprocess.Popen(
        [*EARWIRE, "listen", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        with lines_of(process.stdout) as out, lines_of(process.stderr) as err:
            yield process, out, err
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(30)
    finally:
        process.kill()
        process.wait()


@needs_portaudio
def test_listen_prints_what_a_microphone_hears(server: Server, tmp_path: Path) -> None:
    """An ALSA `file` capture device (which is not paced) with a sentence and silence: its words
    appear; Ctrl-C ends it with status 0."""
    raw = tmp_path / "speech.raw"
    samples = np.concatenate([clip(), audio.silence(30.0)])
    raw.write_bytes(samples.astype("<i2").tobytes())
    environment = alsa(tmp_path, capture_of(raw))
    with listening(environment, "--server", server.unix_url) as (process, out, err):
        wait_for("the final", lambda: any("wisdom" in x and x[0] != "~" for x in out), 60)
    assert process.returncode == 0, err
    shown = [line for line in out if line.startswith("~ ")]
    final = " ".join(line for line in out if not line.startswith("~ "))
    assert len(shown) >= 3
    assert words_of(final) == words_of(SENTENCE)
    assert "Traceback" not in "".join(err)


@needs_portaudio
@no_sound_card
def test_listen_without_a_device(tmp_path: Path) -> None:
    """One line, at once: no server is started for it."""
    for arguments in ((), ("--list-devices",)):
        run = earwire("listen", *arguments, HOME=str(tmp_path))
        assert_one_line(run, 1, "no microphone", "plug one in")


@needs_portaudio
@no_sound_card
def test_listen_to_a_device_that_is_not_there(tmp_path: Path) -> None:
    """Its name, and where to look."""
    run = earwire("listen", "--device", "gramophone", HOME=str(tmp_path))
    assert_one_line(run, 1, "gramophone", "--list-devices")


@needs_portaudio
def test_listen_to_a_silent_device(server: Server, tmp_path: Path) -> None:
    """Digital silence: a question after some seconds, once, and it goes on."""
    raw = tmp_path / "zeros.raw"
    raw.write_bytes(bytes(2 * 60 * RATE_HZ))
    environment = alsa(tmp_path, capture_of(raw))
    with listening(environment, "--server", server.unix_url) as (process, out, err):
        wait_for("the warning", lambda: any("silence" in line for line in err), 30)
        assert process.poll() is None
    assert process.returncode == 0, err
    assert len([line for line in err if "silence" in line]) == 1
    assert words_of(" ".join(out)) == []


@needs_portaudio
def test_listen_to_a_device_that_delivers_nothing(server: Server, tmp_path: Path) -> None:
    """A capture that blocks for ever (a pipe nobody fills): one line, exit 1, and no hang."""
    fifo = tmp_path / "stuck.raw"
    os.mkfifo(fifo)
    held = os.open(fifo, os.O_RDWR)
    try:
        environment = alsa(tmp_path, capture_of(fifo))
        run = earwire("listen", "--server", server.unix_url, **environment)
    finally:
        os.close(held)
    assert run.returncode == 1
    said = [line for line in run.stderr.splitlines() if "listening to" not in line]
    assert len(said) == 1, run.stderr
    assert "deliver" in said[0]


@needs_portaudio
def test_listen_where_portaudio_itself_aborts(tmp_path: Path) -> None:
    """An ALSA configuration without a default device: one line, not a silent SIGABRT."""
    run = earwire("listen", **alsa(tmp_path, ""))
    assert_one_line(run, 1, "ALSA", "arecord -L")


@needs_sounddevice
def test_listen_without_the_library(tmp_path: Path) -> None:
    """A PortAudio that cannot be loaded (an empty file comes first): what to install."""
    for name in ("libportaudio.so.2", "libportaudio.so"):
        (tmp_path / name).write_bytes(b"")
    run = earwire("listen", LD_LIBRARY_PATH=str(tmp_path))
    assert_one_line(run, 1, "PortAudio", "libportaudio2")


# demo


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    """The right words of the bundled clip, at least five partial texts before its end."""
    run = earwire("demo")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    finals = " ".join(line for line in lines if not line.startswith("~ "))
    assert audio.word_error_rate(audio.DEMO_TEXT, finals) < 0.1
    assert len({line for line in lines if line.startswith("~ ")}) >= 5
    found = re.search(r"(\d+) partial texts", run.stderr)
    assert found
    assert int(found[1]) >= 5


def test_sox_and_espeak_are_there() -> None:
    """What the tests of this folder need of the machine."""
    for tool in ("sox", "espeak-ng"):
        assert shutil.which(tool), f"apt install {tool}"
