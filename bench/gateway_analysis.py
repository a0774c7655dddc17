"""What one load level of `bench gateway` showed: pure arithmetic over what was counted.

Three latencies of the same frames, all ending when the announcement reached the counting service:
from the worker's own receive time (what the gateway adds after epoll woke it), from the actual
send (adds the wait in the socket, where a saturated server hides its backlog), and from the
scheduled send (adds the generator's lag as well). A level passes on the second, the honest one.
The first second is warm-up and left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .frames import FRAME_NS, FRAME_SAMPLES
from .pacing import is_void, lag_summary
from .percentiles import Summary, summarize

MAX_ADDED_P99_MS = 5.0
SATURATED_SHARE = 0.97
WARM_UP_FRAMES = 50

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Counted:
    """The counting service's file."""

    records: npt.NDArray[np.void]
    arrivals_ns: Ints
    streams: list[dict[str, int | str | bool]]
    strays: int
    turns: int

    @classmethod
    def load(cls, path: Path) -> Counted:
        """Read what counting_service.Ledger.save wrote."""
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            records, arrivals = file["records"], file["arrivals_ns"]
        return cls(records, arrivals, about["streams"], about["strays"], about["turns"])


@dataclass(frozen=True, slots=True)
class Load:
    """What the generator did."""

    begin_ns: int
    num_streams: int
    num_frames: int
    session_ids: list[str]
    lags_ns: Ints  # frame by frame, all streams of a frame together
    num_full: int  # frames that found a full socket
    cpu_s: float

    def due_ns(self, stream: Ints, frame: Ints) -> npt.NDArray[np.float64]:
        """Scheduled send times."""
        return self.begin_ns + FRAME_NS * (frame + stream / self.num_streams)


@dataclass(frozen=True, slots=True)
class Level:
    """One row of the table."""

    num_streams: int
    receive_to_service: Summary | None  # ms
    send_to_service: Summary | None
    due_to_service: Summary | None
    lag: Summary | None
    lost_frames: int
    breaks: int  # contract violations seen by the counting service
    cpu_share: float  # of the server's core, warm-up left out
    cpu_us_per_frame: float
    frames_per_announcement: float
    generator_share: float
    rss_bytes: int

    @property
    def is_void(self) -> bool:
        """The generator was late: says nothing about the server, unless that was saturated."""
        return is_void(self.lag)

    @property
    def passes(self) -> bool:
        """Held its streams: p99 in bound, nothing lost, core not saturated, generator on time.

        Added latency is the server's own: from its receive to the announcement's arrival. What
        waits in the socket before that shows in `send_to_service`, and in the core's share.
        """
        added = self.receive_to_service
        return (
            not self.is_void
            and added is not None
            and added.p99 < MAX_ADDED_P99_MS
            and self.lost_frames == 0
            and self.breaks == 0
            and self.cpu_share < SATURATED_SHARE
        )

    def as_fields(self) -> dict[str, object]:
        """For the JSON line."""
        latencies = {
            "receive_to_service_ms": self.receive_to_service,
            "send_to_service_ms": self.send_to_service,
            "scheduled_to_service_ms": self.due_to_service,
            "generator_lag_ms": self.lag,
        }
        return {
            "streams": self.num_streams,
            "passes": self.passes,
            "void": self.is_void,
            **{name: s.as_fields() if s else None for name, s in latencies.items()},
            "lost_frames": self.lost_frames,
            "breaks": self.breaks,
            "cpu_share": round(self.cpu_share, 3),
            "cpu_us_per_frame": round(self.cpu_us_per_frame, 2),
            "frames_per_announcement": round(self.frames_per_announcement, 2),
            "generator_share": round(self.generator_share, 3),
            "rss_mib": round(self.rss_bytes / 2**20, 1),
        }


