"""Decoder processes on a real loop: PCM, pauses, hostile children, and no process left behind."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway import decoder_child
from gateway.decoder_child import (
    EXIT_STALLED,
    FILE_NICENESS,
    LIVE_NICENESS,
    MAX_PENDING_BYTES,
    READ_BYTES,
    STALL_NS,
    DecoderChild,
    DecoderHeader,
)
from gateway.event_loop import EventLoop

from .media import encode, tone, write_wav
from .rig import ManualClock

MAX_TURNS = 20_000


class Listener:
    """Writes down what a child says, and may act on it."""

    def __init__(self) -> None:
        self.header: DecoderHeader | None = None
        self.pcm: list[bytes] = []
        self.num_rooms = 0
        self.ends: list[tuple[int, str]] = []
        self.then: Callable[[], None] = lambda: None

    def on_header(self, header: DecoderHeader) -> None:
        self.header = header

    def on_pcm(self, pcm: bytes) -> None:
        assert len(pcm) % 2 == 0
        self.pcm.append(pcm)
        self.then()

    def on_room(self) -> None:
        self.num_rooms += 1

    def on_exit(self, status: int, message: str) -> None:
        self.ends.append((status, message))


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoders of these tests wait for nobody: other tests may run beside them."""
    monkeypatch.setattr(decoder_child, "FILE_NICENESS", 0)
    monkeypatch.setattr(decoder_child, "LIVE_NICENESS", 0)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    made = EventLoop()
    yield made
    made.close()


def turn_until(loop: EventLoop, is_done: Callable[[], object]) -> None:
    """Turn the loop until something holds; a stuck child fails the test by the timer."""
    timer = loop.call_at(loop.read_clock() + 60_000_000_000, loop.stop)
    for _ in range(MAX_TURNS):
        if is_done():
            break
        loop.run_once()
    timer.cancel()
    assert is_done()


