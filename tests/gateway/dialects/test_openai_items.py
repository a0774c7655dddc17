"""Which item a result belongs to, whatever the client asks for and when."""

from __future__ import annotations

from gateway.dialects.openai_items import MAX_TURNS, Items


def new_items() -> Items:
    ids = iter(range(1_000))
    return Items(lambda: f"item_{next(ids)}")


def test_a_turn_is_an_item_from_its_begin_to_its_end() -> None:
    items = new_items()
    item = items.begin_turn(0)
    other = items.begin_turn(1)
    assert items.turn(0) is item
    assert items.end_turn(0) is item
    assert items.turn(0) is None
    assert items.end_turn(0) is None
    assert items.end_turn(1) is other
    assert item.item_id != other.item_id


def test_turns_are_bounded() -> None:
    items = new_items()
    for utterance in range(MAX_TURNS + 1):
        items.begin_turn(utterance)
    assert items.turn(0) is None
    assert items.turn(1) is not None


def test_results_without_a_turn_are_collected_until_the_clients_commit() -> None:
    items = new_items()
    item = items.collected()
    assert items.collected() is item
    asked = items.commit(by_client=True)
    assert asked.item is item
    assert items.collected() is item  # of audio before the commit
    assert items.answered(asked.finalize_id) is asked
    assert items.collected() is not item


def test_commits_are_answered_in_their_order() -> None:
    items = new_items()
    first, second = items.commit(by_client=True), items.commit(by_client=True)
    assert first.item is not second.item
    assert items.collected() is first.item
    assert items.answered(first.finalize_id) is first
    assert items.collected() is second.item
    assert items.answered(77) is None  # nobody's; what was before it will not be answered
    assert items.answered(second.finalize_id) is None


def test_a_clear_takes_the_results_before_it() -> None:
    items = new_items()
    forgotten = items.collected()
    assert not items.is_clearing
    asked = items.clear()
    assert asked.item is None
    assert asked.is_clear
    assert items.is_clearing
    assert items.collected() is None
    later = items.commit(by_client=True)
    assert items.collected() is None
    assert items.answered(asked.finalize_id) is asked
    assert not items.is_clearing
    assert items.collected() is later.item
    assert later.item is not forgotten


def test_a_commit_beside_voice_activity_has_no_item_yet() -> None:
    items = new_items()
    asked = items.commit(by_client=False)
    assert asked.item is None
    assert not items.is_clearing
    assert items.collected() is not None  # it is no place for results
    assert items.answered(asked.finalize_id) is asked


def test_a_part_of_what_is_collected_is_an_item_of_its_own() -> None:
    items = new_items()
    item = items.collected()
    assert items.part() is item
    assert items.collected() is not item


def test_the_end_takes_what_is_open() -> None:
    items = new_items()
    assert items.take_all() == []
    turn = items.begin_turn(3)
    committed = items.commit(by_client=True).item
    items.commit(by_client=False)
    items.clear()
    items.answered(1)
    collected = items.commit(by_client=True).item
    items.answered(3)
    assert items.take_all() == [turn, collected]
    assert committed is not collected
    open_item = items.collected()
    assert items.take_all() == [open_item]
    assert items.take_all() == []
    assert items.turn(3) is None
