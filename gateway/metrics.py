"""What a worker counts, how counts travel to the parent, and how /metrics shows them. Pure.

Counting is plain integers behind inc() and observe_ns(), because it happens per audio message.
`Metrics` belongs to one worker; samples() is what it sends to the parent, merge() what the parent
does with all of them, render() the Prometheus text. The names, all with the prefix earwire_, are
described for people in docs/METRICS.md:

    connections                       gauge      open client connections of any kind
    refused_total{reason}             counter    connections, requests, sessions not let in
    slow_readers_total                counter    connections ended because the client did not read
    sessions_open{dialect}            gauge      admitted streams
    sessions_total{dialect,outcome}   counter    streams that ended; outcome: ok or an error code
    errors_total{code}                counter    errors sent to clients
    audio_samples_total{stage}        counter    16 kHz samples; stage: socket, ring, engine
    accounting_mismatch_total         counter    close records whose three counts differ
    overflow_samples_total            counter    samples lost by live sessions, all announced
    sessions_parked                   gauge      sessions whose connection is lost: they wait
    resumes_total{outcome}            counter    resumed, failed, later, relayed (to its worker)
    partials_total{dialect}           counter
    partials_shed_total               counter    partials not sent, because the client reads slowly
    finals_total{dialect}             counter
    streams_waiting                   gauge      whose service has died, and no other took over yet
    replay_differences_total          counter    repeated results that were not as before
    recovery_seconds                  histogram  from a service's death until another is as far
    decoders{state}                   gauge      processes that open audio files; running, waiting
    spool_bytes                       gauge      encoded audio on disk
    flight_records_total{reason}      counter    flight records made
    flight_records_skipped_total      counter    not made: too many, or a slow disk
    partial_latency_seconds{stage}    histogram  receive_enqueue, enqueue_batch, batch_device,
                                                 device_send, total (receive to send)
    finalize_to_final_seconds         histogram
    loop_turn_seconds                 histogram  the event loop's work between two waits
    gc_pause_seconds                  histogram  Python's garbage collector
    service_last_step_age_seconds{service}, service_step_seconds{service},
    service_open_streams{service}, service_bearable_streams{service},
    service_hop_seconds{service}      gauges, from Health
    uptime_seconds, children_up{kind}, child_restarts_total{kind}  the parent's own
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from protocol.client_messages import Stages
from protocol.service_messages import Health
from protocol.supervisor_messages import Sample

from .sample_merge import merge_samples

PREFIX = "earwire_"
CONTENT_TYPE = CONTENT_TYPE_LATEST
MAX_SERIES = 64  # label sets of one name; further ones are counted together as "other"
_NS = 1_000_000_000
_MS = 1_000_000
# Half a millisecond is a good hop through the gateway, ten seconds a service that is lost.
BOUNDS_NS = tuple(
    int(ms * _MS)
    for ms in (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000)
)

# name without prefix: (Prometheus type, help)
_FAMILIES: dict[str, tuple[str, str]] = {
    "connections": ("gauge", "Open client connections."),
    "refused_total": ("counter", "Connections, requests, sessions not let in, by reason."),
    "slow_readers_total": ("counter", "Connections ended because the client did not read."),
    "sessions_open": ("gauge", "Admitted streams."),
    "sessions_total": ("counter", "Streams that ended, by outcome: ok or an error code."),
    "errors_total": ("counter", "Errors sent to clients."),
    "audio_samples_total": ("counter", "16 kHz samples at the socket, in the ring, in the engine."),
    "accounting_mismatch_total": ("counter", "Close records whose three sample counts differ."),
    "overflow_samples_total": ("counter", "Samples that live sessions lost, all announced."),
    "sessions_parked": ("gauge", "Sessions that wait for their client to reconnect."),
    "resumes_total": ("counter", "Clients that asked to go on with a session, by outcome."),
    "partials_total": ("counter", "Partial results sent."),
    "partials_shed_total": ("counter", "Partial results that slow readers did not get."),
    "finals_total": ("counter", "Final results sent."),
    "streams_waiting": ("gauge", "Streams whose service died and no other took over yet."),
    "replay_differences_total": ("counter", "Results of a new service unlike the old one's."),
    "recovery_seconds": ("histogram", "From a service's death until another is as far."),
    "decoders": ("gauge", "Processes that open audio, running, and files that wait for one."),
    "spool_bytes": ("gauge", "Encoded audio of uploads on disk."),
    "flight_records_total": ("counter", "Flight records made, by reason."),
    "flight_records_skipped_total": ("counter", "Flight records not made: too many, slow disk."),
    "partial_latency_seconds": ("histogram", "Way of a partial through the server, by stage."),
    "finalize_to_final_seconds": ("histogram", "From a client's finalize to its final."),
    "loop_turn_seconds": ("histogram", "Work of the event loop between two waits."),
    "gc_pause_seconds": ("histogram", "Pauses by Python's garbage collector."),
    "service_last_step_age_seconds": ("gauge", "Since the last recognition step that succeeded."),
    "service_step_seconds": ("gauge", "Recent mean duration of a recognition step."),
    "service_open_streams": ("gauge", "Streams a recognition service holds."),
    "service_bearable_streams": ("gauge", "Streams that its steps leave time for."),
    "service_hop_seconds": ("gauge", "Interval of partials at the present load."),
    "uptime_seconds": ("gauge", "Since the server was started."),
    "children_up": ("gauge", "Running processes."),
    "child_restarts_total": ("counter", "Processes that died and were started again."),
    "model_swaps_total": ("counter", "Models replaced while the server ran, by outcome."),
}
_HISTOGRAM_SUFFIXES = ("_bucket", "_count", "_sum")

Labels = tuple[tuple[str, str], ...]


class Value:
    """A counter or a gauge of one label set."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Count."""
        self.value += amount

    def dec(self, amount: int = 1) -> None:
        """Take back; gauges only."""
        self.value -= amount

    def samples(self, name: str, labels: Labels) -> Iterable[Sample]:
        """As the parent gets it."""
        yield Sample(name, labels, self.value)


