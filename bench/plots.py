"""Pictures of results: dark on white, one question each. Needs matplotlib (the `dev` extra)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .gateway_analysis import MAX_ADDED_P99_MS
from .live_metrics import Measures

COLOURS = {"worker": "#0b4f8a", "asyncio": "#b3541e"}
SERIES = ("#0b4f8a", "#b3541e", "#2f6b2f", "#6a3d9a")
LABELS = {"worker": "Earwire worker", "asyncio": "asyncio + websockets"}


def _style(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color="#111111")
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _cdf(axes: Axes, values: Sequence[float], label: str, colour: str) -> None:
    ordered = sorted(values)
    shares = [0.0, *(100 * (i + 1) / len(ordered) for i in range(len(ordered)))]
    ordered = [ordered[0], *ordered]
    axes.step(ordered, shares, where="post", label=f"{label} (n={len(values)})", color=colour,
              linewidth=2)  # fmt: skip


def plot_live(measures: Measures, results: Mapping[str, Any], path: str) -> None:
    """Left: how the latencies are distributed. Right: where a partial's time goes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), facecolor="white")
    kinds = {
        "TTFT (per utterance)": measures.ttft_utterance, "emission": measures.emission,
        "TTFS": measures.ttfs, "finalize to final": measures.finalize,
    }  # fmt: skip
    for (label, values), colour in zip(kinds.items(), SERIES, strict=True):
        if values:
            _cdf(left, values, label, colour)
    _style(left, "Latency from the scheduled send time", "ms", "% of values at most this late")
    left.set_xlim(left=0)
    left.set_ylim(0, 100)
    left.legend(frameon=False, fontsize=10)
    _plot_stages(right, results["stages_ms"])
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _plot_stages(axes: Axes, stages: Mapping[str, Mapping[str, float] | None]) -> None:
    known = {name: s for name, s in stages.items() if s is not None}
    names = list(known)[::-1]
    places = range(len(names))
    axes.barh([p + 0.2 for p in places], [known[n]["p50"] for n in names], 0.38, label="p50",
              color=SERIES[0])  # fmt: skip
    axes.barh([p - 0.2 for p in places], [known[n]["p95"] for n in names], 0.38, label="p95",
              color="#9dbfdf")  # fmt: skip
    for place, name in zip(places, names, strict=True):
        for shift, key in ((0.2, "p50"), (-0.2, "p95")):
            axes.annotate(f" {known[name][key]:.1f}", (known[name][key], place + shift),
                          va="center", fontsize=9, color="#111111")  # fmt: skip
    axes.margins(x=0.12)
    axes.set_yticks(list(places), [name.replace("_", " ") for name in names], fontsize=10)
    _style(axes, "Where the server's time goes", "ms", "")
    if names:
        axes.legend(frameon=False, fontsize=10)


