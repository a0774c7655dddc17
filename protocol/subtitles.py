"""Finals to subtitle cues, and cues to SRT and WebVTT. Pure.

Both ends write subtitles, and the same ones: clients of what they heard, the gateway as an answer.
A cue is at most two lines of 42 characters, the usual broadcast limit, and is cut where a reader
would cut it: at the end of a sentence, else at a comma, else at the last word that fits; a word
longer than a line, such as a text of a language without spaces, may be cut within. A cue is
shown at least MIN_CUE_S where the next one leaves room, and cues never overlap.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from .audio import RING_RATE_HZ
from .client_messages import Final
from .joined_text import gap

MAX_LINE_CHARS = 42
MAX_LINES = 2
MAX_CUE_S = 7.0
MIN_CUE_S = 1.0
# A silence this long inside one final is a place to take the text away.
MAX_PAUSE_S = 1.5
_SENTENCE_END = (".", "!", "?", "…")
_CLAUSE_END = (",", ";", ":", "-")
# A cue is cut at a sentence or clause only when this much of it is used.
_MIN_FILL = 0.5
# Where a word longer than a line may be cut: a line is six pieces, about as many as it has words.
_PIECE_CHARS = MAX_LINE_CHARS // 6


@dataclass(frozen=True, slots=True)
class TimedWord:
    """One word and its place, in seconds."""

    text: str
    start_s: float
    end_s: float
    continues: bool = False  # the word before it: no space between them


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle."""

    start_s: float
    end_s: float
    text: str


def cues_of(segments: Iterable[Sequence[TimedWord]]) -> list[Cue]:
    """The cues of all segments; a cue never spans two segments."""
    cues = []
    for words in segments:
        rest = [piece for word in words for piece in _pieces(word)]
        while rest:
            count = _cut(rest)
            cues.append(_cue(rest[:count]))
            rest = rest[count:]
    return _stretch(cues)


def timed_words(final: Final) -> list[TimedWord]:
    """The words of one final: a segment for `cues_of`."""
    start_s, end_s = final.start_sample / RING_RATE_HZ, final.end_sample / RING_RATE_HZ
    if not final.words:
        return spread_words(final.text, start_s, end_s)
    return [
        TimedWord(w.text, w.start_sample / RING_RATE_HZ, w.end_sample / RING_RATE_HZ)
        for w in final.words
    ]


def spread_words(text: str, start_s: float, end_s: float) -> list[TimedWord]:
    """Words without times, spread over [start, end) by their length."""
    words = text.split()
    total = sum(len(w) + 1 for w in words)
    timed, position = [], 0
    for word in words:
        begin = start_s + (end_s - start_s) * position / total
        position += len(word) + 1
        timed.append(TimedWord(word, begin, start_s + (end_s - start_s) * position / total))
    return timed


def _pieces(word: TimedWord) -> list[TimedWord]:
    """The word, if it says anything; one longer than a line in pieces, timed by length."""
    text = word.text.strip()
    if len(text) <= MAX_LINE_CHARS:
        return [replace(word, text=text)] if text else []
    pieces, start_s, duration_s = [], word.start_s, word.end_s - word.start_s
    for position in range(0, len(text), _PIECE_CHARS):
        piece = text[position : position + _PIECE_CHARS]
        end_s = word.start_s + duration_s * (position + len(piece)) / len(text)
        pieces.append(TimedWord(piece, start_s, end_s, continues=position > 0))
        start_s = end_s
    return pieces


def _text(words: Sequence[TimedWord]) -> str:
    text = ""
    for word in words:
        text += ("" if word.continues else gap(text, word.text)) + word.text
    return text.strip()


def _full_lines(text: str) -> list[str]:
    return textwrap.wrap(text, MAX_LINE_CHARS, break_long_words=True, break_on_hyphens=False)


def _lines(words: Sequence[TimedWord]) -> list[str]:
    """As many as the full ones, which is what `_fits` counts."""
    text = _text(words)
    lines = _full_lines(text)
    if len(lines) != MAX_LINES:
        return lines
    # Two lines of like length read better than a full one and a single word.
    for width in range(len(text) // 2, MAX_LINE_CHARS):
        narrow = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        if len(narrow) == MAX_LINES and max(map(len, narrow)) <= MAX_LINE_CHARS:
            return narrow
    return lines


def _fits(words: Sequence[TimedWord]) -> bool:
    is_short = words[-1].end_s - words[0].start_s <= MAX_CUE_S
    return is_short and len(_full_lines(_text(words))) <= MAX_LINES


def _cut(words: Sequence[TimedWord]) -> int:
    """How many words the next cue takes: at least one."""
    fitting = 1
    while fitting < len(words):
        pause_s = words[fitting].start_s - words[fitting - 1].end_s
        if pause_s > MAX_PAUSE_S:
            return fitting
        if not _fits(words[: fitting + 1]):
            break
        fitting += 1
    if fitting == len(words):
        return fitting
    for ends in (_SENTENCE_END, _CLAUSE_END):
        for count in range(fitting, max(1, int(fitting * _MIN_FILL)) - 1, -1):
            if words[count - 1].text.rstrip("\"')]").endswith(ends):
                return count
    return fitting


def _cue(words: Sequence[TimedWord]) -> Cue:
    return Cue(words[0].start_s, words[-1].end_s, "\n".join(_lines(words)))


def _stretch(cues: list[Cue]) -> list[Cue]:
    """Give short cues time from the gap after them, and end each before the next begins."""
    stretched = []
    for i, cue in enumerate(cues):
        end_s = max(cue.end_s, cue.start_s + MIN_CUE_S)
        if i + 1 < len(cues):
            end_s = min(end_s, max(cues[i + 1].start_s, cue.start_s))
        stretched.append(replace(cue, end_s=end_s))
    return stretched


def _timestamp(seconds: float, separator: str) -> str:
    ms = round(max(0.0, seconds) * 1000)
    whole_s, ms = divmod(ms, 1000)
    minutes, s = divmod(whole_s, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{s:02d}{separator}{ms:03d}"


def render_srt(cues: Iterable[Cue]) -> str:
    """SubRip."""
    return "".join(
        f"{number}\n{_timestamp(c.start_s, ',')} --> {_timestamp(c.end_s, ',')}\n{c.text}\n\n"
        for number, c in enumerate(cues, 1)
    )


def render_vtt(cues: Iterable[Cue]) -> str:
    """WebVTT; its cue text is markup, so <, > and & are escaped."""
    return "WEBVTT\n\n" + "".join(
        f"{_timestamp(c.start_s, '.')} --> {_timestamp(c.end_s, '.')}\n"
        f"{html.escape(c.text, quote=False)}\n\n"
        for c in cues
    )
