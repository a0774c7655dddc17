"""A stream as its Open message asks for it, over the server's settings. Pure.

The service calls it, finds a seat for the stream and restores its checkpoint if it has one.
"""

from __future__ import annotations

from protocol.service_messages import Open

from .config import ServiceConfig
from .session_vad import vad_options
from .speech_events import SAMPLES_PER_MS, CutRule, VadOptions
from .stream import Stream
from .transcript import Transcript


def default_vad(config: ServiceConfig) -> VadOptions:
    """What holds for sessions that ask for nothing."""
    return VadOptions(enabled=config.vad, max_utterance_ms=config.max_utterance_ms)


def new_stream(message: Open, config: ServiceConfig, cut_rule: CutRule, model: str = "") -> Stream:
    """A stream at its beginning, for this model."""
    defaults = default_vad(config)
    return Stream(
        message.slot,
        message.generation,
        vad_options(message.vad, defaults),
        message.partials,
        (message.hop_ms or config.hop_ms) * SAMPLES_PER_MS,
        cut_rule,
        message.tokens,
        defaults,
        alone=message.alone,
        group=message.group,
        model=model,
        transcript=Transcript(config.guard_ms * SAMPLES_PER_MS),
    )