def plot_gateway(results: Mapping[str, Any], path: str) -> None:
    """One column a dialect; above the added latency, below the CPU time of a frame."""
    dialects = list(results["levels"])
    figure, grid = plt.subplots(
        2, len(dialects), figsize=(6 * len(dialects), 7.6), facecolor="white", squeeze=False
    )
    for column, dialect in enumerate(dialects):
        for kind, levels in results["levels"][dialect].items():
            known = [x for x in levels if not x["void"] and x["receive_to_service_ms"]]
            streams = [x["streams"] for x in known]
            p99 = [x["receive_to_service_ms"]["p99"] for x in known]
            style = {"label": LABELS[kind], "color": COLOURS[kind], "marker": "o", "linewidth": 2}
            grid[0][column].plot(streams, p99, **style)
            grid[1][column].plot(streams, [x["cpu_us_per_frame"] for x in known], **style)
        top, bottom = grid[0][column], grid[1][column]
        top.axhline(MAX_ADDED_P99_MS, color="#555555", linestyle="--", linewidth=1)
        top.set_yscale("log")
        top.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        top.yaxis.set_minor_formatter(NullFormatter())
        top.annotate("bound: 5 ms", (0.99, MAX_ADDED_P99_MS), ha="right", va="bottom",
                     xycoords=("axes fraction", "data"), fontsize=10, color="#333333")  # fmt: skip
        title = f"{dialect}, 20 ms frames, one core"
        _style(top, title, "real-time streams", "p99 added latency, ms (log)")
        _style(bottom, "", "real-time streams", "server CPU, us a frame")
        bottom.set_ylim(bottom=0)
        for axes in (top, bottom):
            axes.set_xlim(left=0)
        top.legend(frameon=False, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def plot_gpu(results: Mapping[str, Any], path: str) -> None:
    """Left: speed in bulk. Middle: a turn of the decoder. Right: streams and their p95."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(17, 5), facecolor="white")
    _plot_bulk(left, results.get("bulk", {}))
    _plot_turns(middle, results.get("decoder", {}).get("modes", []))
    _plot_streams(right, results.get("streams", {}).get("policies", []))
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _plot_bulk(axes: Axes, bulk: Mapping[str, Any]) -> None:
    bars: list[tuple[str, float, str]] = []
    for key, name in (("equal", "equal clips"), ("mixed", "mixed lengths")):
        if key in bulk:
            bars.append((f"{name},\naudio to tokens", bulk[key]["audio_s_per_s"], SERIES[0]))
            rate = bulk[key]["encoder_alone_audio_s_per_s"]
            bars.append((f"{name},\nencoder alone", rate, "#9dbfdf"))
    for key, rate in bulk.get("torch", {}).items():
        variant, found, _ = key.partition("_audio_s_per_s")
        if found:
            name = variant.replace("_batch_", ",\nbatch ")
            bars.append((f"torch {name}", rate, SERIES[1]))
    bars.reverse()
    places = range(len(bars))
    axes.barh(places, [rate for _, rate, _ in bars], 0.62, color=[c for _, _, c in bars])
    for place, (_, rate, _) in enumerate(bars):
        axes.annotate(f" {rate:,.0f}", (rate, place), va="center", fontsize=9, color="#111111")
    axes.margins(x=0.16)
    axes.set_yticks(list(places), [name for name, _, _ in bars], fontsize=9)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.locator_params(axis="x", nbins=5)
    _style(axes, "Bulk: higher is better", "audio seconds a second", "")


def _plot_turns(axes: Axes, modes: Sequence[Mapping[str, Any]]) -> None:
    for index, mode in enumerate(dict.fromkeys(result["mode"] for result in modes)):
        known = [result for result in modes if result["mode"] == mode]
        batches = [result["batch"] for result in known]
        axes.plot(batches, [result["us_per_turn"] for result in known], label=mode,
                  color=SERIES[index % len(SERIES)], marker="o", linewidth=2)  # fmt: skip
    _style(axes, "Decoder: lower is better", "rows at once", "us a turn of the loop (log)")
    if modes:
        _log_axis(axes)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({result["batch"] for result in modes}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.legend(frameon=False, fontsize=10)


def _plot_streams(axes: Axes, policies: Sequence[Mapping[str, Any]]) -> None:
    known = [policy for policy in policies if policy.get("levels")]
    for index, policy in enumerate(known):
        levels = [x for x in policy["levels"] if x["latency_ms"] and not x["has_backlog"]]
        levels.sort(key=lambda level: level["streams"])
        axes.plot([x["streams"] for x in levels], [x["latency_ms"]["p95"] for x in levels],
                  label=policy["policy"], color=SERIES[index % len(SERIES)],
                  marker="o", linewidth=2)  # fmt: skip
    _style(axes, "Streams: lower and further right is better", "real-time streams",
           "p95 from hop due to text, ms (log)")  # fmt: skip
    if known:
        axes.axhline(100, color="#555555", linestyle="--", linewidth=1)
        _log_axis(axes)
        axes.annotate("bound: 100 ms", (0.99, 100), ha="right", va="bottom",
                      xycoords=("axes fraction", "data"), fontsize=10, color="#333333")  # fmt: skip
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=10)


def _log_axis(axes: Axes) -> None:
    """The vertical one, in plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
