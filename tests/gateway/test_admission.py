"""Admission: slots, generations, which service, and every reason to refuse."""

from __future__ import annotations

import pytest
from msgspec import structs

from gateway.admission import HEALTH_MAX_AGE_NS, Admission, ServiceLoad, SlotTable
from gateway.fair_share import Room
from gateway.model_table import ServedModels
from protocol.client_messages import Hello
from protocol.errors import ErrorCode
from protocol.service_messages import Health

NOW_NS = 1_000_000_000


def health(
    open_streams: int = 0,
    link_streams: int = 0,
    *,
    last_step_ns: int = NOW_NS,
    models: tuple[str, ...] = ("m",),
) -> Health:
    """A service with room for two; by default all its streams are other workers'."""
    return Health(NOW_NS, last_step_ns, 1.0, open_streams, link_streams, 2, 320, 30_000, models)


def make(*reports: Health | None, num_slots: int = 4) -> Admission:
    admission = Admission(SlotTable(num_slots))
    for index, report in enumerate(reports):
        admission.services[index] = ServiceLoad()
        if report is not None:
            admission.services[index].take_health(report, NOW_NS)
    return admission


def code(
    admission: Admission, hello: Hello | None = None, now_ns: int = NOW_NS
) -> ErrorCode | None:
    error = admission.check(hello or Hello(), now_ns)
    assert error is None or error.retryable == (error.retry_after_ms is not None)
    return None if error is None else error.code


def test_each_claim_has_a_new_generation() -> None:
    slots = SlotTable(2)
    assert slots.claim() == (0, 1)
    assert slots.claim() == (1, 1)
    assert slots.claim() is None
    slots.free(0)
    assert slots.num_free == 1
    assert slots.claim() == (0, 2)


def test_the_slot_freed_last_is_claimed_last() -> None:
    slots = SlotTable(3)
    for _ in range(3):
        slots.claim()
    for slot in (1, 0, 2):
        slots.free(slot)
    assert [slots.claim() for _ in range(4)] == [(1, 2), (0, 2), (2, 2), None]


def test_a_slot_goes_on_with_a_newer_generation() -> None:
    slots = SlotTable(2)
    assert slots.reclaim(1, 7) == 8
    assert slots.num_free == 1
    assert slots.claim() == (0, 1)
    assert slots.claim() is None
    slots.free(1)
    assert slots.claim() == (1, 9)


def test_a_slot_freed_twice_is_a_bug() -> None:
    slots = SlotTable(1)
    slots.claim()
    slots.free(0)
    with pytest.raises(AssertionError):
        slots.free(0)


def test_a_healthy_service_with_room_is_enough() -> None:
    assert code(make(health())) is None


@pytest.mark.parametrize("report", [None, health(last_step_ns=0)])
def test_no_service_that_works(report: Health | None) -> None:
    admission = make(report)
    assert code(admission) is ErrorCode.AT_CAPACITY
    assert admission.last_step_ns(NOW_NS) is None


def test_a_silent_service_gets_nothing_new() -> None:
    admission = make(health())
    assert code(admission, now_ns=NOW_NS + HEALTH_MAX_AGE_NS + 1) is ErrorCode.AT_CAPACITY


def test_draining() -> None:
    admission = make(health())
    admission.draining = True
    assert code(admission) is ErrorCode.DRAINING


def test_models() -> None:
    admission = make(health(models=("a", "b")), health(models=("b", "c")), None)
    assert admission.models() == ("a", "b", "c")
    assert code(admission, Hello(model="d")) is ErrorCode.UNKNOWN_MODEL
    assert admission.choose("a", NOW_NS) == 0
    assert admission.choose("c", NOW_NS) == 1
    assert admission.last_step_ns(NOW_NS) == NOW_NS


