"""The table of fuzz targets, one a parser."""

from __future__ import annotations

from collections.abc import Mapping

from . import dialect_targets, model_targets, state_targets, web_targets, wire_targets
from .target import Target

TARGETS: Mapping[str, Target] = {
    target.name: target
    for targets in (wire_targets, web_targets, dialect_targets, model_targets, state_targets)
    for target in targets.TARGETS
}
