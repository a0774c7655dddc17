"""One decoder process on the event loop: bytes of a container in, PCM out.

A crafted file may crash, stall or spin a decoder: it is a child of its own, limits itself (see
decoder.py, whose command line and output are the contract), and is killed here when it makes no
progress. Nothing waits for it: its pipes do not block, and its end comes as an event of its pidfd.
It knows neither clients nor limits on uploads: file_feed.py does.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import IO, Protocol

import msgspec

from .event_loop import Callback, EventLoop

READ_BYTES = 32 * 1024  # of PCM a turn: a third of a second at 48 kHz, resampled in 0.1 ms
MAX_PENDING_BYTES = 128 * 1024  # of input that the pipe did not take
MAX_HEADER_BYTES = 4_096
MAX_MESSAGE_BYTES = 500  # kept of its last words
STALL_NS = 60_000_000_000  # no PCM for so long, with input at hand
# Live audio goes first, also while a decoder loads its libraries; files can wait.
FILE_NICENESS, LIVE_NICENESS = 19, 5
NICE = "nice"  # of coreutils
COMMAND = (sys.executable, "-m", "gateway.decoder")
EXIT_STALLED = -1_000  # in place of a status: it was killed for it


class DecoderHeader(msgspec.Struct, frozen=True):
    """What the container says of itself."""

    sample_rate_hz: int
    duration_s: float | None = None


class ChildOwner(Protocol):
    """Whom a child tells; nothing comes after `close`."""

    def on_header(self, header: DecoderHeader) -> None:
        """First of all, if the container can be read."""

    def on_pcm(self, pcm: bytes) -> None:
        """Whole mono s16le samples."""

    def on_room(self) -> None:
        """`is_full` was true and is no more."""

    def on_exit(self, status: int, message: str) -> None:
        """All was delivered and the process is gone; `message` is its last line on stderr."""


class DecoderChild:
    """Starts with its construction; raises OSError when it cannot."""

    def __init__(
        self, loop: EventLoop, owner: ChildOwner, source: IO[bytes] | None, *options: str
    ) -> None:
        """`source` is a complete file; None: what is written, as it comes."""
        self._loop = loop
        self._owner: ChildOwner | None = owner
        self._process, self._pid_fd = _start(source, options)
        self._pending = bytearray()
        self._input_ended = source is not None
        self._was_full = False
        self._is_paused = False
        self._has_header = False
        self._head = b""  # of stdout, until the header is complete
        self._odd = b""  # half a sample
        self._message = b""
        self._status: int | None = None
        self._is_stalled = False
        self._progress_ns = loop.now_ns
        self._open_pipes: dict[int, IO[bytes]] = {}
        self._out_fd = self._watch(self._process.stdout, self._on_stdout)
        self._err_fd = self._watch(self._process.stderr, self._on_stderr)
        self._in_fd = -1
        if source is None:
            self._in_fd = self._watch(self._process.stdin, self._on_stdin_gone, self._flush)
            loop.modify(self._in_fd, False, False)
        loop.register(self._pid_fd, self._on_exit)
        self._timer = loop.call_at(loop.now_ns + STALL_NS, self._on_timer)

    @property
    def is_full(self) -> bool:
        """It is behind with its input; `on_room` says when it is no more."""
        return len(self._pending) >= MAX_PENDING_BYTES

    def write(self, data: bytes) -> None:
        """The next bytes of the container; kept when the pipe is full."""
        if self._in_fd in self._open_pipes:
            self._pending += data
            self._flush()

    def end_input(self) -> None:
        """The container is complete."""
        self._input_ended = True
        if self._in_fd in self._open_pipes:
            self._flush()

    def pause(self) -> None:
        """No `on_pcm` until `resume`: the child stops when its pipe is full."""
        self._set_paused(True)

    def resume(self) -> None:
        """Go on."""
        self._progress_ns = self._loop.now_ns
        self._set_paused(False)

    def close(self) -> None:
        """End it now; the owner hears nothing more. The kernel says later when to reap it."""
        self._owner = None
        self._timer.cancel()
        for fd in list(self._open_pipes):
            self._drop(fd)
        self._pending.clear()
        self._kill()

    def wait(self) -> None:
        """Reap it although the loop has ended; after `close`."""
        if self._status is None:
            self._process.wait()
            self._reap()

    # Its pipes

    def _watch(
        self, pipe: IO[bytes] | None, on_readable: Callback, on_writable: Callback | None = None
    ) -> int:
        assert pipe is not None
        fd = pipe.fileno()
        os.set_blocking(fd, False)
        self._open_pipes[fd] = pipe
        self._loop.register(fd, on_readable, on_writable)
        return fd

    def _drop(self, fd: int) -> None:
        self._loop.unregister(fd)
        self._open_pipes.pop(fd).close()

    def _flush(self) -> None:
        """Write what the pipe takes; close it behind the last byte."""
        while self._pending:
            try:
                sent = os.write(self._in_fd, self._pending[:READ_BYTES])
            except BlockingIOError:
                break
            except BrokenPipeError:
                self._on_stdin_gone()
                return
            del self._pending[:sent]
        if self._input_ended and not self._pending:
            self._drop(self._in_fd)
        else:
            self._loop.modify(self._in_fd, False, bool(self._pending))
        self._tell_room()

    def _tell_room(self) -> None:
        had_room, self._was_full = not self._was_full, self.is_full
        if not had_room and not self._was_full and self._owner is not None:
            self._owner.on_room()

    def _on_stdin_gone(self) -> None:
        """It reads no more: it has enough, or is about to say why."""
        self._pending.clear()
        self._drop(self._in_fd)
        self._tell_room()

    def _on_stdout(self) -> None:
        data = self._read(self._out_fd)
        if not data:
            return
        self._progress_ns = self._loop.now_ns
        if not self._has_header:
            data = self._take_header(data)
        pcm = self._odd + data
        whole = len(pcm) & ~1
        self._odd = pcm[whole:]
        if whole and self._owner is not None:
            self._owner.on_pcm(pcm[:whole])

    def _take_header(self, data: bytes) -> bytes:
        """Look for the first line; returns what is behind it."""
        head, newline, rest = (self._head + data).partition(b"\n")
        if not newline and len(head) <= MAX_HEADER_BYTES:
            self._head = head
            return b""
        self._has_header = True
        try:
            header = msgspec.json.decode(head, type=DecoderHeader)
        except msgspec.DecodeError:
            self._kill()  # a library wrote to stdout; on_exit says that it came to nothing
            self._drop(self._out_fd)
            self._check_done()  # this may have been all that was left of it
            return b""
        assert self._owner is not None  # nothing is read after `close`
        self._owner.on_header(header)
        return rest

    def _on_stderr(self) -> None:
        self._message = (self._message + self._read(self._err_fd))[-MAX_MESSAGE_BYTES:]

    def _read(self, fd: int) -> bytes:
        """What is there; at the end the pipe is dropped."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self._drop(fd)
            self._check_done()
        return data

    def _set_paused(self, is_paused: bool) -> None:
        self._is_paused = is_paused
        if self._out_fd in self._open_pipes:
            self._loop.modify(self._out_fd, not is_paused, False)

    # Its end

    def _on_exit(self) -> None:
        self._process.wait()
        self._reap()
        self._check_done()

    def _reap(self) -> None:
        self._status = self._process.returncode
        self._loop.unregister(self._pid_fd)
        os.close(self._pid_fd)

    def _check_done(self) -> None:
        """Exited, and everything that it wrote is read."""
        owner = self._owner
        left = self._open_pipes.keys() & {self._out_fd, self._err_fd}
        if owner is None or self._status is None or left:
            return
        status = EXIT_STALLED if self._is_stalled else self._status
        lines = self._message.decode("utf-8", "replace").strip().splitlines()
        self.close()
        owner.on_exit(status, lines[-1] if lines else "")

    def _on_timer(self) -> None:
        waits_for_input = not self._input_ended and not self._pending
        if self._is_paused or waits_for_input:
            self._progress_ns = self._loop.now_ns
        deadline_ns = self._progress_ns + STALL_NS
        if deadline_ns <= self._loop.now_ns:
            self._is_stalled = True
            self._kill()
        else:
            self._timer = self._loop.call_at(deadline_ns, self._on_timer)

    def _kill(self) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()


def _start(
    source: IO[bytes] | None, options: tuple[str, ...]
) -> tuple[subprocess.Popen[bytes], int]:
    """The process and its pidfd. Raises OSError."""
    niceness = LIVE_NICENESS if source is None else FILE_NICENESS
    process = subprocess.Popen(
        [NICE, f"-n{niceness}", *COMMAND, *options, "--", "-" if source is None else "/dev/stdin"],
        bufsize=0,
        stdin=subprocess.PIPE if source is None else source,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"OPENBLAS_NUM_THREADS": "1", **os.environ},
        start_new_session=True,  # Ctrl-C at the terminal is the parent's business
    )
    # Where the kernel groups tasks by session, only the group's niceness counts against others
    # (sched(7), "The autogroup feature").
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/autogroup", "w") as group:
        group.write(str(niceness))
    try:
        return process, os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.communicate()
        raise
