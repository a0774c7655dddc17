"""Counting, merging over processes, and the text that Prometheus reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import structs
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import (
    _FAMILIES,
    BOUNDS_NS,
    MAX_SERIES,
    Histogram,
    Labelled,
    Metrics,
    Value,
    merge,
    render,
)
from protocol.client_messages import Stages
from protocol.service_messages import Health
from protocol.supervisor_messages import (
    MAX_MESSAGE_BYTES,
    Sample,
    Stats,
    decode_supervisor_message,
    encode_supervisor_message,
)

HEALTH = Health(
    now_ns=5_000_000_000,
    last_step_ns=4_000_000_000,
    step_ms=20.0,
    open_streams=3,
    link_streams=2,
    max_streams=8,
    hop_ms=320,
    max_utterance_ms=30_000,
)


def shown(samples: tuple[Sample, ...]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a Prometheus parser reads."""
    text = render(samples).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def types(samples: tuple[Sample, ...]) -> dict[str, str]:
    text = render(samples).decode()
    return {family.name: family.type for family in text_string_to_metric_families(text)}


def test_values_and_labels() -> None:
    metrics = Metrics()
    metrics.connections.inc(3)
    metrics.connections.dec()
    metrics.sessions.labels("together", "ok").inc()
    metrics.sessions.labels("together", "ok").inc()
    metrics.audio_samples.labels("ring").inc(320)
    values = shown(metrics.samples(0))
    assert values["earwire_connections", ()] == 2
    ok = (("dialect", "together"), ("outcome", "ok"))
    assert values["earwire_sessions_total", ok] == 2
    assert values["earwire_audio_samples_total", (("stage", "ring"),)] == 320
    assert values["earwire_accounting_mismatch_total", ()] == 0  # shown before it ever happened


def test_a_histogram_counts_cumulatively() -> None:
    histogram = Histogram()
    for duration_ns in (1, BOUNDS_NS[0], BOUNDS_NS[0] + 1, BOUNDS_NS[-1] + 1):
        histogram.observe_ns(duration_ns)
    samples = {s.name + str(dict(s.labels)): s.value for s in histogram.samples("h", ())}
    assert samples["h_bucket{'le': '0.0001'}"] == 2
    assert samples["h_bucket{'le': '0.00025'}"] == 3
    assert samples["h_bucket{'le': '10'}"] == 3
    assert samples["h_bucket{'le': '+Inf'}"] == samples["h_count{}"] == 4
    assert samples["h_sum{}"] == pytest.approx((2 * BOUNDS_NS[0] + BOUNDS_NS[-1] + 3) / 1e9)


def test_labels_are_bounded() -> None:
    family = Labelled(Value, "code")
    for number in range(MAX_SERIES + 20):
        family.labels(str(number)).inc()
    samples = list(family.samples("x", ()))
    assert len(samples) == MAX_SERIES + 1
    assert samples[-1] == Sample("x", (("code", "other"),), 20)
    with pytest.raises(AssertionError):
        family.labels("a", "b")


def test_the_stages_of_a_partial() -> None:
    metrics = Metrics()
    stages = Stages(receive_ns=10, enqueue_ns=2_000_010, batch_start_ns=3_000_010,
                    device_done_ns=53_000_010)  # fmt: skip
    metrics.observe_partial(stages, 54_000_010)
    metrics.observe_partial(Stages(), 1)  # nobody stamped it
    values = shown(metrics.samples(0))
    for stage, seconds in {
        "receive_enqueue": 0.002,
        "enqueue_batch": 0.001,
        "batch_device": 0.05,
        "device_send": 0.001,
        "total": 0.054,
    }.items():
        label = (("stage", stage),)
        assert values["earwire_partial_latency_seconds_sum", label] == pytest.approx(seconds)
        assert values["earwire_partial_latency_seconds_count", label] == 1


def test_service_gauges_come_from_health() -> None:
    metrics = Metrics()
    metrics.set_health(1, HEALTH)
    label = (("service", "1"),)
    values = shown(metrics.samples(6_000_000_000))
    assert values["earwire_service_last_step_age_seconds", label] == 2.0
    assert values["earwire_service_step_seconds", label] == 0.02
    assert values["earwire_service_open_streams", label] == 3
    assert values["earwire_service_hop_seconds", label] == 0.32
    assert ("earwire_service_bearable_streams", label) not in values
    metrics.set_health(1, structs.replace(HEALTH, bearable_streams=9))
    values = shown(metrics.samples(6_000_000_000))
    assert values["earwire_service_bearable_streams", label] == 9
    metrics.forget_service(1)
    metrics.forget_service(1)
    assert ("earwire_service_open_streams", label) not in shown(metrics.samples(0))


def test_a_service_without_a_step_has_no_step_age() -> None:
    metrics = Metrics()
    metrics.set_health(0, Health(1, 0, 0.0, 0, 0, 8, 320, 30_000))
    assert "earwire_service_last_step_age_seconds" not in {s.name for s in metrics.samples(9)}


def test_workers_add_up_and_services_do_not() -> None:
    workers = [Metrics(), Metrics()]
    for worker in workers:
        worker.partials.labels("native").inc(5)
        worker.loop_turn.observe_ns(1)
        worker.set_health(0, HEALTH)
    values = shown(merge([worker.samples(5_000_000_000) for worker in workers]))
    assert values["earwire_partials_total", (("dialect", "native"),)] == 10
    assert values["earwire_loop_turn_seconds_count", ()] == 2
    assert values["earwire_service_open_streams", (("service", "0"),)] == 3


def test_types_are_told_to_prometheus() -> None:
    metrics = Metrics()
    metrics.set_health(0, HEALTH)
    metrics.errors.labels("internal").inc()
    kinds = types((*metrics.samples(0), Sample("earwire_new_thing", (), 1)))
    assert kinds["earwire_connections"] == "gauge"
    assert kinds["earwire_errors"] == "counter"
    assert kinds["earwire_loop_turn_seconds"] == "histogram"
    assert kinds["earwire_service_hop_seconds"] == "gauge"
    assert kinds["earwire_new_thing"] == "unknown"


def test_a_report_fits_one_message() -> None:
    metrics = Metrics()
    for family in (metrics.sessions_open, metrics.errors, metrics.partials, metrics.finals):
        for number in range(MAX_SERIES):
            family.labels(f"label-value-{number}").inc()
    for number in range(MAX_SERIES):
        metrics.sessions.labels("openai_realtime", f"outcome-{number}").inc()
    stats = Stats(metrics.samples(0))
    data = encode_supervisor_message(stats)
    assert len(data) < MAX_MESSAGE_BYTES
    assert decode_supervisor_message(data) == stats


def test_decoders_and_their_spool_are_gauges() -> None:
    metrics = Metrics()
    metrics.set_decoders(2, 1, 1_000)
    metrics.set_decoders(1, 0, 500)
    values = shown(metrics.samples(0))
    assert values["earwire_decoders", (("state", "running"),)] == 1
    assert values["earwire_decoders", (("state", "waiting"),)] == 0
    assert values["earwire_spool_bytes", ()] == 500


def test_the_document_describes_every_name_and_no_other() -> None:
    text = (Path(__file__).parents[2] / "docs" / "METRICS.md").read_text()
    described = set(re.findall(r"^\| `earwire_(\w+)", text, re.MULTILINE))
    assert described == set(_FAMILIES)
