"""History and Suspicion: what is told again, what is not said twice, and who is to blame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client_events import client_event
from gateway.recovery import (
    MAX_CONTROLS,
    MAX_SILENT_DEATHS,
    MAX_STRIKES,
    History,
    Suspicion,
    _continued,
)
from gateway.recovery import SILENCE_NS as LONG_NS
from gateway.stream import Stream
from protocol import service_messages as service
from protocol.client_messages import Final, Hello, Partial, VadOptions
from protocol.service_messages import Checkpoint, Close, Configure, Finalize

KEY = (3, 7)
VAD, OTHER = VadOptions(), VadOptions(threshold=0.9)


def checkpoint(sample: int = 0, controls: int = 0) -> Checkpoint:
    return Checkpoint(*KEY, 4, sample, b"state", controls)


def tile(start: int, end: int, text: str = "text", **more: object) -> service.Final:
    return service.Final(*KEY, end, start // 100, start, end, text, **more)  # type: ignore[arg-type]


def answer(finalize_id: int, at: int = 0) -> service.Final:
    return service.Final(*KEY, at, 0, at, at, "", finalize_id=finalize_id)


def partial(utterance: int, stable: str, volatile: str = "") -> service.Partial:
    return service.Partial(*KEY, 0, utterance, 0, 1, stable, volatile)


def passed(history: History, *messages: service.Final | service.Partial) -> list[object]:
    return [new for message in messages if (new := history.sift(message)) is not None]


# What the next service is told


def test_a_stream_without_a_checkpoint_begins_at_its_beginning() -> None:
    history = History(VAD)
    assert (history.start_sample, history.state, history.controls) == (0, b"", ())


def test_controls_are_kept_until_a_checkpoint_covers_them() -> None:
    history = History(VAD)
    controls = [Finalize(*KEY, 1, 10), Configure(*KEY, 20, OTHER), Finalize(*KEY, 1, 30)]
    for control in controls:
        history.remember(control)
    history.commit(checkpoint(5, controls=0))
    assert (history.start_sample, history.state) == (5, b"state")
    assert history.controls == tuple(controls)
    history.commit(checkpoint(9, controls=1))
    assert history.controls == tuple(controls[1:])
    assert history.vad is VAD
    history.commit(checkpoint(20, controls=3))
    assert history.controls == ()
    assert history.vad is OTHER, "what holds at the checkpoint"
    history.remember(Close(*KEY, 40))
    history.commit(checkpoint(40, controls=99))
    assert history.controls == ()


def test_the_log_of_controls_is_bounded() -> None:
    history = History(VAD)
    for number in range(MAX_CONTROLS):
        assert not history.is_full
        history.remember(Finalize(*KEY, number, 0))
    assert history.is_full
    history.commit(checkpoint(controls=1))
    assert not history.is_full


# What the client is told


def test_finals_and_silence_come_once() -> None:
    history = History(VAD)
    said = [tile(0, 100), service.NonSpeech(*KEY, 100, 100, 200), tile(200, 300)]
    assert [history.sift(m) for m in said] == said
    history.begin_again()
    assert [history.sift(m) for m in said] == [None] * 3
    assert history.sift(tile(300, 400)) is not None
    assert history.differences == 0


def test_a_repetition_that_differs_is_counted() -> None:
    history = History(VAD)
    passed(history, tile(0, 100), tile(100, 200))
    history.begin_again()
    assert passed(history, tile(0, 100, "other"), tile(100, 200)) == []
    assert history.differences == 1


@pytest.mark.parametrize("changes", [{"finalize_id": 5}, {"utterance": 9}, {"words": ()}])
def test_what_must_be_repeated(changes: dict[str, object]) -> None:
    words = (service.Word("a", 0, 1, 0.5),)
    fields = {"audio_decoded": 1, "utterance": 0, "words": words, "finalize_id": 4}
    first = {"slot": 3, "generation": 7, "start_sample": 0, "end_sample": 9, "text": "a"}
    history = History(VAD)
    history.sift(service.Final(**{**first, **fields}))  # type: ignore[arg-type]
    for again, differences in (({"revised": True, "audio_decoded": 5}, 0), (changes, 1)):
        history.begin_again()
        assert history.sift(service.Final(**{**first, **fields, **again})) is None  # type: ignore[arg-type]
        assert history.differences == differences


def test_what_reaches_behind_the_known_is_said_rather_than_lost() -> None:
    """No service should do that: it is counted."""
    history = History(VAD)
    passed(history, tile(0, 100))
    history.begin_again()
    assert passed(history, tile(50, 150)) == [tile(50, 150)]
    assert history.differences == 1


def test_a_service_behind_the_one_before_it_covers_a_part() -> None:
    history = History(VAD)
    first, second = tile(0, 100), tile(100, 200)
    passed(history, first, second)
    history.begin_again()
    passed(history, first)
    history.commit(checkpoint(100))
    passed(history, second)
    assert history.differences == 0
    history.begin_again()  # at 100
    assert passed(history, second) == []
    assert history.differences == 0


def test_a_checkpoint_before_any_repetition_covers_nothing_of_them() -> None:
    history = History(VAD)
    history.commit(checkpoint(0))
    passed(history, tile(0, 100))
    history.begin_again()
    history.commit(checkpoint(0, controls=0))
    assert passed(history, tile(0, 100)) == []
    assert history.differences == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda n: service.SpeechStarted(*KEY, 0, n, 5),
        lambda n: service.SpeechStopped(*KEY, 0, n, 9),
        lambda n: service.EndOfTurn(*KEY, 0, n, 9),
    ],
)
def test_speech_events_come_once(make: object) -> None:
    history = History(VAD)
    events = [make(n) for n in (0, 1)]  # type: ignore[operator]
    assert [history.sift(e) for e in events] == events
    history.begin_again()
    assert [history.sift(e) for e in events] == [None, None]
    assert history.sift(make(2)) is not None  # type: ignore[operator]


def test_finalizes_are_answered_once_though_an_id_comes_twice() -> None:
    history = History(VAD)
    assert len(passed(history, answer(5))) == 1
    history.commit(checkpoint(controls=1))
    assert len(passed(history, answer(5), answer(6))) == 2
    history.begin_again()
    assert passed(history, answer(5), answer(6)) == []
    assert len(passed(history, answer(6))) == 1
    history.begin_again()
    assert passed(history, answer(5), answer(6), answer(6)) == []


def test_an_answer_with_words_is_a_tile_and_an_answer() -> None:
    history = History(VAD)
    final = tile(0, 100, finalize_id=5)
    assert passed(history, final, answer(6, 100)) == [final, answer(6, 100)]
    history.begin_again()
    assert passed(history, final, answer(6, 100)) == []
    assert len(passed(history, answer(6, 100))) == 1


# Drafts


def test_drafts_of_a_finished_utterance_are_dropped() -> None:
    history = History(VAD)
    passed(history, partial(0, "a"), tile(0, 100))
    assert passed(history, partial(0, "a b")) == []
    assert passed(history, partial(1, "c")) == [partial(1, "c")]


def test_stable_text_only_grows_over_a_death() -> None:
    history = History(VAD)
    passed(history, partial(0, "one two", "three"))
    history.begin_again()
    assert passed(history, partial(0, "one", "")) == [], "it knows less yet"
    assert passed(history, partial(0, "one", "tworoads")) == []
    assert passed(history, partial(0, "one", "two")) == [partial(0, "one two", "")]
    assert passed(history, partial(0, "", "one two more")) == [partial(0, "one two", "more")]
    assert passed(history, partial(0, "other", "text")) == []
    longer = partial(0, "one two more", "text")
    assert passed(history, longer) == [longer]
    history.begin_again()
    assert passed(history, partial(0, "one two", "")) == []


def test_a_final_that_takes_back_what_another_service_showed_says_so() -> None:
    history = History(VAD)
    passed(history, partial(0, "one"))
    history.begin_again()
    kept = tile(0, 100, "one two")
    assert history.sift(kept) is kept
    history = History(VAD)
    passed(history, partial(0, "one"))
    history.begin_again()
    (final,) = passed(history, tile(0, 100, "won"))
    assert isinstance(final, service.Final)
    assert final.revised


# Suspicion


def test_a_stream_that_every_service_dies_in_is_hopeless() -> None:
    suspicion, count = Suspicion(), 0
    for death in range(MAX_STRIKES):
        assert suspicion.is_suspect == (death > 0)
        assert not suspicion.is_hopeless
        suspicion.opened(count, 0)
        count += count & 1  # as the service does
        suspicion.was_heard_of = True
        count += 1  # a step begins
        suspicion.service_died(count, 1)
    assert suspicion.is_hopeless


def test_a_step_that_succeeds_clears_a_stream() -> None:
    suspicion = Suspicion()
    suspicion.opened(0, 0)
    suspicion.service_died(1, 1)
    assert suspicion.strikes == 1
    suspicion.opened(1, 0)
    suspicion.service_died(4, 1)  # even: one step done since
    assert suspicion.strikes == 0
    suspicion.opened(4, 0)
    suspicion.service_died(7, 1)  # one done, one running
    assert suspicion.strikes == 1


def test_a_service_that_dies_before_it_opens_a_stream_is_no_strike() -> None:
    suspicion = Suspicion()
    suspicion.opened(1, 0)
    suspicion.service_died(1, 1)
    assert (suspicion.strikes, suspicion.silent_deaths) == (0, 1)


def test_deaths_without_a_word_are_bounded() -> None:
    suspicion = Suspicion()
    for _ in range(MAX_SILENT_DEATHS - 1):
        suspicion.opened(0, 0)
        suspicion.service_died(0, 1)
        assert not suspicion.is_hopeless
    suspicion.opened(0, 0)
    suspicion.service_died(0, 1)
    assert suspicion.is_hopeless


@pytest.mark.parametrize("lived_ns", [1, LONG_NS])
def test_a_word_or_a_long_life_is_no_silence(lived_ns: int) -> None:
    suspicion = Suspicion(silent_deaths=5)
    suspicion.opened(0, 0)
    suspicion.was_heard_of = lived_ns < LONG_NS
    suspicion.service_died(0, lived_ns)
    assert suspicion.silent_deaths == 0


# What the next worker is told


def client_said(message: service.Final | service.NonSpeech | service.SpeechStarted) -> Final:
    """The event that the client gets of it."""
    stream = Stream("s", Hello(), None, None)  # type: ignore[arg-type]
    return client_event(message, stream, lambda ns: 0, 0)  # type: ignore[return-value]


def restored(history: History) -> History:
    return History.restore(history.save(), history.controls)


happenings = st.lists(
    st.one_of(
        st.builds(lambda n, text: tile(100 * n, 100 * n + 100, text), st.integers(0, 5),
                  st.sampled_from("ab")),
        st.builds(answer, st.integers(0, 2), st.integers(0, 600)),
        st.builds(lambda n: tile(100 * n, 100 * n + 100, "c", finalize_id=1), st.integers(0, 5)),
        st.builds(lambda n: service.NonSpeech(*KEY, 0, 100 * n, 100 * n + 100), st.integers(0, 5)),
        st.builds(lambda n: service.SpeechStarted(*KEY, 0, n, 0), st.integers(0, 5)),
        st.builds(lambda n: service.SpeechStopped(*KEY, 0, n, 0), st.integers(0, 5)),
        st.builds(lambda n: service.EndOfTurn(*KEY, 0, n, 0), st.integers(0, 5)),
        st.builds(partial, st.integers(0, 5), st.sampled_from(("", "a", "a b"))),
        st.builds(checkpoint, st.integers(0, 600), st.integers(0, 4)),
        st.builds(lambda n: Finalize(*KEY, n, 0), st.integers(0, 5)),
        st.just("a service begins"),
    ),
    max_size=40,
)  # fmt: skip


@given(before=happenings, since=happenings)
def test_a_history_is_what_was_saved_and_what_happened_since(
    before: list[object], since: list[object]
) -> None:
    """Whatever a service says, in whatever order, and however often one begins again."""
    history = History(VAD)
    for what in before:
        happen(history, what)
    copy = restored(history)
    assert copy.save() == history.save()
    for what in since:
        heard = happen(history, what)
        if isinstance(what, Finalize):
            copy.remember(what)
        elif isinstance(what, Checkpoint):
            copy.commit_again(what, *history.at_checkpoint)
        elif isinstance(heard, service.Partial):
            copy.saw(*history.shown)
        elif heard is not None:
            copy.heard(client_said(heard), history.num_answers)  # type: ignore[arg-type]
    assert copy.save() == history.save()
    assert copy.controls == history.controls
    history.begin_again()
    copy.begin_again()
    for number in range(6):
        message = tile(100 * number, 100 * number + 100, "c", finalize_id=1)
        assert copy.sift(message) == history.sift(message)
    assert copy.save() == history.save()


def happen(history: History, what: object) -> object:
    """What of it the client hears."""
    if isinstance(what, Finalize):
        history.remember(what)
    elif isinstance(what, Checkpoint):
        history.commit(what)
    elif isinstance(what, str):
        history.begin_again()
    else:
        return history.sift(what)  # type: ignore[arg-type]
    return None


def test_a_repetition_at_the_next_worker_is_compared_as_well() -> None:
    words = (service.Word("a", 0, 1, 0.5),)
    history = History(VAD)
    message = tile(0, 100, "a", words=words)
    history.heard(client_said(message), 0)
    copy = restored(history)
    copy.begin_again()
    assert copy.sift(message) is None
    assert copy.differences == 0
    other = restored(history)
    other.begin_again()
    assert other.sift(tile(0, 100, "a")) is None
    assert other.differences == 1


@pytest.mark.parametrize(
    ("stable", "volatile", "shown", "left"),
    [
        ("It was", "the best", "It was", "the best"),
        ("It", "was the best", "It was", "the best"),
        ("It", "was", "It was", ""),
        ("It", "was the best", "It wa", None),
        ("It is", "the best", "It was", None),
        ("我们", "去北京", "我们去", "北京"),
        ("", "Python 写字", "Python", "写字"),
        ("", "我们去", "我们去了", None),
    ],
)
def test_a_draft_keeps_the_stable_text_that_was_shown(
    stable: str, volatile: str, shown: str, left: str | None
) -> None:
    draft = service.Partial(0, 0, 0, 0, 0, 1, stable, volatile)
    kept = _continued(draft, shown)
    if left is None:
        assert kept is None
    else:
        assert kept is not None
        assert kept.stable.startswith(shown)
        said = "".join((stable, volatile)).replace(" ", "")
        assert "".join((kept.stable, kept.volatile)).replace(" ", "") == said
        assert kept.volatile == left


def test_drafts_and_answers_without_audio_tile_nothing() -> None:
    history = History(VAD)
    before = history.save()
    draft = Partial(
        audio_received=1, audio_decoded=1, utterance=3, start_sample=0, end_sample=1, stable="",
        volatile="",
    )  # fmt: skip
    history.heard(draft, 0)
    history.heard(client_said(answer(1)), 0)
    assert history.save() == before
