"""Captions: the state, and what a pipe and a terminal get."""

from __future__ import annotations

import io

from rich.console import Console

from clients.captions import Captions, CaptionView
from protocol.client_messages import EndOfTurn, Overflow, Partial, ServerMessage

from .server import STARTED
from .test_blocking import COUNTS, final


def draft(stable: str, volatile: str = "") -> Partial:
    return Partial(
        utterance=0, start_sample=0, end_sample=1, stable=stable, volatile=volatile, **COUNTS
    )


def shown(events: list[ServerMessage], terminal: bool = False) -> str:
    out = io.StringIO()
    with CaptionView(Console(file=out, force_terminal=terminal, width=40)) as view:
        for event in events:
            view.show(event)
    return out.getvalue()


def test_stable_text_is_normal_and_volatile_text_dim() -> None:
    captions = Captions()
    assert captions.add(draft("Hello", "wor")) is None
    text = captions.renderable()
    assert text.plain == captions.open_text == "Hello wor"
    assert [(span.start, span.style) for span in text.spans] == [(6, "dim")]


def test_texts_that_bring_their_own_space() -> None:
    captions = Captions()
    captions.add(draft("Hello ", "wor"))
    assert captions.open_text == "Hello wor"
    captions.add(draft("Hello", " wor"))
    assert captions.open_text == "Hello wor"
    captions.add(draft("", "wor"))
    assert captions.open_text == "wor"


def test_only_partials_that_change_something_count() -> None:
    captions = Captions()
    for event in (draft(""), draft("a"), draft("a"), draft("a", "b"), STARTED):
        captions.add(event)
    assert captions.num_partials == 2


def test_a_final_ends_the_open_text() -> None:
    captions = Captions()
    captions.add(draft("Helo"))
    assert captions.add(final(" Hello. ")) == "Hello."
    assert captions.open_text == ""
    assert captions.add(final("")) is None


def test_lost_audio_is_said() -> None:
    lost = Overflow(first_client_sample=0, num_client_samples=320, **COUNTS)
    assert "320 samples lost" in str(Captions().add(lost))


def test_a_pipe_gets_whole_lines_and_no_repetitions() -> None:
    long = "word " * 30
    events = [
        draft("a"),
        draft("a"),
        draft("", "a"),
        draft("a", "b"),
        final("[b]A b."),
        draft(long),
    ]
    assert shown(events) == f"~ a\n~ a b\n[b]A b.\n~ {long.strip()}\n"


def test_a_terminal_gets_finals_for_good_and_the_open_text_live() -> None:
    text = shown([draft("Hel", "lo"), final("Hello.")], terminal=True)
    assert "Hel" in text
    assert "\x1b[2mlo" in text
    assert "Hello.\n" in text


def test_a_turns_end_leaves_a_line_free() -> None:
    ended = EndOfTurn(utterance=0, end_sample=1, **COUNTS)
    assert shown([final("one"), final("two"), ended, final("three")]) == "one\ntwo\n\nthree\n"
