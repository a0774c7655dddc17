"""The table of fuzz targets, one a parser."""

from __future__ import annotations

from collections.abc import Mapping

from . import (
    dialect_targets,
    journal_targets,
    model_targets,
    state_targets,
    web_targets,
    wire_targets,
)
from .target import Target

_MODULES = (
    wire_targets, web_targets, dialect_targets, model_targets, state_targets, journal_targets,
)  # fmt: skip

TARGETS: Mapping[str, Target] = {
    target.name: target for module in _MODULES for target in module.TARGETS
}
