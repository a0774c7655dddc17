"""What is kept of a client's words, and where it goes on after a rewind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.kept_input import MAX_KEPT_AUDIO_S, MAX_KEPT_FINALIZES, KeptInput
from protocol.client_messages import MAX_AUDIO_BYTES, Audio, Bye, Finalize
from protocol.errors import LocalProtocolError

FRAME_BYTES = 4
RATE_HZ = 8_000


def kept() -> KeptInput:
    return KeptInput(RATE_HZ, FRAME_BYTES)


def frames(first: int, count: int) -> bytes:
    return b"".join(i.to_bytes(FRAME_BYTES, "little") for i in range(first, first + count))


def taken(kept: KeptInput) -> list[Audio | Finalize | Bye]:
    messages = []
    while (message := kept.take()) is not None:
        messages.append(message)
    return messages


def said() -> KeptInput:
    """Three samples, finalize, two samples, finalize, bye; nothing was sent yet."""
    words = kept()
    words.audio(frames(0, 3))
    words.finalize(Finalize(finalize_id=1))
    words.audio(frames(3, 2))
    words.finalize(Finalize(finalize_id=2))
    words.bye()
    return words


ALL = [
    Audio(0, frames(0, 3)), Finalize(finalize_id=1), Audio(3, frames(3, 2)),
    Finalize(finalize_id=2), Bye(),
]  # fmt: skip


def test_everything_goes_out_once_and_in_order() -> None:
    words = said()
    assert words.is_ended
    assert taken(words) == ALL
    assert taken(words) == []
    assert words.has_everything


def test_bye_waits_until_the_server_takes_one() -> None:
    words = kept()
    words.bye()
    assert words.take(may_end=False) is None
    assert words.take() == Bye()


def test_long_audio_is_cut_to_messages() -> None:
    words = kept()
    words.audio(bytes(MAX_AUDIO_BYTES + FRAME_BYTES))
    lengths = [len(m.pcm) for m in taken(words) if isinstance(m, Audio)]
    assert lengths == [MAX_AUDIO_BYTES, FRAME_BYTES]


@pytest.mark.parametrize(
    ("has", "rest"),
    [
        ((0, 0), ALL),
        ((1, 0), [Audio(1, frames(1, 2)), *ALL[1:]]),
        ((3, 0), ALL[1:]),
        ((3, 1), ALL[2:]),
        ((4, 1), [Audio(4, frames(4, 1)), *ALL[3:]]),
        ((5, 1), ALL[3:]),
        ((5, 2), ALL[4:]),
        # Audio from before finalizes that it has: a server may ask for that.
        ((1, 2), [Audio(1, frames(1, 2)), Audio(3, frames(3, 2)), Bye()]),
    ],
)
def test_a_rewind_goes_on_where_the_server_stands(
    has: tuple[int, int], rest: list[Audio | Finalize | Bye]
) -> None:
    words = said()
    taken(words)
    assert words.rewind(*has, bye_received=False)
    assert taken(words) == rest


def test_a_server_that_has_bye_gets_nothing_more() -> None:
    words = said()
    taken(words)
    assert words.rewind(5, 2, bye_received=True)
    assert taken(words) == []


@pytest.mark.parametrize(
    "has",
    [
        (6, 1, False),  # never said
        (0, 1, False),  # released
        (5, 0, False),  # its answer came
        (5, 3, False),  # never said
    ],
)
def test_what_can_not_be_is_no_place_to_go_on(has: tuple[int, int, bool]) -> None:
    words = said()
    taken(words)
    words.received(3)
    words.answered()
    assert not words.rewind(*has)


def test_audio_from_behind_a_finalize_that_is_not_there_can_not_be() -> None:
    words = said()
    taken(words)
    assert not words.rewind(4, 0, bye_received=False)


@pytest.mark.parametrize("has", [(0, 0), (4, 2), (5, 1)])
def test_a_session_that_the_server_ends_takes_nothing_more(has: tuple[int, int]) -> None:
    words = said()
    assert words.rewind(*has, bye_received=True)
    words.audio(bytes(2 * FRAME_BYTES))
    words.finalize(Finalize(finalize_id=9))
    words.bye()
    assert words.take() is None


def test_what_was_not_sent_is_not_released() -> None:
    words = said()
    words.received(5)
    assert words.start_sample == 0
    words.take()
    words.received(5)
    assert words.start_sample == 3
    assert not words.rewind(4, 1, bye_received=False)
    assert taken(words) == ALL[1:]


def test_answers_and_watermarks_release_what_they_prove() -> None:
    words = said()
    taken(words)
    words.answered()
    assert words.has_everything  # the audio before it is still here
    words.received(3)
    assert not words.has_everything
    words.received(5)
    words.answered()
    words.answered()  # one more than there were questions
    assert words.rewind(5, 2, bye_received=False)
    assert taken(words) == [Bye()]


def test_a_watermark_behind_a_finalize_answers_for_it() -> None:
    words = said()
    taken(words)
    words.received(4)
    assert not words.rewind(4, 0, bye_received=False)
    assert words.rewind(4, 1, bye_received=False)


def test_a_watermark_ahead_of_what_was_sent_again_skips_it() -> None:
    words = said()
    taken(words)
    words.rewind(0, 0, bye_received=False)
    words.received(2)
    assert taken(words) == [Audio(2, frames(2, 1)), *ALL[1:]]
    words.rewind(2, 0, bye_received=False)
    words.received(3)
    assert taken(words) == ALL[1:]


def test_restart_says_everything_to_a_new_session() -> None:
    words = said()
    taken(words)
    words.answered()
    words.restart()
    assert taken(words) == ALL


def test_it_is_full_when_much_is_behind_the_watermark() -> None:
    words = kept()
    second = frames(0, RATE_HZ)
    for _ in range(MAX_KEPT_AUDIO_S):
        words.audio(second)
    assert not words.is_full
    words.audio(second)
    assert words.is_full
    taken(words)
    words.received(RATE_HZ)
    assert not words.is_full


def test_finalizes_without_answers_are_bounded() -> None:
    words = kept()
    for number in range(MAX_KEPT_FINALIZES):
        words.finalize(Finalize(finalize_id=number))
    with pytest.raises(LocalProtocolError):
        words.finalize(Finalize(finalize_id=0))
    taken(words)
    words.answered()
    words.finalize(Finalize(finalize_id=0))


def test_a_session_that_can_not_be_resumed_keeps_what_is_to_be_sent() -> None:
    words = said()
    words.take()
    words.forget_sent()
    assert (words.start_sample, words.has_everything) == (3, False)
    assert taken(words) == ALL[1:]
    words.forget_sent()
    assert not words.is_full


@given(st.data())
def test_however_it_is_cut_the_server_gets_everything_once(data: st.DataObject) -> None:
    words, position, server, marks = kept(), 0, bytearray(), 0
    places: list[tuple[int, int]] = []
    for _ in range(data.draw(st.integers(1, 20))):
        if data.draw(st.booleans()):
            words.finalize(Finalize(finalize_id=len(places)))
            places.append((len(places), position))
        else:
            count = data.draw(st.integers(1, 5))
            words.audio(frames(position, count))
            position += count
        heard: list[tuple[int, int]] = []
        for _ in range(data.draw(st.integers(0, 4))):  # as many messages arrive
            message = words.take()
            if isinstance(message, Audio):
                assert message.client_offset == len(server) // FRAME_BYTES
                server += message.pcm
            elif isinstance(message, Finalize):
                heard.append((message.finalize_id, len(server) // FRAME_BYTES))
        assert heard == places[marks : marks + len(heard)]
        marks += len(heard)
        if data.draw(st.booleans()):
            words.received(data.draw(st.integers(0, len(server) // FRAME_BYTES)))
        taken(words)  # the rest is lost
        assert words.rewind(len(server) // FRAME_BYTES, marks, bye_received=False)
    rest = taken(words)
    server += b"".join(m.pcm for m in rest if isinstance(m, Audio))
    assert bytes(server) == frames(0, position)
    assert marks + sum(isinstance(m, Finalize) for m in rest) == len(places)
