"""The result of one stream: finals collected, and rendered as text, JSON, SRT or WebVTT. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.audio import RING_RATE_HZ
from protocol.client_messages import Closed, Final, ServerMessage, Started, Word
from protocol.joined_text import joined
from protocol.subtitles import Cue, cues_of, render_srt, render_vtt, timed_words

SUFFIXES = {"txt": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}


def _seconds(samples: int) -> float:
    return round(samples / RING_RATE_HZ, 3)


class Transcript:
    """Feed it every event of a session."""

    def __init__(self) -> None:
        self.finals: list[Final] = []
        self.started: Started | None = None
        self.closed: Closed | None = None

    def add(self, event: ServerMessage) -> None:
        """Keep what the result needs."""
        if isinstance(event, Final):
            self.finals.append(event)
        elif isinstance(event, Started):
            self.started = event
        elif isinstance(event, Closed):
            self.closed = event

    def render(self, form: str, file: str | None = None) -> str:
        """`form` is a key of SUFFIXES; ends with a newline unless empty."""
        if form == "json":
            fields = {"file": file, **self.as_fields()} if file else self.as_fields()
            return msgspec.json.format(msgspec.json.encode(fields)).decode() + "\n"
        if form == "srt":
            return render_srt(self.cues())
        if form == "vtt":
            return render_vtt(self.cues())
        return "".join(f"{f.text.strip()}\n" for f in self.finals if f.text.strip())

    @property
    def text(self) -> str:
        """All finals in one line."""
        return joined(f.text.strip() for f in self.finals)

    def cues(self) -> list[Cue]:
        """Subtitles of all finals."""
        return cues_of(timed_words(final) for final in self.finals)

    def as_fields(self) -> dict[str, Any]:
        """What --json prints: seconds, and the close record's counts in 16 kHz samples."""
        fields: dict[str, Any] = {"text": self.text}
        if self.started is not None:
            fields["model"] = self.started.model
        if self.finals and self.finals[0].language:
            fields["language"] = self.finals[0].language
        if self.closed is not None:
            fields["duration"] = _seconds(self.closed.ring_samples)
        fields["segments"] = [_segment(f) for f in self.finals if f.text.strip()]
        if self.closed is not None:
            fields["close_record"] = msgspec.to_builtins(
                {name: getattr(self.closed, name) for name in self.closed.__struct_fields__}
            )
        return fields


def _segment(final: Final) -> dict[str, Any]:
    fields = {
        "start": _seconds(final.start_sample),
        "end": _seconds(final.end_sample),
        "text": final.text.strip(),
        "words": [_word(w) for w in final.words],
    }
    if final.tokens:  # a transducer's: encoder frames of 80 ms from the segment's start
        fields["tokens"] = [token.id for token in final.tokens]
        fields["frames"] = [token.frame for token in final.tokens]
        fields["durations"] = [token.duration for token in final.tokens]
    return fields


def _word(word: Word) -> dict[str, Any]:
    return {
        "word": word.text.strip(),
        "start": _seconds(word.start_sample),
        "end": _seconds(word.end_sample),
        "confidence": round(word.confidence, 4),
    }
