"""Texts side by side: a space between two of them, but none in scripts that are written without.

Recognized words come one by one and without the space before them. Chinese, Japanese, Thai, Lao and
Burmese have no space between words, and Whisper's tokens cut them where characters end; Korean and
Khmer have spaces. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

# Thai and Lao, Burmese, CJK punctuation and kana, Han, full width forms (Unicode's blocks).
_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\uaa60-\uaa7f\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff00-\uffef\U00020000-\U000323af"
)
_UNSPACED = re.compile(f"[{_WITHOUT_SPACES}]")
# A word as far as spaces tell; where the script has none, a character.
WORD = re.compile(f"[{_WITHOUT_SPACES}]|[^\\s{_WITHOUT_SPACES}]+")


def gap(left: str, right: str) -> str:
    """What belongs between two texts: a space or nothing."""
    if not left or not right or left[-1].isspace() or right[0].isspace():
        return ""
    return "" if _UNSPACED.match(left[-1]) or _UNSPACED.match(right[0]) else " "


def joined(texts: Iterable[str]) -> str:
    """The texts that are not empty, with what belongs between each two."""
    kept = [text for text in texts if text]
    spaced = " ".join(kept)
    if "  " not in spaced and (spaced.isascii() or not _UNSPACED.search(spaced)):
        return spaced
    parts = [gap(left, right) + right for left, right in pairwise(kept)]
    return "".join(kept[:1] + parts)
