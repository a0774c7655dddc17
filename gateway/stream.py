"""One audio stream: what came in, what the ring took, what recognition released, in what order.

Pure accounting. A Stream writes samples into its ring, keeps what does not fit together with the
controls (finalize, configure, close) that must not overtake it, and states the close record. It
knows no socket, no clock, no resampler but by its two methods. The connection feeds it, the
router carries out the controls that `pump` yields and passes credits in, the service link
announces what was written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from protocol.audio import RING_SAMPLE_BYTES, AudioFormat
from protocol.client_messages import (
    Closed,
    Hello,
    Overflow,
    VadOptions,
    Watermark,
)
from protocol.ring import Ring
from protocol.service_messages import Close, Configure, Finalize, SamplesRecord

from .admission import NOTHING_PROMISED, Admitted
from .latency_classes import Promise
from .recovery import Control as Control
from .recovery import History, Suspicion
from .session_journal import NO_JOURNAL, SessionJournal
from .stream_ports import Converter as Converter
from .stream_ports import DirtyList as DirtyList
from .stream_ports import Pcm as Pcm
from .stream_ports import StreamOwner as StreamOwner

# Not more than one received piece waits: whoever fills a blocked stream stops being read. The
# largest piece is 256 KiB of 8 kHz s16, which is 512 KiB of ring samples.
MAX_PENDING_BYTES = 1024 * 1024

MAX_FINALIZE_TIMES = 64  # unanswered finalizes whose time is remembered


class Stream:
    """See the module text. Positions are ring samples unless the name says `client`."""

    __slots__ = (
        "_capacity_samples", "_converter", "_lost_first", "_pending", "_pending_bytes",
        "_ring_bytes", "_ring_view", "_room_end", "abandoned", "admitted", "announced_samples",
        "client_samples", "close_reason", "closing", "decoded_samples", "ended", "finalize_times",
        "format", "generation", "group", "hello", "history", "is_dirty", "journal", "link",
        "lost_client_samples", "num_finalizes", "open_finalizes", "orphaned_ns", "orphaned_sample",
        "owner", "promise", "receive_ns", "released_samples", "restored_samples", "ring",
        "ring_samples", "session_id", "slot", "suspicion", "told_client_samples", "vad",
        "watermark_ns",
    )  # fmt: skip

    def __init__(
        self, session_id: str, hello: Hello, owner: StreamOwner, converter: Converter | None
    ) -> None:
        self.session_id = session_id
        self.hello = hello
        self.vad = hello.vad
        self.owner = owner
        self.format: AudioFormat = hello.audio_format()
        self._converter = converter
        # Identity, from `attach` on
        self.slot = -1
        self.generation = 0
        self.ring: Ring | None = None
        self.link: DirtyList | None = None
        self._capacity_samples = self._ring_bytes = 0
        self._ring_view = memoryview(b"")
        self._room_end = 0  # released + capacity: the first sample that has no room yet
        # Counters
        self.client_samples = 0  # delivered by the socket
        self.lost_client_samples = 0  # of these, dropped because `live` and full
        self.ring_samples = 0  # written to the ring
        self.announced_samples = 0  # of these, told to the service
        self.released_samples = 0  # of these, free to overwrite
        self.decoded_samples = 0  # consumed by engine.step, as last reported
        self.restored_samples = 0  # of the ring's, taken by a worker that is dead
        self.receive_ns = 0  # when the last audio came
        self.num_finalizes = 0  # taken from the client
        self.open_finalizes = 0  # sent to the service, not answered yet
        self.watermark_ns = 0  # when the client last got a watermark
        self.admitted = Admitted(hello, frozenset(), NOTHING_PROMISED, 0)  # by nobody yet
        # What the client was told of partials, and whose share of them it has (0: of no token).
        self.promise, self.group = Promise(), 0
        self.told_client_samples = 0  # what it said
        # If its service dies
        self.history = History(hello.vad)
        self.suspicion = Suspicion()
        self.journal: SessionJournal = NO_JOURNAL  # if its worker dies
        # When it lost its service, until another one has caught up, and how far it was decoded then
        self.orphaned_ns, self.orphaned_sample = 0, 0
        # What waits for room, in order: PCM and controls
        self._pending: deque[Pcm | Control] = deque()
        self._pending_bytes = 0
        self._lost_first = -1  # first client sample of an overflow not yet reported
        self.finalize_times: dict[int, int] = {}  # id -> when asked, for a metric
        self.is_dirty = False
        self.closing = False  # a Close is queued or sent: audio is not taken any more
        self.close_reason = ""
        self.ended = False  # the slot is free again
        self.abandoned = False  # its service died or gave it up: not decoded to its end

    # Identity

    def attach(self, slot: int, generation: int, ring: Ring, link: DirtyList | None = None) -> None:
        """The stream has a ring from here on; without a link it waits for `join`."""
        self.slot = slot
        self.generation = generation
        self.ring = ring
        self.link = link
        self.is_dirty = link is None
        self._capacity_samples = ring.num_samples
        self._ring_view = ring.view
        self._ring_bytes = ring.num_samples * RING_SAMPLE_BYTES
        self._room_end = self.released_samples + ring.num_samples

    @property
    def is_attached(self) -> bool:
        """False until the first audio: an idle connection costs no ring."""
        return self.ring is not None

    def leave(self) -> None:
        """It has no service any more; audio goes on into the ring."""
        self.link = None
        self.is_dirty = True  # as if it were listed already: there is no list

    def join(self, link: DirtyList, first_sample: int) -> None:
        """Another service: announce to it what the ring holds from `first_sample` on."""
        self.link = link
        self.announced_samples = first_sample
        self.is_dirty = False

    def announce_rest(self) -> None:
        """List it where streams with samples to announce are listed, if it has any."""
        if self.announced_samples < self.ring_samples:
            self._mark_dirty()

    # Audio

    @property
    def takes_ring_audio(self) -> bool:
        """True when `write` may be used: ring format, a ring, nothing waiting, not closing."""
        return (
            self._converter is None
            and self.ring is not None
            and not self.closing
            and not self._pending
        )

    def write(self, pcm: Pcm, now_ns: int) -> bool:
        """Put ring-format samples straight into the ring; False when that cannot be done now.

        The hot path: one call per 20 ms and client. Everything unusual goes through `accept`.
        """
        first = self.ring_samples
        num_samples = len(pcm) >> 1
        if not num_samples or first + num_samples > self._room_end or self._pending or self.closing:
            return False
        start = first % self._capacity_samples << 1
        end = start + (num_samples << 1)
        if end <= self._ring_bytes:
            self._ring_view[start:end] = pcm  # as Ring.write does, without its call
        else:
            self.ring.write(first, pcm)  # type: ignore[union-attr]  # no samples fit without one
        self.ring_samples = first + num_samples
        self.client_samples += num_samples
        self.receive_ns = now_ns
        if not self.is_dirty:
            self.is_dirty = True
            self.link.dirty.append(self)  # type: ignore[union-attr]
        return True

    def accept(self, pcm: Pcm, now_ns: int) -> None:
        """Take whole client samples: into the ring as far as they fit, the rest waits.

        A live stream loses a piece that does not fit as a whole; `take_overflow` names it.
        """
        if self.closing:
            return
        num_client_samples = len(pcm) // self.format.frame_bytes
        first_client_sample = self.client_samples
        self.client_samples += num_client_samples
        self.receive_ns = now_ns
        if self.hello.live and not self._fits(num_client_samples):
            if self._lost_first < 0:
                self._lost_first = first_client_sample
            self.lost_client_samples += num_client_samples
            return
        # A view belongs to the receive buffer, which the next recv overwrites: what may have to
        # wait is copied.
        self._queue_pcm(bytes(pcm) if self._converter is None else self._converter.convert(pcm))

    def _fits(self, num_client_samples: int) -> bool:
        # One Overflow names one contiguous range: until it is reported, everything is lost.
        if self._pending or self._lost_first >= 0:
            return False
        if self._converter is None:
            return num_client_samples <= self.free_samples
        return self._converter.max_ring_samples(num_client_samples) <= self.free_samples

    @property
    def free_samples(self) -> int:
        """Room in the ring."""
        return self._room_end - self.ring_samples

    @property
    def is_blocked(self) -> bool:
        """True while something waits for room: stop reading this client."""
        return bool(self._pending)

    @property
    def pending_bytes(self) -> int:
        """PCM that waits for room."""
        return self._pending_bytes

    def _queue_pcm(self, pcm: Pcm) -> None:
        if pcm:
            self._pending_bytes += len(pcm)
            if self._pending_bytes > MAX_PENDING_BYTES:
                raise AssertionError("a blocked stream was fed: its connection must stop reading")
            self._pending.append(pcm)

    # Controls, in order with the audio

    def finalize(self, finalize_id: int, now_ns: int) -> None:
        """End the utterance after all audio accepted so far."""
        if len(self.finalize_times) < MAX_FINALIZE_TIMES:
            self.finalize_times[finalize_id] = now_ns
        self._drain()
        self._pending.append(Finalize(self.slot, self.generation, finalize_id, 0))

    def configure(self, vad: VadOptions) -> None:
        """New VAD options for the audio that follows."""
        self.vad = vad
        if self.is_attached:
            self._drain()
            self._pending.append(Configure(self.slot, self.generation, 0, vad))

    def close(self, reason: str) -> None:
        """Take no more audio; the Close follows what was accepted."""
        if self.closing:
            return
        self.closing = True
        self.close_reason = reason
        if self.is_attached:
            self._drain()
            self._pending.append(Close(self.slot, self.generation, 0, reason))

    def _drain(self) -> None:
        if self._converter is not None:
            self._queue_pcm(self._converter.drain())

    def pump(self) -> Iterator[Control]:
        """Write what fits; yields each control when its turn comes.

        The caller sends a control before it asks for the next: audio behind it is not written,
        and so not announced, before that.
        """
        while self._pending:
            item = self._pending[0]
            if isinstance(item, Finalize | Configure | Close):
                self._pending.popleft()
                yield self._at_present(item)
            elif not self._put(item):
                return

    def _at_present(self, control: Control) -> Control:
        at = self.ring_samples
        if isinstance(control, Finalize):
            return Finalize(self.slot, self.generation, control.finalize_id, at)
        if isinstance(control, Configure):
            return Configure(self.slot, self.generation, at, control.vad)
        return Close(self.slot, self.generation, at, control.reason)

    def _put(self, pcm: Pcm) -> bool:
        """Write the head of the queue as far as it fits; True when all of it went in."""
        num_bytes = min(len(pcm), self.free_samples * RING_SAMPLE_BYTES)
        if self.ring is None or num_bytes == 0:
            return False
        self.ring.write(self.ring_samples, memoryview(pcm)[:num_bytes])
        self.ring_samples += num_bytes // RING_SAMPLE_BYTES
        self._pending_bytes -= num_bytes
        self._mark_dirty()
        if num_bytes < len(pcm):
            self._pending[0] = memoryview(pcm)[num_bytes:]
            return False
        self._pending.popleft()
        return True

    def _mark_dirty(self) -> None:
        if not self.is_dirty and self.link is not None:
            self.is_dirty = True
            self.link.dirty.append(self)

    # What the service says

    def credit(self, released_samples: int, decoded_samples: int) -> None:
        """Ring samples below `released_samples` may be overwritten. Never goes back."""
        self.released_samples = max(
            self.released_samples, min(released_samples, self.announced_samples)
        )
        self._room_end = self.released_samples + self._capacity_samples
        self.decoded(decoded_samples)

    def decoded(self, decoded_samples: int) -> None:
        """Every result carries how far recognition is."""
        if decoded_samples > self.decoded_samples:
            self.decoded_samples = decoded_samples

    # What others read

    def take_record(self) -> SamplesRecord:
        """The announcement of everything written and not yet announced."""
        first = self.announced_samples
        self.announced_samples = self.ring_samples
        self.is_dirty = False
        self.journal.note()
        return SamplesRecord(
            self.slot, self.generation, first, self.ring_samples - first, self.receive_ns
        )

    def take_record_to(self, end_sample: int) -> SamplesRecord:
        """The announcement of what lies before `end_sample` and is not announced yet."""
        first = self.announced_samples
        self.announced_samples = end_sample
        return SamplesRecord(self.slot, self.generation, first, end_sample - first, self.receive_ns)

    def take_overflow(self) -> Overflow | None:
        """The client samples lost since the last call, one contiguous range."""
        if self._lost_first < 0:
            return None
        first, self._lost_first = self._lost_first, -1
        return Overflow(
            audio_received=self.ring_samples,
            audio_decoded=self.decoded_samples,
            first_client_sample=first,
            num_client_samples=self.client_samples - first,
        )

    def watermark(self) -> Watermark:
        """How far the stream is."""
        self.journal.note()
        return Watermark(self.safe_client_samples, self.ring_samples, self.decoded_samples)

    @property
    def safe_client_samples(self) -> int:
        """Client audio before this is never asked for again, also if this worker dies: what waits
        for room would be lost then, and so would the state of the converter.
        """
        if self.journal is NO_JOURNAL or not self.can_restart:
            return self.client_samples
        if self._converter is None:
            return self.ring_samples + self.lost_client_samples
        return self._converter.restart_sample(self.ring_samples)

    @property
    def can_restart(self) -> bool:
        """What the ring holds tells where its client was: not so once a converter missed audio."""
        return self._converter is None or not self.lost_client_samples

    def close_record(self, engine_samples: int) -> Closed:
        """The three counts; `is_consistent` says whether they agree."""
        socket_samples = self._in_ring_samples(self.client_samples)
        kept = self._in_ring_samples(self.client_samples - self.lost_client_samples)
        return Closed(
            reason=self.close_reason,
            client_samples=self.client_samples,
            socket_samples=socket_samples,
            ring_samples=self.ring_samples,
            engine_samples=engine_samples,
            lost_samples=socket_samples - kept,
        )

    def _in_ring_samples(self, client_samples: int) -> int:
        """A client that was to say something again, and did not, has said it once all the same."""
        return max(self.format.ring_samples(client_samples), self.restored_samples)


def is_consistent(record: Closed) -> bool:
    """True when socket = ring + lost, and ring = engine."""
    return (
        record.socket_samples == record.ring_samples + record.lost_samples
        and record.ring_samples == record.engine_samples
    )