class Histogram:
    """Durations in buckets of BOUNDS_NS."""

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_NS) + 1)
        self.sum_ns = 0

    def observe_ns(self, duration_ns: int) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS_NS, duration_ns)] += 1
        self.sum_ns += duration_ns

    def samples(self, name: str, labels: Labels) -> Iterable[Sample]:
        """Cumulative buckets, count and sum, as Prometheus wants them."""
        total = 0
        for bound_ns, count in zip(BOUNDS_NS, self.counts, strict=False):
            total += count
            yield Sample(f"{name}_bucket", (*labels, ("le", f"{bound_ns / _NS:g}")), total)
        total += self.counts[-1]
        yield Sample(f"{name}_bucket", (*labels, ("le", "+Inf")), total)
        yield Sample(f"{name}_count", labels, total)
        yield Sample(f"{name}_sum", labels, self.sum_ns / _NS)


SeriesT = TypeVar("SeriesT", Value, Histogram)


class Labelled(Generic[SeriesT]):
    """The series of one name, one per label set, made when first asked for."""

    def __init__(self, make: Callable[[], SeriesT], *names: str) -> None:
        self._make: Callable[[], SeriesT] = make
        self._names = names
        self._series: dict[tuple[str, ...], SeriesT] = {}

    def labels(self, *values: str) -> SeriesT:
        """The series of these label values, given in the order of the names."""
        series = self._series.get(values)
        if series is not None:
            return series
        if len(values) != len(self._names):
            raise AssertionError(f"labels {self._names} got {values}")
        if len(self._series) >= MAX_SERIES:
            values = ("other",) * len(values)
        return self._series.setdefault(values, self._make())

    def samples(self, name: str, labels: Labels) -> Iterable[Sample]:
        """Those of all series."""
        for values, series in self._series.items():
            own: Labels = tuple(zip(self._names, values, strict=True))
            yield from series.samples(name, (*labels, *own))


