"""Shared by the scripts of voice agent frameworks: real speech at the pace of a microphone, and
what has to be true of what came back. A script prints every text, and fails by an assertion.
"""

import asyncio
import time
from dataclasses import dataclass, field

from _audio import pcm

RATE_HZ = 16_000
FRAME_SAMPLES = 320  # 20 ms
FRAME_BYTES = 2 * FRAME_SAMPLES
ANSWER_TIMEOUT_S = 30
QUIET_S = 3  # without any event behind the end of the audio, all has been said


@dataclass
class Heard:
    """What a client made of the server's answers."""

    finals: list[str] = field(default_factory=list)
    interims: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)  # errors, and warnings of a reconnect
    num_connects: int = 0
    last_event_s: float = 0.0  # of the monotonic clock

    def final(self, text):
        """A text for good."""
        self._say("FINAL", text)
        self.finals.append(text)

    def interim(self, text):
        """A text that may change."""
        self._say("interim", text)
        self.interims.append(text)

    def turn(self, name):
        """Somebody began or ceased to speak."""
        self._say("turn", name)
        self.turns.append(name)

    def trouble(self, text):
        """What may not happen."""
        self._say("TROUBLE", text)
        self.troubles.append(str(text))

    def _say(self, kind, text):
        print(kind, text, flush=True)
        self.last_event_s = time.monotonic()

    async def settle(self):
        """Wait until nothing comes any more."""
        await asyncio.sleep(QUIET_S)
        await until("quiet", lambda: time.monotonic() - self.last_event_s >= QUIET_S)

    def check(self, *, has_interims=True, has_turns=False):
        """Raise AssertionError unless everything came and nothing went wrong."""
        print("TRANSCRIPT", " ".join(self.finals), flush=True)
        assert not self.troubles, self.troubles
        assert self.num_connects <= 1, f"connected {self.num_connects} times"
        assert any(text.strip() for text in self.finals), "no final"
        assert bool(self.interims) or not has_interims, "no interim"
        assert bool(self.turns) or not has_turns, "no turn event"


def frames():
    """The audio of $WAV in whole frames."""
    data = pcm(RATE_HZ)
    end = len(data) - len(data) % FRAME_BYTES
    return [data[i : i + FRAME_BYTES] for i in range(0, end, FRAME_BYTES)]


async def paced():
    """The same, each when a microphone would have it."""
    begin_s = time.monotonic()
    for number, frame in enumerate(frames(), 1):
        await asyncio.sleep(max(0.0, begin_s + number * 0.02 - time.monotonic()))
        yield frame


async def until(what, condition):
    """Wait for a condition; the assertion names it."""
    deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: not within {ANSWER_TIMEOUT_S} s"
        await asyncio.sleep(0.02)
