"""AddressLimits: connections at a time, connects in a row, and what is remembered."""

from __future__ import annotations

import pytest

import gateway.address_limits as module
from gateway.address_limits import CONNECTS_PER_S, AddressExcess, AddressLimits, address_group

S = 1_000_000_000
NOW_NS = 50 * S


def test_without_a_limit_and_without_an_address_everybody_passes() -> None:
    free, unix = AddressLimits(None), AddressLimits(1)
    for _ in range(1_000):
        assert free.admit("192.0.2.1", NOW_NS) is None
        assert unix.admit("", NOW_NS) is None
    free.release("192.0.2.1")
    unix.release("")
    assert free.num_addresses == unix.num_addresses == 0


def test_so_many_connections_at_a_time() -> None:
    limits = AddressLimits(3)
    for _ in range(3):
        assert limits.admit("192.0.2.1", NOW_NS) is None
    assert limits.admit("192.0.2.2", NOW_NS) is None  # somebody else
    assert limits.admit("192.0.2.1", NOW_NS + S) is AddressExcess.CONNECTIONS
    limits.release("192.0.2.1")
    assert limits.admit("192.0.2.1", NOW_NS + S) is None


def test_so_many_connects_a_second_whether_they_stay_or_not() -> None:
    limits = AddressLimits(10)
    answers = []
    for _ in range(1_000):  # a thousand a second
        NOW = NOW_NS + len(answers) * S // 1_000
        answers.append(limits.admit("192.0.2.1", NOW))
        if answers[-1] is None:
            limits.release("192.0.2.1")
    assert answers[:10] == [None] * 10
    passed = answers.count(None)
    assert CONNECTS_PER_S <= passed <= CONNECTS_PER_S + 10
    assert set(answers) == {None, AddressExcess.RATE}
    assert limits.admit("192.0.2.1", NOW_NS + 3 * S) is None  # it is not locked out


def test_refused_connects_cost_as_well() -> None:
    limits = AddressLimits(1)
    assert limits.admit("192.0.2.1", NOW_NS) is None
    later_ns = NOW_NS + S
    assert limits.admit("192.0.2.1", later_ns) is AddressExcess.CONNECTIONS
    assert limits.admit("192.0.2.1", later_ns) is AddressExcess.RATE


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("whatever", "whatever"),
    ],
)
def test_what_is_counted_together(address: str, group: str) -> None:
    assert address_group(address) == group


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ADDRESSES", 4)
    limits = AddressLimits(5)
    for number in range(4):
        assert limits.admit(f"192.0.2.{number}", NOW_NS) is None
    assert limits.admit("192.0.2.9", NOW_NS) is AddressExcess.RATE
    assert limits.num_addresses == 4
    later_ns = NOW_NS + S
    assert limits.admit("192.0.2.9", later_ns) is AddressExcess.RATE  # all are connected
    limits.release("192.0.2.0")
    limits.release("192.0.2.1")
    assert limits.admit("192.0.2.9", later_ns) is None
    assert limits.num_addresses == 3
    limits.release("192.0.2.3")  # those who are connected were not forgotten
