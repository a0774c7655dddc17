"""Streams without a service: who takes them, when, and when nobody does."""

from __future__ import annotations

from gateway.admission import ServiceLoad
from gateway.orphans import MAX_OPENED_A_TURN, MAX_WAIT_NS, OPEN_BELOW_BYTES
from protocol.client_messages import Error
from protocol.errors import ErrorCode
from protocol.service_messages import Health, StreamError

from .memory_service import MemoryService
from .recovery_world import World, world_with_an_orphan


def test_another_service_takes_over_if_it_has_the_model_and_room() -> None:
    world = World()
    first = world.add_service(0)
    streams = [world.open(model="m")[0] for _ in range(3)]
    other = world.add_service(1, models=("other",))
    small = world.add_service(2, max_streams=1)
    world.kill(first)
    world.place()
    assert other.opened == []
    assert [stream.link for stream in streams] == [small, None, None]
    world.wait(1.0)
    assert len(small.opened) == 1
    world.router.close(streams[0], "client")
    world.rest()
    world.wait(1.0)
    assert [stream.link for stream in streams[1:]] == [small, None]
    assert world.router.admission.services[2].open_streams == 1


def test_a_service_that_refuses_for_lack_of_room_is_asked_again() -> None:
    world = World()
    stream, owner = world_with_an_orphan(world)
    successor = world.add_service()
    key = stream.slot, stream.generation
    world.router.receive(successor, StreamError(*key, ErrorCode.AT_CAPACITY, "full"), world.now_ns)
    assert stream.link is None
    assert world.router.admission.services[0].open_streams == 0
    successor.outbox.clear()
    world.wait(1.0)
    assert stream.link is successor
    assert len(successor.opened) == 2
    assert not [event for event in owner.events if isinstance(event, Error)]


def test_nobody_takes_over_for_too_long() -> None:
    world = World()
    stream, owner = world_with_an_orphan(world)
    world.wait(MAX_WAIT_NS / 1e9 - 1)
    assert owner.ended == 0
    world.wait(2.0)
    assert owner.ended == 1
    error = owner.events[-1]
    assert isinstance(error, Error)
    assert error.code is ErrorCode.SERVICE_LOST
    assert world.closed[0].reason == "service_lost"
    assert world.router.admission.slots.num_free == 4
    world.add_service()
    assert world.services[0].opened == []
    assert stream.ended


def test_a_server_that_ends_does_not_wait_for_a_service() -> None:
    world = World()
    _, owner = world_with_an_orphan(world)
    world.router.admission.draining = True
    world.place()
    assert owner.ended == 1


def test_a_busy_link_takes_no_orphans_and_a_turn_only_some() -> None:
    world = World(num_slots=40, ring_samples=1_000)
    service = world.add_service(max_streams=40)
    streams = [world.open()[0] for _ in range(40)]
    world.kill(service)
    busy = MemoryService(world.layout, world.arena, 0)
    busy.queued_bytes = OPEN_BELOW_BYTES + 1
    world.router.links[0] = busy
    load = world.router.admission.services[0] = ServiceLoad()
    load.take_health(Health(world.now_ns, world.now_ns, 1.0, 0, 0, 40, 320, 2_000), world.now_ns)
    assert not world.router.orphans.place(world.now_ns)
    busy.queued_bytes = OPEN_BELOW_BYTES
    assert world.router.orphans.place(world.now_ns)
    assert len(busy.opened) == MAX_OPENED_A_TURN < len(streams)
    assert len(world.router.orphans) == len(streams) - len(busy.opened)
    assert world.router.orphans.place(world.now_ns)
    assert not world.router.orphans.place(world.now_ns)
    assert len(busy.opened) == len(streams)
