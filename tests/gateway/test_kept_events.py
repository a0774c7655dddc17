"""kept_events.py: numbers go on, what is acknowledged is gone, what is kept is bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.kept_events import EVENT_BYTES, MAX_KEPT_EVENT_BYTES, KeptEvents
from protocol.client_messages import NonSpeech, ServerMessage, encode_payload


def event(number: int) -> ServerMessage:
    return NonSpeech(
        audio_received=number, audio_decoded=number, start_sample=number, end_sample=number + 1
    )


def test_what_was_not_acknowledged_is_there_again() -> None:
    kept = KeptEvents()
    assert (kept.since(0), kept.is_empty) == ((), True)
    for number in range(5):
        kept.append(event(number))
    assert kept.acknowledge(2)
    assert (kept.first_number, kept.next_number, kept.is_empty) == (2, 5, False)
    assert kept.since(3) == (event(3), event(4))
    assert kept.since(5) == ()
    assert kept.messages == (event(2), event(3), event(4))


def test_how_much_they_are_without_what_is_counted_besides() -> None:
    kept = KeptEvents(0, (event(0), event(1), event(2)))
    kept.acknowledge(1)
    assert kept.payload_bytes == sum(len(encode_payload(event(number))) for number in (1, 2))


def test_what_is_not_here_is_not_invented() -> None:
    kept = KeptEvents()
    for number in range(5):
        kept.append(event(number))
    kept.acknowledge(2)
    assert (kept.since(1), kept.since(6)) == (None, None)


def test_an_acknowledgement_of_more_than_was_sent_changes_nothing() -> None:
    kept = KeptEvents()
    kept.append(event(0))
    assert not kept.acknowledge(2)
    assert kept.messages == (event(0),)


def test_an_older_acknowledgement_changes_nothing() -> None:
    kept = KeptEvents(7, (event(7), event(8)))
    assert kept.acknowledge(8)
    assert kept.acknowledge(3)
    assert (kept.first_number, kept.messages) == (8, (event(8),))


def test_it_goes_on_from_what_was_kept_elsewhere() -> None:
    kept = KeptEvents(7, (event(7), event(8)))
    kept.append(event(9))
    assert (kept.next_number, kept.since(8)) == (10, (event(8), event(9)))


def test_what_is_kept_is_bounded_and_room_comes_back() -> None:
    kept = KeptEvents()
    size = len(encode_payload(event(1))) + EVENT_BYTES
    for _ in range(MAX_KEPT_EVENT_BYTES // size):
        kept.append(event(1))
    assert not kept.is_full
    kept.append(event(1))
    assert kept.is_full
    kept.acknowledge(1)
    assert not kept.is_full


@given(st.lists(st.one_of(st.none(), st.integers(0, 40)), max_size=80))
def test_any_order_of_events_and_acknowledgements(steps: list[int | None]) -> None:
    kept = KeptEvents()
    sent, acknowledged = 0, 0
    for step in steps:
        if step is None:
            kept.append(event(sent))
            sent += 1
        elif kept.acknowledge(step):
            acknowledged = max(acknowledged, step)
        else:
            assert step > sent
        assert (kept.first_number, kept.next_number) == (acknowledged, sent)
        assert kept.messages == tuple(event(number) for number in range(acknowledged, sent))
