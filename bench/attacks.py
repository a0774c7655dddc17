"""`python -m bench.attacks NAME TARGET SECONDS`: one kind of hostile client, as fast as it can.

A process of its own, so that the talker's generator (hostile.py) is not slowed by it. It prints
one JSON line: what it has tried, and what became of it. The clients are those of the system tests,
which say what the server has to answer; here only its effect on others is measured.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tests.system import crafted, deaf, raw_http
from tests.system.storm import CONNECTS_PER_S

THREADS = 4
NUM_SLOW = 100  # connections that drip
DRIP_S = 0.1
CHUNK_BYTES = 64 * 1024
FOREVER = 1 << 40
UPLOADS = ("/v1/audio/transcriptions", "/v1/listen")
WEBSOCKETS = (
    "/v1/realtime?model=m&input_audio_format=pcm_s16le_16000",
    "/v1/realtime?intent=transcription",
    "/v1/listen?encoding=linear16&sample_rate=16000",
)


@dataclass(frozen=True)
class Target:
    """Where the server listens; the system tests' Server has the same names."""

    addresses: dict[str, int]
    token: str

    @property
    def http_port(self) -> int:
        """HTTP and WebSocket."""
        return self.addresses["http_port"]

    @property
    def bearer(self) -> dict[str, str]:
        """For HTTP."""
        return {"Authorization": f"Bearer {self.token}"}


Attack: TypeAlias = Callable[[Target, float, Counter[str]], None]  # until a monotonic second


def wrong_tokens(target: Target, end_s: float, counts: Counter[str]) -> None:
    """Handshakes and uploads with a token that nobody has."""
    guess = {"Authorization": "Bearer guess"}
    while time.monotonic() < end_s:
        for path in WEBSOCKETS:
            with contextlib.suppress(OSError, AssertionError):
                deaf.open_socket(target, path, "guess").close()
            counts["refused"] += 1
        for path in UPLOADS:
            with raw_http.upload(target, path, guess, "Content-Length: 50000000") as sock:
                counts[f"status {raw_http.answer(sock)[0]}"] += 1


def endless_uploads(target: Target, end_s: float, counts: Counter[str]) -> None:
    """Chunked, with a good token, until the server has had enough; then the next."""
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    piece = b"%x\r\n%b\r\n" % (CHUNK_BYTES, bytes(CHUNK_BYTES))
    while time.monotonic() < end_s:
        with (
            raw_http.upload(
                target, UPLOADS[0], target.bearer, "Transfer-Encoding: chunked"
            ) as sock,
            contextlib.suppress(OSError),
        ):
            sock.settimeout(5)
            sock.sendall(b"%x\r\n%b\r\n" % (len(start), start))
            while time.monotonic() < end_s and not select.select([sock], [], [], 0)[0]:
                sock.sendall(piece)
                counts["megabytes"] += 1 if counts["pieces"] % 16 == 15 else 0
                counts["pieces"] += 1
        counts["uploads"] += 1


def slow_clients(target: Target, end_s: float, counts: Counter[str]) -> None:
    """Heads and bodies that come byte by byte, many at a time."""
    length = "Content-Length: 1000000"
    sockets: list[socket.socket] = []
    while time.monotonic() < end_s:
        while len(sockets) < NUM_SLOW // THREADS:
            path = UPLOADS[len(sockets) % 2]
            sockets.append(raw_http.upload(target, path, target.bearer, length))
            counts["connections"] += 1
        time.sleep(DRIP_S)
        for sock in tuple(sockets):
            try:
                sock.send(b"x")
            except OSError:
                sockets.remove(sock)
                sock.close()


def crafted_files(target: Target, end_s: float, counts: Counter[str]) -> None:
    """Broken files and bombs, each decoded as far as it goes."""
    contents = [*crafted.broken().values(), crafted.bomb()]
    while time.monotonic() < end_s:
        for content in contents:
            length = f"Content-Length: {len(content)}"
            with raw_http.upload(target, UPLOADS[1], target.bearer, length) as sock:
                with contextlib.suppress(OSError):
                    sock.sendall(content)
                counts[f"status {raw_http.answer(sock)[0]}"] += 1
            if time.monotonic() >= end_s:
                return


def deaf_clients(target: Target, end_s: float, counts: Counter[str]) -> None:
    """One of each API; each begins again when the server hangs up or reads no more."""
    while time.monotonic() < end_s:
        for name in deaf.FLOODS:
            with contextlib.suppress(OSError, AssertionError):
                sent = deaf.flood(target, name, target.token, FOREVER)
                counts["megabytes"] += sent // 1_000_000
            counts["floods"] += 1
            if time.monotonic() >= end_s:
                return


def connects(target: Target, end_s: float, counts: Counter[str]) -> None:
    """A thousand a second from all threads together, kept open for about a second."""
    begin_s = time.monotonic()
    sockets: list[socket.socket] = []
    while (now_s := time.monotonic()) < end_s:
        while counts["connects"] < (now_s - begin_s) * CONNECTS_PER_S:
            sock = socket.socket()
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.connect(("127.0.0.1", target.http_port))
            sockets.append(sock)
            counts["connects"] += 1
            if len(sockets) > CONNECTS_PER_S // THREADS:
                sockets.pop(0).close()
        time.sleep(0.002)


ATTACKS: dict[str, Attack] = {
    "wrong tokens": wrong_tokens,
    "endless uploads": endless_uploads,
    "slow clients": slow_clients,
    "crafted files": crafted_files,
    "deaf clients": deaf_clients,
    "connects": connects,
}


def run(name: str, target: Target, seconds: float) -> Counter[str]:
    """All threads of one attack to its end."""
    counts: Counter[str] = Counter()
    end_s = time.monotonic() + seconds

    def attack() -> None:
        while time.monotonic() < end_s:
            try:
                ATTACKS[name](target, end_s, counts)
            except (OSError, AssertionError):
                counts["cut off"] += 1

    threads = [threading.Thread(target=attack) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def main(argv: list[str]) -> int:
    """See the module text."""
    name, target, seconds = argv
    counts = run(name, Target(**json.loads(target)), float(seconds))
    print(json.dumps(dict(counts)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
