"""One session's voice activity options: what its client asked for, over the server's defaults.

Pure. Clients may ask for combinations that contradict each other; they get the nearest one that
works rather than a refusal, because the values come from other vendors' defaults.
"""

from __future__ import annotations

from protocol.client_messages import VadOptions as AskedVadOptions

from .speech_events import VadOptions


def vad_options(asked: AskedVadOptions, default: VadOptions) -> VadOptions:
    """A session's options over the server's defaults, made consistent rather than refused.

    Padding longer than the silence that ends an utterance is cut to it; a maximum too short for
    the other two grows. The server's maximum holds for all: the ring is made for it. Nobody
    hears of turns who did not ask.
    """

    def pick(value: int | float | None, otherwise: int | float) -> int | float:
        return otherwise if value is None else value

    min_silence_ms = int(pick(asked.min_silence_ms, default.min_silence_ms))
    min_speech_ms = int(pick(asked.min_speech_ms, default.min_speech_ms))
    half = default.max_utterance_ms // 2
    min_speech_ms = min(min_speech_ms, 4_000, half // 4)
    min_silence_ms = min(min_silence_ms, 10_000, half - min_speech_ms)
    longest = min(
        int(pick(asked.max_utterance_ms, default.max_utterance_ms)), default.max_utterance_ms
    )
    return VadOptions(
        enabled=asked.enabled and default.enabled,
        threshold=max(0.01, float(pick(asked.threshold, default.threshold))),
        min_speech_ms=min_speech_ms,
        min_silence_ms=min_silence_ms,
        speech_pad_ms=min(int(pick(asked.speech_pad_ms, default.speech_pad_ms)), min_silence_ms),
        max_utterance_ms=max(longest, 2 * (min_silence_ms + min_speech_ms)),
        end_of_turn_ms=asked.end_of_turn_ms,
    )
