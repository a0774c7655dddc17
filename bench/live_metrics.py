"""From what a client saw to latencies: pure. The vocabulary is the design's.

Every time in the audio is a scheduled send time (pacing.Schedule), never an actual one.

- TTFT: first speech of the stream to the first text received. Per utterance as well: the speech
  that begins an utterance to its first text. Text before speech is an error and counted apart.
- Emission: end of a word (by the final's word times, or by another hearing of the same audio:
  word_times.py) to the first text that shows it. A word that vanished and came back counts from its
  first time; one whose end is not known has none, and is counted. Engines place word ends some
  100 ms wrong.
- TTFS: end of the speech in an utterance (speech_edges) to its final.
- Finalize: the finalize at the end of the stream to its answer.

An utterance that begins or ends in the middle of speech (a cut at the maximum length) has no true
onset or end: it is left out there, and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from protocol.client_messages import Word

from .live_log import Shown, StreamLog
from .pacing import RING_RATE_HZ
from .speech_edges import Interval, inside
from .word_times import first_shown, own_words, words_heard

CUT_TOLERANCE_SAMPLES = 4_000  # speech this far over an utterance's edge was cut there
STAGE_NAMES = ("receive_to_batch", "batch_to_device", "device_to_send", "send_to_client")
_NS_PER_MS = 1e6


@dataclass(slots=True)
class Measures:
    """Latencies in milliseconds, of any number of streams."""

    ttft: list[float] = field(default_factory=list)
    ttft_utterance: list[float] = field(default_factory=list)
    emission: list[float] = field(default_factory=list)
    ttfs: list[float] = field(default_factory=list)
    finalize: list[float] = field(default_factory=list)
    partial_stages: dict[str, list[float]] = field(default_factory=dict)
    final_stages: dict[str, list[float]] = field(default_factory=dict)
    partials_per_utterance: list[float] = field(default_factory=list)
    early_texts: int = 0
    cut_utterances: int = 0
    finals: int = 0
    revised: int = 0
    revisable: int = 0  # finals that say whether they revised
    silent_finals: int = 0  # text where the audio holds no speech
    final_words: int = 0
    words_without_times: int = 0  # those of final_words that have no emission for this reason
    utterance_s: list[float] = field(default_factory=list)

    @property
    def mean_utterance_s(self) -> float | None:
        """Seconds of audio that finals with text are of."""
        lengths = self.utterance_s
        return round(sum(lengths) / len(lengths), 2) if lengths else None

    @property
    def revised_rate(self) -> float | None:
        """Share of finals that revised what had been shown as stable; None where none says."""
        return round(self.revised / self.revisable, 4) if self.revisable else None

    def merge(self, other: Measures) -> None:
        """Take the streams of another one into account."""
        for place in fields(self):
            mine, theirs = getattr(self, place.name), getattr(other, place.name)
            if isinstance(mine, dict):
                for name, values in theirs.items():
                    mine.setdefault(name, []).extend(values)
            else:
                setattr(self, place.name, mine + theirs)

    def add(
        self, log: StreamLog, speech: list[Interval], heard: Sequence[Word] | None = None
    ) -> None:
        """Take one stream into account; `speech` is what its audio holds. The times of its words
        are those of `heard` where that is given, and not the finals' own."""
        texts = [shown for shown in log.shown if shown.text.strip()]
        if texts and speech:
            first = (texts[0].received_ns - log.schedule.sent_ns(speech[0].start)) / _NS_PER_MS
            if first < 0:
                self.early_texts += 1
            else:
                self.ttft.append(first)
        for final in log.finals:
            mine = [shown for shown in texts if shown.utterance == final.utterance]
            self._add_utterance(log, final, mine, speech)
            self._add_emission(log, final, mine, heard)
        if log.finalize_ns is not None and log.answer_ns is not None:
            self.finalize.append((log.answer_ns - log.finalize_ns) / _NS_PER_MS)
        for shown in texts:
            self._add_stages(shown)

    def _add_utterance(
        self, log: StreamLog, final: Shown, mine: list[Shown], speech: list[Interval]
    ) -> None:
        self.finals += 1
        self.utterance_s.append((final.end_sample - final.start_sample) / RING_RATE_HZ)
        self.revised += final.revised is True
        self.revisable += final.revised is not None
        self.partials_per_utterance.append(sum(not shown.is_final for shown in mine))
        runs = inside(speech, final.start_sample, final.end_sample)
        if not runs:
            self.silent_finals += 1
            return
        onset, end = runs[0].start, runs[-1].end
        begins_cut = onset < final.start_sample - CUT_TOLERANCE_SAMPLES
        ends_cut = end > final.end_sample + CUT_TOLERANCE_SAMPLES
        self.cut_utterances += begins_cut or ends_cut
        if not begins_cut:
            first = (mine[0].received_ns - log.schedule.sent_ns(onset)) / _NS_PER_MS
            self.ttft_utterance.append(first)
        if not ends_cut:
            last = (final.received_ns - log.schedule.sent_ns(end - 1)) / _NS_PER_MS
            self.ttfs.append(last)

    def _add_emission(
        self, log: StreamLog, final: Shown, mine: list[Shown], heard: Sequence[Word] | None
    ) -> None:
        words = own_words(final) if heard is None else words_heard(final, heard)
        self.final_words += len(words)
        texts = [(shown.received_ns, shown.text) for shown in mine]
        seen_ns = first_shown(texts, [word.text for word in words])
        for word, received_ns in zip(words, seen_ns, strict=True):
            if word.end_sample is None:
                self.words_without_times += 1
            elif received_ns is not None:
                due_ns = log.schedule.sent_ns(word.end_sample - 1)
                self.emission.append((received_ns - due_ns) / _NS_PER_MS)

    def _add_stages(self, shown: Shown) -> None:
        stages = shown.stages
        if stages is None or 0 in (stages.receive_ns, stages.batch_start_ns, stages.send_ns):
            return
        times = (
            stages.receive_ns, stages.batch_start_ns, stages.device_done_ns, stages.send_ns,
            shown.received_ns,
        )  # fmt: skip
        into = self.final_stages if shown.is_final else self.partial_stages
        for name, begin, end in zip(STAGE_NAMES, times, times[1:], strict=False):
            into.setdefault(name, []).append((end - begin) / _NS_PER_MS)


def dropped_samples(log: StreamLog) -> int | None:
    """Samples lost between the client and engine.step; None without a close record (a dialect
    that has none). The record's own three counts are compared too: -1 when they disagree."""
    closed = log.closed
    if closed is None:
        return None
    kept = closed.socket_samples - closed.lost_samples
    if not kept == closed.ring_samples == closed.engine_samples:
        return -1
    return log.schedule.num_samples - closed.engine_samples
