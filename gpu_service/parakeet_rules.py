"""What all engines of Parakeet-TDT do alike: where speech is cut, how drafts go on.

Pure: numbers, and the arithmetic of frames that follows from them. An engine that keeps to it gives
the finals of every other one, and drafts that are committed at the same places. Frames are encoder
frames of 80 ms, rows are mel rows of 10 ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .decoding.tokens import FRAME_SAMPLES
from .errors import RecognizerError
from .speech_events import CutRule
from .weights.parakeet_config import SUBSAMPLING_FACTOR
from .words import SAMPLE_RATE_HZ

# NeMo's streaming form of the model: 10 s before, 2 s behind what is decoded for good.
CUT_RULE = CutRule(
    grid_samples=FRAME_SAMPLES,
    right_samples=25 * FRAME_SAMPLES,
    left_samples=125 * FRAME_SAMPLES,
)
SHORTEST_SAMPLES = SAMPLE_RATE_HZ // 10  # less is padded with silence: statistics need frames
LEFT_FRAMES = 128  # an increment attends to 10 s before it
LOOK_AHEAD_FRAMES = 6  # and is encoded again until it has 480 ms behind it
MAX_PIECE_FRAMES = 125  # longer increments, as after a pause of the drafts, go in pieces of 10 s
COMMIT_BEHIND_FRAMES = 25  # a sliding window commits what has 2 s behind it: less loses words


def check_context(left_samples: int) -> None:
    """Raises RecognizerError for a context before an utterance that is no whole frames."""
    if left_samples % FRAME_SAMPLES:
        raise RecognizerError(f"a context of {left_samples} samples: no whole frames")


@dataclass(frozen=True, slots=True)
class ParakeetRules:
    """How a server runs the model, whatever computes it."""

    max_utterance_samples: int = 30 * SAMPLE_RATE_HZ  # longer speech is cut
    draft: str = "incremental"  # or "window"
    window_frames: int = 187  # of a window draft: 15 s
    left_frames: int = LEFT_FRAMES  # of an incremental one
    look_ahead_frames: int = LOOK_AHEAD_FRAMES
    hotword_weight: float = 3.0

    @property
    def max_samples(self) -> int:
        """Of one pass: a longest utterance with the context on both sides, and room to spare."""
        return self.max_utterance_samples + CUT_RULE.left_samples + 2 * CUT_RULE.right_samples

    @property
    def max_frames(self) -> int:
        """The most encoder frames, cached ones included, of one run."""
        increment = self.left_frames + MAX_PIECE_FRAMES + self.look_ahead_frames + 2
        return max(-(-self.max_samples // FRAME_SAMPLES), increment)


class Piece(NamedTuple):
    """What of an utterance's new rows is encoded at once."""

    num_rows: int
    num_commit: int  # whole frames, the first of them
    is_last: bool  # nothing is left behind it


def next_piece(next_frame: int, num_rows: int, num_certain: int, look_ahead_frames: int) -> Piece:
    """An increment from frame `next_frame` on: what has its look-ahead behind it is committed.

    Args:
        next_frame: frames committed so far.
        num_rows: of the utterance up to now.
        num_certain: of these, that no later sample can change.
    """
    first_row = SUBSAMPLING_FACTOR * next_frame
    ready = max(0, num_certain // SUBSAMPLING_FACTOR - look_ahead_frames - next_frame)
    if ready <= MAX_PIECE_FRAMES:
        return Piece(num_rows - first_row, ready, is_last=True)
    rows = SUBSAMPLING_FACTOR * (MAX_PIECE_FRAMES + look_ahead_frames)
    return Piece(rows, MAX_PIECE_FRAMES, is_last=False)


def window_commit(num_frames: int, window_frames: int) -> int:
    """Of `num_frames` encoded, how many a window commits: none while they are no more than it."""
    if num_frames <= window_frames:
        return 0
    return num_frames - min(COMMIT_BEHIND_FRAMES, window_frames // 6)


def window_start(num_committed: int, window_frames: int) -> int:
    """How far a window goes on then: two thirds of one are kept, as context."""
    return max(0, num_committed - 2 * window_frames // 3)