def stream_numbers(counted: Counted, load: Load) -> Ints:
    """The generator's stream number of each record; -1 for one of no known session."""
    number_of = {session_id: i for i, session_id in enumerate(load.session_ids)}
    by_key: dict[tuple[int, int], int] = {}
    for stream in counted.streams:
        key = int(stream["slot"]), int(stream["generation"])
        by_key[key] = number_of.get(str(stream["session_id"]), -1)
    slots, generations = counted.records["slot"], counted.records["generation"]
    keys = zip(slots.tolist(), generations.tolist(), strict=True)
    return np.array([by_key.get(key, -1) for key in keys], np.int64)


def latencies_ms(counted: Counted, load: Load) -> dict[str, Summary | None]:
    """The three latencies. A record that announces several frames counts once for each."""
    stream = stream_numbers(counted, load)
    first = counted.records["first"].astype(np.int64)
    frames_of = counted.records["count"].astype(np.int64) // FRAME_SAMPLES
    index = np.repeat(np.arange(len(first)), frames_of)
    within = np.arange(len(index)) - np.repeat(np.cumsum(frames_of) - frames_of, frames_of)
    frame = first[index] // FRAME_SAMPLES + within
    keep = (stream[index] >= 0) & (frame >= WARM_UP_FRAMES) & (frame < load.num_frames)
    index, frame = index[keep], frame[keep]
    arrival = counted.arrivals_ns[index]
    due = load.due_ns(stream[index], frame)
    lag = load.lags_ns[frame * load.num_streams + stream[index]]
    received = counted.records["receive_ns"].astype(np.int64)[index]
    return {
        "receive": summarize((arrival - received) / 1e6),
        "send": summarize((arrival - due - lag) / 1e6),
        "due": summarize((arrival - due) / 1e6),
    }


def count_lost(counted: Counted, load: Load, closed: list[dict[str, int]]) -> tuple[int, int]:
    """(frames sent and not counted, contract violations). Close records, where the dialect has
    them, must state the same number three times."""
    heard = {str(s["session_id"]): int(s["heard_samples"]) for s in counted.streams}
    expected = load.num_frames * FRAME_SAMPLES
    lost = sum(
        max(0, expected - heard.get(session_id, 0)) // FRAME_SAMPLES
        for session_id in load.session_ids
    )
    breaks = counted.strays + sum(int(s["breaks"]) for s in counted.streams)
    for record in closed:
        counts = {record[f"{place}_samples"] for place in ("client", "socket", "ring", "engine")}
        breaks += counts != {expected}
    return lost, breaks


def make_level(
    counted: Counted,
    load: Load,
    closed: list[dict[str, int]],
    *,
    cpu_s: float,
    window_ns: tuple[int, int],
    rss_bytes: int,
) -> Level:
    """Everything about one level; `cpu_s` was spent in the window."""
    latency = latencies_ms(counted, load)
    lost, breaks = count_lost(counted, load, closed)
    begin_ns, end_ns = window_ns
    window_s = (end_ns - begin_ns) / 1e9
    # Of those that got through: a saturated server would look cheap per frame offered.
    in_window = (counted.arrivals_ns >= begin_ns) & (counted.arrivals_ns < end_ns)
    frames_in_window = int(counted.records["count"][in_window].sum()) / FRAME_SAMPLES
    return Level(
        num_streams=load.num_streams,
        receive_to_service=latency["receive"],
        send_to_service=latency["send"],
        due_to_service=latency["due"],
        lag=lag_summary(load.lags_ns[WARM_UP_FRAMES * load.num_streams :]),
        lost_frames=lost,
        breaks=breaks,
        cpu_share=cpu_s / window_s,
        cpu_us_per_frame=cpu_s * 1e6 / max(1.0, frames_in_window),
        frames_per_announcement=load.num_streams * load.num_frames / max(1, counted.turns),
        generator_share=load.cpu_s * 1e9 / (load.num_frames * FRAME_NS),
        rss_bytes=rss_bytes,
    )
