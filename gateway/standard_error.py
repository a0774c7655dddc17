"""Lines for the person at the terminal, who may be gone: no reason to end a server."""

from __future__ import annotations

import contextlib
import sys


def write_line(line: str) -> None:
    """To stderr, or nowhere: its reader may have ended, or its disk be full."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
