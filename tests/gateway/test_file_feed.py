"""Uploads and recordings through real decoder processes, and every way they fail."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway import decoder_child
from gateway.decoder_child import MAX_PENDING_BYTES
from gateway.decoder_pool import DecoderPool
from gateway.dialects import Container
from gateway.dialects.raw_audio import Coding
from gateway.dialects.wav_header import wav_header
from gateway.event_loop import EventLoop
from gateway.file_feed import FileFeed, UploadLimits
from protocol.client_messages import Error
from protocol.errors import ErrorCode

from .media import encode, tone, write_wav
from .test_decoder_child import (
    as_child,
    in_haste,
    num_children,
    reads_once_there_is,
    turn_until,
)

__all__ = ["in_haste"]  # for every test here


class Owner:
    """Writes down what a feed says, and may act on PCM."""

    def __init__(self) -> None:
        self.rate_hz = 0
        self.pcm: list[bytes] = []
        self.errors: list[Error] = []
        self.num_ends = 0
        self.num_rooms = 0
        self.then: Callable[[], None] = lambda: None

    @property
    def is_over(self) -> bool:
        return bool(self.errors or self.num_ends)

    def on_format(self, sample_rate_hz: int) -> None:
        self.rate_hz = sample_rate_hz

    def on_pcm(self, pcm: bytes) -> None:
        self.pcm.append(pcm)
        self.then()

    def on_decoded(self) -> None:
        self.num_ends += 1

    def on_feed_error(self, error: Error) -> None:
        self.errors.append(error)

    def on_feed_room(self) -> None:
        self.num_rooms += 1


class Desk:
    """A loop and a pool, and feeds of them."""

    def __init__(self, tmp_path: Path, **limits: Any) -> None:
        self.loop = EventLoop()
        self.spool_dir = tmp_path / "spool"
        self.spool_dir.mkdir()
        limits = {"spool_dir": str(self.spool_dir), **limits}
        self.pool = DecoderPool(self.loop, UploadLimits(**limits))

    def feed(self, container: Container = Container.FILE) -> tuple[FileFeed, Owner]:
        owner = Owner()
        return FileFeed(self.pool, container, owner), owner

    def run(self, owner: Owner) -> None:
        turn_until(self.loop, lambda: owner.is_over)

    def close(self) -> None:
        self.pool.close()
        turn_until(self.loop, lambda: num_children() == 0)
        self.loop.close()


@contextmanager
def desk_with(tmp_path: Path, **limits: Any) -> Iterator[Desk]:
    made = Desk(tmp_path, **limits)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with desk_with(tmp_path) as made:
        yield made


def pieces(data: bytes, size: int = 10_000) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def wav(tmp_path: Path, seconds: float = 2.0) -> bytes:
    return write_wav(tmp_path / "a.wav", tone(16_000, seconds), 16_000).read_bytes()


def send(feed: FileFeed, data: bytes) -> None:
    for piece in pieces(data):
        feed.write(piece)
    feed.end()


# --- files ---------------------------------------------------------------------------------


def test_a_file_is_spooled_without_a_name_and_decoded(desk: Desk, tmp_path: Path) -> None:
    feed, owner = desk.feed()
    data = wav(tmp_path)
    for piece in pieces(data):
        feed.write(piece)
    assert list(desk.spool_dir.iterdir()) == []
    assert num_children() == 0  # not before it is complete
    assert not feed.is_full
    feed.end()
    desk.run(owner)
    assert (owner.rate_hz, owner.num_ends, owner.errors) == (16_000, 1, [])
    assert b"".join(owner.pcm) == tone(16_000, 2.0).tobytes()
    assert (desk.pool.num_running, num_children()) == (0, 0)
    assert desk.pool.claim_spool(desk.pool.limits.max_spool_bytes)
    feed.write(b"more")
    feed.end()
    feed.close()
    assert owner.num_ends == 1


def test_an_index_at_the_end_is_found(desk: Desk, tmp_path: Path) -> None:
    feed, owner = desk.feed()
    send(feed, encode(tmp_path / "a.m4a", "aac", 44_100, "stereo", seconds=2.0).read_bytes())
    desk.run(owner)
    assert owner.errors == []
    assert sum(map(len, owner.pcm)) == pytest.approx(2 * 88_200, rel=0.05)


def test_headerless_audio_with_a_head(desk: Desk) -> None:
    feed, owner = desk.feed()
    send(feed, wav_header(Coding.ULAW, 8_000, 2) + bytes(16_000))
    desk.run(owner)
    assert (owner.rate_hz, owner.errors) == (8_000, [])
    assert sum(map(len, owner.pcm)) == 16_000


def test_a_paused_feed_delivers_when_it_is_resumed(desk: Desk, tmp_path: Path) -> None:
    feed, owner = desk.feed()
    owner.then = feed.pause
    send(feed, wav(tmp_path, 20.0))
    turn_until(desk.loop, lambda: owner.pcm)
    assert len(owner.pcm) == 1
    owner.then = lambda: None
    feed.resume()
    desk.run(owner)
    assert sum(map(len, owner.pcm)) == 20 * 32_000


def test_a_pause_before_the_decoder_runs_holds(desk: Desk, tmp_path: Path) -> None:
    feed, owner = desk.feed()
    feed.pause()
    send(feed, wav(tmp_path))
    desk.loop.call_at(desk.loop.read_clock() + 500_000_000, lambda: None)
    desk.loop.run_once()
    assert owner.pcm == []
    feed.resume()
    desk.run(owner)
    assert owner.num_ends == 1


def test_files_wait_for_a_decoder(tmp_path: Path) -> None:
    with desk_with(tmp_path, max_decoders=1) as desk:
        data = wav(tmp_path)
        first, second = desk.feed(), desk.feed()
        for feed, _ in (first, second):
            send(feed, data)
        assert (desk.pool.num_running, desk.pool.num_waiting) == (1, 1)
        desk.run(second[1])
        assert (first[1].num_ends, second[1].num_ends) == (1, 1)


def test_closing_ends_the_decoder_and_the_spool(desk: Desk, tmp_path: Path) -> None:
    feed, owner = desk.feed()
    owner.then = feed.close  # in the middle of its own call
    send(feed, wav(tmp_path, 60.0))
    turn_until(desk.loop, lambda: owner.pcm and num_children() == 0)
    assert (len(owner.pcm), owner.is_over) == (1, False)
    assert desk.pool.claim_spool(desk.pool.limits.max_spool_bytes)


def test_closing_a_waiting_file_gives_up_its_turn(tmp_path: Path) -> None:
    with desk_with(tmp_path, max_decoders=0) as desk:
        feed, owner = desk.feed()
        send(feed, wav(tmp_path))
        assert desk.pool.num_waiting == 1
        feed.pause()
        feed.resume()
        feed.close()
        feed.wait()
        assert (desk.pool.num_waiting, owner.is_over) == (0, False)


# --- recordings ----------------------------------------------------------------------------


def test_a_recording_is_heard_while_it_is_made(desk: Desk, tmp_path: Path) -> None:
    feed, owner = desk.feed(Container.LIVE)
    data = encode(tmp_path / "a.ogg", "libopus", 48_000, "mono", seconds=4.0).read_bytes()
    feed.write(data[: len(data) // 2])
    turn_until(desk.loop, lambda: owner.pcm)
    assert owner.rate_hz == 48_000
    feed.write(data[len(data) // 2 :])
    feed.end()
    desk.run(owner)
    assert (owner.num_ends, owner.errors) == (1, [])
    assert list(desk.spool_dir.iterdir()) == []


def test_a_recording_knows_no_limit_of_a_file(tmp_path: Path) -> None:
    with desk_with(tmp_path, max_bytes=10, max_seconds=1.0) as desk:
        feed, owner = desk.feed(Container.LIVE)
        send(feed, wav(tmp_path, 3.0))
        desk.run(owner)
        assert (owner.errors, sum(map(len, owner.pcm))) == ([], 96_000)


def test_a_recording_that_never_began_is_no_error(desk: Desk) -> None:
    feed, owner = desk.feed(Container.LIVE)
    feed.write(b"")
    feed.end()
    assert (owner.num_ends, owner.errors, owner.rate_hz) == (1, [], 0)
    assert num_children() == 0


def test_a_recording_that_is_faster_than_its_decoder(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    as_child(monkeypatch, reads_once_there_is(tmp_path / "now"))
    feed, owner = desk.feed(Container.LIVE)
    feed.write(b"a" * (2 * MAX_PENDING_BYTES))
    assert feed.is_full
    (tmp_path / "now").touch()
    turn_until(desk.loop, lambda: owner.num_rooms)
    assert not feed.is_full
    feed.close()


def test_recordings_are_refused_when_all_decoders_are_busy(tmp_path: Path) -> None:
    with desk_with(tmp_path, max_live_decoders=1) as desk:
        first, _ = desk.feed(Container.LIVE)
        first.write(b"OggS")
        second, owner = desk.feed(Container.LIVE)
        second.write(b"OggS")
        (error,) = owner.errors
        assert (error.code, error.retryable) == (ErrorCode.AT_CAPACITY, True)
        first.close()


# --- errors --------------------------------------------------------------------------------


def code_of(
    desk: Desk, data: bytes, container: Container = Container.FILE
) -> tuple[ErrorCode, str]:
    """How this ends."""
    feed, owner = desk.feed(container)
    send(feed, data)
    desk.run(owner)
    (error,) = owner.errors
    assert owner.num_ends == 0
    return error.code, error.message


def test_what_is_no_audio(desk: Desk) -> None:
    for container in Container:
        code, message = code_of(desk, bytes(1_000), container)
        assert code is ErrorCode.BAD_AUDIO
        assert message.startswith("not an audio file that can be read")
    assert code_of(desk, b"") == (ErrorCode.BAD_AUDIO, "there is no audio in it")
    assert code_of(desk, b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")[0] is ErrorCode.BAD_AUDIO


def test_files_over_the_limits(tmp_path: Path) -> None:
    with desk_with(tmp_path, max_bytes=50_000, max_seconds=1.0) as desk:
        assert code_of(desk, wav(tmp_path, 2.0)) == (
            ErrorCode.TOO_LARGE,
            "larger than the limit of 50000 bytes",
        )
        assert code_of(desk, wav(tmp_path, 1.5)) == (
            ErrorCode.TOO_LARGE,
            "longer than the limit of 1 s",
        )


def test_more_uploads_than_there_is_room_for(tmp_path: Path) -> None:
    with desk_with(tmp_path, max_spool_bytes=100) as desk:
        first, second = desk.feed(), desk.feed()
        first[0].write(bytes(60))
        second[0].write(bytes(60))
        assert [error.code for error in second[1].errors] == [ErrorCode.AT_CAPACITY]
        first[0].close()
        third, owner = desk.feed()
        third.write(bytes(100))
        assert not owner.is_over
        third.close()


def test_a_spool_that_cannot_be_written(tmp_path: Path) -> None:
    with desk_with(tmp_path) as desk:
        desk.spool_dir.rmdir()
        feed, owner = desk.feed()
        feed.write(b"abc")
        assert [error.code for error in owner.errors] == [ErrorCode.AT_CAPACITY]
        assert desk.pool.claim_spool(desk.pool.limits.max_spool_bytes)


def test_whoever_runs_the_server_reads_where_uploads_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folders = [str(tmp_path / name) for name in ("given", "usual")]
    monkeypatch.setattr(tempfile, "tempdir", folders[1])
    for spool_dir in (folders[0], None):
        with desk_with(tmp_path, spool_dir=spool_dir) as desk:
            desk.feed()[0].write(b"abc")
            desk.spool_dir.rmdir()
    for folder, record in zip(folders, caplog.records, strict=True):
        assert f"cannot write uploads to {folder}: " in record.getMessage()
        assert "TMPDIR" in record.getMessage()


def test_the_spool_is_nobody_elses(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    real = tempfile.TemporaryFile

    def watched(**options: Any) -> Any:
        made = real(**options)
        modes.append(os.fstat(made.fileno()).st_mode & 0o777)
        return made

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    feed, _ = desk.feed()
    feed.write(b"abc")
    feed.close()
    assert modes == [0o600]


@pytest.mark.parametrize(
    ("script", "code", "message"),
    [
        ("import os; os.abort()", ErrorCode.BAD_AUDIO, "signal 6"),
        ("raise SystemExit(1)", ErrorCode.INTERNAL, "the decoder failed"),
        ("pass", ErrorCode.INTERNAL, "the decoder failed"),
        ("import sys; sys.exit('why')", ErrorCode.INTERNAL, "the decoder failed"),
        ("import sys; print('why', file=sys.stderr); sys.exit(2)", ErrorCode.BAD_AUDIO, "why"),
        ("import sys; print('-: long; cut', file=sys.stderr); sys.exit(3)",
         ErrorCode.TOO_LARGE, "long"),
    ],
)  # fmt: skip
def test_decoders_that_die(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, script: str, code: ErrorCode, message: str
) -> None:
    as_child(monkeypatch, script)
    got, text = code_of(desk, b"abc")
    assert got is code
    assert text.endswith(message)


@pytest.mark.parametrize("method", ["on_format", "on_pcm", "on_decoded"])
def test_a_defect_that_a_container_brings_out_ends_its_client_and_not_the_loop(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture, method: str,
) -> None:  # fmt: skip
    def defect(*args: object) -> None:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as broken:
        broken.setattr(Owner, method, defect)
        assert code_of(desk, wav(tmp_path)) == (ErrorCode.INTERNAL, "a defect of the gateway")
    assert "ZeroDivisionError: a defect" in caplog.text
    feed, owner = desk.feed()
    send(feed, wav(tmp_path))
    desk.run(owner)
    assert owner.num_ends == 1, "the next one is served"


def test_a_decoder_that_cannot_be_started(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_child, "NICE", "/not-there/nice")
    assert code_of(desk, b"abc")[0] is ErrorCode.AT_CAPACITY


def test_a_decoder_that_stalls(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    as_child(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(decoder_child, "STALL_NS", 200_000_000)
    assert code_of(desk, b"abc") == (ErrorCode.BAD_AUDIO, "decoding it comes to no end")


def test_the_end_of_the_pool_ends_its_decoders(desk: Desk, tmp_path: Path) -> None:
    feed, owner = desk.feed()
    send(feed, wav(tmp_path))
    desk.pool.close()
    assert (num_children(), owner.is_over) == (0, False)
