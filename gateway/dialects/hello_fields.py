"""What clients say, made to fit the fields of a Hello: names, prompts, hotwords. Pure.

The limits are those of protocol.client_messages.Hello, of which the clients of other APIs know
nothing: a name or a prompt that is too long is cut, a hotword that is too long is left out. Every
dialect that builds a Hello calls it.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.client_messages import MAX_HOTWORDS

MAX_NAME_CHARS = 256
MAX_PROMPT_CHARS = 2_048
MAX_HOTWORD_CHARS = 128


def name_of(text: str | None) -> str | None:
    """A model or a language; None for an empty one."""
    return text[:MAX_NAME_CHARS] or None if text is not None else None


def fitting_hotwords(words: Iterable[str]) -> tuple[str, ...]:
    """Each once; what is too long, and what is too much, is left out."""
    fitting = [word for word in dict.fromkeys(words) if 0 < len(word) <= MAX_HOTWORD_CHARS]
    return tuple(fitting[:MAX_HOTWORDS])
