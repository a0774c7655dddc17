"""The tormentor itself: it loses nothing that it was not told to lose."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .plan import AS_IT_COMES, Cutter, Plan, Reset, Send, Stall, Step, Torment, random_torment
from .tormentor import Tormentor

plans = st.builds(
    Plan,
    pieces=st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple),
    stalls=st.lists(st.tuples(st.integers(0, 60), st.just(1.0)), max_size=3).map(
        lambda stalls: tuple(sorted(stalls))
    ),
    reset_at=st.none() | st.integers(0, 60),
)


@given(plan=plans, chunks=st.lists(st.binary(min_size=1, max_size=20), max_size=5))
def test_bytes_are_kept_in_order_up_to_the_reset(plan: Plan, chunks: list[bytes]) -> None:
    cutter = Cutter(plan)
    steps = [step for chunk in chunks for step in cutter.steps(chunk)]
    whole = b"".join(chunks)
    sent = b"".join(step.data for step in steps if isinstance(step, Send))
    due = len(whole) if plan.reset_at is None else min(len(whole), plan.reset_at)
    assert sent == whole[:due]
    assert cutter.position == due
    is_reset = any(isinstance(step, Reset) for step in steps)
    assert is_reset == (plan.reset_at is not None and bool(chunks) and len(whole) >= plan.reset_at)


def test_steps_come_where_the_plan_says() -> None:
    cutter = Cutter(Plan((2, AS_IT_COMES), stalls=((3, 9.0),), reset_at=6))
    expected: list[Step] = [Send(b"ab"), Send(b"c"), Stall(9.0), Send(b"de"), Send(b"f"), Reset()]
    assert list(cutter.steps(b"abcdefgh")) == expected


def test_torments_travel_as_json() -> None:
    for seed in range(20):
        torment = random_torment(seed, 1_000, resets=seed % 2 == 1)
        assert Torment.from_json(torment.as_json()) == torment


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says everything again."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    sock = listener.accept()[0]
                except OSError:
                    return
                with sock:
                    try:
                        while data := sock.recv(4_096):
                            sock.sendall(data)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def through(port: int, data: bytes) -> bytes:
    """What comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        back = b""
        while more := sock.recv(4_096):
            back += more
        return back


def test_the_proxy_cuts_and_merges_and_loses_nothing(echo: int) -> None:
    data = bytes(range(256)) * 40
    torments = [random_torment(seed, len(data)) for seed in range(3)]
    with Tormentor(echo, *torments) as tormentor:
        for _ in torments:
            assert through(tormentor.port, data) == data
    whole = {"to_server": len(data), "to_client": len(data), "was_reset": False}
    assert tormentor.records == [whole] * 3


def test_a_reset_is_one_for_both_sides(echo: int) -> None:
    torment = Torment(to_server=Plan((100,), reset_at=1_000))
    with Tormentor(echo, torment) as tormentor, pytest.raises(ConnectionResetError):
        through(tormentor.port, bytes(5_000))
    (record,) = tormentor.records
    assert (record["to_server"], record["was_reset"]) == (1_000, True)
