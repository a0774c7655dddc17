"""Who may come in, and where to: ring slots, service choice, the limits. Pure.

The router asks here before a stream is opened and tells it when one has ended. Overload policy:
a hello is refused early, with a retryable error, when the worker drains, when no healthy service
is linked, or when no slot or service capacity is free; nothing is ever queued.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import structs

from protocol.client_messages import Error, Hello
from protocol.errors import ErrorCode
from protocol.service_messages import Health

from .errors import refusal

HEALTH_MAX_AGE_NS = 10_000_000_000  # a service that said nothing for so long gets no new stream


class SlotTable:
    """Ring slots of one arena; each claim of a slot has a new generation."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots - 1, -1, -1))
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

    def free(self, slot: int) -> None:
        """The stream of this slot has ended."""
        if slot in self._free:
            raise AssertionError(f"slot {slot} was freed twice")
        self._free.append(slot)


@dataclass(slots=True)
class ServiceLoad:
    """What the worker knows about one service."""

    health: Health | None = None
    health_ns: int = 0  # when it came, on this worker's clock
    open_streams: int = 0  # this worker's own, at this moment

    def take_health(self, health: Health, now_ns: int) -> None:
        """A newer report of the service."""
        self.health = health
        self.health_ns = now_ns

    def is_healthy(self, now_ns: int) -> bool:
        """It has made a step once, and reported lately."""
        return (
            self.health is not None
            and self.health.last_step_ns > 0
            and now_ns - self.health_ns <= HEALTH_MAX_AGE_NS
        )

    def has_model(self, model: str | None) -> bool:
        """True when the service serves this model (None: any)."""
        return model is None or (self.health is not None and model in self.health.models)

    def has_language(self, language: str | None) -> bool:
        """True when the service's models know this language, as far as it says."""
        languages = self.health.languages if self.health is not None else ()
        return language is None or not languages or language in languages

    @property
    def load(self) -> int:
        """Open streams over all workers. A report is up to half a second old, so it is asked
        about the other workers only: this one's streams that began or ended since are no guess.
        """
        others = self.health.open_streams - self.health.link_streams if self.health else 0
        return others + self.open_streams

    @property
    def has_room(self) -> bool:
        """One more stream fits."""
        return self.health is not None and self.load < self.health.max_streams


@dataclass(slots=True)
class Admission:
    """The decisions; counts are this worker's."""

    slots: SlotTable
    services: dict[int, ServiceLoad] = field(default_factory=dict)  # by service index
    draining: bool = False
    first_choice: int = 0  # the service a tie goes to: workers start at different ones

    def check(self, hello: Hello, now_ns: int) -> Error | None:
        """Why this client cannot come in now; None when it may."""
        if self.draining:
            return refusal(ErrorCode.DRAINING, "the server is going away")
        healthy = [load for load in self.services.values() if load.is_healthy(now_ns)]
        if not healthy:
            return refusal(ErrorCode.AT_CAPACITY, "no recognition service is ready")
        if not any(load.has_model(hello.model) for load in healthy):
            return refusal(ErrorCode.UNKNOWN_MODEL, _models_text(hello.model, healthy))
        if not any(load.has_language(hello.language) for load in healthy):
            return refusal(ErrorCode.UNKNOWN_LANGUAGE, _languages_text(hello.language, healthy))
        if not self.slots.num_free or self.choose(hello.model, now_ns) is None:
            return refusal(ErrorCode.AT_CAPACITY, "all sessions are taken")
        return None

    def settle(self, hello: Hello, *, any_model: bool) -> Hello:
        """The hello in this server's terms: "en-US" is "en"; with `any_model` a model that is
        not served is the default one.
        """
        if any_model and hello.model is not None and hello.model not in self.models():
            hello = structs.replace(hello, model=None)
        if hello.language is not None:
            hello = structs.replace(hello, language=primary_language(hello.language))
        return hello

    def choose(self, model: str | None, now_ns: int) -> int | None:
        """The healthy service with the fewest open streams; None when none has room."""
        candidates = [
            (load.load, (index - self.first_choice) % len(self.services), index)
            for index, load in self.services.items()
            if load.is_healthy(now_ns) and load.has_room and load.has_model(model)
        ]
        return min(candidates)[2] if candidates else None

    def stream_opened(self, service: int) -> None:
        """A stream was opened on this service."""
        self.services[service].open_streams += 1

    def has_service(self, model: str | None, now_ns: int) -> bool:
        """A healthy service has this model, whether it has room or not."""
        return any(
            load.is_healthy(now_ns) and load.has_model(model) for load in self.services.values()
        )

    def stream_left(self, service: int) -> None:
        """The service has one stream less."""
        self.services[service].open_streams -= 1

    def models(self) -> tuple[str, ...]:
        """All models served, the default one first."""
        names: dict[str, None] = {}
        for load in self.services.values():
            names.update(dict.fromkeys(load.health.models if load.health else ()))
        return tuple(names)

    def languages(self) -> tuple[str, ...]:
        """All languages that the models know, as far as they say."""
        names: dict[str, None] = {}
        for load in self.services.values():
            names.update(dict.fromkeys(load.health.languages if load.health else ()))
        return tuple(names)

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


def _languages_text(language: str | None, healthy: Iterable[ServiceLoad]) -> str:
    names = {name for load in healthy if load.health for name in load.health.languages}
    return f"no model here knows the language {language!r}; there is {', '.join(sorted(names))}"


def _models_text(model: str | None, healthy: Iterable[ServiceLoad]) -> str:
    names = {name for load in healthy if load.health for name in load.health.models}
    return f"model {model!r} is not served; there is {', '.join(sorted(names)) or 'none'}"
