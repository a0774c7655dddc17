"""The server's addresses, held by the parent for as long as it lives.

A TCP port is held by a bound socket that never listens: with SO_REUSEPORT the workers bind the same
port and share its connections, a restarted worker finds it free, and port 0 is resolved once for
all of them. The Unix listener is bound here and inherited, because Unix sockets have no
SO_REUSEPORT. supervisor.py calls this before it starts anything.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from protocol.errors import EarwireError

BACKLOG = 1024


class AddressError(EarwireError):
    """An address cannot be used; the message says which, why, and what to do."""


def reserve_port(host: str, port: int, option: str) -> socket.socket:
    """A bound, non-listening SO_REUSEPORT socket on host:port (0: any free port).

    Raises AddressError naming `option` when the host is unknown or the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise AddressError(f"cannot resolve host {host!r}: {error.strerror}") from None
    if port:
        _check_port_is_free(family, address, option)
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _port_error(error, address, option) from None
    return sock


def _check_port_is_free(family: int, address: tuple[object, ...], option: str) -> None:
    # SO_REUSEPORT would let a second server of the same user share the port in silence, each
    # getting a random half of the connections. So the port is first tried without it.
    # SO_REUSEADDR only lets us pass connections of an earlier server that are in TIME_WAIT.
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise _port_error(error, address, option) from None


def _port_error(error: OSError, address: tuple[object, ...], option: str) -> AddressError:
    where = f"{address[0]}:{address[1]}"
    if error.errno == errno.EADDRINUSE:
        return AddressError(
            f"{where} is in use by another program; stop it, or choose another {option}"
        )
    return AddressError(f"cannot listen on {where}: {error.strerror}")


class UnixListener:
    """A listening Unix socket of mode 0600 whose file is removed by `close`."""

    def __init__(self, path: str, option: str = "--uds") -> None:
        self.path = os.path.abspath(path)
        _remove_stale_socket(self.path, option)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # The mode must be right from the first moment: bind, then chmod, would leave a gap.
        old_mask = os.umask(0o177)
        try:
            self.sock.bind(self.path)
        except OSError as error:
            self.sock.close()
            reason = error.strerror or str(error)  # a path that is too long has no strerror
            raise AddressError(f"cannot listen on {self.path}: {reason}") from None
        finally:
            os.umask(old_mask)
        self.sock.setblocking(False)
        self.sock.listen(BACKLOG)
        self._inode = os.stat(self.path).st_ino

    def close(self) -> None:
        """Stop listening and remove the file, unless somebody else's is there now."""
        self.sock.close()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)


def _remove_stale_socket(path: str, option: str) -> None:
    """Remove the socket of a server that was killed. Raises AddressError when it is in use."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressError(f"{path} exists and is not a socket; choose another {option}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise AddressError(f"cannot use {path}: {error.strerror}") from None
    raise AddressError(f"another server listens on {path}; stop it, or choose another {option}")
