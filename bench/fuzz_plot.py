"""The picture of fuzzing: one small panel a target, the edges that its inputs had reached by then.

Called by tests/fuzz/run.py. Needs matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .plots import SERIES

COLUMNS = 6


def plot_fuzz(targets: Mapping[str, Mapping[str, Any]], path: str) -> None:
    """Each target's longest run, as fuzz.json has it; a dot where the last new edge came."""
    known = {name: record for name, record in targets.items() if record.get("edges_by_input")}
    rows = math.ceil(len(known) / COLUMNS)
    figure, panels = plt.subplots(
        rows, COLUMNS, figsize=(2.4 * COLUMNS, 1.7 * rows), facecolor="white", squeeze=False
    )
    for axes in panels.flat[len(known) :]:
        axes.set_visible(False)
    for axes, (name, record) in zip(panels.flat, known.items(), strict=False):
        _panel(axes, name, record)
    figure.suptitle("Edges reached, by inputs (log)", x=0.01, ha="left", fontsize=12)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _panel(axes: Axes, name: str, record: Mapping[str, Any]) -> None:
    inputs, edges = zip(*record["edges_by_input"], strict=True)
    axes.step([*inputs, record["inputs"]], [*edges, edges[-1]], where="post", color=SERIES[0])
    axes.plot(inputs[-1], edges[-1], "o", markersize=4, color=SERIES[1])
    axes.set_title(name, loc="left", fontsize=9)
    axes.set_xscale("log")
    axes.set_xlim(1, 5e6)
    axes.set_xticks([1, 1e3, 1e6])
    axes.set_ylim(0, 1.2 * edges[-1])
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
