"""contained(): a defect of ours ends the client that met it, and neither others nor the worker."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar, cast


class Breakable(Protocol):
    """What has a client."""

    def break_off(self) -> None:
        """End it, whatever state it is in. Does not raise."""


Method = TypeVar("Method", bound=Callable[..., None])


def contained(method: Method) -> Method:
    """A method of a Breakable that answers an exception by break_off()."""

    @wraps(method)
    def guarded(client: Breakable, *arguments: Any) -> None:
        try:
            method(client, *arguments)
        except Exception:
            client.break_off()

    return cast("Method", guarded)
