"""Spans: how long each kernel and each product takes on the device, one by one.

A device and products that pass everything on, and while a probe is on put an event before and
behind each launch. In a graph they cost nothing: what they pass on is what is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from gpu_service.gpu.device import Argument, Device, DeviceArray, Event, Kernel
from gpu_service.gpu.gemm import Gemms, Plan, Product


@dataclass(frozen=True, slots=True)
class Span:
    """One launch."""

    name: str
    ms: float
    product: Product | None  # None: a kernel of ours


@dataclass(slots=True)
class _Open:
    name: str
    start: Event
    end: Event
    product: Product | None


@dataclass(slots=True)
class Probe:
    """What was launched since start(), in order."""

    device: Device
    is_on: bool = False
    products: list[Callable[[], None]] = field(default_factory=list)  # to run them again, alone
    _open: list[_Open] = field(default_factory=list)

    def start(self) -> None:
        """Forget what was, and look from now on."""
        self._open.clear()
        self.products.clear()
        self.is_on = True

    def stop(self) -> list[Span]:
        """Wait for the device; what ran on it."""
        self.is_on = False
        self.device.synchronize()
        return [Span(o.name, self.device.elapsed_ms(o.start, o.end), o.product) for o in self._open]

    def run(self, name: str, work: Callable[[], None], product: Product | None = None) -> None:
        """Enqueue something, between two events where the probe is on."""
        if not self.is_on:
            work()
            return
        start = self.device.record()
        work()
        self._open.append(_Open(name, start, self.device.record(), product))
        if product is not None:
            self.products.append(work)


class _ProbedDevice:
    """A Device that tells the probe of launches."""

    def __init__(self, device: Device, probe: Probe) -> None:
        self._device, self._probe = device, probe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def launch(
        self,
        kernel: Kernel,
        grid: int | tuple[int, int, int],
        block: int,
        *arguments: Argument,
        **options: Any,
    ) -> None:
        self._probe.run(
            kernel.name, lambda: self._device.launch(kernel, grid, block, *arguments, **options)
        )


class _ProbedPlan:
    """A Plan that tells the probe when it runs."""

    def __init__(self, plan: Plan, probe: Probe) -> None:
        self._plan, self._probe = plan, probe
        self.product = plan.product

    def run(
        self, a: DeviceArray, w: DeviceArray, c: DeviceArray, bias: DeviceArray | None = None
    ) -> None:
        self._probe.run("product", lambda: self._plan.run(a, w, c, bias), self.product)


class _ProbedGemms:
    """Gemms with such plans."""

    def __init__(self, gemms: Gemms, probe: Probe) -> None:
        self._gemms, self._probe = gemms, probe

    def plan(self, product: Product) -> Plan:
        return _ProbedPlan(self._gemms.plan(product), self._probe)


def probed(device: Device, gemms: Gemms) -> tuple[Device, Gemms, Probe]:
    """The same device and products, with a probe on both."""
    probe = Probe(device)
    return cast(Device, _ProbedDevice(device, probe)), _ProbedGemms(gemms, probe), probe
