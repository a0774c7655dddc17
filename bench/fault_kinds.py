"""What `bench.faults` does to a server while streams run, and how it makes each undone.

Each kind is a coroutine that does its harm and returns when nothing more of it is in force; the
server may still be recovering then. Signals go to children that are found by their command line.
Needs Linux; limits of other processes are set by prlimit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from clients import AsyncClient
from clients.errors import ClientError

from .process_watch import held_by, names_in_shm

SERVICE, WORKER = "service", "worker"
STOP_S = (0.2, 2.5)  # frozen for so long, well below the watchdog's patience
PULSES, PULSE_S = 8, 0.05  # of a process that is slow
SPARE_FDS = 2
STORM = 40  # connections, when descriptors are short
FULL_DISK_BYTES = 64 * 1024  # the largest file that can be written while the disk is "full"
TOO_MANY_SESSIONS = 60_000  # whose arena fits in no /dev/shm


@dataclass(slots=True)
class Scene:
    """The server, and what every kind needs of it."""

    pid: int
    http_port: int
    url: str  # native, Unix
    upload: bytes  # an audio file larger than FULL_DISK_BYTES
    rng: random.Random
    hang_s: float  # longer than the watchdog's patience
    notes: list[str] = field(default_factory=list)  # what was not as it should be

    def pids(self, role: str) -> tuple[int, ...]:
        """Living children of one role."""
        return held_by(self.pid).pids.get(role, ())

    def send(self, role: str, number: signal.Signals) -> int | None:
        """A signal to one of them; its pid, None when there is none at the moment."""
        pids = self.pids(role)
        if not pids:
            return None
        pid = self.rng.choice(pids)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return pid


Kind = Callable[[Scene], Awaitable[None]]


async def service_kill(scene: Scene) -> None:
    """kill -9."""
    scene.send(SERVICE, signal.SIGKILL)


async def service_segv(scene: Scene) -> None:
    """As a segmentation fault does."""
    scene.send(SERVICE, signal.SIGSEGV)


async def service_hang(scene: Scene) -> None:
    """It stands still for good: the watchdog has to see it."""
    pid = scene.send(SERVICE, signal.SIGSTOP)
    for _ in range(int(scene.hang_s * 10)):
        await asyncio.sleep(0.1)
        if pid not in scene.pids(SERVICE):
            return
    if pid is not None:
        scene.notes.append(f"a hanging service lived for over {scene.hang_s:g} s")
        _go_on(pid)


async def service_stop(scene: Scene) -> None:
    """SIGSTOP and, soon, SIGCONT."""
    await _stop(scene, SERVICE, scene.rng.uniform(*STOP_S))


async def worker_stop(scene: Scene) -> None:
    """The same for a worker: the kernel's buffers fill."""
    await _stop(scene, WORKER, scene.rng.uniform(*STOP_S))


async def service_delay(scene: Scene) -> None:
    """Slow: it stands still half of the time."""
    for _ in range(PULSES):
        await _stop(scene, SERVICE, PULSE_S)
        await asyncio.sleep(PULSE_S)


async def worker_kill(scene: Scene) -> None:
    """kill -9: its clients lose their connections, and go on at its successor."""
    scene.send(WORKER, signal.SIGKILL)


async def _stop(scene: Scene, role: str, seconds: float) -> None:
    pid = scene.send(role, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    if pid is not None:
        _go_on(pid)


def _go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


async def disk_full(scene: Scene) -> None:
    """No file can grow: an upload is refused cleanly."""
    with _limited(scene, resource.RLIMIT_FSIZE, lambda pid: FULL_DISK_BYTES):
        status = await asyncio.to_thread(_upload, scene)
    if status != 503:
        scene.notes.append(f"an upload to a full disk was answered {status}")


def _upload(scene: Scene) -> int:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    request = urllib.request.Request(
        f"http://127.0.0.1:{scene.http_port}/v1/audio/transcriptions",
        head + scene.upload + b"\r\n--b--\r\n",
        {"Content-Type": "multipart/form-data; boundary=b"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(error.code)
    except OSError:
        return 0


async def fd_limit(scene: Scene) -> None:
    """Hardly a descriptor is left: new connections wait or are refused, streams go on."""

    def spare(pid: int) -> int:
        return len(os.listdir(f"/proc/{pid}/fd")) + SPARE_FDS

    with _limited(scene, resource.RLIMIT_NOFILE, spare):
        await asyncio.gather(*(_knock(scene.url) for _ in range(STORM)))


async def _knock(url: str) -> None:
    with contextlib.suppress(ClientError, OSError, TimeoutError):
        async with await AsyncClient.connect(url, 1.0) as client:
            await client.open(timeout_s=1.0)


@contextlib.contextmanager
def _limited(scene: Scene, what: int, limit_of: Callable[[int], int]) -> Iterator[None]:
    """A soft limit of all workers, for a while."""
    before: dict[int, tuple[int, int]] = {}
    for pid in scene.pids(WORKER):
        with contextlib.suppress(OSError):
            before[pid] = resource.prlimit(pid, what)
            resource.prlimit(pid, what, (limit_of(pid), before[pid][1]))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(OSError):
                resource.prlimit(pid, what, limits)


async def shm_exhausted(scene: Scene) -> None:
    """A second server asks for more shared memory than there is: it says so and ends."""
    command = [sys.executable, "-m", "gateway", "--port", "0"]
    options = ["--max-sessions", str(TOO_MANY_SESSIONS), "--max-utterance-ms", "60000"]
    done = await asyncio.to_thread(
        subprocess.run, [*command, *options], capture_output=True, text=True, timeout=60
    )
    if done.returncode in (0, None) or "Traceback" in done.stderr:
        scene.notes.append(
            f"too much shared memory: status {done.returncode}, {done.stderr!r:.200}"
        )
    if names_in_shm():
        scene.notes.append(f"left in /dev/shm: {names_in_shm()}")


KINDS: Mapping[str, Kind] = {
    kind.__name__: kind
    for kind in (
        service_kill, service_segv, service_hang, service_stop, service_delay, worker_stop,
        worker_kill, disk_full, fd_limit, shm_exhausted,
    )
}  # fmt: skip
# How often each is drawn. A hang takes as long as the watchdog's patience.
WEIGHTS: Mapping[str, int] = {
    "service_kill": 12, "service_segv": 4, "service_hang": 2, "service_stop": 4,
    "service_delay": 3, "worker_stop": 3, "worker_kill": 12, "disk_full": 1, "fd_limit": 2,
    "shm_exhausted": 1,
}  # fmt: skip


def ready(http_port: int) -> bool:
    """What /health/ready says."""
    url = f"http://127.0.0.1:{http_port}/health/ready"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def wav_of(pcm: bytes) -> bytes:
    """A file for disk_full."""
    size = len(pcm).to_bytes(4, "little")
    fmt = b"\x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0"
    whole = (len(pcm) + 36).to_bytes(4, "little")
    return b"RIFF" + whole + b"WAVEfmt " + fmt + b"data" + size + pcm
