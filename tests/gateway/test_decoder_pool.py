"""Turns at decoders, and room on disk."""

from __future__ import annotations

from gateway.decoder_pool import MAX_WAITING, DecoderPool, UploadLimits
from gateway.dialects import Container
from gateway.event_loop import EventLoop

LIMITS = UploadLimits(max_decoders=2, max_live_decoders=1, max_spool_bytes=100)


class Feed:
    """Takes turns."""

    def __init__(self, container: Container = Container.FILE) -> None:
        self.container = container
        self.num_starts = 0
        self.said: list[str] = []

    def start(self) -> None:
        self.num_starts += 1

    def close(self) -> None:
        self.said.append("close")

    def wait(self) -> None:
        self.said.append("wait")


def pool_of(limits: UploadLimits = LIMITS) -> DecoderPool:
    loop = EventLoop()
    loop.close()
    return DecoderPool(loop, limits)


def test_files_wait_for_their_turn_in_order() -> None:
    pool = pool_of()
    feeds = [Feed() for _ in range(5)]
    assert all(pool.admit(feed) for feed in feeds)
    assert [feed.num_starts for feed in feeds] == [1, 1, 0, 0, 0]
    assert (pool.num_running, pool.num_waiting) == (2, 3)
    pool.leave(feeds[3])  # gives up
    pool.leave(feeds[0])
    pool.leave(feeds[0])
    assert [feed.num_starts for feed in feeds] == [1, 1, 1, 0, 0]
    pool.leave(feeds[1])
    assert [feed.num_starts for feed in feeds] == [1, 1, 1, 0, 1]


def test_a_feed_that_fails_at_its_start_makes_room_for_the_next() -> None:
    pool = pool_of()
    busy = [Feed(), Feed()]
    for feed in busy:
        pool.admit(feed)

    class Failing(Feed):
        def start(self) -> None:
            super().start()
            pool.leave(self)

    waiting = [Failing(), Failing(), Feed()]
    assert all(pool.admit(feed) for feed in waiting)
    pool.leave(busy[0])
    assert [feed.num_starts for feed in waiting] == [1, 1, 1]
    assert (pool.num_running, pool.num_waiting) == (2, 0)


def test_recordings_have_decoders_of_their_own_and_never_wait() -> None:
    pool = pool_of()
    for _ in range(3):
        pool.admit(Feed())
    live = Feed(Container.LIVE)
    assert pool.admit(live)
    assert live.num_starts == 1
    assert not pool.admit(Feed(Container.LIVE))
    pool.leave(live)
    assert pool.num_waiting == 1  # its decoder is not for files
    assert pool.admit(Feed(Container.LIVE))


def test_the_queue_is_bounded() -> None:
    pool = pool_of()
    assert all(pool.admit(Feed()) for _ in range(2 + MAX_WAITING))
    assert not pool.admit(Feed())


def test_room_on_disk_is_bounded() -> None:
    pool = pool_of()
    assert pool.claim_spool(60)
    assert not pool.claim_spool(41)
    assert pool.claim_spool(40)
    assert pool.spool_bytes == 100
    pool.release_spool(60)
    assert pool.claim_spool(60)


def test_closing_ends_everything_and_starts_nothing() -> None:
    pool = pool_of()
    feeds = [Feed() for _ in range(3)]
    for feed in feeds:
        pool.admit(feed)
    pool.close()
    assert [feed.said for feed in feeds] == [["close", "wait"], ["close", "wait"], []]
    assert feeds[2].num_starts == 0
