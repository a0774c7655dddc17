"""The control socket: who may ask, one request each, and nobody who holds the others up."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway import control_socket
from gateway.control_messages import (
    MAX_LINE_BYTES,
    Done,
    Failed,
    Progress,
    SwapModel,
    decode_answer,
    encode_line,
)
from gateway.control_socket import MAX_CALLERS, Caller, ControlSocket
from gateway.reservation import AddressError

LINE = encode_line(SwapModel("m"))


class Desk:
    """A control socket in a loop that runs by hand."""

    def __init__(self, path: Path) -> None:
        self.handlers: dict[int, Callable[[], object]] = {}
        self.asked: list[tuple[Caller, SwapModel]] = []
        self.gone: list[Caller] = []
        self.socket = ControlSocket(
            path, self.handlers.__setitem__, lambda fd: self.handlers.pop(fd, None),
            lambda caller, request: self.asked.append((caller, request)), self.gone.append,
        )  # fmt: skip

    def call(self) -> socket.socket:
        """A client that has been accepted, or turned away."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(5.0)
        client.connect(self.socket.path)
        self.turn()
        return client

    def turn(self) -> None:
        """As if all were readable."""
        for handler in tuple(self.handlers.values()):
            handler()

    def say(self, client: socket.socket, data: bytes) -> None:
        client.sendall(data)
        self.turn()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path / "control")
    yield opened
    opened.socket.close()
    assert opened.handlers == {}
    assert not (tmp_path / "control").exists()


def test_only_its_user_can_open_it(desk: Desk) -> None:
    mode = os.stat(desk.socket.path).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_a_peer_of_another_user_is_turned_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_socket, "peer_uid", lambda sock: os.geteuid() + 1)
    with desk.call() as client:
        assert client.recv(100) == b""


def test_the_kernel_says_who_is_there() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert control_socket.peer_uid(one) == os.geteuid()


def test_a_request_and_its_answers(desk: Desk) -> None:
    with desk.call() as client:
        desk.say(client, LINE[:5])
        assert desk.asked == []
        desk.say(client, LINE[5:])
        ((caller, request),) = desk.asked
        assert request == SwapModel("m")
        caller.answer(Progress("half of it"))
        caller.answer(Done("all of it"))
        caller.answer(Progress("nobody hears this"))
        lines = client.makefile("rb").readlines()
    assert [decode_answer(line) for line in lines] == [Progress("half of it"), Done("all of it")]
    assert desk.gone == []


def test_what_makes_no_sense_is_said_so(desk: Desk) -> None:
    with desk.call() as client:
        desk.say(client, b"hello\n")
        assert isinstance(decode_answer(client.recv(4096)), Failed)
        assert client.recv(1) == b""
    assert desk.asked == []


@pytest.mark.parametrize("more", [LINE, b"x"])
def test_a_second_request_ends_the_connection(desk: Desk, more: bytes) -> None:
    with desk.call() as client:
        desk.say(client, LINE)
        desk.say(client, more)
        assert isinstance(decode_answer(client.recv(4096)), Failed)
        assert client.recv(1) == b""
    assert len(desk.asked) == 1


def test_a_line_without_end_is_refused(desk: Desk) -> None:
    with desk.call() as client:
        desk.say(client, b"x" * MAX_LINE_BYTES)
        assert isinstance(decode_answer(client.recv(4096)), Failed)
    assert desk.asked == []


def test_who_goes_away_is_told(desk: Desk) -> None:
    with desk.call() as client:
        desk.say(client, LINE)
    desk.turn()
    assert desk.gone == [desk.asked[0][0]]
    desk.gone[0].answer(Done("nobody hears this"))


def told_too_much(desk: Desk, client: socket.socket) -> Caller:
    """Whoever asked with `client`, told more than a socket takes."""
    desk.say(client, LINE)
    ((caller, _),) = desk.asked
    for _ in range(10_000):
        caller.answer(Progress("x" * 1_000))
    return caller


def test_who_does_not_read_hears_no_more_and_its_end_is_noticed_all_the_same(desk: Desk) -> None:
    with desk.call() as client:
        caller = told_too_much(desk, client)
        assert len(desk.handlers) == 2
        assert desk.gone == []
    desk.turn()
    assert desk.gone == [caller]
    assert len(desk.handlers) == 1


def test_nothing_follows_a_line_that_was_not_taken(desk: Desk) -> None:
    with desk.call() as client:
        caller = told_too_much(desk, client)
        lines = []
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while data := client.recv(1 << 20):
                lines.append(data)
        caller.answer(Done("half a line may stand before this"))
        assert client.recv(100) == b""
        assert set(b"".join(lines).splitlines()[:-1]) == {encode_line(Progress("x" * 1_000))[:-1]}
    assert desk.gone == []
    assert len(desk.handlers) == 1


def test_who_was_gone_before_its_request_was_read_is_told_after_it(desk: Desk) -> None:
    with desk.call() as client:
        client.sendall(LINE)
    desk.turn()
    ((caller, _),) = desk.asked
    caller.answer(Progress("nobody hears this"))
    desk.turn()
    assert desk.gone == [caller]
    assert len(desk.handlers) == 1


def test_who_says_nothing_makes_room_for_others(desk: Desk) -> None:
    clients = [desk.call() for _ in range(MAX_CALLERS)]
    for client in clients[1:]:
        desk.say(client, LINE)
    with desk.call() as late:
        assert clients[0].recv(1) == b"", "the one that had not asked"
        desk.say(late, LINE)
        assert len(desk.asked) == MAX_CALLERS
    for client in clients:
        client.close()


def test_where_all_wait_for_answers_nobody_else_comes_in(desk: Desk) -> None:
    clients = [desk.call() for _ in range(MAX_CALLERS)]
    for client in clients:
        desk.say(client, LINE)
    with desk.call() as late:
        assert late.recv(1) == b""
    for client in clients:
        client.close()


def test_a_place_that_is_taken(desk: Desk) -> None:
    with pytest.raises(AddressError, match="choose another --control"):
        Desk(Path(desk.socket.path))
