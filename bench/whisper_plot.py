"""A picture of bench/whisper_gpu.py: ours beside the baselines. Needs matplotlib (`dev` extra)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ENGINES = {
    "Earwire": "#0b4f8a",
    "CTranslate2": "#b3541e",
    "transformers": "#2f6b2f",
}
BAR_WIDTH = 0.26


def speeds(results: Mapping[str, Any], section: str) -> dict[str, float]:
    """audio-s/s by engine, of those that were measured, in one model's section."""
    own = results.get(section, {})
    batch = "1" if section == "window" else str(own.get("batch", ""))
    found = {"Earwire": own.get("audio_s_per_s")}
    baselines = results.get("baselines", {})
    for engine, key in (("CTranslate2", "ctranslate2"), ("transformers", "transformers")):
        found[engine] = baselines.get(f"{key}_audio_s_per_s", {}).get(batch)
    return {engine: value for engine, value in found.items() if value}


def plot_whisper(models: Mapping[str, Mapping[str, Any]], path: str) -> None:
    """Left: one window at a time. Right: full batches."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.8), facecolor="white")
    for axis, section, title in zip(
        axes, ("window", "bulk"), ("One window of 30 s", "Full batches"), strict=True
    ):
        for place, (_, results) in enumerate(models.items()):
            for bar, (engine, value) in enumerate(speeds(results, section).items()):
                label = engine if place == 0 else None
                x = place + (bar - 1) * BAR_WIDTH
                axis.bar(x, value, BAR_WIDTH, color=ENGINES[engine], label=label)
                axis.annotate(f"{value:,.0f}", (x, value), ha="center", va="bottom", fontsize=9)
        axis.set_xticks(range(len(models)), list(models))
        axis.set_title(title, loc="left", fontsize=12)
        axis.set_ylabel("seconds of audio a second")
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
