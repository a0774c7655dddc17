"""A flight record as sessions to run again, and what came of them beside what was said then. Pure.

The native protocol changes no options in the middle of a session, other APIs do: audio behind such
a change is a session of its own. Positions are samples of the recorded stream throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from msgspec import structs

from protocol.audio import RING_RATE_HZ, RING_SAMPLE_BYTES, Encoding
from protocol.client_messages import Final, Hello, NonSpeech, Partial, VadOptions
from protocol.flight_record import GRID_SAMPLES, FlightRecord

BLOCK_SAMPLES = RING_RATE_HZ // 50  # 20 ms


class Finalize(Enum):
    """A step of a session that sends no audio."""

    HERE = "finalize"


@dataclass(frozen=True, slots=True)
class Segment:
    """One session: its options, its audio, and where the client said finalize."""

    hello: Hello
    first_sample: int
    end_sample: int
    finalize_at: tuple[int, ...]

    def steps(self, record: FlightRecord) -> Iterator[bytes | Finalize]:
        """PCM cut at whole blocks of the stream's samples, and finalizes at their places."""
        position = self.first_sample
        for stop, is_finalize in [
            *((at, True) for at in self.finalize_at),
            (self.end_sample, False),
        ]:
            while position < stop:
                end = min(stop, position // BLOCK_SAMPLES * BLOCK_SAMPLES + BLOCK_SAMPLES)
                start_byte = (position - record.head.first_sample) * RING_SAMPLE_BYTES
                end_byte = (end - record.head.first_sample) * RING_SAMPLE_BYTES
                yield bytes(record.pcm[start_byte:end_byte])
                position = end
            if is_finalize:
                yield Finalize.HERE


def segments(record: FlightRecord, any_model: bool = False) -> list[Segment]:
    """The sessions that make up the record; with `any_model` the server chooses it."""
    hello = structs.replace(
        record.head.hello,
        token="",
        encoding=Encoding.PCM_S16LE,
        sample_rate_hz=RING_RATE_HZ,
        channels=1,
        live=False,
        client="earwire-replay",
        model=None if any_model else record.head.hello.model,
    )
    changes = _changes(record)
    ends = [at for at, _ in changes[1:]] + [record.end_sample]
    finalizes = [c.at_sample for c in record.head.controls if c.finalize_id is not None]
    found = []
    for (at, vad), end in zip(changes, ends, strict=True):
        first = max(record.head.first_sample, at // GRID_SAMPLES * GRID_SAMPLES)
        inside = tuple(f for f in finalizes if at < f <= end)
        found.append(Segment(structs.replace(hello, vad=vad), first, end, inside))
    return found


def _changes(record: FlightRecord) -> list[tuple[int, VadOptions]]:
    """Where options change, and to what; the last one counts where there are several."""
    changes = {record.head.first_sample: record.head.vad}
    for control in record.head.controls:
        if control.vad is not None and record.head.first_sample < control.at_sample:
            changes[control.at_sample] = control.vad
    return [(at, vad) for at, vad in sorted(changes.items()) if at < record.end_sample] or [
        (record.head.first_sample, record.head.vad)
    ]


def shifted(final: Final, segment: Segment) -> Final:
    """A final of the segment's session, in positions of the recorded stream."""
    return structs.replace(
        final,
        start_sample=final.start_sample + segment.first_sample,
        end_sample=final.end_sample + segment.first_sample,
    )


class Verdict(Enum):
    """What a row says; the value is the mark beside it."""

    SAME = "="
    DIFFERENT = "!"
    NOT_COMPARED = "·"  # the record has only a part of it


@dataclass(frozen=True, slots=True)
class Row:
    """One utterance as it was recorded and as it is now; None: there was, or is, none."""

    verdict: Verdict
    recorded: Final | Partial | None
    replayed: Final | None


def recorded_finals(record: FlightRecord) -> list[Final]:
    """Those with audio, of which some is in the record. Raises FlightRecordError."""
    return [
        event
        for _, event in record.events()
        if isinstance(event, Final)
        and event.end_sample > max(event.start_sample, record.head.first_sample)
    ]


def compare(record: FlightRecord, replayed: Sequence[Final]) -> list[Row]:
    """Recorded and new finals, in the order of their audio. Raises FlightRecordError.

    Not compared is what begins before the record, and what had not got its final when the record
    was made. Positions have to be equal where the record has the stream from its beginning on;
    elsewhere voice activity detection starts afresh, and texts have to be.
    """
    old = recorded_finals(record)
    new = [final for final in replayed if final.end_sample > final.start_sample]
    is_whole = record.head.first_sample == 0 and all(c.vad is None for c in record.head.controls)
    first, decided = _known_range(record, old)
    rows = []
    for one, other in _pairs(old, new):
        final = one or other
        assert final is not None
        if one is None and final.end_sample > decided:
            rows.append(Row(Verdict.NOT_COMPARED, _last_draft(record, final), other))
        elif final.start_sample < first:
            rows.append(Row(Verdict.NOT_COMPARED, one, other))
        else:
            verdict = Verdict.SAME if _agree(one, other, is_whole) else Verdict.DIFFERENT
            rows.append(Row(verdict, one, other))
    return rows


def _known_range(record: FlightRecord, old: Sequence[Final]) -> tuple[int, int]:
    """From where on the record has whole utterances, and up to where it has their finals."""
    tiles = [event for _, event in record.events() if isinstance(event, Final | NonSpeech)]
    first = max(
        [record.head.first_sample]
        + [final.end_sample for final in old if final.start_sample < record.head.first_sample]
    )
    if record.head.num_events_dropped:
        first = max(first, min((tile.start_sample for tile in tiles), default=record.end_sample))
    return first, max((tile.end_sample for tile in tiles), default=0)


def _agree(one: Final | None, other: Final | None, with_positions: bool) -> bool:
    """An utterance without words may as well have been none."""
    if one is None or other is None:
        found = one or other
        return not with_positions and found is not None and not found.text.strip()
    if with_positions and (one.start_sample, one.end_sample) != (
        other.start_sample, other.end_sample,
    ):  # fmt: skip
        return False
    return one.text == other.text


def _pairs(
    old: Sequence[Final], new: Sequence[Final]
) -> Iterator[tuple[Final | None, Final | None]]:
    """Those that overlap go together; both lists are in order."""
    left, right = list(old), list(new)
    while left or right:
        if left and right and _overlap(left[0], right[0]):
            yield left.pop(0), right.pop(0)
        elif not right or (left and left[0].start_sample < right[0].start_sample):
            yield left.pop(0), None
        else:
            yield None, right.pop(0)


def _overlap(one: Final, other: Final) -> bool:
    return one.start_sample < other.end_sample and other.start_sample < one.end_sample


def _last_draft(record: FlightRecord, final: Final) -> Partial | None:
    """What was shown of an utterance whose final was still to come."""
    drafts = [event for _, event in record.events() if isinstance(event, Partial)]
    if not drafts or drafts[-1].end_sample <= final.start_sample:
        return None
    return drafts[-1]


def printable(text: str) -> str:
    """For a terminal: a record may come from a stranger."""
    return "".join(character if character.isprintable() else "�" for character in text)


def differs(rows: Iterable[Row]) -> bool:
    """Something is not as it was."""
    return any(row.verdict is Verdict.DIFFERENT for row in rows)