def test_languages() -> None:
    report = structs.replace(health(), languages=("en", "de"))
    admission = make(report)
    assert code(admission, Hello(language="fr")) is ErrorCode.UNKNOWN_LANGUAGE
    assert code(admission, Hello(language="de")) is None
    assert code(make(health()), Hello(language="fr")) is None  # a service that does not say


def test_a_hello_is_settled_in_this_servers_terms() -> None:
    admission = make(health(models=("m",)))
    vendor = Hello(model="vendor/large", language="EN_us")
    assert admission.settle(vendor, any_model=True) == Hello(model="m", language="en")
    assert admission.settle(vendor, any_model=False) == Hello(model="vendor/large", language="en")
    assert admission.settle(Hello(model="m"), any_model=True) == Hello(model="m")
    assert make().settle(Hello(), any_model=True) == Hello(), "no service has reported yet"


def two_models() -> Admission:
    """The default model knows English, the other one French as well."""
    english = structs.replace(health(models=("a",)), languages=("en",))
    french = structs.replace(health(models=("b",)), languages=("en", "fr"))
    admission = make(english, french)
    admission.services[1].rank = 1
    return admission


def test_who_names_no_model_gets_the_first_that_knows_the_language() -> None:
    admission = two_models()
    for hello, model in (
        (Hello(), "a"),
        (Hello(language="en"), "a"),
        (Hello(language="fr"), "b"),
        (Hello(language="fr", model="vendor/large"), "b"),
        (Hello(language="en", model="b"), "b"),
        (Hello(language="xx"), "a"),
    ):
        assert admission.settle(hello, any_model=True).model == model
    named = admission.settle(Hello(model="a", language="fr"), any_model=True)
    assert code(admission, named) is ErrorCode.UNKNOWN_LANGUAGE


def test_a_model_whose_service_is_restarted_is_known() -> None:
    admission = two_models()
    admission.service_lost(0)
    assert admission.models() == ("a", "b"), "the default one stays the first"
    assert admission.settle(Hello(), any_model=False).model == "a"
    assert code(admission, Hello(model="a")) is ErrorCode.AT_CAPACITY
    assert code(admission, Hello(model="c")) is ErrorCode.UNKNOWN_MODEL
    admission.forget_service(0)
    assert admission.models() == ("b",)
    assert code(admission, Hello(model="a")) is ErrorCode.UNKNOWN_MODEL
    admission.services[2] = ServiceLoad()
    admission.service_lost(2)
    assert admission.models() == ("b",), "it had not reported yet"


def test_services_by_whose_models_clients_are_admitted() -> None:
    admission = make(health(), health(), health())
    admission.services[0].retiring = True
    admission.service_lost(1)
    lasting = admission.lasting_services
    assert lasting == {1, 2}, "one that is started again is, and one that is to go is not"
    admission.forget_service(1)
    assert isinstance(lasting, frozenset), "who keeps it keeps what was so then"
    assert admission.lasting_services == {2}


def test_a_retiring_service_gets_nothing_new() -> None:
    admission = make(health(models=("old",)), health(models=("new",)))
    admission.services[0].retiring = True
    admission.services[1].aliases = ("old",)
    assert admission.models() == ("new",)
    assert admission.settle(Hello(model="old"), any_model=False).model == "new"
    assert admission.choose("old", NOW_NS) == admission.choose("new", NOW_NS) == 1
    assert admission.has_service("old", NOW_NS)
    admission.service_lost(0)
    assert admission.models() == ("new",)
    admission.services[1].retiring = True
    assert code(admission) is ErrorCode.AT_CAPACITY


def test_a_name_that_a_model_has_itself_comes_before_one_it_has_taken_over() -> None:
    admission = make(health(models=("heir",)), health(models=("old",)))
    admission.services[0].aliases = ("old",)
    assert admission.choose("old", NOW_NS) == 1
    admission.service_lost(1)
    assert admission.choose("old", NOW_NS) is None, "it will be back"
    admission.forget_service(1)
    assert admission.choose("old", NOW_NS) == 0


