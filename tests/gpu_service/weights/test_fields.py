"""Typed reading of a configuration: the right type passes, everything else names its place."""

from __future__ import annotations

import pytest

from gpu_service.errors import ModelFileError
from gpu_service.weights.fields import Fields

FIELDS = Fields(
    {
        "size": 4,
        "flag": True,
        "list": [1, 2],
        "names": ["a", "b"],
        "text": "x" * 500,
        "inner": {"size": 5, "deep": {"flag": False}},
        "nothing": None,
    },
    "config.json",
)


def test_values_of_the_right_type_are_returned() -> None:
    assert FIELDS.integer("size", 1, 4) == 4
    assert FIELDS.integers("list", 1, 2, 2) == (1, 2)
    assert FIELDS.strings("names", 2) == ("a", "b")
    assert FIELDS.section("inner").integer("size", 0, 9) == 5
    FIELDS.require("flag", True)
    FIELDS.allow("absent", 1)
    FIELDS.allow("nothing", 1, None)


@pytest.mark.parametrize(
    ("name", "low", "high"), [("size", 5, 9), ("size", 0, 3), ("flag", 0, 9), ("text", 0, 9)]
)
def test_an_integer_of_another_type_or_size_is_refused(name: str, low: int, high: int) -> None:
    with pytest.raises(ModelFileError, match=f"config.json: {name} is .*integer from"):
        FIELDS.integer(name, low, high)


def test_lists_are_checked_item_by_item() -> None:
    for name, max_count in (("list", 1), ("names", 2), ("size", 2)):
        with pytest.raises(ModelFileError, match=name):
            FIELDS.integers(name, 0, 9, max_count)
    with pytest.raises(ModelFileError, match="integers from 2 to 9"):
        FIELDS.integers("list", 2, 9, 5)
    for name, max_count in (("names", 1), ("list", 2), ("text", 2)):
        with pytest.raises(ModelFileError, match=name):
            FIELDS.strings(name, max_count)


def test_a_missing_field_is_named_with_its_sections() -> None:
    with pytest.raises(ModelFileError, match=r"config\.json: absent is missing"):
        FIELDS.integer("absent", 0, 1)
    with pytest.raises(ModelFileError, match=r"config.json: inner\.deep\.absent is missing"):
        FIELDS.section("inner").section("deep").require("absent", 1)
    with pytest.raises(ModelFileError, match="needs a mapping"):
        FIELDS.section("size")


def test_a_value_that_we_can_not_run_is_shown_and_shortened() -> None:
    with pytest.raises(ModelFileError, match="size is 4; Earwire needs 5"):
        FIELDS.require("size", 5)
    with pytest.raises(ModelFileError, match="flag is True; Earwire needs 1"):
        FIELDS.require("flag", 1)  # equal in Python, and not meant
    with pytest.raises(ModelFileError, match="needs 5 or None"):
        FIELDS.allow("size", 5, None)
    with pytest.raises(ModelFileError) as refused:
        FIELDS.integer("text", 0, 1)
    assert len(str(refused.value)) < 200