class Metrics:
    """One worker's counts. Attributes are named as the module text names them, without units."""

    def __init__(self) -> None:
        self.connections = Value()
        self.refused = Labelled(Value, "reason")
        self.slow_readers = Value()
        self.sessions_open = Labelled(Value, "dialect")
        self.sessions = Labelled(Value, "dialect", "outcome")
        self.errors = Labelled(Value, "code")
        self.audio_samples = Labelled(Value, "stage")
        self.accounting_mismatch = Value()
        self.overflow_samples = Value()
        self.sessions_parked = Value()
        self.resumes = Labelled(Value, "outcome")
        self.partials = Labelled(Value, "dialect")
        self.partials_shed = Value()
        self.finals = Labelled(Value, "dialect")
        self.streams_waiting = Value()
        self.replay_differences = Value()
        self.recovery = Histogram()
        self.decoders = Labelled(Value, "state")
        self.spool_bytes = Value()
        self.flight_records = Labelled(Value, "reason")
        self.flight_records_skipped = Value()
        self.partial_latency = Labelled(Histogram, "stage")
        self.finalize_to_final = Histogram()
        self.loop_turn = Histogram()
        self.gc_pause = Histogram()
        self._health: dict[int, Health] = {}
        self._hops = (
            self.partial_latency.labels("receive_enqueue"),
            self.partial_latency.labels("enqueue_batch"),
            self.partial_latency.labels("batch_device"),
            self.partial_latency.labels("device_send"),
        )
        self._total_latency = self.partial_latency.labels("total")

    def observe_partial(self, stages: Stages, send_ns: int) -> None:
        """Count the stages of a partial that is queued for its client now."""
        times = (
            stages.receive_ns, stages.enqueue_ns, stages.batch_start_ns, stages.device_done_ns,
            send_ns,
        )  # fmt: skip
        if 0 in times:
            return  # a stage nobody stamped
        for histogram, begin_ns, end_ns in zip(self._hops, times, times[1:], strict=False):
            histogram.observe_ns(end_ns - begin_ns)
        self._total_latency.observe_ns(send_ns - stages.receive_ns)

    def set_decoders(self, num_running: int, num_waiting: int, spool_bytes: int) -> None:
        """The pool of decoders, now."""
        self.decoders.labels("running").value = num_running
        self.decoders.labels("waiting").value = num_waiting
        self.spool_bytes.value = spool_bytes

    def set_health(self, service: int, health: Health) -> None:
        """The newest report of a service."""
        self._health[service] = health

    def forget_service(self, service: int) -> None:
        """Its link is gone."""
        self._health.pop(service, None)

    def samples(self, now_ns: int) -> tuple[Sample, ...]:
        """Everything, for the parent."""
        series: dict[str, Value | Histogram | Labelled[Value] | Labelled[Histogram]] = {
            "connections": self.connections,
            "refused_total": self.refused,
            "slow_readers_total": self.slow_readers,
            "sessions_open": self.sessions_open,
            "sessions_total": self.sessions,
            "errors_total": self.errors,
            "audio_samples_total": self.audio_samples,
            "accounting_mismatch_total": self.accounting_mismatch,
            "overflow_samples_total": self.overflow_samples,
            "sessions_parked": self.sessions_parked,
            "resumes_total": self.resumes,
            "partials_total": self.partials,
            "partials_shed_total": self.partials_shed,
            "finals_total": self.finals,
            "streams_waiting": self.streams_waiting,
            "replay_differences_total": self.replay_differences,
            "recovery_seconds": self.recovery,
            "decoders": self.decoders,
            "spool_bytes": self.spool_bytes,
            "flight_records_total": self.flight_records,
            "flight_records_skipped_total": self.flight_records_skipped,
            "partial_latency_seconds": self.partial_latency,
            "finalize_to_final_seconds": self.finalize_to_final,
            "loop_turn_seconds": self.loop_turn,
            "gc_pause_seconds": self.gc_pause,
        }
        samples: list[Sample] = []
        for name, family in series.items():
            samples.extend(family.samples(PREFIX + name, ()))
        for service, health in self._health.items():
            samples.extend(_health_samples(service, health, now_ns))
        return tuple(samples)


def _health_samples(service: int, health: Health, now_ns: int) -> Iterable[Sample]:
    # every worker hears the same service: the parent must not add these up
    labels = (("service", str(service)),)
    values = {
        "service_step_seconds": health.step_ms / 1000,
        "service_open_streams": float(health.open_streams),
        "service_hop_seconds": health.hop_ms / 1000,
    }
    if health.bearable_streams is not None:
        values["service_bearable_streams"] = float(health.bearable_streams)
    if health.last_step_ns:
        values["service_last_step_age_seconds"] = max(0, now_ns - health.last_step_ns) / _NS
    for name, value in values.items():
        yield Sample(PREFIX + name, labels, value, "max")


def merge(reports: Iterable[tuple[Sample, ...]]) -> tuple[Sample, ...]:
    """The reports of several processes as one."""
    return merge_samples(sample for report in reports for sample in report)


class _Samples(Collector):
    """Merged samples as prometheus_client wants to see them."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        """One family per name; a name that is not listed here is shown untyped."""
        families: dict[str, Metric] = {}
        for sample in self._samples:
            name, kind, text = _family_of(sample.name)
            family = families.get(name)
            if family is None:
                family = families[name] = Metric(name, text, kind)
            family.add_sample(sample.name, dict(sample.labels), sample.value)
        return families.values()


def _family_of(sample_name: str) -> tuple[str, str, str]:
    short = sample_name.removeprefix(PREFIX)
    for suffix in _HISTOGRAM_SUFFIXES:
        base = short.removesuffix(suffix)
        if base != short and _FAMILIES.get(base, ("", ""))[0] == "histogram":
            short = base
            break
    kind, text = _FAMILIES.get(short, ("unknown", "Not described."))
    # prometheus_client names a counter without _total and puts it back when it writes
    name = short.removesuffix("_total") if kind == "counter" else short
    return PREFIX + name, kind, text


def render(samples: Iterable[Sample]) -> bytes:
    """Prometheus text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Samples(samples))
    return generate_latest(registry)
