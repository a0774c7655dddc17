"""What Parakeet on the GPU costs, and whether it is still Parakeet: everything in one run.

    python -m bench.gpu MODEL [--only SECTION ...] [--out FILE.json] [--plot FILE.png]

MODEL is a Parakeet-TDT checkpoint, of the true sizes for numbers that mean something; audio is the
demo's clip, shifted and scaled. Sections: correct, bulk, profile, clip, decoder, profiles, memory,
streams; each says what it measures in its own file (gpu_*.py). Tables, then one JSON line. Where a
section fails, its error stands there and the others go on: exit status 1, or 2 if none can begin.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_service.cpu.parakeet import ParakeetRecognizer
from gpu_service.errors import ServiceError
from gpu_service.gpu.device import DeviceError
from gpu_service.gpu.parakeet import GpuParakeetRecognizer
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import prepare

from . import gpu_bulk, gpu_correct, gpu_decoder, gpu_latency, gpu_profile, gpu_streams
from .gpu_audio import read_clip
from .gpu_engines import Engines, describe, open_device
from .gpu_rig import RigSizes
from .gpu_section import Progress, Section, add_run_options, short
from .gpu_torch import TorchBaseline
from .report import finish, table, warn

BUDGET_S = 180.0
# In the order they are run: those of one engine together.
SECTIONS = ("correct", "bulk", "profile", "clip", "decoder", "profiles", "memory", "streams")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each section does. The defaults are what is published; tests have less."""

    rig: RigSizes = field(default_factory=RigSizes)
    correct: gpu_correct.CorrectSizes = field(default_factory=gpu_correct.CorrectSizes)
    bulk: gpu_bulk.BulkSizes = field(default_factory=gpu_bulk.BulkSizes)
    profile: gpu_profile.ProfileSizes = field(default_factory=gpu_profile.ProfileSizes)
    latency: gpu_latency.LatencySizes = field(default_factory=gpu_latency.LatencySizes)
    decoder: gpu_decoder.DecoderSizes = field(default_factory=gpu_decoder.DecoderSizes)
    memory: gpu_streams.MemorySizes = field(default_factory=gpu_streams.MemorySizes)
    streams: gpu_streams.StreamSizes = field(default_factory=gpu_streams.StreamSizes)


