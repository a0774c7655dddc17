"""Admission: slots, generations, which service, and every reason to refuse."""

from __future__ import annotations

import pytest
from msgspec import structs

from gateway.admission import HEALTH_MAX_AGE_NS, Admission, ServiceLoad, SlotTable
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
    assert admission.settle(vendor, any_model=True) == Hello(language="en")
    assert admission.settle(vendor, any_model=False) == Hello(model="vendor/large", language="en")
    assert admission.settle(Hello(model="m"), any_model=True) == Hello(model="m")


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
    assert not load.has_room
    assert not load.has_model("m")
    assert load.has_model(None)


def test_all_languages_are_those_of_all_services_each_once() -> None:
    reports = [structs.replace(health(), languages=names) for names in (("en",), ("de", "en"), ())]
    assert make(*reports, None).languages() == ("en", "de")
