"""room_for(): too little memory on the device becomes an error that says what for.

Called by whatever allocates when a server starts. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ModelError
from .device import DeviceMemoryError


@contextmanager
def room_for(what: str, remedy: str) -> Iterator[None]:
    """Too little memory is an error that says what for, and what to lower."""
    try:
        yield
    except DeviceMemoryError as error:
        raise ModelError(f"the GPU has too little memory for {what}: {error}", remedy) from error
