"""Which model a session gets, and what the models go by."""

from __future__ import annotations

from gateway.model_table import ModelTable, ServedModels

EMPTY = ModelTable({})
# The second service has the default model; the third one's model replaced "old" and "older".
TABLE = ModelTable(
    {
        0: ServedModels(1, ("multi",), ("en", "fr")),
        1: ServedModels(0, ("tiny.en",), ("en",)),
        2: ServedModels(2, ("new",), (), ("old", "older")),
        3: ServedModels(1, ("multi",), ("en", "fr", "de")),
    }
)


def test_models_come_in_the_order_of_ranks() -> None:
    assert TABLE.names() == ("tiny.en", "multi", "new")
    assert EMPTY.names() == ()


def test_languages_of_a_model() -> None:
    assert TABLE.languages_of("multi") == ("en", "fr")
    assert TABLE.languages_of("new") == ()
    assert TABLE.languages_of("old") == ()


def test_a_model_goes_by_its_own_name_and_by_those_before_it() -> None:
    assert TABLE.current("multi") == "multi"
    assert TABLE.current("older") == "new"
    assert TABLE.current("nobody's") is None
    both = ModelTable({0: ServedModels(0, ("b",), (), ("a",)), 1: ServedModels(1, ("a",))})
    assert both.current("a") == "a", "a model that is served under its name comes first"


def test_who_names_no_model_gets_the_default_one_or_who_knows_the_language() -> None:
    assert TABLE.choose(None) == TABLE.choose("en") == "tiny.en"
    assert TABLE.choose("fr") == "multi"
    assert TABLE.choose("ja") == "new", "it does not say what it knows"
    assert ModelTable({0: ServedModels(0, ("m",), ("en",))}).choose("fr") == "m"
    assert EMPTY.choose(None) is None
