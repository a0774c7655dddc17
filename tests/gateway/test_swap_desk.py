"""Who may have a model replaced, what they are told, and what reaches the children."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from gateway.children import Child, Children, Kind, Standing
from gateway.config import ServerConfig
from gateway.control_messages import Answer, Done, Failed, Progress, SwapModel, encode_line
from gateway.reservation import AddressError
from gateway.swap_desk import SwapDesk
from protocol.supervisor_messages import Remaining, Retire, Stop, SupervisorMessage


class Process:
    """A child process that remembers what it is sent."""

    def __init__(self) -> None:
        self.sent: list[SupervisorMessage] = []
        self.num_kills = 0

    def send(self, message: SupervisorMessage) -> bool:
        self.sent.append(message)
        return True

    def kill(self) -> None:
        self.num_kills += 1


class Caller:
    """A person's connection."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def answer(self, message: Answer) -> None:
        self.answers.append(message)


class Parent:
    """A server of one worker that runs by hand; also the desk's Parent."""

    def __init__(self, *models: str, num_ready: int = 99, config: Any = None) -> None:
        self.children = Children.of(1, 1, models)
        self.processes: dict[tuple[Kind, int], Process] = {}
        self.logged: list[str] = []
        self.now_ns = 0
        desk: Any = SwapDesk(self, self.children, config or ServerConfig(), lambda: self.now_ns)  # type: ignore[arg-type]
        self.desk = desk
        self.start()
        for child in self.children.members[:num_ready]:
            self.children.became_ready(child, 0, child.model.removeprefix("/models/"))

    def start(self) -> None:
        for child in self.children.due(0):
            self.children.started(child)
            self.processes[child.kind, child.index] = Process()

    def process_of(self, child: Child) -> Process | None:
        return self.processes.get((child.kind, child.index))

    def log(self, level: str, text: str) -> None:
        self.logged.append(f"{level}: {text}")

    def ask(self, model: str, old: str | None = None) -> Caller:
        caller = Caller()
        self.desk.ask(caller, SwapModel(model, old))
        self.start()
        return caller

    def service(self, index: int) -> Child:
        return next(c for c in self.children.members if (c.kind, c.index) == (Kind.SERVICE, index))

    def ready(self, index: int, serves: str) -> None:
        self.children.became_ready(self.service(index), 0, serves)
        self.desk.became_ready()

    def end(self, child: Child) -> None:
        del self.processes[child.kind, child.index]
        self.children.exited(child, 0, 0)
        self.desk.exited(child)


def outcomes(parent: Parent) -> list[float]:
    return [sample.value for sample in parent.desk.samples()]


def test_from_the_request_to_the_end() -> None:
    parent = Parent("/models/a")
    caller = parent.ask("/models/b")
    parent.ready(1, "b")
    worker = parent.processes[Kind.WORKER, 0]
    assert worker.sent == [
        Retire(1, retiring=False, aliases=("a",)), Retire(0, retiring=True, aliases=("b",)),
    ]  # fmt: skip
    parent.desk.tick()
    assert len(worker.sent) == 4
    parent.desk.has_remaining(0, Remaining(0, 0))
    assert parent.processes[Kind.SERVICE, 0].sent == [Stop()]
    parent.end(parent.service(0))
    assert [type(answer) for answer in caller.answers] == [Progress, Progress, Done]
    assert caller.answers[-1] == Done("b has replaced a in 0.0 s")
    assert parent.logged[-1] == "info: b has replaced a in 0.0 s"
    assert outcomes(parent) == [1, 0]
    parent.desk.tick()
    parent.desk.gone(caller)
    parent.desk.end()
    assert len(caller.answers) == 3


def test_a_failure_is_told_and_the_new_services_are_killed() -> None:
    parent = Parent("a")
    caller = parent.ask("b")
    parent.service(1).last_error = "no such model"
    parent.end(parent.service(1))
    assert caller.answers[-1] == Failed("no such model; a goes on serving")
    assert parent.logged[-1] == "error: no such model; a goes on serving"
    assert outcomes(parent) == [0, 1]
    assert isinstance(parent.ask("b").answers[-1], Progress), "it may be tried again"


def test_who_goes_away_while_the_model_loads_takes_it_back() -> None:
    parent = Parent("a")
    caller = parent.ask("b")
    parent.desk.gone(Caller())
    assert parent.processes[Kind.SERVICE, 1].num_kills == 0, "that was somebody else"
    parent.desk.gone(caller)
    assert parent.processes[Kind.SERVICE, 1].num_kills == 1
    assert [type(answer) for answer in caller.answers] == [Progress]
    assert outcomes(parent) == [0, 1]


