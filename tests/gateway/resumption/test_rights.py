"""Who may go on with a session, and which sessions can be gone on with."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.client_messages import Error, Hello, Resumed
from protocol.errors import ErrorCode

from ..counting_service import CountingService
from ..resuming import WINDOW_MS, ResumingClient, code_of, pcm
from ..rig import Rig
from ..scripted import CountingQuota, gatekeeper_of


def without(client: ResumingClient, part: int) -> str:
    parts = client.started.resume_token.split(".")
    parts[part] = {0: "1", 1: "0-ff", 2: "0" * 32}[part]
    return ".".join(parts)


@pytest.mark.parametrize("wrong", ["", "nonsense", 0, 1, 2])
def test_a_wrong_token_is_refused_and_the_session_waits_on(
    rig: Rig, client: ResumingClient, wrong: Any
) -> None:
    client.vanish()
    token = without(client, wrong) if isinstance(wrong, int) else wrong
    stranger = client.knock(rig, resume_token=token)
    assert [error.code for error in stranger.of(Error)] == [ErrorCode.RESUME_FAILED]
    assert stranger.saw_end
    assert isinstance(client.resume(), Resumed)


@pytest.mark.parametrize("number", [1, 2**40])
def test_events_that_were_never_sent_are_not_acknowledged(
    client: ResumingClient, number: int
) -> None:
    client.vanish()
    assert code_of(client.resume(events_received=number)) is ErrorCode.RESUME_FAILED
    assert isinstance(client.resume(), Resumed)


def test_the_tokens_of_the_server_hold_for_a_resume(service: CountingService, rig: Rig) -> None:
    quota = CountingQuota()
    rig.worker.door.gatekeeper = gatekeeper_of("secret", quota)
    client = ResumingClient(rig, Hello(resumable=True, token="secret"))
    client.speak(pcm(320))
    client.vanish()
    assert quota.open == 1, "a parked session is a session of its token"
    assert code_of(client.resume()) is ErrorCode.UNAUTHORIZED
    assert rig.worker.metrics.refused.labels("unauthorized").value == 1
    assert isinstance(client.resume(token="secret"), Resumed)
    assert quota.open == 1
    client.bye()
    assert quota.open == 0, "not the acknowledgement counts"


def test_a_server_without_a_window_promises_nothing() -> None:
    rig = Rig()
    service = rig.add_service()
    client = ResumingClient(rig)
    assert (client.started.resume_token, client.started.limits.resume_window_ms) == ("", 0)
    client.speak(pcm(320))
    client.acknowledge()
    assert client.connection.of(Error) == []
    client.vanish()
    assert service.all_streams[0].closed is not None
    rig.close()


def test_a_client_that_does_not_ask_is_not_kept(rig: Rig, service: CountingService) -> None:
    client = ResumingClient(rig, Hello())
    assert client.started.resume_token == ""
    assert client.started.limits.resume_window_ms == WINDOW_MS
    client.speak(pcm(320))
    client.vanish()
    assert service.all_streams[0].closed is not None


def test_each_session_has_its_own_secret(rig: Rig, service: CountingService) -> None:
    tokens = {ResumingClient(rig).started.resume_token for _ in range(4)}
    assert len({token.split(".")[2] for token in tokens}) == 4
    kept = [channel.session for channel in rig.worker.parking._by_id.values()]
    assert not any(
        bytes.fromhex(token.split(".")[2]) in session.digest
        for token in tokens for session in kept if session is not None
    )  # fmt: skip
