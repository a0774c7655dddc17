"""Where the control socket of a server is: beside its Unix listener, or in its user's own folder.

Shell: it looks at the environment and at folders. The supervisor asks where to listen, the command
where a server may be found. The folder is the user's own: nobody else can put a socket there.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from pathlib import Path

from .config import ServerConfig
from .reservation import AddressError

SUFFIX = ".control"
CONNECT_TIMEOUT_S = 5.0


def control_path(config: ServerConfig, http_port: int) -> Path:
    """Where this server listens for commands. Raises AddressError."""
    if config.control is not None:
        return Path(config.control)
    if config.uds is not None:
        return Path(config.uds + SUFFIX)
    folder = runtime_folder()
    for path in folder.glob(f"earwire-*{SUFFIX}"):
        _remove_if_dead(path)
    return folder / f"earwire-{http_port}{SUFFIX}"


def runtime_folder() -> Path:
    """A folder that only this user can enter. Raises AddressError where there is none."""
    given = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(given) if given else Path(tempfile.gettempdir()) / f"earwire-{os.geteuid()}"
    with contextlib.suppress(FileExistsError, OSError):
        folder.mkdir(mode=0o700)
    try:
        found = folder.lstat()
    except OSError as error:
        raise AddressError(f"no folder for the control socket: {error}") from None
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_ours or found.st_mode & 0o077:
        raise AddressError(f"{folder} is no folder of this user alone: use --control PATH")
    return folder


def connect(path: Path) -> socket.socket:
    """A connection to the server that listens there. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(CONNECT_TIMEOUT_S)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        raise
    return sock


def running_servers() -> list[Path]:
    """Control sockets in the runtime folder that somebody listens at."""
    found = []
    with contextlib.suppress(AddressError):
        for path in sorted(runtime_folder().glob(f"earwire-*{SUFFIX}")):
            with contextlib.suppress(OSError), connect(path):
                found.append(path)
    return found


def _remove_if_dead(path: Path) -> None:
    """A server that was killed leaves its socket behind."""
    try:
        connect(path).close()
    except ConnectionRefusedError:
        with contextlib.suppress(OSError):
            path.unlink()
    except OSError:
        return  # somebody else's business
