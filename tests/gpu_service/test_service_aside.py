"""Service with an engine that works aside, turn by turn: what comes in while a step is computed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import numpy as np
import pytest

from gpu_service import service
from protocol import service_messages as messages
from protocol.client_messages import LatencyClass
from protocol.shm import receive_message
from protocol.supervisor_messages import Alive

from .device_recognizer import WaitingRecognizer
from .turned_service import CHUNK, LAYOUT, Rig, of_type


@pytest.fixture
def rig() -> Iterator[Rig[WaitingRecognizer]]:
    rig = Rig(WaitingRecognizer())
    yield rig
    rig.parent.close()


def test_a_step_is_finished_in_the_turn_after_it_was_begun(rig: Rig[WaitingRecognizer]) -> None:
    worker = rig.worker()
    worker.open(0)
    worker.speak(0, 8_000)
    rig.turn()
    num_steps = rig.recognizer.num_steps  # with the probe that a service begins with
    assert rig.recognizer.running is not None
    assert of_type(worker.received(), messages.Partial) == []
    worker.speak(0)  # is listened to while the step runs
    rig.turn()
    assert rig.recognizer.num_steps == num_steps + 1
    (partial,) = of_type(worker.received(), messages.Partial)
    assert isinstance(partial, messages.Partial)
    assert partial.end_sample == 15 * 512


def count_alive(parent: socket.socket) -> int:
    """Signs of life that the parent has not read yet."""
    parent.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while (received := receive_message(parent)) is not None:
            count += isinstance(received[0], Alive)
    return count


@pytest.mark.parametrize(("interval_ns", "num_signs"), [(0, 5), (1 << 62, 0)])
def test_a_long_step_shows_the_parent_that_it_goes_on(
    rig: Rig[WaitingRecognizer], monkeypatch: pytest.MonkeyPatch, interval_ns: int, num_signs: int
) -> None:
    """At most one a part, and none before it is due."""
    monkeypatch.setattr(service, "HEALTH_INTERVAL_NS", interval_ns)
    worker = rig.worker()
    worker.open(0)
    signs = []
    for num_parts in (0, 5):
        rig.recognizer.num_parts = num_parts
        worker.speak(0, 8_000)
        rig.turn()
        assert rig.recognizer.running is not None
        count_alive(rig.parent)
        rig.turn()
        signs.append(count_alive(rig.parent))
        rig.run_dry()
    assert signs[1] - signs[0] == num_signs


def test_finals_are_of_all_audio_and_the_stream_ends(rig: Rig[WaitingRecognizer]) -> None:
    worker = rig.worker()
    for slot in range(3):
        worker.open(slot)
    for number in range(20):
        for slot in range(3):
            worker.speak(slot, CHUNK + slot)
        if number % 3 == 0:
            rig.turn()
    for slot in range(3):
        worker.close(slot)
    rig.run_dry()
    heard = worker.received()
    lengths = [20 * (CHUNK + slot) for slot in range(3)]
    closed = {m.slot: m.engine_samples for m in of_type(heard, messages.StreamClosed)}  # type: ignore[union-attr]
    assert closed == dict(enumerate(lengths))
    assert sorted(len(audio) for audio in rig.recognizer.finals) == lengths
    for audio in rig.recognizer.finals:
        assert np.array_equal(audio, np.arange(len(audio), dtype=np.int16))
    assert rig.recognizer.sessions == {}


def test_a_link_that_ends_during_a_step_keeps_its_arena_until_the_step_is_over(
    rig: Rig[WaitingRecognizer],
) -> None:
    leaving, staying = rig.worker(), rig.worker()
    for worker in (leaving, staying):
        worker.open(0)
        worker.speak(0, 8_000)
    rig.turn()
    assert len(rig.recognizer.memory) == 2
    assert rig.recognizer.running is not None
    leaving.sock.close()
    rig.turn()
    assert len(rig.recognizer.memory) == 1
    staying.close(0)
    rig.run_dry()
    assert len(of_type(staying.received(), messages.Final)) == 1
    assert rig.recognizer.sessions == {}


def test_a_slot_that_is_opened_again_during_a_step_gets_nothing_of_the_stream_before(
    rig: Rig[WaitingRecognizer],
) -> None:
    worker = rig.worker()
    worker.open(0)
    worker.speak(0, 8_000)
    rig.turn()
    assert rig.recognizer.running is not None
    worker.received()
    worker.open(0, generation=2)
    worker.speak(0, 4_000, generation=2)
    worker.send(messages.Finalize(0, 1, 9, 2_000))  # of the stream before, on its way since then
    worker.close(0, generation=2)
    rig.run_dry()
    heard = worker.received()
    assert {m.generation for m in heard} == {2}  # type: ignore[union-attr]
    assert 9 not in {m.finalize_id for m in of_type(heard, messages.Final)}  # type: ignore[union-attr]
    assert [len(audio) for audio in rig.recognizer.finals] == [4_000]
    assert isinstance(heard[-1], messages.StreamClosed)


def test_a_long_backlog_is_heard_in_bounded_turns_up_to_its_finalize(
    rig: Rig[WaitingRecognizer],
) -> None:
    worker = rig.worker()
    worker.open(0)
    worker.speak(0, 60_000)
    worker.send(messages.Finalize(0, 1, 5, 50_000))
    worker.close(0)
    rig.run_dry()
    finals = of_type(worker.received(), messages.Final)
    assert [(m.end_sample, m.finalize_id) for m in finals] == [(50_000, 5), (60_000, None)]  # type: ignore[union-attr]
    assert [len(audio) for audio in rig.recognizer.finals] == [50_000, 10_000]


def test_what_the_load_allows_is_in_the_health_report(rig: Rig[WaitingRecognizer]) -> None:
    service = rig.service
    assert report(rig).bearable_streams == 4
    service._scheduler.speakers = {0: 3}
    service._scheduler.times.took({service._scheduler.times.smallest("draft"): 1}, 1e9)
    assert report(rig).bearable_streams == 1
    assert report(rig).max_streams == 4


def report(rig: Rig[WaitingRecognizer]) -> messages.Health:
    return rig.service._reports.health(0, 0, 0, 0)


def test_a_stream_hears_of_its_pace(rig: Rig[WaitingRecognizer]) -> None:
    worker = rig.worker()
    worker.open(0)
    worker.open(1)
    rig.turn()
    rig.service._health_due_ns = 0
    rig.turn()
    paces = of_type(worker.received(), messages.Pace)
    assert paces == [messages.Pace(slot, 1, LatencyClass.FULL, 100) for slot in (0, 1)]


def test_a_step_that_runs_is_in_the_arena(rig: Rig[WaitingRecognizer]) -> None:
    """The worker reads there, when the service is dead, which streams it was at."""
    worker = rig.worker()
    counts = LAYOUT.step_counts(worker.arena)
    counts[0] = 5  # as a dead service left it
    for slot in (0, 1):
        worker.open(slot)
    worker.speak(0, 8_000)
    rig.turn()
    assert list(counts[:2]) == [7, 0]
    rig.run_dry()
    assert list(counts[:2]) == [8, 0]
    worker.speak(0, 8_000)
    rig.turn()
    assert counts[0] == 9
    worker.open(0, generation=2)  # the stream of that step is gone
    rig.run_dry()
    assert counts[0] == 10
