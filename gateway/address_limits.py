"""How many connections one peer address may have, and how fast it may open them. Pure.

One per worker; the kernel spreads an address's connections over the workers, so what it may have on
the whole server is up to that many times as much. IPv6 is counted by /64, which is what one
customer gets. Unix sockets have no address and no limits.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum

CONNECTS_PER_S = 50  # sustained; as many at once as the address may have connections
MAX_ADDRESSES = 65_536  # remembered; further ones are refused until others are forgotten
_IPV6_PREFIX = 64
_NS_PER_CONNECT = 1_000_000_000 // CONNECTS_PER_S


class AddressExcess(str, Enum):
    """Which limit a connection ran into; the value is a metric label."""

    CONNECTIONS = "address_connections"
    RATE = "address_rate"


@dataclass(slots=True)
class _Peer:
    """One address."""

    connections: int = 0
    # A connect moves this one step ahead; it may run ahead of the clock by the burst (GCRA).
    paid_until_ns: int = 0


class AddressLimits:
    """`max_connections` None: no limits."""

    def __init__(self, max_connections: int | None) -> None:
        self._max_connections = max_connections
        self._burst_ns = (max_connections or 0) * _NS_PER_CONNECT
        self._peers: dict[str, _Peer] = {}

    @property
    def num_addresses(self) -> int:
        """Addresses remembered."""
        return len(self._peers)

    def admit(self, address: str, now_ns: int) -> AddressExcess | None:
        """Count a new connection of this peer, unless it has too many; "" has no limits."""
        if self._max_connections is None or not address:
            return None
        key = address_group(address)
        peer = self._peers.get(key)
        if peer is None:
            peer = self._remember(key, now_ns)
            if peer is None:
                return AddressExcess.RATE
        paid_until_ns = max(peer.paid_until_ns, now_ns) + _NS_PER_CONNECT
        if paid_until_ns - now_ns > self._burst_ns:
            return AddressExcess.RATE
        peer.paid_until_ns = paid_until_ns  # also for one that is refused: it was work
        if peer.connections >= self._max_connections:
            return AddressExcess.CONNECTIONS
        peer.connections += 1
        return None

    def release(self, address: str) -> None:
        """A connection that was admitted is closed."""
        if self._max_connections is not None and address:
            self._peers[address_group(address)].connections -= 1

    def _remember(self, key: str, now_ns: int) -> _Peer | None:
        if len(self._peers) >= MAX_ADDRESSES:
            self._forget_idle(now_ns)
            if len(self._peers) >= MAX_ADDRESSES:
                return None
        return self._peers.setdefault(key, _Peer())

    def _forget_idle(self, now_ns: int) -> None:
        """Drop what remembers nothing: no connection, and no debt of connects."""
        self._peers = {
            key: peer
            for key, peer in self._peers.items()
            if peer.connections or peer.paid_until_ns > now_ns
        }


def address_group(address: str) -> str:
    """What is counted together: an IPv4 address, a /64 of IPv6, else the text itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False))
