"""The picture of a soak run: one panel a kind of quantity, the warm-up shaded. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from .plots import SERIES, _style
from .trends import Point

_PANELS = {
    "private_mib": ("Private memory", "MiB"),
    "fds": ("Descriptors", "open"),
    "slots": ("Open slots", "streams"),
    "lag_ms": ("Received, not yet decoded (p95)", "ms"),
}


def plot_soak(points: Mapping[str, Sequence[Point]], warm_up_share: float, path: str) -> None:
    """`points` by name; what stands before the first dot says in which panel."""
    figure, panels = plt.subplots(2, 2, figsize=(12, 7), facecolor="white")
    for axes, (prefix, (title, unit)) in zip(panels.flat, _PANELS.items(), strict=True):
        chosen = {n: p for n, p in points.items() if n.split(".")[0] == prefix}
        for (name, series), colour in zip(chosen.items(), SERIES, strict=False):
            minutes = [t / 60 for t, _ in series]
            axes.plot(minutes, [v for _, v in series], label=name.partition(".")[2], color=colour)
            axes.axvspan(0, minutes[0] + warm_up_share * (minutes[-1] - minutes[0]),
                         color="#f0f0f0", zorder=0)  # fmt: skip
        _style(axes, title, "minutes", unit)
        axes.set_ylim(bottom=0)
        if len(chosen) > 1:
            axes.legend(frameon=False, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
