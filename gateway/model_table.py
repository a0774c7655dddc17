"""Which models the server has, what else they go by, and which of them a session gets. Pure.

Each service has one model, and a rank: the place of its model in the server's list, where the
first is the default. admission.py makes a table of what its services reported, those among them
that are being started again included, and asks it about every hello.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServedModels:
    """What one service reported last, and what its parent says about it."""

    rank: int
    models: tuple[str, ...]
    languages: tuple[str, ...] = ()  # ISO 639-1; empty: not known, or none can be asked for
    aliases: tuple[str, ...] = ()  # names that its model takes over from models before it

    def knows(self, language: str | None) -> bool:
        """A session may ask for this language."""
        return language is None or not self.languages or language in self.languages


@dataclass(frozen=True, slots=True)
class ModelTable:
    """See the module text. An entry a service, by the service's index."""

    served: Mapping[int, ServedModels]

    def _in_order(self) -> list[ServedModels]:
        """The default model's services first."""
        return [served for _, served in sorted(self.served.items(), key=_place)]

    def names(self) -> tuple[str, ...]:
        """All models, the default one first."""
        return tuple(dict.fromkeys(name for served in self._in_order() for name in served.models))

    def languages_of(self, model: str) -> tuple[str, ...]:
        """The languages of one model, as far as it says."""
        for served in self._in_order():
            if model in served.models:
                return served.languages
        return ()

    def current(self, model: str) -> str | None:
        """The model that goes by this name, which may be of one before it; None: none does."""
        in_order = self._in_order()
        if any(model in served.models for served in in_order):
            return model
        heirs = (served.models[0] for served in in_order if model in served.aliases)
        return next(heirs, None)

    def choose(self, language: str | None) -> str | None:
        """The model of a session that names none: the default one, or if that does not know the
        language the first that does. None where no service has reported yet.
        """
        in_order = self._in_order()
        knowing = [served for served in in_order if served.knows(language)] or in_order
        return knowing[0].models[0] if knowing else None


def _place(item: tuple[int, ServedModels]) -> tuple[int, int]:
    index, served = item
    return served.rank, index