def test_no_free_slot_and_no_room() -> None:
    admission = make(health(), num_slots=1)
    admission.slots.claim()
    assert code(admission) is ErrorCode.AT_CAPACITY
    assert code(make(health(2))) is ErrorCode.AT_CAPACITY


def test_the_service_with_the_fewest_streams_counting_our_own_as_they_are_now() -> None:
    admission = make(health(1), health(0))
    assert admission.choose(None, NOW_NS) == 1
    admission.stream_opened(1)
    assert admission.choose(None, NOW_NS) == 0
    admission.stream_opened(0)
    assert admission.choose(None, NOW_NS) == 1
    admission.stream_opened(1)
    assert admission.choose(None, NOW_NS) is None


def test_a_stream_of_ours_that_ended_since_the_report_makes_room() -> None:
    """The report says that the service is full, and was right when it was made."""
    admission = make(health(2, 1))
    admission.slots.claim()
    admission.stream_opened(0)
    assert code(admission) is ErrorCode.AT_CAPACITY
    admission.stream_left(0)
    assert code(admission) is None


def test_a_stream_of_ours_that_began_since_the_report_takes_room() -> None:
    admission = make(health(1, 0))
    admission.stream_opened(0)
    assert code(admission) is ErrorCode.AT_CAPACITY
    admission.services[0].take_health(health(2, 1), NOW_NS)  # now it knows: not counted twice
    assert admission.services[0].load == 2


def test_a_tie_goes_to_another_service_at_each_worker() -> None:
    admission = make(health(), health(), health())
    admission.first_choice = 4
    assert admission.choose(None, NOW_NS) == 1


def test_a_full_service_is_still_a_service() -> None:
    admission = make(health(2))
    assert admission.choose("m", NOW_NS) is None
    assert admission.has_service("m", NOW_NS)
    assert not admission.has_service("other", NOW_NS)
    assert not admission.has_service("m", NOW_NS + HEALTH_MAX_AGE_NS + 1)


def test_a_load_without_report() -> None:
    load = ServiceLoad()
    assert load.load == 0
    assert not load.has_room(was_admitted=False)
    assert not load.has_room(was_admitted=True)
    assert load.num_places == 0
    assert load.served == ServedModels(0, ())


def test_languages_are_those_of_a_model() -> None:
    admission = two_models()
    assert (admission.languages_of("a"), admission.languages_of("b")) == (("en",), ("en", "fr"))
    assert admission.languages_of("c") == ()


def test_newcomers_need_time_and_those_who_were_admitted_a_seat() -> None:
    report = structs.replace(health(4, 4), max_streams=6, bearable_streams=5)
    admission = make(report)
    for _ in range(4):
        admission.stream_opened(0)
    assert code(admission) is None
    admission.stream_opened(0)
    assert code(admission) is ErrorCode.AT_CAPACITY
    assert admission.choose(None, NOW_NS) is None
    assert admission.choose(None, NOW_NS, was_admitted=True) == 0
    admission.stream_opened(0)
    assert admission.choose(None, NOW_NS, was_admitted=True) is None


def test_the_room_of_all_services_and_of_this_worker() -> None:
    reports = [structs.replace(health(1), bearable_streams=most) for most in (None, 9, 0)]
    admission = make(*reports, None, num_slots=4)
    admission.slots.claim()
    assert admission.room(NOW_NS) == Room(places=4, free=2, own_places=4, own_free=3)
    assert admission.room(NOW_NS + HEALTH_MAX_AGE_NS + 1).places == 0


def test_who_is_refused_hears_when_to_come_again() -> None:
    admission = make(health(2))
    for at_s in (-8, -4, 0):
        admission.expected.stream_ended(NOW_NS + at_s * 1_000_000_000)
    error = admission.check(Hello(), NOW_NS + 1_000_000_000)
    assert error is not None
    assert (error.message, error.retry_after_ms) == ("all sessions are taken", 3_000)
