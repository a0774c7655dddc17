"""The tormentor's process: `python -m tests.torment.proxy TARGET`, plans as JSON on stdin.

TARGET is a TCP port of this machine or the path of a Unix socket. Its first line on stdout is its
own port; then a line of JSON for each connection that has ended. Connection n gets the nth plan,
and the last plan again when there are no more. It ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
from dataclasses import dataclass, field

from .plan import Cutter, Plan, Reset, Send, Stall, Step, Torment

READ_BYTES = 64 * 1024  # and no more waits here: a side that does not read holds up the other
MERGE_S = 0.03  # how long merged bytes wait for more
LINGER_NOT = struct.pack("ii", 1, 0)  # close with a reset


@dataclass(slots=True)
class Connection:
    """Two sockets, and what went through."""

    client: socket.socket
    server: socket.socket
    counts: dict[str, int] = field(default_factory=dict)
    was_reset: bool = False

    def reset(self) -> None:
        """Both sides read that the connection broke."""
        self.was_reset = True
        for sock in (self.client, self.server):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)


async def _forward(
    connection: Connection, name: str, source: socket.socket, target: socket.socket, plan: Plan
) -> None:
    loop = asyncio.get_running_loop()
    cutter = Cutter(plan)
    reader = Source(source)
    try:
        while data := await reader.receive(plan):
            for step in cutter.steps(data):
                if not await _carry_out(loop, connection, target, step):
                    return
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
    finally:
        reader.close()
        connection.counts[name] = cutter.position


async def _carry_out(
    loop: asyncio.AbstractEventLoop, connection: Connection, target: socket.socket, step: Step
) -> bool:
    if isinstance(step, Send):
        await loop.sock_sendall(target, step.data)
        await asyncio.sleep(0)  # or the kernel is given two pieces at once
    elif isinstance(step, Stall):
        await asyncio.sleep(step.ms / 1000)
    elif isinstance(step, Reset):
        connection.reset()
        return False
    return True


class Source:
    """What one side sends. A receive that is not waited for any more goes on for the next one: one
    that was cancelled could have taken bytes with it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._receiving: asyncio.Task[bytes] | None = None

    async def receive(self, plan: Plan) -> bytes:
        """What is there; with merging, more of it at once. Empty at the end."""
        data = await self._next(None) or b""
        while data and len(data) < plan.merge_bytes:
            more = await self._next(MERGE_S)
            if not more:
                break
            data += more
        return data

    async def _next(self, timeout_s: float | None) -> bytes | None:
        """None when nothing came in time."""
        if self._receiving is None:
            loop = asyncio.get_running_loop()
            self._receiving = loop.create_task(loop.sock_recv(self._sock, READ_BYTES))
        done, _ = await asyncio.wait({self._receiving}, timeout=timeout_s)
        if not done:
            return None
        task, self._receiving = self._receiving, None
        return task.result()

    def close(self) -> None:
        """Nobody will ask any more."""
        if self._receiving is not None:
            self._receiving.cancel()


async def _serve(connection: Connection, torment: Torment) -> None:
    ways = {
        "to_server": (connection.client, connection.server, torment.to_server),
        "to_client": (connection.server, connection.client, torment.to_client),
    }
    tasks = {asyncio.create_task(_forward(connection, name, *way)) for name, way in ways.items()}
    pending = tasks
    while pending and not connection.was_reset:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if any(task.exception() is not None for task in done):
            connection.reset()  # one side broke: so does the other
    for task in pending:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    connection.client.close()
    connection.server.close()
    print(json.dumps({**connection.counts, "was_reset": connection.was_reset}), flush=True)


async def _connect(target: str) -> socket.socket:
    loop = asyncio.get_running_loop()
    is_tcp = target.isdigit()
    sock = socket.socket(socket.AF_INET if is_tcp else socket.AF_UNIX)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", int(target)) if is_tcp else target)
    return sock


async def _run(target: str, torments: list[Torment]) -> None:
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    running: set[asyncio.Task[None]] = set()
    number = 0
    while True:
        client, _ = await loop.sock_accept(listener)
        torment = torments[min(number, len(torments) - 1)]
        number += 1
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            server = await _connect(target)
        except OSError:
            client.close()
            continue
        if server.family == socket.AF_INET:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.create_task(_serve(Connection(client, server), torment))
        running.add(task)
        task.add_done_callback(running.discard)


async def _until_stdin_ends(work: asyncio.Task[None]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    work.cancel()


async def _main(target: str, torments: list[Torment]) -> None:
    work = asyncio.create_task(_run(target, torments))
    watch = asyncio.create_task(_until_stdin_ends(work))
    with contextlib.suppress(asyncio.CancelledError):
        await work
    await watch


if __name__ == "__main__":
    plans = [Torment.from_json(values) for values in json.loads(sys.stdin.readline())]
    asyncio.run(_main(sys.argv[1], plans))
