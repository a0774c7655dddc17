"""channel.py: what a stream says reaches its client, and is kept where the session is resumable."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.channel import Channel
from gateway.errors import refusal
from gateway.gatekeeper import Gatekeeper, Grant
from protocol.client_messages import Error, Hello, Partial, ServerMessage
from protocol.errors import ErrorCode

from .test_parking import SILENCE, Yard

DRAFT = Partial(
    audio_received=1, audio_decoded=1, utterance=0, start_sample=0, end_sample=1, stable="",
    volatile="x",
)  # fmt: skip


class Seat:
    """Remembers."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def deliver(self, event: ServerMessage, channel: int) -> None:
        self.said.append(event)

    def refuse(self, error: Error) -> None:
        self.said.append(error.code)

    def has_room(self) -> None:
        self.said.append("room")

    def forget(self, channel: Channel) -> None:
        self.said.append("forget")

    def settle(self, channel: Channel) -> None:
        self.said.append("settle")

    def let_go(self, channel: Channel) -> None:
        self.said.append("let go")


def test_numbered_events_are_kept_others_are_not() -> None:
    yard = Yard()
    channel, _ = yard.enter()
    channel.deliver(SILENCE)
    channel.deliver(DRAFT)
    channel.seat = seat = Seat()
    channel.deliver(SILENCE)
    channel.deliver(DRAFT)
    assert channel.kept_since(0) == (SILENCE, SILENCE)
    assert seat.said == [SILENCE, DRAFT]


def test_a_channel_that_keeps_nothing_says_all() -> None:
    yard = Yard()
    channel = yard.channel()
    channel.seat = seat = Seat()
    channel.deliver(SILENCE)
    assert seat.said == [SILENCE]
    assert channel.kept_since(0) is None
    yard.parking.forget(channel)


@pytest.mark.parametrize("is_parked", [False, True])
def test_a_channel_whose_client_acknowledges_nothing(is_parked: bool) -> None:
    yard = Yard()
    channel, token = yard.enter()
    seat = Seat()
    if is_parked:
        yard.parking.park(channel, 0)
    else:
        channel.seat = seat
    assert channel.session is not None
    channel.session.kept._num_bytes = 1 << 20
    channel.deliver(SILENCE)
    assert yard.parking.find(token) is None
    assert seat.said == ([] if is_parked else [ErrorCode.SLOW_READER])
    assert yard.closed == ([("s-1", "slow_reader")] if is_parked else [])


def test_a_parked_stream_needs_nobody() -> None:
    yard = Yard()
    channel, _ = yard.enter()
    yard.parking.park(channel, 0)
    channel.resume()
    channel.stream_ended()
    assert yard.quota.open == 0
    channel.release()
    assert yard.quota.open == 0


def test_what_its_seat_is_told() -> None:
    yard = Yard()
    channel, _ = yard.enter()
    channel.seat = seat = Seat()
    channel.resume()
    channel.stream_ended()
    yard.parking.forget(channel)
    channel.stream_ended()
    assert seat.said == ["room", "settle", "forget"]


def test_a_channel_without_a_stream_has_none() -> None:
    yard = Yard()
    channel = Channel(0, Hello(), Grant(), Gatekeeper(), "native", yard.parking)
    with pytest.raises(AssertionError):
        _ = channel.streaming


class RememberingJournals:
    """journal_writer.Journals: what it is told."""

    def __init__(self) -> None:
        self.claims: list[tuple[Any, ...]] = []

    def claimed(self, *claim: Any) -> None:
        self.claims.append(claim)


def test_a_successor_gets_no_token_of_the_client() -> None:
    yard = Yard()
    channel, token = yard.enter()
    channel.streaming.hello = Hello(token="s3cret", language="en")
    channel.claimed(journals := RememberingJournals())  # type: ignore[arg-type]
    ((stream, identity, kept),) = journals.claims
    assert stream is channel.stream
    assert identity.hello == Hello(language="en")
    assert (identity.session_id, identity.secret_hash) == ("s-1", token.digest)
    assert channel.session is not None
    assert kept is channel.session.kept
    channel.release()
    channel.claimed(journals)  # type: ignore[arg-type]
    assert [claim[1].token_name for claim in journals.claims] == ["t", ""]


def test_a_session_that_is_not_resumable_has_no_successor() -> None:
    channel = Yard().channel()
    channel.claimed(journals := RememberingJournals())  # type: ignore[arg-type]
    assert journals.claims == [(channel.stream, None, None)]


def test_a_token_whose_stream_found_no_place_is_told() -> None:
    told: list[tuple[Grant, Error, int]] = []

    class Door(Gatekeeper):
        def turn_away(self, grant: Grant, error: Error, now_ns: int) -> None:
            told.append((grant, error, now_ns))

    grant, error = Grant("t", 0), refusal(ErrorCode.AT_CAPACITY, "full")
    channel = Channel(0, Hello(), grant, Door(), "native", Yard().parking)
    channel.turned_away(error, 9)
    channel.release()
    channel.turned_away(error, 10)
    assert told == [(grant, error, 9)]
