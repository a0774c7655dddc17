"""Fair shares: which of the last places of a full server a token may not take. Pure.

Of the tokens that have sessions or were refused lately each has the same share of the places. Up to
its share a token takes whatever is free. Above it, places are kept from it: one in eight always, as
soon as there is another token, so that whoever comes finds one at once; and as many as the others
below their share were refused lately, so that what a crowd gives back goes to them. Nobody's open
session is ended for that. While half of the places are free, nothing is kept.

gatekeeper.py asks, with the counts that all workers share (quota.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HEADROOM_SHARE = 8  # one place in so many


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker knows of the server's places for streams."""

    places: int  # of all workers
    free: int
    own_places: int  # slots of this worker, which its streams need besides
    own_free: int

    @property
    def is_half_free(self) -> bool:
        """There is no need to ask who wants what."""
        return 2 * self.free > self.places and 2 * self.own_free > self.own_places


@dataclass(frozen=True, slots=True)
class Demand:
    """One token, over all workers."""

    sessions: int = 0  # open
    refused: int = 0  # for want of a place, in the last 10 to 20 s

    @property
    def is_active(self) -> bool:
        """It has something, or wants something."""
        return bool(self.sessions or self.refused)


def is_over_share(sessions: int, others: Sequence[Demand], room: Room) -> bool:
    """True when a token with so many sessions has to leave the places that are free to the others.

    Args:
        sessions: that it has open.
        others: all other tokens that there are.
        room: the places of the server.
    """
    if not others or room.is_half_free:
        return False
    headroom = -(-room.places // HEADROOM_SHARE)
    share = room.places / (1 + sum(other.is_active for other in others))
    if sessions < max(1, min(share, room.places - headroom)):
        return False
    wanted = sum(min(other.refused, max(0, int(share) - other.sessions)) for other in others)
    kept = max(headroom, wanted)
    own_kept = -(-kept * room.own_places // max(room.places, room.own_places, 1))
    return room.free <= kept or room.own_free <= own_kept
