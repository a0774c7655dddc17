"""A journal under a writer that is killed between any two stores, or in the middle of one, and
under bytes that nobody wrote.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.journal import HEADER_BYTES, JOURNAL_BYTES, Contents, Damage, Journal

from .dying_writer import Killed, Killer, WatchedView

SIZE = 512  # 224 bytes a half, 208 of them for entries


def journal(size: int = SIZE) -> tuple[Journal, bytearray]:
    data = bytearray(size)
    return Journal(memoryview(data)), data


def reread(data: bytearray) -> Contents | Damage | None:
    """As another process finds it."""
    return Journal(memoryview(bytearray(data))).read()


def test_an_empty_journal_holds_nothing() -> None:
    one, data = journal()
    assert one.is_empty
    assert one.read() is None
    assert not one.append(b"a record without a snapshot")
    assert not any(data)


def test_a_snapshot_and_its_records() -> None:
    one, data = journal()
    assert one.begin(b"snapshot", 7, 3)
    assert one.append(b"one")
    assert one.append(b"")
    assert reread(data) == Contents(7, 3, b"snapshot", (b"one", b""))
    one.note(9, 4)
    assert reread(data) == Contents(9, 4, b"snapshot", (b"one", b""))
    assert one.begin(b"newer", 10, 5)
    assert reread(data) == Contents(10, 5, b"newer", ())
    assert not one.is_empty
    one.clear()
    assert one.is_empty
    assert reread(data) is None
    assert not one.append(b"behind the end")


def test_the_next_process_goes_on_where_the_last_one_was() -> None:
    one, data = journal()
    one.begin(b"first", 1, 0)
    one.begin(b"snapshot", 1, 0)
    one.append(b"one")
    other = Journal(memoryview(data))
    assert not other.is_empty
    assert other.append(b"two")
    other.note(5, 2)
    assert reread(data) == Contents(5, 2, b"snapshot", (b"one", b"two"))


def test_what_does_not_fit_changes_nothing() -> None:
    one, data = journal()
    assert one.begin(bytes(100), 1, 1)
    before = bytes(data)
    assert not one.begin(bytes(201), 2, 2)
    assert not one.append(bytes(89))
    assert bytes(data) == before
    assert one.append(bytes(88))
    assert one.begin(bytes(200), 2, 2)
    assert reread(data) == Contents(2, 2, bytes(200), ())


@pytest.mark.parametrize("size", [SIZE, SIZE + 8, HEADER_BYTES + 2 * 32])
def test_the_capacity_is_what_a_snapshot_may_have(size: int) -> None:
    one, _ = journal(size)
    assert one.begin(bytes(one.capacity_bytes), 0, 0)
    assert not one.begin(bytes(one.capacity_bytes + 1), 0, 0)


@pytest.mark.parametrize("size", [0, HEADER_BYTES, HEADER_BYTES + 2 * 24])
def test_a_view_that_holds_nothing_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"a journal of {size} bytes"):
        journal(size)


def test_attempts_are_counted_until_they_are_forgotten() -> None:
    one, data = journal()
    one.begin(b"snapshot", 0, 0)
    assert [one.count_attempt() for _ in range(3)] == [0, 1, 2]
    one.begin(b"what it became", 0, 0)
    assert Journal(memoryview(data)).count_attempt() == 3
    one.forget_attempts()
    assert one.count_attempt() == 0
    data[8:16] = b"\xff" * 8
    assert one.count_attempt() == one.count_attempt() == 2**64 - 1


def test_a_whole_journal_is_large_enough_for_a_checkpoint_in_each_half() -> None:
    one, _ = journal(JOURNAL_BYTES)
    assert one.begin(bytes(64 * 1024), 0, 0)
    assert one.append(bytes(56 * 1024))


# A writer that is killed


@dataclass
class Model:
    """What a journal holds: begin, append, note and clear as values."""

    snapshot: bytes | None = None
    records: tuple[bytes, ...] = ()
    hot: tuple[int, int] = (0, 0)

    def states_of(self, step: tuple[str, bytes, int]) -> list[Contents | None]:
        """What may be found if the writer dies in this step, the end of the step last."""
        what, payload, number = step
        states = [self.state()]
        if what == "begin":
            self.snapshot, self.records, self.hot = payload, (), (number, number // 2)
        elif what == "append":
            self.records += (payload,)
        elif what == "clear":
            self.snapshot = None
        else:
            self.hot = number, self.hot[1]
            states.append(self.state())
            self.hot = number, number // 2
        states.append(self.state())
        return states

    def state(self) -> Contents | None:
        if self.snapshot is None:
            return None
        return Contents(*self.hot, self.snapshot, self.records)


def carry_out(one: Journal, step: tuple[str, bytes, int]) -> bool:
    what, payload, number = step
    if what == "begin":
        return one.begin(payload, number, number // 2)
    if what == "append":
        return one.append(payload)
    if what == "clear":
        one.clear()
    elif not one.is_empty:
        one.note(number, number // 2)
    else:
        return False
    return True


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "append", "append", "append", "note", "clear"]),
        st.binary(max_size=90),
        st.integers(0, 2**63),
    ),
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(script=steps, seed=st.integers(0, 1_000))
def test_a_kill_at_any_store_leaves_the_state_before_or_behind_it(
    script: list[tuple[str, bytes, int]], seed: int
) -> None:
    """Every store of the whole script is the last one once."""
    for num_stores in range(6 * len(script)):
        data = bytearray(SIZE)
        killer = Killer(num_stores, random.Random(seed))
        one = Journal(WatchedView(memoryview(data), killer))  # type: ignore[arg-type]
        model = Model()
        possible: list[Contents | None] = [None]
        try:
            for step in script:
                ahead = Model(model.snapshot, model.records, model.hot)
                possible = ahead.states_of(step)
                if carry_out(one, step):
                    model = ahead
                assert reread(data) == model.state()
        except Killed:
            assert reread(data) in possible
        else:
            return


@settings(max_examples=60, deadline=None)
@given(script=steps, seed=st.integers(0, 1_000))
def test_a_successor_goes_on_after_a_kill(script: list[tuple[str, bytes, int]], seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(SIZE)
    for step in script:
        killer = Killer(rng.randrange(7), rng)
        before = reread(data)
        try:
            carry_out(Journal(WatchedView(memoryview(data), killer)), step)  # type: ignore[arg-type]
        except Killed:
            assert not isinstance(reread(data), Damage)
        else:
            assert not isinstance(before, Damage)
    one = Journal(memoryview(data))
    assert one.begin(b"whatever was before", 1, 2)
    assert one.append(b"this")
    assert reread(data) == Contents(1, 2, b"whatever was before", (b"this",))


# Bytes that nobody wrote


def filled() -> bytearray:
    one, data = journal()
    one.begin(b"snapshot", 7, 3)
    one.append(b"one")
    return data


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (4, 2, "head 0x20"),  # a third half
        (0, 8, "head 0x1000"),  # ends in the counters
        (0, 0xFF, "head 0x1000000ff"),  # ends behind the half
        (0, 16, "no snapshot"),
        (0, 20, "4 bytes behind the last entry"),
        (HEADER_BYTES + 224 + 16, 99, "entry 0 at byte 0"),  # longer than what is there
        (HEADER_BYTES + 224 + 20, 99, "entry 0 at byte 0"),  # the checksum
        (HEADER_BYTES + 224 + 24, 99, "entry 0 at byte 0"),  # the payload
        (HEADER_BYTES + 224 + 40, 99, "entry 1 at byte 16"),
    ],
)
def test_damage_is_a_value(at: int, value: int, reason: str) -> None:
    data = filled()
    assert data[at] != value
    data[at] = value
    damage = reread(data)
    assert isinstance(damage, Damage)
    assert reason in damage.reason
    one = Journal(memoryview(data))
    assert one.begin(b"anew", 1, 0)
    assert reread(data) == Contents(1, 0, b"anew", ())


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_garbage_is_damage_or_nothing(garbage: bytes) -> None:
    data = bytearray(garbage)
    found = reread(data)
    assert found is None or isinstance(found, Damage)
    one = Journal(memoryview(data))
    assert not one.append(b"x") or not isinstance(found, Contents)


@given(st.integers(0, SIZE - 1), st.integers(1, 255))
def test_one_changed_byte_is_seen_or_is_in_what_does_not_count(at: int, flip: int) -> None:
    data = filled()
    data[at] ^= flip
    found = reread(data)
    if isinstance(found, Contents):
        assert (found.snapshot, found.records) in (
            (b"snapshot", (b"one",)),
            (b"snapshot", ()),  # the head says that less was committed
        )
