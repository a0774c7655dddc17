"""Which of Whisper's words become an answer, whichever engine said them."""

from __future__ import annotations

from gpu_service.decoding.whisper_carry import restored
from gpu_service.decoding.whisper_rules import Decoding
from gpu_service.draft_policy import Verdict
from gpu_service.whisper_guards import FinalWindow, guarded_draft, guarded_final
from gpu_service.words import Hypothesis, Word


def words(text: str, confidence: float = 0.9) -> tuple[Word, ...]:
    return tuple(Word(w, i * 100, i * 100 + 100, confidence) for i, w in enumerate(text.split()))


def window(
    text: str, confidence: float = 0.9, no_speech: float = 0.1, *, is_loop: bool = False
) -> FinalWindow:
    spoken = words(text, confidence)
    tokens = tuple(range(1, len(spoken) + 1))
    decoding = Decoding(tokens, -0.3, no_speech, 3.0 if is_loop else 1.2)
    return FinalWindow(spoken, f"{text}!", tokens, decoding)


def final(
    text: str, confidence: float = 0.9, no_speech: float = 0.1, *, is_loop: bool = False
) -> Hypothesis:
    return guarded_final([window(text, confidence, no_speech, is_loop=is_loop)], 1_000, None)


def test_a_final_keeps_the_models_own_spacing() -> None:
    answer = final("all is well")
    assert (answer.text, answer.words) == ("all is well!", words("all is well"))
    assert (answer.is_final, answer.looped, answer.language) == (True, False, "en")
    assert (answer.num_samples, answer.no_speech) == (1_000, 0.1)


def test_doubtful_words_go_where_nobody_may_have_spoken() -> None:
    assert final("thank you", 0.2, 0.7).words == ()
    assert final("thank you", 0.2, 0.7).text == ""
    assert final("thank you", 0.2, 0.5).text == "thank you!"
    assert final("thank you", 0.9, 0.7).text == "thank you!"


def test_a_loop_is_said_once() -> None:
    answer = final("oh my oh my oh my oh my", is_loop=True)
    assert (answer.text, answer.looped) == ("oh my", True)
    assert final("oh my oh my oh my oh my").text == "oh my oh my oh my oh my!"
    silent = final("oh my oh my oh my", 0.1, 0.9, is_loop=True)
    assert (silent.words, silent.text, silent.looped) == ((), "", True)


def test_speech_in_one_window_says_nothing_about_another() -> None:
    """Each is judged by itself, and what was not said is no context."""
    speech, noise = window("all is well"), window("thank you", 0.2, 0.9)
    answer = guarded_final([speech, noise], 1_000, "en")
    assert (answer.text, answer.words) == ("all is well!", words("all is well"))
    assert answer.no_speech == 0.1
    assert restored(answer.carry, 99) == (1, 2, 3)
    loop = window("oh my oh my oh my", is_loop=True)
    answer = guarded_final([loop, speech], 1_000, "en")
    assert (answer.text, answer.looped) == ("oh my all is well!", True)
    assert answer.carry == b"", "a loop had better be forgotten"


def test_nothing_is_handed_on_of_what_nobody_said() -> None:
    assert final("all is well").carry
    assert final("thank you", 0.2, 0.9).carry == b""
    assert final("").carry == b""


def test_a_draft_is_dropped_where_it_is_doubtful_and_cut_where_it_loops() -> None:
    plain = guarded_draft(words("all is well"), 1_000, "de", Verdict(2, 1))
    assert (plain.text, plain.language, plain.is_final) == ("all is well", "de", False)
    assert (plain.settled_words, plain.open_words, plain.looped) == (2, 1, False)
    noise = guarded_draft(words("you", 0.2), 1_000, None, Verdict(1, 0))
    assert (noise.words, noise.settled_words, noise.looped) == ((), 0, False)
    looped = guarded_draft(words("oh my oh my oh my"), 1_000, None, Verdict(4, 2))
    assert (looped.text, looped.looped) == ("oh my", True)
    assert (looped.settled_words, looped.open_words) == (2, 0)
    assert guarded_draft((), 1_000, None).words == ()
