"""The environment of our own Python processes: where they may import from."""

from __future__ import annotations

import os
import sys


def child_environment() -> dict[str, str]:
    """This environment, such that `python -m gateway` is ours whatever the working directory holds.

    `-m` puts the working directory first on sys.path, and a folder called gateway or protocol is
    nothing rare. PYTHONSAFEPATH (Python 3.11) turns that off; not when this process itself was
    imported from there, as in a checkout that is not installed.
    """
    environment = dict(os.environ)
    if "" not in sys.path and os.getcwd() not in sys.path:
        environment["PYTHONSAFEPATH"] = "1"
    return environment
