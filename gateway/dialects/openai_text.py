"""Text for an API whose deltas are only ever added to: what was sent is never taken back.

Pure. A GrowingText is the text of one item, over one utterance or several. It turns the partials
and the final of each into deltas whose sum is the item's transcript. Recognition may still revise
in the final what it had called stable; then what was sent stays, and the final adds what lies
behind it: the words sent are aligned with the final's by edit distance, the end of the final free.
It knows no event and no item; openai_items.py has one per item.

Stable words are sent at once. Measured on 7 minutes of reading at real time (tiny.en, 66
utterances): of 1,015 words sent before their final, the final revised 28. Holding each back for 1,
2 or 3 more partials leaves 28, 19 or 19 and shows text 0.5, 1.0 or 1.5 s later.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.joined_text import WORD, gap

MAX_ALIGN_CELLS = 10_000  # of the edit distance, about 3 ms; beyond it words are counted


class GrowingText:
    """The transcript of one item as it grows; `text` is the sum of all deltas."""

    def __init__(self) -> None:
        self.text = ""
        self._sent: list[str] = []  # words of the present utterance

    def on_partial(self, stable: str) -> str:
        """The delta for what of the present utterance is stable now; "" when nothing is new."""
        words = list(WORD.finditer(stable))
        new = words[len(self._sent) :]
        self._sent += [word.group() for word in new]
        return self._grow(stable[new[0].start() :].strip() if new else "")

    def on_final(self, text: str) -> str:
        """The delta that completes the present utterance, whose text is `text`; the next begins.

        When nothing of it was sent, that is `text` as it is.
        """
        sent, self._sent = self._sent, []
        if not sent:
            return self._grow(text)
        words = list(WORD.finditer(text))
        starts = [word.start() for word in words]
        covered = num_covered(sent, [word.group() for word in words])
        return self._grow(text[starts[covered] :] if covered < len(starts) else "")

    def _grow(self, addition: str) -> str:
        if not addition:
            return ""
        delta = gap(self.text, addition) + addition
        self.text += delta
        return delta


def num_covered(sent: Sequence[str], final: Sequence[str]) -> int:
    """How many words at the beginning of `final` the words of `sent` stand for.

    Words are compared without case and punctuation. Among equally good alignments one whose last
    words agree wins, then the one that covers as many words as were sent.
    """
    ours = [_plain(word) for word in sent]
    theirs = [_plain(word) for word in final]
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same] == theirs[same]:
        same += 1
    ours, theirs = ours[same:], theirs[same:]
    if not ours:
        return same
    if len(ours) * len(theirs) > MAX_ALIGN_CELLS:
        return same + min(len(ours), len(theirs))
    costs = _prefix_costs(ours, theirs)

    def rank(covered: int) -> tuple[int, bool, int]:
        ends_apart = covered == 0 or theirs[covered - 1] != ours[-1]
        return costs[covered], ends_apart, abs(covered - len(ours))

    return same + min(range(len(costs)), key=rank)


def _prefix_costs(ours: Sequence[str], theirs: Sequence[str]) -> list[int]:
    """The edit distance of `ours` to the first 0, 1, 2... words of `theirs`."""
    costs = list(range(len(theirs) + 1))
    for row, word in enumerate(ours, 1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(theirs, 1):
            replaced = diagonal + (word != other)
            diagonal = costs[column]
            costs[column] = min(replaced, diagonal + 1, costs[column - 1] + 1)
    return costs


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum()) or word
