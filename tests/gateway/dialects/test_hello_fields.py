"""What clients say, made to fit a Hello: the limits are those of the protocol itself."""

from __future__ import annotations

import msgspec
import pytest

from gateway.dialects.hello_fields import (
    MAX_HOTWORD_CHARS,
    MAX_NAME_CHARS,
    MAX_PROMPT_CHARS,
    fitting_hotwords,
    name_of,
)
from protocol.client_messages import MAX_HOTWORDS, Hello


def is_valid(hello: Hello) -> bool:
    try:
        msgspec.convert(msgspec.to_builtins(hello), Hello)
    except msgspec.ValidationError:
        return False
    return True


def test_the_limits_are_the_protocols() -> None:
    name, prompt, word = "n" * MAX_NAME_CHARS, "p" * MAX_PROMPT_CHARS, "w" * MAX_HOTWORD_CHARS
    assert is_valid(Hello(model=name, language=name, prompt=prompt, hotwords=(word,)))
    assert not is_valid(Hello(model=name + "n"))
    assert not is_valid(Hello(prompt=prompt + "p"))
    assert not is_valid(Hello(hotwords=(word + "w",)))


@pytest.mark.parametrize(
    ("text", "name"),
    [(None, None), ("", None), ("en", "en"), ("x" * 999, "x" * MAX_NAME_CHARS)],
)
def test_names(text: str | None, name: str | None) -> None:
    assert name_of(text) == name


def test_hotwords_fit_or_are_left_out() -> None:
    long = "x" * (MAX_HOTWORD_CHARS + 1)
    assert fitting_hotwords(["Küche", "", long, "Küche", long[1:]]) == ("Küche", long[1:])
    many = [f"word{number}" for number in range(MAX_HOTWORDS + 9)]
    assert fitting_hotwords(many) == tuple(many[:MAX_HOTWORDS])
