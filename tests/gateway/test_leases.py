"""Who holds a slot has to give a sign of life, by sending and by reading.

Clients here go quiet in every way that a network knows; the clock says when their time is over.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from protocol.client_messages import Bye, Error, Finalize, Hello, Ping, Pong
from protocol.errors import ErrorCode

from .counting_service import CountingService
from .rig import NativeClient, Rig

IDLE_MS = 60_000
PCM = bytes(640)
NUM_SLOTS = 4


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig(num_slots=NUM_SLOTS, idle_timeout_ms=IDLE_MS)
    yield rig
    rig.close()


@pytest.fixture
def service(rig: Rig) -> CountingService:
    return rig.add_service()


def talking(rig: Rig) -> NativeClient:
    """A client with a slot."""
    client = rig.connect(Hello())
    client.send_audio(PCM)
    rig.settle()
    assert free(rig) < NUM_SLOTS
    return client


def free(rig: Rig) -> int:
    return rig.worker.admission.slots.num_free


def stop_reading(rig: Rig, client: NativeClient) -> None:
    rig.clients.remove(client)


def pass_time(rig: Rig, service: CountingService, ms: int, step_ms: int = 5_000) -> None:
    """The service goes on reporting, as a living one does."""
    for _ in range(0, ms, step_ms):
        rig.clock.advance_ms(step_ms)
        service.health(rig.clock.now_ns)
        rig.settle()


def test_a_peer_that_is_gone_without_a_word_gives_its_slot_back(
    rig: Rig, service: CountingService
) -> None:
    """A pulled cable: nothing comes any more, not even an end."""
    client = talking(rig)
    pass_time(rig, service, IDLE_MS - 10_000)
    assert free(rig) == NUM_SLOTS - 1
    pass_time(rig, service, 15_000)
    assert free(rig) == NUM_SLOTS
    assert client.of(Error)[0].code is ErrorCode.IDLE_TIMEOUT
    assert service.all_streams[0].closed is not None


def test_pings_are_a_sign_of_life(rig: Rig, service: CountingService) -> None:
    client = talking(rig)
    for nonce in range(10):
        pass_time(rig, service, IDLE_MS // 2)
        client.send(Ping(nonce))
        rig.settle()
    assert free(rig) == NUM_SLOTS - 1
    assert client.of(Pong) == [Pong(nonce) for nonce in range(10)]


def test_a_peer_that_reads_nothing_gives_its_slot_back_though_it_would_send_more(
    rig: Rig, service: CountingService
) -> None:
    """What it does not read piles up; then nothing of it is read either, and it counts as idle."""
    client = talking(rig)
    stop_reading(rig, client)
    stream = service.all_streams[0]
    for _ in range(400):
        service.partial(stream, "words " * 200)
        rig.settle()
    for nonce in range(400):
        if not try_to_send(client, nonce):
            break
        pass_time(rig, service, 1_000, 1_000)
    pass_time(rig, service, IDLE_MS + 10_000)
    assert stream.closed is not None
    assert free(rig) == NUM_SLOTS
    assert rig.worker.door.num_connections == 0


def try_to_send(client: NativeClient, nonce: int) -> bool:
    """More than the server takes any more fills the socket."""
    try:
        client.send(Ping(nonce))
        client.send_audio(bytes(64_000))
    except (BlockingIOError, AssertionError):
        return False
    return True


def test_a_peer_that_neither_reads_its_last_words_nor_goes_is_cut_off(
    rig: Rig, service: CountingService
) -> None:
    client = talking(rig)
    stop_reading(rig, client)
    client.send(Bye())
    rig.settle()
    assert free(rig) == NUM_SLOTS
    assert rig.worker.door.num_connections == 1  # its words wait for it
    pass_time(rig, service, 10_000)
    assert rig.worker.door.num_connections == 0


def test_while_the_server_is_slow_nobody_is_idle(rig: Rig, service: CountingService) -> None:
    """A blocked client may not send: its silence is the server's."""
    service.auto_credit = False
    client = talking(rig)
    client.send_audio(bytes(2 * 16_000))  # the ring holds a second
    rig.settle()
    pass_time(rig, service, 3 * IDLE_MS)
    assert free(rig) == NUM_SLOTS - 1
    assert not client.of(Error)
    service.auto_credit = True
    service.credit(service.all_streams[0])
    rig.settle()
    pass_time(rig, service, 2 * IDLE_MS)
    assert client.of(Error)[0].code is ErrorCode.IDLE_TIMEOUT


def test_pings_need_no_service(rig: Rig, service: CountingService) -> None:
    """The gateway answers by itself: a service that hangs, or none at all, is no reason to wait."""
    service.auto_credit = False  # so that another one could begin where this one did
    client = talking(rig)
    rig.services.remove(service)  # it takes nothing any more
    client.send(Ping(1))
    rig.settle()
    assert client.of(Pong) == [Pong(1)]
    service.sock.close()
    rig.settle()
    client.send(Finalize(finalize_id=1), Ping(2))
    rig.settle()
    assert client.of(Pong) == [Pong(1), Pong(2)]


def test_a_resumable_session_is_kept_for_its_window_and_no_longer() -> None:
    window_ms = 30_000
    rig = Rig(num_slots=NUM_SLOTS, idle_timeout_ms=IDLE_MS, resume_window_ms=window_ms)
    service = rig.add_service()
    client = rig.connect(Hello(resumable=True))
    client.send_audio(PCM)
    rig.settle()
    pass_time(rig, service, IDLE_MS + 5_000)
    assert rig.worker.door.num_connections == 0  # half open: cut off
    assert free(rig) == NUM_SLOTS - 1
    pass_time(rig, service, window_ms + 5_000)
    assert free(rig) == NUM_SLOTS
    assert service.all_streams[0].closed is not None
    rig.close()
