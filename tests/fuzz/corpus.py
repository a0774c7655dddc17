"""Inputs worth keeping: corpus/TARGET.txt, one a line in base64.

Written by run.py, which adds what reaches code that nothing smaller reaches, and by hand for an
input that once found a defect. Read by test_targets.py and run.py.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

from .target import Target

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / name) for name in ("protocol", "gateway", "gpu_service", "clients"))
CORPUS = Path(__file__).with_name("corpus")
MAX_KEPT_BYTES = 24 * 1024  # of one target
MAX_INPUT_BYTES = 4 * 1024  # a longer one is not kept: seeds are made, not stored

Arc: TypeAlias = tuple[str, int, int]  # file, line, the line behind it


def load(name: str) -> list[bytes]:
    """What is kept of one target."""
    path = CORPUS / f"{name}.txt"
    if not path.is_file():
        return []
    return [base64.b64decode(line) for line in path.read_text().splitlines() if line]


def save(name: str, inputs: Iterable[bytes]) -> int:
    """Keep these, in their order, as far as there is room; how many that is."""
    kept: list[bytes] = []
    room = MAX_KEPT_BYTES
    for data in inputs:
        room -= len(data)
        if room < 0:
            break
        kept.append(data)
    if not kept:
        return 0
    CORPUS.mkdir(exist_ok=True)
    lines = [base64.b64encode(data).decode() for data in kept]
    (CORPUS / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return len(kept)


def keep(target: Target, inputs: Iterable[bytes]) -> int:
    """Keep what adds to the target's seeds and to what is kept already; how many these are now."""
    kept = load(target.name)
    reached: set[Arc] = set()
    for data in (*target.seeds(), *kept):
        reached |= arcs(target, data)
    for data in sorted(set(inputs) - {b"", *kept}, key=lambda data: (len(data), data)):
        if len(data) > MAX_INPUT_BYTES:
            break
        more = arcs(target, data) - reached
        if more:
            reached |= more
            kept.append(data)
    return save(target.name, kept)


def arcs(target: Target, data: bytes) -> set[Arc]:
    """Pairs of lines that followed each other in our code while the target ran."""
    found: set[Arc] = set()

    def enter(frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        file = frame.f_code.co_filename
        if not file.startswith(OURS):
            return None
        line = 0

        def step(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
            nonlocal line
            found.add((file, line, frame.f_lineno))
            line = frame.f_lineno
            return step

        return step

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        target.run(data)
    finally:
        sys.settrace(before)
    return found
