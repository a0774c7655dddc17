"""bench/counting_service.py and gateway_analysis.py: counted, held to the contract, joined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.counting_service import CREDIT_STEP_SAMPLES, Ledger
from bench.frames import FRAME_NS, FRAME_SAMPLES
from bench.gateway import capacity, ratios
from bench.gateway_analysis import WARM_UP_FRAMES, Counted, Load, count_lost, make_level
from protocol import service_messages as messages
from protocol.framing import HEADER_BYTES
from protocol.service_messages import SamplesRecord, encode_samples

MS = 1_000_000
FRAMES = 100
WINDOW_NS = (10**9, 2 * 10**9)  # the first 49 or 50 frames of each stream


def payload(*records: SamplesRecord) -> bytes:
    return encode_samples(records, 0)[HEADER_BYTES:]


def opened(*slots: int) -> Ledger:
    ledger = Ledger()
    for slot in slots:
        ledger.on_message(messages.Open(slot, 1, f"s{slot}"))
    return ledger


def test_credit_follows_every_quarter_second() -> None:
    ledger = opened(3)
    due = []
    for k in range(13):
        due += ledger.on_samples(payload(SamplesRecord(3, 1, k * 320, 320, 5)), 6)
    assert due == [messages.Credit(3, 1, 4_160, 4_160)]
    assert CREDIT_STEP_SAMPLES == 4_000


def test_a_gap_and_a_stranger_are_breaks() -> None:
    ledger = opened(0)
    ledger.on_samples(payload(SamplesRecord(0, 1, 320, 320, 5)), 6)
    ledger.on_samples(payload(SamplesRecord(9, 1, 0, 320, 5), SamplesRecord(0, 2, 0, 1, 5)), 6)
    assert ledger.all_streams()[0].breaks == 1
    assert ledger.strays == 2


def test_close_states_what_was_heard() -> None:
    ledger = opened(0)
    ledger.on_samples(payload(SamplesRecord(0, 1, 0, 320, 5)), 6)
    assert ledger.on_message(messages.Close(0, 1, 320)) == [messages.StreamClosed(0, 1, 320)]
    assert ledger.on_message(messages.Close(0, 1, 320)) == []
    (stream,) = ledger.all_streams()
    assert stream.closed
    assert stream.breaks == 0


def test_a_close_beyond_what_was_heard_is_a_break() -> None:
    ledger = opened(0)
    ledger.on_message(messages.Close(0, 1, 320))
    assert ledger.all_streams()[0].breaks == 1


def test_finalize_is_answered() -> None:
    (answer,) = opened(0).on_message(messages.Finalize(0, 1, 7, 640))
    assert isinstance(answer, messages.Final)
    assert (answer.finalize_id, answer.end_sample, answer.text) == (7, 640, "")


@pytest.fixture
def run(tmp_path: Path) -> tuple[Counted, Load]:
    """Two streams; every frame is sent 1 ms late, received 2 ms after that, arrives 3 ms later.
    Stream 1 is announced two frames at a time."""
    ledger = opened(4, 7)
    begin_ns = 10**9
    lags = np.full(2 * FRAMES, MS, np.int64)
    for k in range(FRAMES):
        sent_ns = begin_ns + k * FRAME_NS + MS
        record = SamplesRecord(4, 1, k * FRAME_SAMPLES, FRAME_SAMPLES, sent_ns + 2 * MS)
        ledger.on_samples(payload(record), sent_ns + 5 * MS)
        if k % 2:
            sent_ns += FRAME_NS // 2
            first = (k - 1) * FRAME_SAMPLES
            record = SamplesRecord(7, 1, first, 2 * FRAME_SAMPLES, sent_ns + 2 * MS)
            ledger.on_samples(payload(record), sent_ns + 5 * MS)
    path = tmp_path / "counted.npz"
    ledger.save(str(path))
    load = Load(begin_ns, 2, FRAMES, ["s4", "s7"], lags, 0, 0.1)
    return Counted.load(path), load


def test_latencies_from_receive_send_and_schedule(run: tuple[Counted, Load]) -> None:
    counted, load = run
    level = make_level(counted, load, [], cpu_s=0.5, window_ns=WINDOW_NS, rss_bytes=2**20)
    measured = 2 * (FRAMES - WARM_UP_FRAMES)
    for summary, p50, largest in (
        (level.receive_to_service, 3, 3),
        (level.send_to_service, 5, 25),  # the first of two frames waited for the second
        (level.due_to_service, 6, 26),
    ):
        assert summary is not None
        assert summary.count == measured
        assert summary.p50 == pytest.approx(p50)
        assert summary.max == pytest.approx(largest)
    assert level.lost_frames == level.breaks == 0
    assert level.cpu_us_per_frame == pytest.approx(0.5e6 / 100)


def test_frames_that_never_arrived_are_lost(run: tuple[Counted, Load]) -> None:
    counted, load = run
    longer = Load(load.begin_ns, 2, FRAMES + 3, load.session_ids, load.lags_ns, 0, 0.1)
    assert count_lost(counted, longer, []) == (6, 0)


def test_close_records_must_state_one_number(run: tuple[Counted, Load]) -> None:
    counted, load = run
    total = FRAMES * FRAME_SAMPLES
    good = {f"{place}_samples": total for place in ("client", "socket", "ring", "engine")}
    assert count_lost(counted, load, [good, {**good, "ring_samples": total - 1}]) == (0, 1)


def test_ratio_compares_what_both_held(run: tuple[Counted, Load]) -> None:
    counted, load = run
    slow = make_level(counted, load, [], cpu_s=0.99, window_ns=WINDOW_NS, rss_bytes=0)
    assert not slow.passes  # the core is saturated
    assert capacity([slow]) == 0
    fast = make_level(counted, load, [], cpu_s=0.33, window_ns=WINDOW_NS, rss_bytes=0)
    found = ratios({"native": {"worker": [fast], "asyncio": [slow]}})
    assert found == {"native": {"streams": None, "cpu_us_per_frame": 3.0}}
