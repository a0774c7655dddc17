"""Shared memory and descriptor passing: the one file of this package that does I/O.

All three processes need the same few lines to make, map and hand over an arena, so they live with
the layout. An arena never has a name while the server runs: it is created 0600, allocated in full
(a small /dev/shm is an error here, not a SIGBUS later) and unlinked before anybody uses it.
"""

from __future__ import annotations

import mmap
import os
import secrets
import socket

import posix_ipc

from .errors import EarwireError
from .ring import ArenaLayout
from .supervisor_messages import (
    MAX_MESSAGE_BYTES,
    SupervisorMessage,
    decode_supervisor_message,
    encode_supervisor_message,
)

MAX_FDS = 8


class SharedMemoryError(EarwireError):
    """The arena could not be made; the message says how much was asked for."""


def create_arena(layout: ArenaLayout) -> int:
    """A descriptor of a new, unnamed, zeroed arena with its header written; the caller owns it.

    Raises SharedMemoryError when /dev/shm has too little room.
    """
    name = f"/earwire-{secrets.token_hex(8)}"
    shm = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600)
    posix_ipc.unlink_shared_memory(name)
    try:
        os.posix_fallocate(shm.fd, 0, layout.size_bytes)
    except OSError as error:
        os.close(shm.fd)
        raise SharedMemoryError(
            f"cannot allocate {layout.size_bytes / 2**20:.0f} MiB of shared memory for "
            f"{layout.num_slots} sessions ({error.strerror}); enlarge /dev/shm "
            "or lower --max-sessions"
        ) from error
    os.set_inheritable(shm.fd, False)
    with mmap.mmap(shm.fd, layout.size_bytes) as arena:
        layout.write_header(memoryview(arena))
    return int(shm.fd)


def map_arena(fd: int) -> tuple[ArenaLayout, memoryview]:
    """Map an arena handed over by the parent; its size is the file's, its header is checked."""
    size = os.fstat(fd).st_size
    view = memoryview(mmap.mmap(fd, size))
    return ArenaLayout.from_header(view), view


def send_message(
    channel: socket.socket, message: SupervisorMessage, fds: tuple[int, ...] = ()
) -> None:
    """One datagram and its descriptors to the parent or to a child."""
    socket.send_fds(channel, [encode_supervisor_message(message)], list(fds))


def try_send_message(channel: socket.socket, message: SupervisorMessage) -> bool:
    """One datagram, if the other side takes it at once; never waits."""
    try:
        channel.send(encode_supervisor_message(message), socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def receive_message(channel: socket.socket) -> tuple[SupervisorMessage, list[int]] | None:
    """The next datagram and its descriptors; None when the other side is gone."""
    data, fds, _, _ = socket.recv_fds(channel, MAX_MESSAGE_BYTES, MAX_FDS)
    for fd in fds:  # recv_fds ignores MSG_CMSG_CLOEXEC
        os.set_inheritable(fd, False)
    if not data:
        return None
    return decode_supervisor_message(data), fds