@dataclass(slots=True)
class Run:
    """One run of the benchmark."""

    engines: Engines
    sizes: Sizes
    progress: Progress
    torch_baseline: dict[str, Any]

    def sections(self) -> dict[str, Callable[[], Section]]:
        """By name: SECTIONS."""
        return {
            "correct": self._correct,
            "bulk": lambda: gpu_bulk.run(
                *self._half(), self.torch_baseline, self.sizes.bulk, self.progress
            ),
            "profile": lambda: gpu_profile.run(*self._half(), self.sizes.profile, self.progress),
            "clip": lambda: gpu_latency.run_clip(*self._half(), self.sizes.latency, self.progress),
            "decoder": lambda: gpu_decoder.run(*self._half(), self.sizes.decoder, self.progress),
            "profiles": lambda: gpu_latency.run_profiles(
                *self._half(), self.sizes.latency, self.progress
            ),
            "memory": self._memory,
            "streams": lambda: gpu_streams.run(
                self.engines.recognizer, self.engines.base, self.sizes.streams, self.progress
            ),
        }

    def _half(self) -> tuple[Any, Any]:
        return self.engines.rig("fp16"), self.engines.base

    def _correct(self) -> Section:
        engines, sizes, base = self.engines, self.sizes.correct, self.engines.base
        tiny = self._tiny()
        exact = gpu_correct.run_exact(engines.rig("fp32"), base, sizes)
        self.progress.say("correct: single precision computed")
        engines.free()
        exact.on_cpu = gpu_correct.run_cpu(engines.checkpoint, base, sizes)
        self.progress.say("correct: ONNX Runtime computed")
        return gpu_correct.run(engines.rig("fp16"), base, exact, tiny, sizes, self.progress)

    def _tiny(self) -> Section:
        """The golden checkpoint in single precision, end to end."""
        checkpoint = load_checkpoint(str(gpu_correct.TINY))
        settings = GpuParakeetSettings(precision="fp32", max_streams=1, max_drafts=1)
        weights = prepare(checkpoint, settings.most_frames)
        ours = GpuParakeetRecognizer(
            checkpoint.model_id, weights, self.engines.device, self.engines.gemms, settings
        )
        cpu = ParakeetRecognizer(checkpoint)
        section = gpu_correct.run_tiny(ours, cpu, self.engines.base, self.sizes.correct)
        self.progress.say("correct: golden checkpoint compared")
        return section

    def _memory(self) -> Section:
        streams = self.sizes.streams
        recognizer = self.engines.recognizer(gpu_streams.settings_for(streams.policies[0], streams))
        return gpu_streams.run_memory(
            recognizer, self.engines.free_bytes, self.engines.base, self.sizes.memory, self.progress
        )

    def measure(self, names: Sequence[str], keep: Callable[[dict[str, Any]], None]) -> bool:
        """Run sections and print their tables; `keep` gets all results behind each one.

        Whether all went well. Only an error that leaves no device ends it early.
        """
        results: dict[str, Any] = {}
        is_well = True
        sections = self.sections()
        for name in SECTIONS:
            if name not in names:
                continue
            self.progress.say(f"{name} begins")
            began_s = self.progress.elapsed_s
            try:
                done = sections[name]()
                results[name] = short(done.fields)
                for one in done.tables:
                    table(one.title, one.columns, one.rows)
            except Exception as error:  # what the others measure must not be lost
                is_well = False
                traceback.print_exc()
                results[name] = {"error": f"{type(error).__name__}: {error}"}
                if isinstance(error, DeviceError) and error.is_sticky:
                    names = ()
            results[name]["took_s"] = round(self.progress.elapsed_s - began_s, 1)
            keep(results)
            self.progress.say(f"{name} took {results[name]['took_s']} s")
        return is_well


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="earwire bench gpu", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("model", help="folder, .nemo file or hub id of a Parakeet-TDT checkpoint")
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION",
        help=f"of {', '.join(SECTIONS)} (default: all)")  # fmt: skip
    add("--seconds-budget", type=float, default=BUDGET_S, metavar="S",
        help=f"the search for streams ends by then (default: {BUDGET_S:.0f})")  # fmt: skip
    add("--torch-python", metavar="PATH",
        help="whose torch is the baseline (default: this one's, if it has it)")  # fmt: skip
    add("--compile", action="store_true", help="the baseline compiled too: two minutes more")
    add_run_options(parser)
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None,
    open_: Callable[..., Any] = open_device,
    sizes: Sizes | None = None,
) -> int:
    """See the top of this file. Tests bring another device, and sizes."""
    options = parse(argv)
    sizes = sizes or Sizes()
    baseline = (
        TorchBaseline(options.torch_python, with_compile=options.compile)
        if "bulk" in options.only
        else None
    )
    try:
        return _measure(options, sizes, baseline, open_)
    except (ServiceError, ModuleNotFoundError) as error:
        warn(str(error))
        return 2
    finally:
        if baseline is not None:
            baseline.stop()


def _measure(
    options: argparse.Namespace,
    sizes: Sizes,
    baseline: TorchBaseline | None,
    open_: Callable[..., Any],
) -> int:
    progress = Progress(options.seconds_budget)
    checkpoint = load_checkpoint(options.model)
    device, gemms = open_(options.tactics, tune=options.tune)
    engines = Engines(
        device, gemms, checkpoint, read_clip(), sizes.rig,
        max(1, sizes.correct.num_flip_rows), progress,
    )  # fmt: skip
    engines.prepare_weights()  # while the baseline has the device
    waits_s = progress.elapsed_s
    measured = baseline.result() if baseline is not None else {}
    progress.budget_s += progress.elapsed_s - waits_s  # of our sections, not of torch
    progress.say(f"{device.name}; torch baseline: {measured or 'not asked for'}")
    gpu = describe(device, gemms)
    told = {"commit": options.commit} if options.commit else {}
    config = {"model": checkpoint.model_id, "sections": list(options.only), "tune": options.tune}
    kept: dict[str, Any] = {}

    def keep(results: dict[str, Any]) -> None:
        kept.update(results)
        if options.out:
            line = {"bench": "gpu", "config": config, **told, "gpu": gpu, **kept}
            Path(options.out).write_text(json.dumps(line, indent=1) + "\n")

    is_well = Run(engines, sizes, progress, measured).measure(options.only, keep)
    if options.tune and options.tactics:
        options.tactics.write_text(json.dumps(gemms.tactics.to_json()))
    progress.say("done")
    finish("gpu", config, {**told, "gpu": gpu, **kept}, options.out)
    if options.plot:  # behind the numbers: it may fail, and they must not be lost
        from .plots import plot_gpu

        plot_gpu(kept, options.plot)
    return 0 if is_well else 1


if __name__ == "__main__":
    raise SystemExit(main())
