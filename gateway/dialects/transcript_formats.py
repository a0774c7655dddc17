"""The finals of a file as the body of an answer: OpenAI's five formats and its event stream. Pure.

openai_http.py calls it. Word times, segments and cues are what recognition said; what Whisper says
of itself besides (see Segment) is computed where it can be and zero where it cannot.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from statistics import fmean

import msgspec

from protocol.audio import RING_RATE_HZ
from protocol.client_messages import Final
from protocol.joined_text import gap, joined
from protocol.subtitles import cues_of, render_srt, render_vtt, timed_words

from ..http import JSON_TYPE
from . import openai_http_events as wire
from .openai_http_events import Format, Granularity, TranscriptionOptions

TEXT_TYPE = "text/plain; charset=utf-8"
EVENTS_TYPE = "text/event-stream; charset=utf-8"
EVENTS_END = b"data: [DONE]\n\n"
_LEAST_CONFIDENCE = 1e-6
_SECONDS_DIGITS = 3

_encode = msgspec.json.Encoder().encode


class FileTranscript:
    """The finals of one file, in order."""

    def __init__(self) -> None:
        self._finals: list[Final] = []
        self._language: str | None = None

    def add(self, final: Final) -> str:
        """Keep a final with text; returns what it adds to `text`."""
        text = final.text.strip()
        self._language = self._language or final.language
        if not text:
            return ""
        delta = gap(self._finals[-1].text.strip(), text) + text if self._finals else text
        self._finals.append(final)
        return delta

    @property
    def text(self) -> str:
        """Everything in one line."""
        return joined(final.text.strip() for final in self._finals)

    def render(self, options: TranscriptionOptions, num_samples: int) -> tuple[str, bytes]:
        """(content type, body) of an answer about `num_samples` ring samples of audio."""
        usage = wire.Usage(seconds=_seconds(num_samples))
        if options.format is Format.JSON:
            return JSON_TYPE, _encode(wire.Transcription(text=self.text, usage=usage))
        if options.format is Format.VERBOSE_JSON:
            return JSON_TYPE, _encode(self._verbose(options, usage))
        return TEXT_TYPE, self._plain(options.format).encode()

    def done_event(self, num_samples: int) -> bytes:
        """The last events of a stream."""
        usage = wire.Usage(seconds=_seconds(num_samples))
        return stream_event(wire.TextDone(text=self.text, usage=usage)) + EVENTS_END

    def _plain(self, form: Format) -> str:
        if form is Format.TEXT:
            return f"{self.text}\n"
        cues = cues_of(timed_words(final) for final in self._finals)
        return render_srt(cues) if form is Format.SRT else render_vtt(cues)

    def _verbose(
        self, options: TranscriptionOptions, usage: wire.Usage
    ) -> wire.VerboseTranscription:
        wanted = options.granularities
        return wire.VerboseTranscription(
            task="translate" if options.translates else "transcribe",
            language=self._language or options.language or "",
            duration=usage.seconds,
            text=self.text,
            words=_words(self._finals) if Granularity.WORD in wanted else msgspec.UNSET,
            segments=self._segments(options) if Granularity.SEGMENT in wanted else msgspec.UNSET,
            usage=usage,
        )

    def _segments(self, options: TranscriptionOptions) -> tuple[wire.Segment, ...]:
        return tuple(
            wire.Segment(
                id=index,
                start=_seconds(final.start_sample),
                end=_seconds(final.end_sample),
                text=final.text.strip(),
                temperature=options.temperature,
                avg_logprob=_mean_logarithm(final),
                compression_ratio=_compression_ratio(final.text.strip()),
            )
            for index, final in enumerate(self._finals)
        )


def stream_event(event: msgspec.Struct | bytes) -> bytes:
    """One server-sent event; bytes are JSON already."""
    data = event if isinstance(event, bytes) else _encode(event)
    return b"data: " + data + b"\n\n"


def _seconds(samples: int) -> float:
    return round(samples / RING_RATE_HZ, _SECONDS_DIGITS)


def _words(finals: Sequence[Final]) -> tuple[wire.WordItem, ...]:
    """Of finals whose engine gave no words, their text spread over their time."""
    return tuple(
        wire.WordItem(
            word=word.text.strip(),
            start=round(word.start_s, _SECONDS_DIGITS),
            end=round(word.end_s, _SECONDS_DIGITS),
        )
        for final in finals
        for word in timed_words(final)
    )


def _mean_logarithm(final: Final) -> float:
    """Whisper's is over tokens; this is over words, and 0 where their confidence is unknown."""
    if not final.words:
        return 0.0
    mean = fmean(math.log(max(word.confidence, _LEAST_CONFIDENCE)) for word in final.words)
    return round(mean, 4)


def _compression_ratio(text: str) -> float:
    """As Whisper has it: a high one tells of a text that repeats itself."""
    data = text.encode()
    return round(len(data) / len(zlib.compress(data)), 4)
