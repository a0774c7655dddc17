"""Where swaps are asked for and carried out: the control socket on one side, children on the other.

Shell between swap.py, which decides, control_socket.py, where people ask, and the supervisor, which
owns the processes and passes on what happens to them. One swap at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from protocol.supervisor_messages import Remaining, Retire, Sample, Stop, SupervisorMessage

from .child_process import ChildProcess
from .children import Child, Children, Kind
from .config import ServerConfig
from .control_messages import Done, Failed, Progress, SwapModel
from .control_paths import control_path
from .control_socket import Caller, ControlSocket, Watch
from .reservation import AddressError
from .swap import Stage, Swap


class Parent(Protocol):
    """What of the supervisor is used here."""

    def process_of(self, child: Child) -> ChildProcess | None:
        """The running process of a child."""

    def log(self, level: str, text: str) -> None:
        """A line for the person at the server's terminal."""


class SwapDesk:
    """See the module text; also the swap's Crew."""

    def __init__(
        self,
        parent: Parent,
        children: Children,
        config: ServerConfig,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._parent = parent
        self._children = children
        self._config = config
        self._clock = clock
        self._socket: ControlSocket | None = None
        self._swap: Swap | None = None
        self._caller: Caller | None = None  # who asked for it
        self.num_done = 0
        self.num_failed = 0

    def listen(self, http_port: int, watch: Watch, unwatch: Callable[[int], None]) -> None:
        """Open the control socket. Where the place is our own choice, the server does without one
        if it cannot be had; else raises AddressError.
        """
        try:
            path = control_path(self._config, http_port)
            self._socket = ControlSocket(path, watch, unwatch, self.ask, self.gone)
        except AddressError as error:
            if self._config.control is not None:
                raise
            self._parent.log("warning", f"no control socket: {error}")

    @property
    def path(self) -> str | None:
        """Where commands come in; None: nowhere."""
        return None if self._socket is None else self._socket.path

    def close(self) -> None:
        """No commands any more."""
        if self._socket is not None:
            self._socket.close()

    # From people

    def ask(self, caller: Caller, request: SwapModel) -> None:
        """Begin a swap, or say why not."""
        rank = self._rank_of(request)
        if self._children.is_ending:
            caller.answer(Failed("the server is going away"))
        elif not self._children.all_ready:
            caller.answer(Failed("not every model of the server is ready yet; try again"))
        elif self._swap is not None:
            caller.answer(Failed("another model is being replaced at this moment"))
        elif isinstance(rank, str):
            caller.answer(Failed(rank))
        else:
            self._caller = caller
            self._swap = Swap(
                self._children,
                self,
                request.model,
                rank,
                self._config.max_utterance_ms,
                self._clock(),
            )

    def _rank_of(self, request: SwapModel) -> int | str:
        """The place of the model to replace; or what is wrong with its name."""
        services = [c for c in self._children.members if c.kind is Kind.SERVICE]
        ranks = {c.rank for c in services}
        wanted = request.old if request.old is not None or len(ranks) == 1 else request.model
        if wanted is None:
            return ranks.pop()
        named = {c.rank for c in services if wanted in (c.model, c.serves)}
        if len(named) == 1:
            return named.pop()
        names = ", ".join(dict.fromkeys(c.serves or c.model for c in services))
        if request.old is None:
            return f"which one is to be replaced? Say --old with one of: {names}"
        return f"{wanted} is not served; there is {names}"

    def gone(self, caller: Caller) -> None:
        """Who asked for the swap does not listen any more."""
        if caller is self._caller and self._swap is not None:
            self._caller = None
            self._swap.give_up("given up by who asked for it")
            self._conclude()

    # From the supervisor

    def became_ready(self) -> None:
        """A child has become ready."""
        if self._swap is not None:
            self._swap.became_ready(self._clock())
            self._conclude()

    def has_remaining(self, worker: int, message: Remaining) -> None:
        """A worker has said how many streams are left."""
        if self._swap is not None:
            self._swap.has_remaining(worker, message, self._clock())
            self._conclude()

    def exited(self, child: Child) -> None:
        """A child has ended, and `children` knows."""
        if self._swap is not None:
            self._swap.exited(child, self._clock())
            self._conclude()

    def tick(self) -> None:
        """About once a second."""
        if self._swap is not None:
            self._swap.tick(self._clock())
            self._conclude()

    def samples(self) -> list[Sample]:
        """How many swaps have ended, and how."""
        return [
            Sample("earwire_model_swaps_total", (("outcome", outcome),), number)
            for outcome, number in (("ok", self.num_done), ("failed", self.num_failed))
        ]

    def end(self) -> None:
        """The server drains or stops."""
        if self._swap is not None:
            self._swap.give_up("the server is going away")
            self._answer(Failed("the server is going away"))
            self._swap = self._caller = None

    def _conclude(self) -> None:
        swap = self._swap
        if swap is None or not swap.is_over:
            return
        self._swap = None
        is_done = swap.stage is Stage.DONE
        self.num_done += is_done
        self.num_failed += not is_done
        self._parent.log("info" if is_done else "error", swap.text)
        self._answer(Done(swap.text) if is_done else Failed(swap.text))
        self._caller = None

    def _answer(self, message: Progress | Done | Failed) -> None:
        if self._caller is not None:
            self._caller.answer(message)

    # Crew

    def report(self, text: str) -> None:
        """Tell who asked, and the server's log."""
        self._parent.log("info", text)
        self._answer(Progress(text))

    def tell_workers(self, message: Retire) -> None:
        """A worker too busy to read is told again a second later."""
        for worker in self._children.running(Kind.WORKER):
            self._send(worker, message)

    def stop(self, child: Child) -> None:
        """It has nothing to do any more."""
        self._send(child, Stop())

    def kill(self, child: Child) -> None:
        """Its end is told as any other's."""
        process = self._parent.process_of(child)
        if process is not None:
            process.kill()

    def _send(self, child: Child, message: SupervisorMessage) -> None:
        process = self._parent.process_of(child)
        if process is not None:
            process.send(message)
