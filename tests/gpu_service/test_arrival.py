"""Arrival: talkers and files."""

from __future__ import annotations

from gpu_service.arrival import BULK_LEAD_NS, Arrival

S = 1_000_000_000
RATE = 16_000


def test_a_talker_is_none_however_late_its_packets_come() -> None:
    arrival = Arrival()
    arrival.begin(5 * S, 320)
    assert not arrival.is_bulk(5 * S, 320)
    assert not arrival.is_bulk(65 * S, 60 * RATE)
    assert not arrival.is_bulk(165 * S, 2 * 60 * RATE)  # a minute at once, behind a hole of two


def test_who_is_ahead_of_the_time_by_seconds_is_one() -> None:
    arrival = Arrival()
    arrival.begin(5 * S, 320)
    lead_samples = BULK_LEAD_NS // S * RATE
    assert not arrival.is_bulk(15 * S, 320 + 10 * RATE + lead_samples)
    assert arrival.is_bulk(15 * S, 320 + 10 * RATE + lead_samples + 1)


def test_it_takes_a_moment_to_know() -> None:
    arrival = Arrival()
    assert not arrival.is_known(100 * S)
    arrival.begin(5 * S, 320)
    assert not arrival.is_known(5 * S + BULK_LEAD_NS)
    assert arrival.is_known(5 * S + BULK_LEAD_NS + 1)


def test_what_a_stream_brings_with_it_from_another_service_is_no_lead() -> None:
    arrival = Arrival()
    arrival.begin(5 * S, 4 * RATE)
    arrival.begin(5 * S, 40 * RATE)
    assert not arrival.is_bulk(6 * S, 41 * RATE)
