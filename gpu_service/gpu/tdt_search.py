"""TdtSearch: the order of the TDT decoder's steps, in each of four modes.

All modes run the same device functions and say the same tokens. PERSISTENT and FULL_GRAPH are one
launch, for which the host waits nowhere; the other two ask a flag of every turn. Knows steps and
graphs, no rows.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from .device import Device, Graph
from .tdt_steps import TdtSteps


class GraphMode(Enum):
    """How the search of a launch runs."""

    PERSISTENT = "persistent"  # one cooperative kernel
    FULL_GRAPH = "full graph"  # a graph with a WHILE, and an IF inside
    STEPWISE = "stepwise"  # a graph for each part of a turn, the loop on the host
    EAGER = "eager"  # kernels, the loop on the host


class TdtSearch:
    """The graphs of one decoder."""

    def __init__(self, device: Device, steps: TdtSteps, flags: NDArray[np.int32]) -> None:
        """`flags`: the host's view of what steps set in turns of the host's loop."""
        self._device = device
        self._steps = steps
        self._flags = flags
        self._graphs: dict[GraphMode, list[Graph]] = {}

    def prepare(self, mode: GraphMode) -> None:
        """Compile and capture, if that was not done yet. Raises DeviceError."""
        if mode in self._graphs:
            return
        if mode is GraphMode.PERSISTENT:
            graphs = [self._capture(self._steps.persistent)]
        elif mode is GraphMode.FULL_GRAPH:
            graphs = [self._capture(self._whole)]
        elif mode is GraphMode.STEPWISE:
            graphs = [self._capture(part) for part in self._parts()]
        else:
            graphs = []
        self._graphs[mode] = graphs

    def run(self, mode: GraphMode) -> None:
        """Enqueue the search of the request that lies on the device."""
        self.prepare(mode)
        graphs = self._graphs[mode]
        if len(graphs) == 1:
            graphs[0].launch()
        elif mode is GraphMode.EAGER:
            self._loop(*self._parts())
        else:
            self._loop(*(graph.launch for graph in graphs))

    def _loop(
        self,
        begin: Callable[[], None],
        turn: Callable[[], None],
        advance: Callable[[], None],
        end: Callable[[], None],
    ) -> None:
        """The loop on the host. A turn without rows changes nothing."""
        begin()
        num_active = 1
        while num_active:
            turn()
            self._device.wait(self._device.record())
            num_active, advances = self._flags.tolist()
            if advances:
                advance()
        end()

    def _parts(self) -> tuple[Callable[[], None], ...]:
        return (self._begin, self._turn, self._advance, self._steps.end)

    def _begin(self) -> None:
        self._steps.begin()
        self._steps.recurrent()

    def _turn(self) -> None:
        self._steps.joint()
        self._steps.pick()

    def _advance(self) -> None:
        self._steps.lowest()
        for step in range(1, self._steps.num_layers + 1):
            self._steps.layer(step)

    def _whole(self) -> None:
        loop, said = self._device.condition(), self._device.condition()
        self._steps.begin(loop)
        self._steps.recurrent()
        with self._device.while_loop(loop):
            self._steps.joint()
            self._steps.pick(loop, said)
            with self._device.if_then(said):
                self._advance()
        self._steps.end()

    def _capture(self, part: Callable[[], None]) -> Graph:
        with self._device.capture() as capture:
            part()
        return capture.graph