def test_who_is_gone_before_its_request_is_read_takes_it_back(tmp_path: Path) -> None:
    """Ctrl-C at once: the request is there, and nobody hears the first answer."""
    handlers: dict[int, Any] = {}
    parent = Parent("a", config=ServerConfig(control=str(tmp_path / "control")))
    parent.desk.listen(1, handlers.__setitem__, lambda fd: handlers.pop(fd))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(parent.desk.path)
        client.sendall(encode_line(SwapModel("b")))
    for _ in range(3):
        for handler in tuple(handlers.values()):
            handler()
        parent.start()
    assert parent.processes[Kind.SERVICE, 1].num_kills == 1
    assert outcomes(parent) == [0, 1]
    parent.desk.close()


def test_who_goes_away_while_sessions_move_is_not_needed() -> None:
    parent = Parent("a")
    caller = parent.ask("b")
    parent.ready(1, "b")
    parent.desk.gone(caller)
    parent.desk.has_remaining(0, Remaining(0, 0))
    parent.end(parent.service(0))
    assert outcomes(parent) == [1, 0]


def test_one_at_a_time() -> None:
    parent = Parent("a")
    parent.ask("b")
    assert parent.ask("c").answers == [Failed("another model is being replaced at this moment")]


def test_not_before_the_server_is_ready_and_not_at_its_end() -> None:
    assert "not every model" in text_of(Parent("a", num_ready=1).ask("b"))
    parent = Parent("a")
    parent.children.end()
    assert parent.ask("b").answers == [Failed("the server is going away")]


def text_of(caller: Caller) -> str:
    (answer,) = caller.answers
    return answer.text


@pytest.mark.parametrize(
    ("model", "old", "rank"),
    [
        ("c", "a", 0),
        ("c", "b", 1),
        ("c", "/models/b", 1),
        ("/models/b", None, 1),
        ("a", None, 0),
    ],
)
def test_which_of_several_models(model: str, old: str | None, rank: int) -> None:
    parent = Parent("/models/a", "/models/b")
    parent.ask(model, old)
    assert [parent.service(2).rank, parent.service(2).model] == [rank, model]
    assert parent.service(2).standing is Standing.TRIAL


def test_names_that_mean_nothing() -> None:
    parent = Parent("/models/a", "/models/b")
    assert text_of(parent.ask("c")) == "which one is to be replaced? Say --old with one of: a, b"
    assert text_of(parent.ask("c", "x")) == "x is not served; there is a, b"
    assert text_of(Parent("a").ask("c", "x")) == "x is not served; there is a"


def test_the_end_of_the_server_ends_a_swap() -> None:
    parent = Parent("a")
    caller = parent.ask("b")
    parent.desk.end()
    assert caller.answers[-1] == Failed("the server is going away")
    assert parent.processes[Kind.SERVICE, 1].num_kills == 1
    moving = Parent("a")
    caller = moving.ask("b")
    moving.ready(1, "b")
    moving.desk.end()
    assert caller.answers[-1] == Failed("the server is going away")
    assert moving.processes[Kind.SERVICE, 1].num_kills == 0, "streams are there"


def test_what_has_no_process_is_not_told() -> None:
    parent = Parent("a")
    parent.ask("b")
    parent.processes.clear()
    parent.ready(1, "b")
    parent.desk.has_remaining(0, Remaining(0, 0))
    parent.desk.kill(parent.service(0))


def test_where_it_listens(tmp_path: Path) -> None:
    handlers: dict[int, Any] = {}
    parent = Parent("a", config=ServerConfig(uds=str(tmp_path / "native")))
    assert parent.desk.path is None
    parent.desk.close()
    parent.desk.listen(1, handlers.__setitem__, lambda fd: handlers.pop(fd))
    assert parent.desk.path == str(tmp_path / "native.control")
    parent.desk.close()
    assert handlers == {}
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_had(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "none" / "native")
    parent = Parent("a", config=ServerConfig(uds=nowhere))
    parent.desk.listen(1, None, None)
    assert parent.desk.path is None
    assert "no control socket" in parent.logged[-1]
    asked_for = Parent("a", config=ServerConfig(control=nowhere))
    with pytest.raises(AddressError):
        asked_for.desk.listen(1, None, None)
