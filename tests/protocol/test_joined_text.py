"""Texts side by side: spaces where a script has them, and only there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.joined_text import WORD, gap, joined

TEXTS = st.lists(st.text(alphabet="ab .我。の한ม", max_size=4), max_size=6)


@pytest.mark.parametrize(
    ("texts", "together"),
    [
        (["It", "was", "the", "best."], "It was the best."),
        (["", "one", "", "two", ""], "one two"),
        (["caf\u00e9", "na\u00efve"], "caf\u00e9 na\u00efve"),
        (["我们", "去", "北京", "。"], "我们去北京。"),
        (["今", "日", "は", "\uff01"], "今日は\uff01"),
        (["ส", "วัสดี"], "สวัสดี"),
        (["안녕하세요", "여러분"], "안녕하세요 여러분"),
        (["मेरा", "नाम"], "मेरा नाम"),
        (["我用", "Python", "3", "写"], "我用Python 3写"),
        (["𠀀", "𠀁"], "𠀀𠀁"),
        (["one ", "two", " three"], "one two three"),
    ],
)
def test_a_space_belongs_between_words_of_scripts_with_spaces(
    texts: list[str], together: str
) -> None:
    assert joined(texts) == together


@given(TEXTS)
def test_nothing_but_spaces_is_added(texts: list[str]) -> None:
    assert joined(texts).replace(" ", "") == "".join(texts).replace(" ", "")


@given(TEXTS)
def test_joining_one_by_one_is_joining_all(texts: list[str]) -> None:
    text = ""
    for each in texts:
        text += gap(text, each) + each
    assert joined(texts) == text


def test_words_are_characters_where_no_spaces_are() -> None:
    found = [word.group() for word in WORD.finditer(" It's  我们go。한국어 여")]
    assert found == ["It's", "我", "们", "go", "。", "한국어", "여"]
