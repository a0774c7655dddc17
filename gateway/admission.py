"""Who may come in, and where to: ring slots, service choice, the limits. Pure.

The router asks here before a stream is opened and tells it when one has ended. Overload policy:
a hello is refused early, with a retryable error, when the worker drains, when no healthy service
is linked, or when no slot, seat or time of a service is free; nothing is ever queued. Services say
how many streams their steps leave time for; a stream that was let in needs a seat only. Streams
that are still to come, from a service that retires or from none, have their places at the others
of its rank before any newcomer (departures.py has those of other workers between the two).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from msgspec import structs

from protocol.client_messages import Error, Hello
from protocol.errors import ErrorCode
from protocol.service_messages import Health

from .departures import Departures
from .errors import refusal
from .expected_places import ExpectedPlaces
from .fair_share import Room
from .model_table import ModelTable, ServedModels

PROMISE_NS = 5_000_000_000  # a client that was let in speaks by then, or places may be gone
HEALTH_MAX_AGE_NS = 10_000_000_000  # a service that said nothing for so long gets no new stream

Places: TypeAlias = Mapping[int, int]  # by service index
NOTHING_PROMISED: Places = MappingProxyType({})


class SlotTable:
    """Ring slots of one arena; each claim of a slot has a new generation. The slot that was freed
    last is claimed last: what its journal tells of a session that has ended lasts longest so.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = deque(range(num_slots - 1, -1, -1))
        self._generations = [0] * num_slots

    @property
    def num_free(self) -> int:
        """Slots that can be claimed now."""
        return len(self._free)

    def claim(self) -> tuple[int, int] | None:
        """(slot, generation), or None when all are taken."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._generations[slot] += 1
        return slot, self._generations[slot]

    def reclaim(self, slot: int, generation: int) -> int:
        """The slot goes on with a stream of a dead worker; returns its new generation."""
        self._free.remove(slot)
        self._generations[slot] = generation + 1
        return generation + 1

    def free(self, slot: int) -> None:
        """The stream of this slot has ended."""
        if slot in self._free:
            raise AssertionError(f"slot {slot} was freed twice")
        self._free.appendleft(slot)


@dataclass(slots=True)
class ServiceLoad:
    """What the worker knows about one service."""

    health: Health | None = None
    health_ns: int = 0  # when it came, on this worker's clock
    open_streams: int = 0  # this worker's own, at this moment
    rank: int = 0  # the place of its model among the server's; 0: the default one
    aliases: tuple[str, ...] = ()  # what else clients may call its model
    retiring: bool = False  # it gets no new stream

    def take_health(self, health: Health, now_ns: int) -> None:
        """A newer report of the service. Admission passes it on, which sees who has left."""
        self.health = health
        self.health_ns = now_ns

    def is_healthy(self, now_ns: int) -> bool:
        """It has made a step once, and reported lately."""
        return (
            self.health is not None
            and self.health.last_step_ns > 0
            and now_ns - self.health_ns <= HEALTH_MAX_AGE_NS
        )

    def takes_streams(self, now_ns: int) -> bool:
        """New streams may go there, if it has room."""
        return not self.retiring and self.is_healthy(now_ns)

    @property
    def served(self) -> ServedModels:
        """What it has reported of its model."""
        models = self.health.models if self.health is not None else ()
        languages = self.health.languages if self.health is not None else ()
        return ServedModels(self.rank, models, languages, self.aliases)

    @property
    def load(self) -> int:
        """Open streams over all workers. A report is up to half a second old, so it is asked
        about the other workers only: this one's streams that began or ended since are no guess.
        """
        return self.others + self.open_streams

    @property
    def others(self) -> int:
        """Other workers' streams, in its newest report."""
        return self.health.open_streams - self.health.link_streams if self.health else 0

    @property
    def num_places(self) -> int:
        """Streams that it has seats and time for."""
        if self.health is None:
            return 0
        seats, bearable = self.health.max_streams, self.health.bearable_streams
        return seats if bearable is None else min(seats, bearable)

    def has_room(self, promised: int = 0, *, was_admitted: bool) -> bool:
        """One more stream fits, into the places there are or so many that were promised; who was
        admitted before needs a seat only.
        """
        seats = self.health.max_streams if self.health is not None else 0
        places = min(max(self.num_places, promised), seats)
        return self.load < (seats if was_admitted else places)


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a session was let in with."""

    hello: Hello
    services: frozenset[int]  # by whose models it was: what the next ones cannot do is left out
    places: Places  # that the services had then
    at_ns: int

    def promised(self, now_ns: int) -> Places:
        """The places that it can count on still: for a while, those that there were."""
        return self.places if now_ns - self.at_ns < PROMISE_NS else NOTHING_PROMISED


@dataclass(slots=True)
class Admission:
    """The decisions; counts are this worker's."""

    slots: SlotTable
    services: dict[int, ServiceLoad] = field(default_factory=dict)  # by service index
    draining: bool = False
    first_choice: int = 0  # the service a tie goes to: workers start at different ones
    expected: ExpectedPlaces = field(default_factory=ExpectedPlaces)
    _departures: Departures = field(default_factory=Departures)
    _restarting: dict[int, ServedModels] = field(default_factory=dict)  # by service index
    _waiting: Counter[str | None] = field(default_factory=Counter)  # streams, by their model

    def check(self, hello: Hello, now_ns: int) -> Error | None:
        """Why this client cannot come in now; None when it may."""
        if self.draining:
            return refusal(ErrorCode.DRAINING, "the server is going away")
        healthy = [load for load in self.services.values() if load.takes_streams(now_ns)]
        if not healthy:
            return refusal(ErrorCode.AT_CAPACITY, "no recognition service is ready")
        serving = self._serving(hello.model, now_ns).values()
        if not serving and hello.model is not None:
            return self._absent(hello.model)
        if not any(load.served.knows(hello.language) for load in serving):
            return refusal(ErrorCode.UNKNOWN_LANGUAGE, _languages_text(hello.language, serving))
        if not self.slots.num_free or self.choose(hello.model, now_ns) is None:
            return self.full(now_ns)
        return None

    def admit(self, hello: Hello, before: Admitted | None, now_ns: int) -> Admitted | Error:
        """Let this client in, or say why not. One that asks no more than `before` is not refused
        because its model has been replaced since.
        """
        asks_no_more = before is not None and self._asks_no_more(hello, before.hello)
        error = self.check(structs.replace(hello, language=None) if asks_no_more else hello, now_ns)
        if error is not None:
            return error
        if before is None or not asks_no_more:
            return Admitted(hello, self.lasting_services, self.places(now_ns), now_ns)
        return Admitted(hello, before.services, self.places(now_ns), now_ns)

    def full(self, now_ns: int, reason: str = "all sessions are taken") -> Error:
        """The refusal of one for whom there is no place, with the time to come again."""
        return refusal(ErrorCode.AT_CAPACITY, reason, self.expected.refuse(now_ns))

    def room(self, now_ns: int) -> Room:
        """The places of all services, and of this worker."""
        loads = [load for load in self.services.values() if load.takes_streams(now_ns)]
        places = sum(load.num_places for load in loads)
        free = sum(max(0, num) for num in self._free_places(now_ns).values())
        return Room(places, free, self.slots.num_slots, self.slots.num_free)

    def places(self, now_ns: int) -> Places:
        """Of those who take streams: what is promised to whom is let in now."""
        loads = self.services.items()
        return {index: load.num_places for index, load in loads if load.takes_streams(now_ns)}

    def _free_places(self, now_ns: int, promised: Places = NOTHING_PROMISED) -> dict[int, int]:
        """Places for newcomers, by rank: less than 0 where more are to come than there is room."""
        free: dict[int, int] = {}
        for index, load in self.services.items():
            if load.takes_streams(now_ns):
                own = max(0, max(load.num_places, promised.get(index, 0)) - load.load)
                free[load.rank] = free.get(load.rank, 0) + own
        for rank in free:
            free[rank] -= self._departures.num_streams(rank)
        for load in self.services.values():
            if load.retiring and load.rank in free:
                free[load.rank] -= load.load  # all that are there are still to come
        for model, num_waiting in self._waiting.items():
            for rank in {load.rank for load in self._serving(model, now_ns).values()}:
                free[rank] -= num_waiting
        return free

    def _absent(self, model: str) -> Error:
        """No service takes streams for this model now."""
        if self._table.current(model) is not None:
            return refusal(ErrorCode.AT_CAPACITY, f"the service of {model} is being started")
        names = ", ".join(sorted(self.models())) or "none"
        return refusal(ErrorCode.UNKNOWN_MODEL, f"model {model!r} is not served; there is {names}")

    def settle(self, hello: Hello, *, any_model: bool, before: Hello | None = None) -> Hello:
        """The hello in this server's terms: "en-US" is "en", a model has the name that it has here.
        Who names no model, or with `any_model` one that is not served, gets the default one, or
        the first that knows the language; or what it had `before`, if the language is no other.
        """
        language = None if hello.language is None else primary_language(hello.language)
        table, model = self._table, None
        if hello.model is not None:
            model = table.current(hello.model) or (None if any_model else hello.model)
        if model is None and before is not None and language in (None, before.language):
            model = table.current(before.model or "")
        return structs.replace(hello, model=model or table.choose(language), language=language)

    def _asks_no_more(self, hello: Hello, before: Hello) -> bool:
        """It asks nothing of its model that `before`, which was admitted, did not ask of it, or of
        the model that has been replaced by it.
        """
        return (
            hello.model == self.settle(before, any_model=True).model
            and hello.language in (None, before.language)
            and hello.hotwords in ((), before.hotwords)
            and hello.translate <= before.translate
        )

    @property
    def lasting_services(self) -> frozenset[int]:
        """Services that are here, or started again, and are not to go: who is admitted now is so
        by their models. No other service ever has the index of one.
        """
        present = (index for index, load in self.services.items() if not load.retiring)
        return frozenset((*present, *self._restarting))

    def _serving(self, model: str | None, now_ns: int) -> dict[int, ServiceLoad]:
        """Services that take streams of this model (None: any), whatever it is called."""
        name = None if model is None else self._table.current(model)
        return {
            index: load
            for index, load in self.services.items()
            if load.takes_streams(now_ns) and (model is None or name in load.served.models)
        }

    def choose(
        self,
        model: str | None,
        now_ns: int,
        *,
        was_admitted: bool = False,
        promised: Places = NOTHING_PROMISED,
    ) -> int | None:
        """The healthy service with the fewest open streams; None when none has room, or, for a
        newcomer, when others are still to come who will need it. Services have the places that
        they have now or that were `promised`, what is more.
        """
        free = {} if was_admitted else self._free_places(now_ns, promised)
        candidates = [
            (load.load, (index - self.first_choice) % len(self.services), index)
            for index, load in self._serving(model, now_ns).items()
            if load.has_room(promised.get(index, 0), was_admitted=was_admitted)
            and (was_admitted or free[load.rank] > 0)
        ]
        return min(candidates)[2] if candidates else None

    def take_health(self, service: int, health: Health, now_ns: int) -> None:
        """A newer report of a service."""
        load = self.services[service]
        others_before = load.others
        load.take_health(health, now_ns)
        self._departures.reported(service)
        self._note_departed(load, others_before - load.others)

    def _note_departed(self, load: ServiceLoad, num_streams: int) -> None:
        """Other workers' streams have left; where they are now is not reported yet."""
        if load.retiring:
            heirs = (
                index
                for index, other in self.services.items()
                if other.rank == load.rank and other.health is not None and not other.retiring
            )
            self._departures.left(load.rank, num_streams, heirs)

    def stream_opened(self, service: int) -> None:
        """A stream was opened on this service."""
        self.services[service].open_streams += 1

    def stream_waits(self, model: str | None) -> None:
        """A stream that was let in has no service at this moment."""
        self._waiting[model] += 1

    def stream_waits_no_more(self, model: str | None) -> None:
        """It has one, or is given up."""
        self._waiting[model] -= 1
        if not self._waiting[model]:
            del self._waiting[model]

    def has_service(self, model: str | None, now_ns: int) -> bool:
        """A healthy service has this model, whether it has room or not."""
        return bool(self._serving(model, now_ns))

    def stream_left(self, service: int) -> None:
        """The service has one stream less."""
        self.services[service].open_streams -= 1

    def models(self) -> tuple[str, ...]:
        """All models served, the default one first."""
        return self._table.names()

    def languages_of(self, model: str) -> tuple[str, ...]:
        """The languages that a model knows, as far as it says."""
        return self._table.languages_of(model)

    @property
    def _table(self) -> ModelTable:
        present = {
            index: load.served
            for index, load in self.services.items()
            if load.health is not None and not load.retiring
        }
        return ModelTable({**self._restarting, **present})

    def service_lost(self, service: int) -> None:
        """It died. Its model stays known, unless it was to go anyway."""
        load = self.services.pop(service)
        self._departures.lost(service)
        self._note_departed(load, load.others)
        if load.health is not None and not load.retiring:
            self._restarting[service] = load.served

    def forget_service(self, service: int) -> None:
        """It is not started again."""
        self._restarting.pop(service, None)

    def last_step_ns(self, now_ns: int) -> int | None:
        """The newest successful recognition step of a healthy service; None when there is none."""
        steps = [
            load.health.last_step_ns
            for load in self.services.values()
            if load.health is not None and load.is_healthy(now_ns)
        ]
        return max(steps, default=None)


def primary_language(tag: str) -> str:
    """The ISO 639 part of a language tag: "en" of "en-US" and "EN_us" (BCP 47, section 2.2.1)."""
    return tag.replace("_", "-").split("-")[0].lower()


def _languages_text(language: str | None, serving: Iterable[ServiceLoad]) -> str:
    names = {name for load in serving for name in load.served.languages}
    return f"no model here knows the language {language!r}; there is {', '.join(sorted(names))}"
