"""Token: one thing that a transducer said, and where it said it.

Pure data. tdt.py makes tokens, token_words.py turns them into words. Frames are encoder frames of
80 ms; what frame 0 is, the caller of the decoder decides.
"""

from __future__ import annotations

import msgspec

FRAME_SAMPLES = 1280  # 16 kHz samples of one encoder frame: 8 mel frames of 160


class Token(msgspec.Struct, frozen=True, gc=False):
    """One piece of the vocabulary, never the blank. Thousands a second are made."""

    id: int
    frame: int  # the encoder frame at which it was said
    duration: int  # encoder frames that the decoder went on by, 0 too
    confidence: float  # 0..1, its probability among all tokens and the blank, without hotwords
