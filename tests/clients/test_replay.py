"""A record as sessions, and finals beside finals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from clients.replay import (
    BLOCK_SAMPLES,
    Finalize,
    Row,
    Segment,
    Verdict,
    compare,
    differs,
    printable,
    segments,
    shifted,
)
from protocol.audio import Encoding
from protocol.client_messages import (
    Final,
    Hello,
    NonSpeech,
    Partial,
    ServerMessage,
    VadOptions,
    encode_payload,
)
from protocol.flight_record import (
    GRID_SAMPLES,
    FlightHead,
    FlightRecord,
    RecordedControl,
    RecordedEvent,
)

from ..protocol.test_flight_record import HEAD

A, B = VadOptions(threshold=0.25), VadOptions(enabled=False)
COUNTS = {"audio_received": 9, "audio_decoded": 9}


def record_of(
    num_samples: int,
    *events: ServerMessage,
    first: int = 0,
    controls: Sequence[RecordedControl] = (),
    num_events_dropped: int = 0,
    hello: Hello | None = None,
) -> FlightRecord:
    head: FlightHead = structs.replace(
        HEAD, hello=hello or Hello(), vad=A, first_sample=first, num_samples=num_samples,
        controls=tuple(controls), num_events_dropped=num_events_dropped, overwritten_samples=0,
        events=tuple(RecordedEvent(n, e.TYPE, encode_payload(e)) for n, e in enumerate(events)),
    )  # fmt: skip
    return FlightRecord(head, b"".join(n.to_bytes(3, "little")[:2] for n in range(num_samples)))


def final(start: int, end: int, text: str, finalize_id: int | None = None) -> Final:
    return Final(
        utterance=0, start_sample=start, end_sample=end, text=text, finalize_id=finalize_id,
        **COUNTS,
    )  # fmt: skip


def draft(start: int, end: int) -> Partial:
    return Partial(
        utterance=0, start_sample=start, end_sample=end, stable="so", volatile="far", **COUNTS
    )


def silence(start: int, end: int) -> NonSpeech:
    return NonSpeech(start_sample=start, end_sample=end, **COUNTS)


def at(
    sample: int, vad: VadOptions | None = None, finalize_id: int | None = None
) -> RecordedControl:
    return RecordedControl(at_sample=sample, vad=vad, finalize_id=finalize_id)


# Sessions


def test_a_record_is_one_session_of_ring_audio() -> None:
    hello = Hello(
        token="t", encoding=Encoding.PCM_F32LE, sample_rate_hz=48_000, channels=2, live=True,
        language="en", model="m", prompt="p", hotwords=("h",), client="c", tokens=True,
    )  # fmt: skip
    record = record_of(2_000, first=512, hello=hello)
    (segment,) = segments(record)
    assert segment == Segment(
        Hello(
            language="en", model="m", prompt="p", hotwords=("h",), tokens=True, vad=A,
            client="earwire-replay",
        ),
        512, 2_512, (),
    )  # fmt: skip
    assert segments(record, any_model=True)[0].hello.model is None


def test_new_options_begin_a_session_with_a_whole_frame() -> None:
    controls = [
        at(100, finalize_id=1), at(1_000, finalize_id=2), at(1_500, A), at(1_500, B),
        at(1_500, finalize_id=3), at(1_600, finalize_id=4), at(9_000, A),
    ]  # fmt: skip
    record = record_of(2_000, controls=controls)
    first, second = segments(record)
    assert (first.first_sample, first.end_sample, first.finalize_at) == (
        0,
        1_500,
        (100, 1_000, 1_500),
    )
    assert first.hello.vad == A
    assert second.first_sample == 1_500 // GRID_SAMPLES * GRID_SAMPLES
    assert (second.end_sample, second.finalize_at, second.hello.vad) == (2_000, (1_600,), B)
    assert shifted(final(3, 9, "x"), second) == final(1_027, 1_033, "x")


def test_a_record_without_audio_is_a_session_too() -> None:
    (segment,) = segments(record_of(0, first=512))
    assert list(segment.steps(record_of(0, first=512))) == []


@given(
    st.integers(0, 5).map(lambda n: n * GRID_SAMPLES),
    st.integers(0, 3_000),
    st.lists(st.integers(0, 6_000), max_size=5),
    st.lists(st.integers(0, 6_000), max_size=3),
)
def test_all_audio_is_sent_in_blocks_and_every_finalize_in_its_place(
    first: int, num_samples: int, finalizes: list[int], changes: list[int]
) -> None:
    end = first + num_samples
    places = sorted(
        [(p, 0) for p in finalizes if first < p <= end]
        + [(p, 1) for p in changes if first < p < end]
    )
    controls = [at(p, B) if kind else at(p, finalize_id=1) for p, kind in places]
    record = record_of(num_samples, first=first, controls=controls)
    finalized = []
    position = first
    for segment in segments(record):
        assert segment.first_sample <= position < segment.first_sample + GRID_SAMPLES or (
            position == segment.first_sample
        )
        position = segment.first_sample
        for step in segment.steps(record):
            if isinstance(step, Finalize):
                finalized.append(position)
                continue
            assert step == record.pcm[2 * (position - first) :][: len(step)]
            position += len(step) // 2
            assert 0 < len(step) <= 2 * BLOCK_SAMPLES
            assert position % BLOCK_SAMPLES == 0 or position in (
                *segment.finalize_at, segment.end_sample,
            )  # fmt: skip
        assert position == segment.end_sample
    assert position == end
    assert finalized == [p for p, kind in places if not kind]


# Comparing


def verdicts(rows: list[Row]) -> str:
    return "".join(row.verdict.value for row in rows)


ONE, TWO = final(100, 900, "one"), final(1_000, 1_900, "two")


@pytest.mark.parametrize(
    ("replayed", "expected"),
    [
        ([ONE, TWO], "=="),
        ([ONE, structs.replace(TWO, utterance=7, finalize_id=3)], "=="),
        ([ONE, final(1_000, 1_900, "too")], "=!"),
        ([ONE, final(1_000, 1_800, "two")], "=!"),
        ([ONE], "=!"),
        ([TWO], "!="),
        ([], "!!"),
        ([ONE, final(910, 990, "more"), TWO], "=!="),
        ([ONE, final(910, 990, ""), TWO], "=!="),
        ([final(100, 1_900, "one two")], "!!"),
        ([ONE, TWO, final(1_900, 1_900, "", finalize_id=1)], "=="),
        ([ONE, TWO, final(2_000, 2_500, "behind")], "==·"),
    ],
)
def test_a_whole_stream_has_to_be_as_it_was(replayed: list[Final], expected: str) -> None:
    events = silence(0, 100), ONE, silence(900, 1_000), TWO, final(1_900, 1_900, "", 4)
    rows = compare(record_of(3_000, *events), replayed)
    assert verdicts(rows) == expected
    assert differs(rows) == ("!" in expected)


@pytest.mark.parametrize(
    ("replayed", "expected"),
    [
        ([final(600, 900, "ne"), TWO], "·="),
        ([final(512, 900, "e"), final(1_010, 1_950, "two")], "·="),
        ([final(600, 900, "ne"), final(1_000, 1_900, "too")], "·!"),
        ([final(600, 900, "ne"), final(910, 990, " "), TWO], "·=="),
        ([final(600, 900, "ne"), final(910, 990, "word"), TWO], "·!="),
        ([TWO], "·="),
        ([final(600, 900, "ne")], "·!"),
    ],
)
def test_of_the_middle_of_a_stream_only_texts_are_compared(
    replayed: list[Final], expected: str
) -> None:
    events = final(0, 100, "gone"), ONE, TWO
    assert verdicts(compare(record_of(3_000, *events, first=512), replayed)) == expected


def test_what_had_no_final_yet_is_shown_with_its_last_draft() -> None:
    record = record_of(3_000, ONE, draft(1_000, 1_200), draft(1_000, 1_500))
    rows = compare(record, [ONE, final(1_000, 2_500, "two and more")])
    assert rows[1] == Row(
        Verdict.NOT_COMPARED, draft(1_000, 1_500), final(1_000, 2_500, "two and more")
    )
    (row,) = compare(record_of(3_000, draft(0, 100)), [final(1_000, 2_500, "two")])
    assert row.recorded is None
    (row,) = compare(record_of(3_000), [final(1_000, 2_500, "two")])
    assert row == Row(Verdict.NOT_COMPARED, None, final(1_000, 2_500, "two"))


def test_where_old_events_were_dropped_nothing_is_known_before_the_first() -> None:
    record = record_of(3_000, silence(900, 1_000), TWO, num_events_dropped=2)
    assert verdicts(compare(record, [ONE, TWO])) == "·="
    assert verdicts(compare(record_of(3_000, num_events_dropped=2), [ONE, TWO])) == "··"


def test_positions_are_not_compared_where_options_changed() -> None:
    record = record_of(3_000, ONE, TWO, controls=[at(950, B)])
    assert verdicts(compare(record, [ONE, final(940, 1_900, "two")])) == "=="


def test_a_terminal_is_not_at_the_mercy_of_a_record() -> None:
    assert printable("a\x1b[31mb\nc\u202ed é") == "a�[31mb�c�d é"
