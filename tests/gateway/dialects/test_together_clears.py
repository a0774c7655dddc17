"""What a clear hides: all that no commit before it asked for."""

from __future__ import annotations

from gateway.dialects.together_clears import Clears
from protocol.client_messages import Final


def final(finalize_id: int | None = None) -> Final:
    return Final(
        audio_received=9, audio_decoded=9, utterance=0, start_sample=0, end_sample=9, text="x",
        finalize_id=finalize_id,
    )  # fmt: skip


def test_without_a_clear_nothing_is_hidden() -> None:
    clears = Clears()
    assert clears.commit() == 1
    assert not clears.hides_drafts
    assert not clears.hides(final())
    assert not clears.hides(final(1))
    assert not clears.hides(final())
    assert (clears.clock_zero, clears.newest_sample) == (0, 0)


def test_a_clear_hides_what_comes_up_to_its_answer() -> None:
    clears = Clears()
    assert clears.clear(16_000) == 1
    assert clears.hides_drafts
    assert clears.hides(final())
    assert (clears.clock_zero, clears.newest_sample) == (0, 16_000)
    assert clears.hides(final(1))
    assert (clears.clock_zero, clears.newest_sample) == (16_000, 0)
    assert not clears.hides_drafts
    assert not clears.hides(final())


def test_what_a_commit_asked_for_is_shown_before_a_clear_and_between_two() -> None:
    clears = Clears()
    asked = [clears.commit(), clears.clear(8_000), clears.commit(), clears.clear(24_000)]
    assert clears.newest_sample == 24_000
    assert not clears.hides(final()), "an utterance before the first commit is committed"
    found = []
    for finalize_id in asked:
        found.append(clears.hides(final(finalize_id)))
        found.append(clears.hides(final()))
    assert found == [False, True, True, False, False, True, True, False]
    assert clears.clock_zero == 24_000


def test_an_answer_to_nothing_hides_nothing() -> None:
    clears = Clears()
    assert not clears.hides(final(7))
    clears.clear(8_000)
    assert not clears.hides(final(0))
    assert clears.hides_drafts
