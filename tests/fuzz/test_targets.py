"""Every parser under inputs that nobody meant: the kept ones, and a short, fixed share of new ones.

run.py goes on for as long as one likes, and finds more.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from . import corpus
from .target import MAX_PIECES, POISON, Script, Target, mutated, pieces, script
from .targets import TARGETS

NUM_EXAMPLES = 60  # new inputs a target
EDITS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 1 << 16),
        st.binary(min_size=1, max_size=8) | st.sampled_from(POISON),
    ),
    max_size=5,
)


def inputs_of(target: Target) -> st.SearchStrategy[bytes]:
    """Seeds and kept inputs with a few edits, and bytes without any plan."""
    known = [*target.seeds(), *corpus.load(target.name)]
    edited = st.builds(mutated, st.sampled_from(known), EDITS)
    return (edited | st.binary(max_size=64)).map(lambda data: data[: target.max_bytes])


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_is_known_to_reach_far(target: Target) -> None:
    for data in (b"", *target.seeds(), *corpus.load(target.name)):
        target.run(data)


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")  # pickletools' own
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_what_is_new(target: Target) -> None:
    @settings(max_examples=NUM_EXAMPLES)
    @given(data=inputs_of(target))
    def run(data: bytes) -> None:
        target.run(data)

    run()


def test_seeds_are_not_cut_off() -> None:
    for target in TARGETS.values():
        assert all(len(data) <= target.max_bytes for data in target.seeds()), target.name


def test_a_script_is_read_as_it_was_written() -> None:
    source = Script(script(7, "text", b"bytes", 1))
    assert (source.byte(), source.text(), source.chunk(), source.flag()) == (
        7, "text", b"bytes", True,
    )  # fmt: skip
    assert source.is_over
    assert (source.byte(), source.chunk(), source.rest()) == (0, b"", b"")


def test_edits() -> None:
    assert mutated(b"abcd", [(0, 1, b"X")]) == b"aXcd"
    assert mutated(b"abcd", [(1, 1, b"X")]) == b"aXbcd"
    assert mutated(b"abcd", [(2, 1, b"XX")]) == b"ad"
    assert mutated(b"abcd", [(3, 2, b"X")]) == b"abcdcd"
    assert pieces(b"abcde", 2) == [b"ab", b"cd", b"e"]
    assert pieces(b"", 2) == []
    assert len(pieces(bytes(4_000), 1)) <= MAX_PIECES


def test_what_reaches_more_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CORPUS", tmp_path)
    target = TARGETS["arena"]
    assert corpus.load(target.name) == []
    assert corpus.keep(target, target.seeds()) == 0  # they are made each time
    other = script((8192).to_bytes(4, "little"), b"no magic")
    assert corpus.keep(target, [other + b"longer", b"", other]) == 1
    assert corpus.load(target.name) == [other]
    monkeypatch.setattr(corpus, "MAX_KEPT_BYTES", len(other))
    assert corpus.save(target.name, [other, b"more"]) == 1
