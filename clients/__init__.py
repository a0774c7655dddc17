"""What talks to an Earwire server: native clients, microphone, command line.

The names below are imported when they are first used: `earwire --help` needs neither asyncio nor
websockets and should not wait for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .aio import AsyncClient
    from .blocking import Client
    from .errors import AddressError, ClientError, ConnectionLost, EventsUnread, ServerError
    from .resumption import Connectivity

_MODULES = {"AsyncClient": "aio", "Client": "blocking", "Connectivity": "resumption"}

__all__ = [
    "AddressError",
    "AsyncClient",
    "Client",
    "ClientError",
    "ConnectionLost",
    "Connectivity",
    "EventsUnread",
    "ServerError",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_MODULES.get(name, 'errors')}", __name__)
    return getattr(module, name)
