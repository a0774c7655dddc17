"""`earwire listen` on a real PortAudio, with ALSA devices made of files instead of hardware.

An ALSA `file` device over `null` reads a file as fast as it is asked: it has no clock, which is
the hardest case for a capture client that must not lose audio.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import wave
from importlib.resources import files
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

HANG_S = 120.0  # only a hang takes this long: it ends the test, it judges no speed

FILE_DEVICE = """
pcm.!default {{
  type file
  slave.pcm {{ type null }}
  file "/dev/null"
  infile "{infile}"
  format "raw"
}}
ctl.!default {{ type null }}
"""


@pytest.fixture(scope="module", autouse=True)
def _portaudio() -> None:
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError) as error:
        pytest.skip(f"needs sounddevice and PortAudio: {error}")


def home_with_device(directory: Path, pcm: bytes) -> Path:
    infile = directory / "microphone.raw"
    infile.write_bytes(pcm)
    (directory / ".asoundrc").write_text(FILE_DEVICE.format(infile=infile))
    return directory


def listen(home: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "clients.cli", "listen", *options],
        env={**os.environ, "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def test_a_file_fed_device_is_captioned_completely(tmp_path: Path) -> None:
    clip = files("clients") / "demo" / "clip.wav"
    with clip.open("rb") as file, wave.open(file) as wav:  # type: ignore[arg-type]
        pcm = wav.readframes(6 * wav.getframerate())  # the first eleven words
    # Silence behind it, because ALSA repeats the last period of a file for ever.
    process = listen(home_with_device(tmp_path, pcm + bytes(2 * 16_000 * 8)))
    watchdog = threading.Timer(HANG_S, process.kill)
    watchdog.start()
    finals: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        if not line.startswith("~ "):
            finals.append(line)
        if finals and words_of(finals[-1])[-1:] == ["speaking"]:
            process.send_signal(signal.SIGINT)
    watchdog.cancel()
    assert process.stderr is not None
    error = process.stderr.read()
    assert process.wait() == 0, (finals, error)
    heard = words_of(" ".join(finals))
    assert heard[:6] == words_of("Hello and welcome. These captions appear")
    assert heard[-2:] == ["still", "speaking"]  # and no word behind them
    assert "lost" not in error


def test_a_mute_device_is_named(tmp_path: Path) -> None:
    process = listen(home_with_device(tmp_path, bytes(2 * 16_000 * 60)))
    assert process.stderr is not None
    for line in process.stderr:
        if "digital silence" in line:
            assert "muted?" in line
            process.send_signal(signal.SIGTERM)
            break
    assert process.wait() == 0
    assert process.stdout is not None
    assert process.stdout.read() == ""


@pytest.mark.parametrize("options", [(), ("--list-devices",), ("--device", "7")])
def test_no_device_is_one_line(tmp_path: Path, options: tuple[str, ...]) -> None:
    (tmp_path / ".asoundrc").write_text("pcm.!default { type none }\n")
    out, error = listen(tmp_path, *options).communicate()
    assert out == ""
    assert re.fullmatch(r"earwire: .*(no microphone found|see --list-devices).*\n", error)


def test_devices_are_listed(tmp_path: Path) -> None:
    process = listen(home_with_device(tmp_path, b""), "--list-devices")
    out, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert "default" in out


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        ("raise ImportError('no module')", "pip install 'earwire[mic]'"),
        ("raise OSError('PortAudio library not found')", "apt install libportaudio2"),
    ],
)
def test_missing_libraries_are_one_line(tmp_path: Path, module: str, remedy: str) -> None:
    """What `import sounddevice` does without the package, and without PortAudio."""
    (tmp_path / "sounddevice.py").write_text(module)
    done = subprocess.run(
        [sys.executable, "-m", "clients.cli", "listen"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("earwire: ")
    assert done.stderr.endswith(f"{remedy}\n")
    assert done.stderr.count("\n") == 1


def test_a_device_that_delivers_nothing_is_one_line(tmp_path: Path) -> None:
    home = home_with_device(tmp_path, b"")
    (tmp_path / "microphone.raw").unlink()
    os.mkfifo(tmp_path / "microphone.raw")
    # Held open by us and never written: the driver's thread waits in read() for ever.
    fifo = os.open(tmp_path / "microphone.raw", os.O_RDWR)
    process = listen(home)
    out, error = process.communicate(timeout=HANG_S)
    os.close(fifo)
    assert process.returncode == 1
    assert out == ""
    assert "delivers no audio" in error.splitlines()[-1]
    assert "--list-devices" in error.splitlines()[-1]
