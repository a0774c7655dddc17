"""shm.py: an arena has no name, belongs to its owner alone, is allocated in full or refused in
words, and its descriptor carries it to another process unchanged.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from protocol.ring import MAX_RING_SAMPLES, MAX_SLOTS, ArenaLayout
from protocol.shm import (
    MAX_FDS,
    SharedMemoryError,
    create_arena,
    map_arena,
    receive_message,
    send_message,
    try_send_message,
)
from protocol.supervisor_messages import MAX_MESSAGE_BYTES, Drain, Link, Log, Stop

LAYOUT = ArenaLayout(3, 5_000)
EVERYTHING = ArenaLayout(MAX_SLOTS, MAX_RING_SAMPLES)


@pytest.fixture
def arena_fd() -> Iterator[int]:
    fd = create_arena(LAYOUT)
    yield fd
    os.close(fd)


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_an_arena_has_no_name_from_the_start(arena_fd: int) -> None:
    assert os.fstat(arena_fd).st_nlink == 0
    path = os.readlink(f"/proc/self/fd/{arena_fd}")
    assert path.endswith(" (deleted)")
    assert not Path(path.removesuffix(" (deleted)")).exists()


def test_an_arena_is_its_owners_alone(arena_fd: int) -> None:
    assert stat.S_IMODE(os.fstat(arena_fd).st_mode) == 0o600


def test_an_arena_is_allocated_in_full(arena_fd: int) -> None:
    status = os.fstat(arena_fd)
    assert status.st_size == LAYOUT.size_bytes
    assert status.st_blocks * 512 >= LAYOUT.size_bytes


def test_an_arena_is_zeroed_and_describes_itself(arena_fd: int) -> None:
    layout, view = map_arena(arena_fd)
    assert layout == LAYOUT
    assert len(view) == LAYOUT.size_bytes
    assert not any(view[24:])


def test_a_child_program_does_not_inherit_an_arena(arena_fd: int) -> None:
    assert not os.get_inheritable(arena_fd)


def test_an_arena_that_does_not_fit_is_refused_by_its_size() -> None:
    room = os.statvfs("/dev/shm")
    if not 0 < room.f_blocks * room.f_frsize < EVERYTHING.size_bytes:
        pytest.skip("/dev/shm has no limit here")
    before = open_fds()
    with pytest.raises(SharedMemoryError) as raised:
        create_arena(EVERYTHING)
    assert "cannot allocate 1200128 MiB of shared memory for 65536 sessions" in str(raised.value)
    assert "enlarge /dev/shm or lower --max-sessions" in str(raised.value)
    assert open_fds() == before, "the descriptor is not left open"


def test_a_file_that_is_no_arena_is_refused() -> None:
    fd = os.memfd_create("not an arena")
    os.truncate(fd, 8_192)
    with pytest.raises(ValueError, match="not an arena"):
        map_arena(fd)
    os.close(fd)


def test_two_maps_of_one_arena_are_the_same_memory(arena_fd: int) -> None:
    (layout, first), (_, second) = map_arena(arena_fd), map_arena(arena_fd)
    layout.ring(first, 2).write(4_999, b"abcd")
    assert layout.ring(second, 2).read(4_999, 2) == b"abcd"


Channel = tuple[socket.socket, socket.socket]


def test_a_message_travels_without_descriptors(channel: Channel) -> None:
    send_message(channel[0], Drain())
    assert receive_message(channel[1]) == (Drain(), [])


def test_messages_keep_their_borders(channel: Channel) -> None:
    send_message(channel[0], Drain())
    send_message(channel[0], Stop())
    assert [receive_message(channel[1]), receive_message(channel[1])] == [
        (Drain(), []),
        (Stop(), []),
    ]


def test_a_large_message_arrives_whole(channel: Channel) -> None:
    log = Log("info", "x" * (MAX_MESSAGE_BYTES - 100))
    send_message(channel[0], log)
    assert receive_message(channel[1]) == (log, [])


def test_a_closed_peer_is_none(channel: Channel) -> None:
    channel[0].close()
    assert receive_message(channel[1]) is None


def test_garbage_is_a_decode_error(channel: Channel) -> None:
    channel[0].send(b"\xc1")
    with pytest.raises(msgspec.DecodeError):
        receive_message(channel[1])


def test_descriptors_keep_their_order_and_are_not_inherited(
    channel: Channel, arena_fd: int
) -> None:
    reader, writer = os.pipe()
    send_message(channel[0], Link(peer=1, epoch=2), (arena_fd, reader))
    received = receive_message(channel[1])
    assert received is not None
    message, (arena_again, reader_again) = received
    assert message == Link(peer=1, epoch=2)
    assert os.path.sameopenfile(arena_again, arena_fd)
    assert os.path.sameopenfile(reader_again, reader)
    assert not any(os.get_inheritable(fd) for fd in (arena_again, reader_again))
    for fd in (arena_again, reader_again, reader, writer):
        os.close(fd)


def test_as_many_descriptors_as_the_limit_arrive(channel: Channel, arena_fd: int) -> None:
    send_message(channel[0], Drain(), (arena_fd,) * MAX_FDS)
    received = receive_message(channel[1])
    assert received is not None
    assert len(received[1]) == MAX_FDS
    for fd in received[1]:
        os.close(fd)


def write_into_received_arena(channel: socket.socket) -> None:
    received = receive_message(channel)
    assert received is not None
    layout, view = map_arena(received[1][0])
    layout.ring(view, 1).write(4_998, b"aabbcc")
    send_message(channel, Stop())


def test_an_arena_handed_to_another_process_is_the_same_memory(
    channel: Channel, arena_fd: int
) -> None:
    ours, theirs = channel
    pid = os.fork()
    if pid == 0:
        try:
            os.close(arena_fd)
            write_into_received_arena(theirs)
        finally:
            os._exit(0)
    theirs.close()
    send_message(ours, Link(peer=0, epoch=1), (arena_fd,))
    assert receive_message(ours) == (Stop(), []), "the other process has written"
    os.waitpid(pid, 0)
    layout, view = map_arena(arena_fd)
    assert layout.ring(view, 1).read(4_998, 3) == b"aabbcc"


def test_a_message_that_nobody_takes_is_not_waited_for(channel: Channel) -> None:
    ours, theirs = channel
    assert try_send_message(ours, Drain())
    assert receive_message(theirs) == (Drain(), [])
    while try_send_message(ours, Drain()):
        pass
    theirs.close()
    assert not try_send_message(ours, Drain())
