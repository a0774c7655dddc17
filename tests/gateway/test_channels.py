"""Channels: streams of one client, containers, reopening and grants, through a whole worker."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import router
from gateway.channels import MAX_CHANNELS, Channels
from gateway.dialects import (
    AudioIn,
    ByeIn,
    ConfigureIn,
    Container,
    EncodedEnd,
    EncodedIn,
    FailIn,
    FinalizeIn,
    OpenStream,
    ReopenStream,
)
from gateway.errors import refusal
from protocol.client_messages import Closed, Error, Final, Hello, Overflow, Started, VadOptions
from protocol.errors import ErrorCode
from protocol.supervisor_messages import Retire

from .rig import Rig
from .scripted import CountingQuota, MemoryFeed, ScriptedClient, gatekeeper_of, memory_feeds

PCM = random.Random(5).randbytes(6_400)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def open_two(client: ScriptedClient) -> None:
    client.say(OpenStream(Hello()), OpenStream(Hello(), channel=1))


# --- several channels ---------------------------------------------------------------------------


def test_each_channel_is_a_stream_of_its_own(rig: Rig) -> None:
    service = rig.add_service()
    client = ScriptedClient(rig)
    open_two(client)
    assert [channel for channel, _ in client.dialect.events] == [0, 1]
    client.say(AudioIn(PCM), AudioIn(PCM[:640], channel=1), AudioIn(PCM[640:], channel=1))
    first, second = service.all_streams
    assert (bytes(first.pcm), bytes(second.pcm)) == (PCM, PCM)
    assert first.open.session_id != second.open.session_id
    client.say(FinalizeIn(4, channel=1), ConfigureIn(VadOptions(enabled=False), channel=1))
    assert [final.finalize_id for final in client.of(Final, 1)] == [4]
    assert not client.of(Final, 0)
    assert (len(first.configured), len(second.configured)) == (0, 1)
    client.say(ByeIn())
    assert len(client.of(Closed, 0)) == len(client.of(Closed, 1)) == 1
    assert client.was_closed
    assert rig.worker.admission.slots.num_free == 4


def test_several_channels_have_no_short_way(rig: Rig) -> None:
    service = rig.add_service()
    client = ScriptedClient(rig)
    open_two(client)
    client.say(AudioIn(PCM, channel=1), AudioIn(PCM), AudioIn(PCM))
    assert sorted(stream.samples for stream in service.all_streams) == [3_200, 6_400]


def test_the_channels_of_a_client_end_together(rig: Rig) -> None:
    service = rig.add_service()
    client = ScriptedClient(rig)
    open_two(client)
    client.say(AudioIn(PCM), AudioIn(PCM, channel=1))
    service.fail(service.all_streams[0])
    rig.settle()
    assert client.of(Error, 0)[0].code is ErrorCode.INTERNAL
    assert [closed.reason for closed in client.of(Closed)] == ["internal", "internal"]
    assert client.was_closed


def test_channels_without_audio_end_together_as_well(rig: Rig) -> None:
    rig.add_service()
    client = ScriptedClient(rig)
    open_two(client)
    client.leave()
    assert [closed.reason for closed in client.of(Closed)] == ["vanished", "vanished"]
    assert rig.worker.door.num_connections == 0


def test_a_lost_service_ends_all_channels(rig: Rig) -> None:
    service = rig.add_service()
    client = ScriptedClient(rig)
    open_two(client)
    client.say(AudioIn(PCM), AudioIn(PCM, channel=1))
    service.sock.close()
    rig.settle()
    assert {error.code for error in client.of(Error)} == {ErrorCode.SERVICE_LOST}
    assert len(client.of(Closed)) == 0
    assert client.was_closed
    assert rig.worker.admission.slots.num_free == 4


def test_one_full_channel_stops_reading_the_client(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_credit = False
    client = ScriptedClient(rig)
    open_two(client)
    client.say(AudioIn(bytes(2 * 20_000)), AudioIn(PCM, channel=1))
    assert [stream.samples for stream in service.all_streams] == [16_000]
    service.credit(service.all_streams[0])
    rig.settle()
    assert [stream.samples for stream in service.all_streams] == [20_000, 3_200]


def test_a_live_channel_says_what_it_lost(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_credit = False
    client = ScriptedClient(rig)
    client.say(OpenStream(Hello()), OpenStream(Hello(live=True), channel=1))
    client.say(AudioIn(bytes(2 * 15_000), channel=1), AudioIn(bytes(2 * 2_000), channel=1))
    assert client.of(Overflow, 1)[0].num_client_samples == 2_000


@pytest.mark.parametrize("channel", [0, MAX_CHANNELS])
def test_a_channel_too_many_ends_the_client(rig: Rig, channel: int) -> None:
    rig.add_service()
    client = ScriptedClient(rig)
    client.say(OpenStream(Hello()), OpenStream(Hello(), channel=channel))
    assert client.of(Error)[0].code is ErrorCode.UNEXPECTED_MESSAGE
    assert client.was_closed


def test_intents_for_a_channel_that_is_not_there_are_dropped(rig: Rig) -> None:
    service = rig.add_service()
    client = ScriptedClient(rig)
    client.say(
        AudioIn(PCM), FinalizeIn(1), ConfigureIn(VadOptions()), ReopenStream(Hello()),
        EncodedIn(b"x"), OpenStream(Hello()), AudioIn(b""),
        FinalizeIn(2, channel=3), ConfigureIn(VadOptions(), channel=3),
    )  # fmt: skip
    assert not service.all_streams
    assert [type(event) for _, event in client.dialect.events] == [Started]


def test_nothing_is_taken_after_the_bye(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_close = False
    client = ScriptedClient(rig)
    client.say(OpenStream(Hello()), AudioIn(PCM), ByeIn("done"))
    client.say(AudioIn(PCM), FinalizeIn(1), ConfigureIn(VadOptions()), ReopenStream(Hello()))
    stream = service.all_streams[0]
    assert stream.samples == 3_200
    assert (stream.finalized, stream.configured) == ([], [])
    service.close(stream)
    rig.settle()
    assert client.of(Closed)[0].reason == "done"


def test_a_client_with_too_many_open_finalizes_is_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "MAX_OPEN_FINALIZES", 2)
    service = rig.add_service()
    client = ScriptedClient(rig)
    client.say(OpenStream(Hello()), AudioIn(PCM), *(FinalizeIn(number) for number in range(3)))
    assert client.of(Error)[0].code is ErrorCode.UNEXPECTED_MESSAGE
    assert len(service.all_streams[0].finalized) == 2
    assert client.was_closed


def test_fail_is_the_connections_own() -> None:
    with pytest.raises(AssertionError):
        Channels.apply(Channels.__new__(Channels), FailIn(refusal(ErrorCode.BAD_MESSAGE, "x")), 0)


# --- another hello ------------------------------------------------------------------------------


def test_reopening_keeps_the_session_and_changes_the_format(rig: Rig) -> None:
    service = rig.add_service()
    client = ScriptedClient(rig)
    client.say(OpenStream(Hello()), ReopenStream(Hello(sample_rate_hz=8_000, prompt="names")))
    started = client.of(Started)
    assert len(started) == 2
    assert started[0].session_id == started[1].session_id
    client.say(AudioIn(PCM), ReopenStream(Hello()), ByeIn())
    assert service.all_streams[0].open.prompt == "names"
    assert client.of(Closed)[0].engine_samples == 6_400
    assert len(client.of(Started)) == 2, "with audio it is too late"
    sessions = rig.worker.metrics.sessions_open.labels("scripted")
    assert sessions.value == 0


def test_reopening_may_be_refused(rig: Rig) -> None:
    rig.add_service()
    client = ScriptedClient(rig)
    client.say(OpenStream(Hello()), ReopenStream(Hello(model="no such")))
    assert client.of(Error)[0].code is ErrorCode.UNKNOWN_MODEL
    assert client.was_closed


def test_reopening_asks_no_more_than_was_admitted_before_a_swap(rig: Rig) -> None:
    """Its model is replaced by one that does not know its language; a new wish is refused."""
    rig.add_service(0, languages=("en", "de"))
    clients = [ScriptedClient(rig) for _ in range(3)]
    for client in clients:
        client.say(OpenStream(Hello(language="de", hotwords=("Earwire",))))
    service = rig.add_service(1, languages=("en", "fr"))
    rig.worker.moves.retire(Retire(0), rig.worker.loop.now_ns)
    same, less, other = clients
    same.say(ReopenStream(Hello(language="de", hotwords=("Earwire",), sample_rate_hz=8_000)))
    same.say(AudioIn(PCM))
    assert service.all_streams[0].open.was_admitted
    assert (len(same.of(Started)), same.of(Error)) == (2, [])
    less.say(ReopenStream(Hello(hotwords=("Earwire",))), AudioIn(PCM))
    assert service.all_streams[1].open.was_admitted
    other.say(ReopenStream(Hello(language="es")))
    assert other.of(Error)[0].code is ErrorCode.UNKNOWN_LANGUAGE


@pytest.mark.parametrize("language", ["de", "de-AT", None])
def test_who_names_no_model_keeps_the_one_that_took_the_place_of_its_own(
    rig: Rig, language: str | None
) -> None:
    """Its own was not the default one, but the one that knew its language; the next does not."""
    rig.add_service(0, model="default", languages=("en",))
    rig.add_service(1, model="german", languages=("de",))
    services = rig.worker.admission.services
    services[1].rank = 1
    same, other = ScriptedClient(rig), ScriptedClient(rig)
    for client in (same, other):
        client.say(OpenStream(Hello(language="de"), any_model=True))
        assert client.of(Started)[0].model == "german"
    service = rig.add_service(2, model="french", languages=("fr",))
    services[2].rank, services[2].aliases = 1, ("german",)
    rig.worker.moves.retire(Retire(1), rig.worker.loop.now_ns)
    hello = Hello(language=language, prompt="names")
    same.say(ReopenStream(hello, any_model=True), AudioIn(PCM))
    assert same.of(Error) == []
    assert same.of(Started)[1].model == "french"
    assert service.all_streams[0].open.was_admitted
    other.say(ReopenStream(Hello(language="en", model="gpt-what"), any_model=True))
    assert other.of(Started)[1].model == "default", "another language is another choice"


def test_who_reopens_with_a_new_wish_hears_if_it_cannot_be(rig: Rig) -> None:
    rig.add_service(0)
    client = ScriptedClient(rig)
    client.say(OpenStream(Hello()))
    service = rig.add_service(1)
    rig.worker.moves.retire(Retire(0), rig.worker.loop.now_ns)
    client.say(ReopenStream(Hello(hotwords=("Earwire",))), AudioIn(PCM))
    assert not service.all_streams[0].open.was_admitted


# --- containers ---------------------------------------------------------------------------------


def open_container(rig: Rig, kind: Container, **hello: Any) -> tuple[ScriptedClient, MemoryFeed]:
    feeds = memory_feeds(rig)
    client = ScriptedClient(rig)
    client.say(OpenStream(Hello(**hello), container=kind))
    assert not client.dialect.events
    return client, feeds[0]


@pytest.mark.parametrize("kind", list(Container))
def test_a_container_from_its_first_byte_to_closed(rig: Rig, kind: Container) -> None:
    service = rig.add_service()
    client, feed = open_container(rig, kind)
    assert feed.container is kind
    client.say(EncodedIn(b"Ogg"), EncodedIn(b"S"))
    assert feed.data == b"OggS"
    client.say(FinalizeIn(1), ConfigureIn(VadOptions(enabled=False)))
    assert [final.finalize_id for final in client.of(Final)] == [1]
    feed.owner.on_format(48_000)
    assert len(client.of(Started)) == 1
    feed.owner.on_pcm(PCM)
    client.say(EncodedEnd(), EncodedEnd(), EncodedIn(b"late"))
    assert feed.data == b"OggS"
    feed.owner.on_pcm(PCM)
    feed.owner.on_decoded()
    rig.settle()
    assert feed.calls == ["end", "close"]
    closed = client.of(Closed)[0]
    assert (closed.client_samples, closed.engine_samples) == (6_400, 6_400 // 3)
    assert not service.all_streams[0].open.vad.enabled
    assert client.was_closed


def test_a_bye_is_the_end_of_a_container_too(rig: Rig) -> None:
    rig.add_service()
    client, feed = open_container(rig, Container.LIVE)
    client.say(EncodedIn(b"x"), ByeIn("done"))
    assert feed.calls == ["end"]
    feed.owner.on_decoded()
    rig.settle()
    assert [type(event) for _, event in client.dialect.events] == [Started, Closed]
    assert client.of(Closed)[0].reason == "done"
    assert client.was_closed


def test_a_slow_engine_pauses_the_decoder_and_not_the_client(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_credit = False
    client, feed = open_container(rig, Container.LIVE)
    feed.owner.on_format(16_000)
    feed.owner.on_pcm(bytes(2 * 20_000))
    assert feed.calls == ["pause"]
    client.say(EncodedIn(b"more"))
    assert feed.data == b"more"
    service.credit(service.all_streams[0])
    rig.settle()
    service.credit(service.all_streams[0])
    rig.settle()
    assert feed.calls == ["pause", "resume"]
    assert service.all_streams[0].samples == 20_000


def test_a_full_decoder_stops_reading_the_client(rig: Rig) -> None:
    rig.add_service()
    client, feed = open_container(rig, Container.LIVE)
    feed.is_full = True
    client.say(EncodedIn(b"waits"))
    assert feed.data == b""
    feed.is_full = False
    feed.owner.on_feed_room()
    rig.settle()
    assert feed.data == b"waits"


@pytest.mark.parametrize("has_format", [True, False])
def test_a_client_that_vanishes_stops_its_decoder(rig: Rig, has_format: bool) -> None:
    service = rig.add_service()
    client, feed = open_container(rig, Container.FILE)
    if has_format:
        feed.owner.on_format(16_000)
        feed.owner.on_pcm(PCM)
    client.leave()
    assert feed.calls == ["close"]
    assert [stream.samples for stream in service.all_streams] == [3_200] * has_format
    assert rig.worker.door.num_connections == 0
    assert rig.worker.admission.slots.num_free == 4


def test_what_cannot_be_decoded_is_the_clients_error(rig: Rig) -> None:
    rig.add_service()
    client, feed = open_container(rig, Container.FILE)
    feed.owner.on_feed_error(refusal(ErrorCode.BAD_AUDIO, "no decoder can read it"))
    rig.settle()
    assert client.of(Error)[0].code is ErrorCode.BAD_AUDIO
    assert client.was_closed
    # A decoder is asynchronous: what it says after the end concerns nobody.
    feed.owner.on_format(16_000)
    feed.owner.on_pcm(PCM)
    feed.owner.on_decoded()
    assert not client.of(Started)


def test_a_container_is_checked_before_it_is_taken(rig: Rig) -> None:
    rig.add_service()
    feeds = memory_feeds(rig)
    client = ScriptedClient(rig)
    client.say(OpenStream(Hello(language="xx", model="no such"), container=Container.FILE))
    assert client.of(Error)[0].code is ErrorCode.UNKNOWN_MODEL
    assert rig.worker.metrics.refused.labels("unknown_model").value == 1
    assert not feeds
    assert client.was_closed


def test_a_server_may_be_full_when_the_format_is_known(rig: Rig) -> None:
    rig.add_service()
    client, feed = open_container(rig, Container.FILE)
    rig.worker.admission.draining = True
    feed.owner.on_format(16_000)
    rig.settle()
    assert client.of(Error)[0].code is ErrorCode.DRAINING
    assert feed.calls == ["close"]
    assert client.was_closed


def test_slots_may_be_taken_when_the_audio_comes(rig: Rig) -> None:
    rig.add_service()
    client, feed = open_container(rig, Container.FILE)
    feed.owner.on_format(16_000)
    while rig.worker.admission.slots.claim() is not None:
        pass
    feed.owner.on_pcm(PCM)
    rig.settle()
    assert client.of(Error)[0].code is ErrorCode.AT_CAPACITY
    assert rig.worker.metrics.refused.labels("at_capacity").value == 1
    assert client.was_closed


@pytest.mark.parametrize("kind", list(Container))
@pytest.mark.parametrize("says_hello_again", [True, False])
def test_a_container_that_has_begun_is_not_refused_by_the_next_model(
    rig: Rig, kind: Container, says_hello_again: bool
) -> None:
    rig.add_service(0, languages=("en", "de"))
    hello = {"language": "de", "hotwords": ("Earwire",)}
    client, feed = open_container(rig, kind, **hello)
    client.say(EncodedIn(b"OggS"))
    service = rig.add_service(1, languages=("en",), model="next")
    rig.worker.admission.services[1].aliases = ("tiny.en",)
    rig.worker.moves.retire(Retire(0, aliases=()), rig.worker.loop.now_ns)
    if says_hello_again:
        client.say(ReopenStream(Hello(**hello)))
    feed.owner.on_format(48_000)
    feed.owner.on_pcm(PCM)
    rig.settle()
    assert client.of(Error) == []
    assert client.of(Started)[0].model == "next"
    assert service.all_streams[0].open.was_admitted


def test_who_changes_its_hello_before_the_format_is_known_hears_if_it_cannot_be(rig: Rig) -> None:
    rig.add_service(0, languages=("en", "de"))
    client, _ = open_container(rig, Container.LIVE, language="de")
    rig.add_service(1, languages=("en",))
    rig.worker.moves.retire(Retire(0), rig.worker.loop.now_ns)
    client.say(ReopenStream(Hello(language="fr")))
    assert client.of(Error)[0].code is ErrorCode.UNKNOWN_LANGUAGE


def test_another_hello_before_the_format_is_known(rig: Rig) -> None:
    service = rig.add_service()
    client, feed = open_container(rig, Container.FILE)
    client.say(ReopenStream(Hello(prompt="names")))
    assert not client.dialect.events
    feed.owner.on_format(16_000)
    feed.owner.on_pcm(PCM)
    rig.settle()
    assert service.all_streams[0].open.prompt == "names"


def test_another_hello_may_be_refused_before_the_format_is_known(rig: Rig) -> None:
    rig.add_service()
    client, feed = open_container(rig, Container.FILE)
    client.say(ReopenStream(Hello(model="no such")))
    assert client.of(Error)[0].code is ErrorCode.UNKNOWN_MODEL
    assert feed.calls == ["close"]


# --- drain and idle -----------------------------------------------------------------------------


def test_a_drain_finishes_a_file_that_is_decoded_and_refuses_one_that_comes_in(rig: Rig) -> None:
    rig.add_service()
    coming, _ = open_container(rig, Container.FILE)
    decoded, feed = open_container(rig, Container.FILE)
    feed.owner.on_format(16_000)
    feed.owner.on_pcm(PCM)
    rig.worker.drain()
    rig.settle()
    assert coming.of(Error)[0].code is ErrorCode.DRAINING
    assert not decoded.of(Closed)
    feed.owner.on_pcm(PCM)
    feed.owner.on_decoded()
    rig.settle()
    assert decoded.of(Closed)[0].engine_samples == 6_400


def test_a_drain_ends_live_clients(rig: Rig) -> None:
    rig.add_service()
    live, feed = open_container(rig, Container.LIVE)
    feed.owner.on_format(16_000)
    plain = ScriptedClient(rig)
    open_two(plain)
    rig.worker.drain()
    rig.settle()
    assert [closed.reason for closed in plain.of(Closed)] == ["draining", "draining"]
    assert feed.calls == ["end"]
    feed.owner.on_decoded()
    rig.settle()
    assert live.of(Closed)[0].reason == "draining"


def test_whose_turn_it_is_decides_about_idleness(rig: Rig) -> None:
    service = rig.add_service()
    upload, _ = open_container(rig, Container.FILE)
    silent, _ = open_container(rig, Container.LIVE)
    complete, _ = open_container(rig, Container.LIVE)
    complete.say(EncodedEnd())
    full, feed = open_container(rig, Container.LIVE)
    feed.is_full = True
    for _ in range(2):
        rig.clock.advance_ms(60_001)
        service.health(rig.clock.now_ns)
        rig.settle()
    assert silent.of(Error)[0].code is ErrorCode.IDLE_TIMEOUT
    assert not [client for client in (upload, complete, full) if client.of(Error)]


# --- grants -------------------------------------------------------------------------------------


def test_a_grant_is_held_until_the_stream_has_ended(rig: Rig) -> None:
    service = rig.add_service()
    service.auto_close = False
    quota = CountingQuota()
    client = ScriptedClient(rig, gatekeeper_of("secret", quota))
    hello = Hello(token="secret")
    client.say(OpenStream(hello), OpenStream(hello, channel=1), AudioIn(PCM))
    assert quota.open == 2
    client.leave()
    assert quota.open == 1, "the stream with audio is still decoded"
    service.close(service.all_streams[0])
    rig.settle()
    assert quota.open == 0


@pytest.mark.parametrize(
    ("token", "limit", "code"),
    [("", 9, ErrorCode.UNAUTHORIZED), ("secret", 0, ErrorCode.RATE_LIMITED)],
)
def test_who_may_not_come_in_is_told_and_counted(
    rig: Rig, token: str, limit: int, code: ErrorCode
) -> None:
    rig.add_service()
    client = ScriptedClient(rig, gatekeeper_of("secret", CountingQuota(limit)))
    client.say(OpenStream(Hello(token=token)))
    assert client.of(Error)[0].code is code
    assert rig.worker.metrics.refused.labels(code.value).value == 1
    assert client.was_closed


@pytest.mark.parametrize("container", [None, Container.FILE])
def test_what_is_not_admitted_gives_its_grant_back(rig: Rig, container: Container | None) -> None:
    quota = CountingQuota()
    client = ScriptedClient(rig, gatekeeper_of("secret", quota))
    client.say(OpenStream(Hello(token="secret"), container=container))
    assert client.of(Error)[0].code is ErrorCode.AT_CAPACITY
    assert (quota.open, quota.refused, quota.taken_back) == (0, 1, 1)
    assert rig.worker.metrics.refused.labels("at_capacity").value == 1


def test_a_stream_of_a_token_says_so_to_the_service_and_a_refused_one_is_remembered(
    rig: Rig,
) -> None:
    service, quota = rig.add_service(max_streams=1), CountingQuota()
    clients = [ScriptedClient(rig, gatekeeper_of("secret", quota)) for _ in range(2)]
    for client in clients:
        client.say(OpenStream(Hello(token="secret")))
    for client in clients:
        client.say(AudioIn(bytes(640)))
    assert [stream.open.group for stream in service.all_streams] == [1]
    assert clients[1].of(Error)[0].code is ErrorCode.AT_CAPACITY
    assert (quota.open, quota.refused, quota.taken_back) == (1, 1, 1)


def test_a_container_that_never_became_a_stream_gives_its_grant_back(rig: Rig) -> None:
    rig.add_service()
    quota = CountingQuota()
    memory_feeds(rig)
    client = ScriptedClient(rig, gatekeeper_of("secret", quota))
    client.say(OpenStream(Hello(token="secret"), container=Container.LIVE))
    assert quota.open == 1
    client.leave()
    assert quota.open == 0
