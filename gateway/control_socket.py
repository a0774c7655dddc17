"""The parent's control socket: a person's commands come in, lines about them go out.

Shell, in the supervisor's epoll loop. It listens on a Unix socket of mode 0600, turns away every
peer of another user, reads one request a connection and writes answers. It knows no request;
swap_desk.py does. A caller that cannot be told of progress hears no more, but that it goes away is
noticed all the same. When there are too many, the oldest of those that have asked for nothing is
let go.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from .control_messages import (
    MAX_LINE_BYTES,
    Answer,
    Failed,
    Progress,
    SwapModel,
    decode_request,
    encode_line,
)
from .reservation import UnixListener

MAX_CALLERS = 8
ROOT = 0  # may do what this user may
Watch: TypeAlias = Callable[[int, Callable[[], object]], None]  # call this when it is readable
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Caller:
    """One connection. `answer` may be called when the caller is gone: nobody hears it then."""

    def __init__(self, sock: socket.socket, socket_of: ControlSocket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.has_asked = False
        self._socket_of = socket_of
        self._is_broken = False  # a line was not taken, or half of it

    def answer(self, message: Answer) -> None:
        """One line; any but Progress is the last."""
        if self.sock.fileno() < 0:
            return
        if not self._is_broken:
            self._is_broken = not self._send(encode_line(message))
        if not isinstance(message, Progress):
            self._socket_of.let_go(self)

    def _send(self, line: bytes) -> bool:
        try:
            return self.sock.send(line) == len(line)
        except OSError:
            return False


class ControlSocket:
    """See the module text. Raises AddressError when it cannot listen."""

    def __init__(
        self,
        path: Path,
        watch: Watch,
        unwatch: Callable[[int], None],
        on_request: Callable[[Caller, SwapModel], None],
        on_gone: Callable[[Caller], None],
    ) -> None:
        self._listener = UnixListener(str(path), "--control")
        self.path = self._listener.path
        self._watch = watch
        self._unwatch = unwatch
        self._on_request = on_request
        self._on_gone = on_gone
        self._callers: list[Caller] = []  # oldest first
        watch(self._listener.sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.sock.accept()
        except OSError:  # it went away again
            return
        sock.setblocking(False)
        if peer_uid(sock) not in (os.geteuid(), ROOT) or not self._make_room():
            sock.close()
            return
        caller = Caller(sock, self)
        self._callers.append(caller)
        self._watch(sock.fileno(), lambda: self._read(caller))

    def _make_room(self) -> bool:
        """False when everybody here waits for an answer."""
        if len(self._callers) < MAX_CALLERS:
            return True
        for caller in self._callers:
            if not caller.has_asked:
                self.let_go(caller)
                return True
        return False

    def _read(self, caller: Caller) -> None:
        try:
            data = caller.sock.recv(MAX_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.let_go(caller)
            self._on_gone(caller)
            return
        caller.received += data
        line, end, _ = bytes(caller.received).partition(b"\n")
        if caller.has_asked or (not end and len(line) >= MAX_LINE_BYTES):
            caller.answer(Failed("one request a connection, in one line"))
        elif end:
            self._ask(caller, line)

    def _ask(self, caller: Caller, line: bytes) -> None:
        caller.has_asked = True
        request = decode_request(line)
        if isinstance(request, Failed):
            caller.answer(request)
        else:
            self._on_request(caller, request)

    def let_go(self, caller: Caller) -> None:
        """Close a connection."""
        if caller in self._callers:
            self._callers.remove(caller)
            self._unwatch(caller.sock.fileno())
            caller.sock.close()

    def close(self) -> None:
        """Close everything and remove the file."""
        for caller in tuple(self._callers):
            self.let_go(caller)
        self._unwatch(self._listener.sock.fileno())
        self._listener.close()


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end, as the kernel knows it."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    uid: int = _PEER.unpack(data)[1]
    return uid
