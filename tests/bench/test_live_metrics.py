"""bench/live_metrics.py on streams written down by hand: 20 ms chunks, times in milliseconds."""

from __future__ import annotations

import pytest

from bench.live_log import Shown, StreamLog
from bench.live_metrics import Measures, dropped_samples
from bench.pacing import Schedule
from bench.speech_edges import Interval
from protocol.client_messages import Closed, Stages, Word

MS = 1_000_000
BEGIN_NS = 1_000 * MS


def at(ms: float) -> int:
    """A time of the run."""
    return BEGIN_NS + round(ms * MS)


def samples(ms: int) -> int:
    return ms * 16


def shown(
    ms: float, text: str, *, final: bool = False, utterance: int = 0, **kwargs: object
) -> Shown:
    words = tuple(
        Word(word, samples(start), samples(end), 1.0)
        for word, start, end in kwargs.pop("words", ())  # type: ignore[attr-defined]
    )
    span = kwargs.pop("span", (400, 2_000))
    start, end = (samples(x) for x in span)  # type: ignore[attr-defined]
    return Shown(at(ms), utterance, text, final, start, end, words, **kwargs)  # type: ignore[arg-type]


def log_of(*events: Shown) -> StreamLog:
    return StreamLog(Schedule(BEGIN_NS, 320, samples(4_000)), list(events))


SPEECH = [Interval(samples(500), samples(1_500))]
WORDS = (("hello", 500, 900), ("world", 1_000, 1_500))


def measured(log: StreamLog, speech: list[Interval] = SPEECH) -> Measures:
    measures = Measures()
    measures.add(log, speech)
    return measures


def test_latencies_count_from_scheduled_times() -> None:
    measures = measured(
        log_of(
            shown(1_020, "hello"),
            shown(1_620, "hello world"),
            shown(2_100, "Hello, world.", final=True, words=WORDS),
        )
    )
    assert measures.ttft == [500.0]  # the chunk with the onset at 500 ms is due at 520 ms
    assert measures.ttft_utterance == [500.0]
    assert measures.emission == [120.0, 120.0]
    assert (measures.final_words, measures.words_without_times) == (2, 0)
    assert measures.ttfs == [600.0]
    assert measures.partials_per_utterance == [2]
    assert measures.early_texts == 0


def test_text_before_speech_is_an_error_and_no_latency() -> None:
    measures = measured(log_of(shown(300, "thank you")))
    assert measures.early_texts == 1
    assert measures.ttft == []


def test_empty_partials_show_nothing() -> None:
    measures = measured(log_of(shown(300, "  "), shown(1_020, "hello")))
    assert measures.ttft == [500.0]
    assert measures.early_texts == 0


def test_utterances_cut_in_speech_have_no_edge_there() -> None:
    speech = [Interval(samples(500), samples(3_500))]
    first = shown(2_500, "hello", final=True, span=(400, 2_000))
    second = shown(4_200, "world", final=True, span=(2_000, 3_900), utterance=1)
    measures = measured(log_of(first, second), speech)
    assert len(measures.ttft_utterance) == 1
    assert measures.ttfs == [700.0]
    assert measures.cut_utterances == 2


def test_text_where_nobody_speaks_is_counted() -> None:
    measures = measured(log_of(shown(3_500, "bye", final=True, span=(2_500, 3_000))))
    assert measures.silent_finals == 1
    assert measures.ttfs == []


def test_revisions_and_the_answer_to_finalize() -> None:
    log = log_of(shown(2_000, "hello", final=True, revised=True, finalize_id=1))
    log.finalize_ns, log.answer_ns = at(1_900), at(2_000)
    measures = measured(log)
    assert (measures.finals, measures.revised, measures.revised_rate) == (1, 1, 1.0)
    assert measures.finalize == [100.0]


def test_stages_add_up_to_the_way_of_a_result() -> None:
    stages = Stages(at(1_000), at(1_001), at(1_010), at(1_050), at(1_052))
    measures = measured(log_of(shown(1_055, "hello", stages=stages)))
    assert measures.partial_stages == {
        "receive_to_batch": [10.0],
        "batch_to_device": [40.0],
        "device_to_send": [2.0],
        "send_to_client": [3.0],
    }
    assert measures.final_stages == {}


def test_unstamped_stages_are_left_out() -> None:
    assert measured(log_of(shown(1_055, "hello", stages=Stages()))).partial_stages == {}


def test_words_of_a_dialect_without_times_are_emitted_by_those_of_another_hearing() -> None:
    log = log_of(shown(1_020, "hello"), shown(2_100, "Hello, big world.", final=True))
    heard = [Word(word, samples(start), samples(end), 1.0) for word, start, end in WORDS]
    with_times, without = Measures(), Measures()
    with_times.add(log, SPEECH, heard)
    without.add(log, SPEECH)
    assert with_times.emission == [120.0, 600.0]
    assert (with_times.final_words, with_times.words_without_times) == (3, 1)
    assert without.emission == []
    assert (without.final_words, without.words_without_times) == (3, 3)


def test_another_hearing_replaces_a_finals_own_times() -> None:
    log = log_of(shown(2_100, "hello world", final=True, words=WORDS))
    measures = Measures()
    measures.add(log, SPEECH, [Word("hello", samples(500), samples(1_000), 1.0)])
    assert measures.emission == [1_100.0]
    assert measures.words_without_times == 1


@pytest.mark.parametrize(
    ("ring", "engine", "lost", "expected"),
    [(64_000, 64_000, 0, 0), (63_000, 63_000, 0, -1), (63_000, 63_000, 1_000, 1_000),
     (64_000, 63_999, 0, -1)],
)  # fmt: skip
def test_dropped_samples_compare_three_counts(
    ring: int, engine: int, lost: int, expected: int
) -> None:
    log = log_of()
    log.closed = Closed(
        reason="client", client_samples=64_000, socket_samples=64_000, ring_samples=ring,
        engine_samples=engine, lost_samples=lost,
    )  # fmt: skip
    assert dropped_samples(log) == expected


def test_no_close_record_is_not_zero_loss() -> None:
    assert dropped_samples(log_of()) is None