def num_children() -> int:
    """Processes of ours that run or wait to be reaped."""
    return len(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def as_child(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Runs this Python in place of the decoder."""
    monkeypatch.setattr(decoder_child, "COMMAND", (sys.executable, "-c", script))


def reads_once_there_is(path: Path) -> str:
    """A child that leaves its input alone until then."""
    return (
        "import os, sys, time\n"
        f"while not os.path.exists({str(path)!r}): time.sleep(0.01)\n"
        "sys.stdin.buffer.read()\n"
    )


def test_a_file_is_decoded_to_its_end(loop: EventLoop, tmp_path: Path) -> None:
    samples = tone(16_000, 3.0)
    heard = Listener()
    with write_wav(tmp_path / "a.wav", samples, 16_000).open("rb") as source:
        DecoderChild(loop, heard, source)
        turn_until(loop, lambda: heard.ends)
    assert heard.header == DecoderHeader(sample_rate_hz=16_000, duration_s=3.0)
    assert b"".join(heard.pcm) == samples.tobytes()
    assert heard.ends == [(0, "")]
    assert num_children() == 0
    assert loop.num_timers <= 2


def test_a_recording_is_decoded_as_it_comes(loop: EventLoop, tmp_path: Path) -> None:
    data = encode(tmp_path / "a.ogg", "libopus", 48_000, "mono", seconds=4.0).read_bytes()
    heard = Listener()
    child = DecoderChild(loop, heard, None)
    child.write(data[: len(data) // 2])
    turn_until(loop, lambda: heard.pcm)
    child.write(data[len(data) // 2 :])
    child.end_input()
    turn_until(loop, lambda: heard.ends)
    assert heard.ends == [(0, "")]
    assert sum(map(len, heard.pcm)) == pytest.approx(4 * 96_000, rel=0.02)
    child.write(b"more")  # nobody is there
    child.end_input()


@pytest.mark.parametrize("is_file", [True, False])
def test_decoders_stand_back_from_the_first(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_file: bool
) -> None:
    as_child(monkeypatch, "import os, sys; sys.exit(str(os.nice(0)))")
    monkeypatch.setattr(decoder_child, "FILE_NICENESS", FILE_NICENESS)
    monkeypatch.setattr(decoder_child, "LIVE_NICENESS", LIVE_NICENESS)
    heard = Listener()
    with write_wav(tmp_path / "a.wav", tone(16_000, 0.1), 16_000).open("rb") as source:
        DecoderChild(loop, heard, source if is_file else None)
        turn_until(loop, lambda: heard.ends)
    niceness = min(19, os.nice(0) + (FILE_NICENESS if is_file else LIVE_NICENESS))
    assert heard.ends == [(1, str(niceness))]


def test_a_bad_file_says_why(loop: EventLoop, tmp_path: Path) -> None:
    heard = Listener()
    (tmp_path / "a").write_bytes(bytes(1_000))
    with (tmp_path / "a").open("rb") as source:
        DecoderChild(loop, heard, source, "--max-bytes=10")
        turn_until(loop, lambda: heard.ends)
    assert heard.ends == [(3, "/dev/stdin: larger than the limit of 10 bytes")]
    assert (heard.header, heard.pcm) == (None, [])


def test_a_pause_stops_the_child_and_not_its_end(loop: EventLoop, tmp_path: Path) -> None:
    heard = Listener()
    with write_wav(tmp_path / "a.wav", tone(16_000, 20.0), 16_000).open("rb") as source:
        child = DecoderChild(loop, heard, source)
        heard.then = child.pause
        turn_until(loop, lambda: heard.pcm)
        loop.call_at(loop.read_clock() + 300_000_000, lambda: None)
        loop.run_once()
        assert len(heard.pcm) == 1
        heard.then = lambda: None
        child.resume()
        turn_until(loop, lambda: heard.ends)
    child.resume()
    assert sum(map(len, heard.pcm)) == 20 * 32_000
    assert max(map(len, heard.pcm)) <= READ_BYTES


def test_closing_kills_it_and_says_nothing(loop: EventLoop, tmp_path: Path) -> None:
    heard = Listener()
    with write_wav(tmp_path / "a.wav", tone(16_000, 60.0), 16_000).open("rb") as source:
        child = DecoderChild(loop, heard, source)
        heard.then = child.close  # in the middle of a call from it
        turn_until(loop, lambda: num_children() == 0)
        child.close()
        child.wait()
    assert (len(heard.pcm), heard.ends) == (1, [])


def test_waiting_for_a_closed_child_needs_no_loop(loop: EventLoop) -> None:
    child = DecoderChild(loop, Listener(), None)
    child.close()
    child.wait()
    assert num_children() == 0


def test_a_full_pipe_is_said_and_room_as_well(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_child(monkeypatch, reads_once_there_is(tmp_path / "now"))
    heard = Listener()
    child = DecoderChild(loop, heard, None)
    child.write(b"a" * (MAX_PENDING_BYTES * 2))  # the pipe holds 64 KiB of it
    assert child.is_full
    loop.wake()
    loop.run_once()
    assert heard.num_rooms == 0
    (tmp_path / "now").touch()
    turn_until(loop, lambda: heard.num_rooms)
    assert not child.is_full
    child.end_input()
    turn_until(loop, lambda: heard.ends)
    assert heard.num_rooms == 1


def test_a_child_that_stops_reading_frees_what_waits(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_child(monkeypatch, "import os, time; os.close(0); time.sleep(60)")
    heard = Listener()
    child = DecoderChild(loop, heard, None)
    child.write(b"a" * (MAX_PENDING_BYTES * 2))
    turn_until(loop, lambda: heard.num_rooms)
    assert not child.is_full
    child.write(b"a" * (MAX_PENDING_BYTES * 2))
    child.end_input()
    assert not child.is_full
    child.close()
    child.wait()


@pytest.mark.parametrize(
    "script", ["print('not json')", "print('x' * 5000)", "print('{}')", "print('[' * 3000)"]
)
def test_what_is_no_header_comes_to_nothing(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    as_child(monkeypatch, f"{script}; import time; time.sleep(60)")
    script_output = Listener()
    DecoderChild(loop, script_output, None).end_input()
    turn_until(loop, lambda: script_output.ends)
    assert script_output.header is None
    assert script_output.ends[0][0] == -9


def test_what_is_no_header_may_be_read_last_of_all(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_child(monkeypatch, "print('not json')")
    heard = Listener()
    child = DecoderChild(loop, heard, None)
    os.waitid(os.P_PIDFD, child._pid_fd, os.WEXITED | os.WNOWAIT)
    # What one turn of the loop has to say, in an order that it may say it in.
    child._on_exit()
    child._on_stderr()
    assert heard.ends == []
    child._on_stdout()
    assert (heard.header, heard.pcm, heard.ends) == (None, [], [(0, "")])


def test_last_words_are_the_last_line_and_bounded(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_child(
        monkeypatch, "import sys; sys.stderr.write('x' * 100_000 + chr(10) + 'why'); sys.exit(7)"
    )
    heard = Listener()
    DecoderChild(loop, heard, None).end_input()
    turn_until(loop, lambda: heard.ends)
    assert heard.ends == [(7, "why")]


def test_a_sample_in_two_halves(loop: EventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    as_child(
        monkeypatch,
        "import os, time\n"
        "for piece in (b'{\"sample_', b'rate_hz\": 8000}\\na', b'bc', b'd'):\n"
        "    os.write(1, piece); time.sleep(0.05)\n",
    )
    heard = Listener()
    DecoderChild(loop, heard, None).end_input()
    turn_until(loop, lambda: heard.ends)
    assert heard.header == DecoderHeader(sample_rate_hz=8_000)
    assert b"".join(heard.pcm) == b"abcd"


# --- no progress ---------------------------------------------------------------------------


def stalled(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> EventLoop:
    as_child(monkeypatch, "import time; time.sleep(60)")
    return EventLoop(clock)


def pass_time(loop: EventLoop, clock: ManualClock, ns: int) -> None:
    clock.advance_ms(ns / 1_000_000)
    loop.wake()
    loop.run_once()


def test_a_child_without_progress_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    loop = stalled(monkeypatch, clock)
    heard = Listener()
    DecoderChild(loop, heard, None).end_input()
    pass_time(loop, clock, STALL_NS - 1_000_000)
    assert heard.ends == []
    clock.advance_ms(1)
    for _ in range(MAX_TURNS):
        loop.wake()
        loop.run_once()
        if heard.ends:
            break
    assert heard.ends == [(EXIT_STALLED, "")]
    loop.close()


def test_waiting_for_the_client_or_for_us_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    loop = stalled(monkeypatch, clock)
    heard = Listener()
    child = DecoderChild(loop, heard, None)
    for _ in range(3):  # the client sends nothing
        pass_time(loop, clock, STALL_NS)
    child.end_input()
    child.pause()
    for _ in range(3):  # we take nothing
        pass_time(loop, clock, STALL_NS)
    child.resume()
    pass_time(loop, clock, STALL_NS - 1_000_000)
    assert (heard.ends, num_children()) == ([], 1)
    child.close()
    child.wait()
    loop.close()


def test_no_process_is_left_when_there_is_no_descriptor_for_it(
    loop: EventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor(pid: int) -> int:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(os, "pidfd_open", no_descriptor)
    with pytest.raises(OSError, match="too many"):
        DecoderChild(loop, Listener(), None)
    assert num_children() == 0
