"""What Whisper on the GPU costs, and whether it is still Whisper: everything in one run.

    python -m bench.whisper_gpu [--models large-v3 turbo] [--only SECTION ...]
                                [--baseline-python PATH] [--out FILE.json] [--plot FILE.png]

Models of the true sizes with random weights, made here; the real tiny.en for the section speech.
Sections: speech (against transformers' golden tokens), correct (against the oracle), window (one at
batch 1, and the share of the weights' bandwidth), bulk (at batch 32), baselines (transformers and
CTranslate2 on the same weights and GPU, in a Python of their own); see whisper_*.py. Tables, then
one JSON line. Where a section fails, its error stands there and the others go on: exit status 1,
or 2 if none can begin.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpu_service.builder.whisper_reference import WhisperUtterance
from gpu_service.cpu.log_mel import log_mel
from gpu_service.decoding.whisper_rules import start_tokens
from gpu_service.errors import ServiceError
from gpu_service.weights.whisper_checkpoint import WhisperCheckpoint
from gpu_service.weights.whisper_folder import write_whisper_folder

from .gpu_audio import Samples, read_clip
from .gpu_engines import describe, open_device
from .gpu_section import Progress, Section, Table, add_run_options, short
from .report import finish, table, warn
from .whisper_measure import Bench, MeasureSizes, oracle_logits, run_bulk, run_correct, run_window
from .whisper_random import CONFIGS, random_checkpoint
from .whisper_speech import run_speech

SECTIONS = ("speech", "correct", "window", "bulk", "baselines")
OF_MODELS = SECTIONS[1:]
MODELS = ("large-v3", "turbo")
GOALS = {"large-v3": 1_000, "turbo": 4_000}  # audio-s/s in bulk, on an H100
FLOOR_SHARE_GOAL = 0.6
BASELINE_TIMEOUT_S = 420.0
BUDGET_S = 600.0


@dataclass(slots=True)
class Run:
    """One run of the benchmark."""

    device: Any
    gemms: Any
    options: argparse.Namespace
    sizes: MeasureSizes
    progress: Progress
    base: Samples = field(default_factory=read_clip)
    _bench: Bench | None = None
    _references: dict[str, list[WhisperUtterance]] = field(default_factory=dict)

    def measure(self, keep: Callable[[dict[str, Any]], None]) -> bool:
        """Every section that is asked for; `keep` gets results behind each. Whether all went well.

        Only an error that leaves no device ends it early.
        """
        results: dict[str, Any] = {}
        is_well = True
        if "speech" in self.options.only:
            is_well &= self._one(results, "speech", self._speech)
            keep(results)
        for name in self.options.models:
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = random_checkpoint(name, Path(folder))
                own = results.setdefault(name, {})
                for section, run in self._sections(name, checkpoint).items():
                    if section in self.options.only:
                        is_well &= self._one(own, section, run)
                        keep(results)
            self._free()
        return is_well

    def _sections(
        self, name: str, checkpoint: WhisperCheckpoint
    ) -> dict[str, Callable[[], Section]]:
        return {
            "correct": lambda: self._correct(name, checkpoint),
            "window": lambda: run_window(self._loaded(checkpoint), self.base, self.progress),
            "bulk": lambda: self._bulk(name, checkpoint),
            "baselines": lambda: self._baselines(name, checkpoint),
        }

    def _one(self, results: dict[str, Any], name: str, run: Callable[[], Section]) -> bool:
        try:
            section = run()
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"}
            warn("".join(traceback.format_exception(error)))
            if getattr(error, "is_sticky", False):
                raise
            return False
        results[name] = short(section.fields)
        for each in section.tables:
            table(each.title, each.columns, each.rows)
        return True

    # -- sections --------------------------------------------------------------------------

    def _speech(self) -> Section:
        from tests.gpu_service.speech import two_cities

        self._free()
        return run_speech(self.device, self.gemms, two_cities(), self.progress)

    def _correct(self, name: str, checkpoint: WhisperCheckpoint) -> Section:
        self._free()
        section, self._references[name] = run_correct(
            checkpoint, self.device, self.gemms, self.sizes, self.progress
        )
        return section

    def _bulk(self, name: str, checkpoint: WhisperCheckpoint) -> Section:
        section = run_bulk(self._loaded(checkpoint), self.base, self.progress)
        section.fields["goal_audio_s_per_s"] = GOALS.get(name, 0)
        return section

    def _baselines(self, name: str, checkpoint: WhisperCheckpoint) -> Section:
        """In a child, with nothing of ours on the device."""
        self._free()
        with tempfile.TemporaryDirectory() as written:
            folder = Path(written)
            write_whisper_folder(folder, checkpoint)
            arguments = [str(folder)]
            if name in self._references:
                path = folder / "reference.npz"
                _save_reference(path, checkpoint, self._references[name], self.sizes)
                arguments += ["--reference", str(path)]
            fields = self._child(arguments, checkpoint)
        rows = [[key, str(value)] for key, value in fields.items()]
        return Section(fields, [Table(f"{name}: baselines", ["what", "value"], rows)])

    def _child(self, arguments: list[str], checkpoint: WhisperCheckpoint) -> dict[str, Any]:
        words = checkpoint.vocabulary
        start = (*start_tokens(words, next(iter(words.languages), None)), words.no_timestamps)
        command = [
            self.options.baseline_python or sys.executable, "-m", "bench.whisper_baselines",
            *arguments, "--batch", str(self.sizes.batch), "--tokens", str(self.sizes.num_tokens),
            "--end", str(words.end), "--start", *map(str, start),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=BASELINE_TIMEOUT_S, check=False,
                cwd=Path(__file__).resolve().parent.parent,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"missing": str(error)}
        if done.returncode:
            return {"missing": done.stderr.strip()[-600:]}
        measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return measured

    # -- the engine ------------------------------------------------------------------------

    def _loaded(self, checkpoint: WhisperCheckpoint) -> Bench:
        if self._bench is None or self._bench.checkpoint.model_id != checkpoint.model_id:
            self._free()
            self._bench = Bench.load(checkpoint, self.device, self.gemms, self.sizes)
            self.progress.say(f"{checkpoint.model_id} loaded")
        return self._bench

    def _free(self) -> None:
        self._bench = None
        gc.collect()


def _save_reference(
    path: Path,
    checkpoint: WhisperCheckpoint,
    reference: Sequence[WhisperUtterance],
    sizes: MeasureSizes,
) -> None:
    """What the oracle was shown and answered, for a baseline to compare with."""
    arrays: dict[str, Any] = {"count": np.array(len(reference))}
    for number, each in enumerate(reference):
        mel = log_mel(each.samples, checkpoint.config.num_mels).padded(2 * sizes.positions)
        arrays[f"mel{number}"] = mel
        arrays[f"fed{number}"] = np.array([*each.prompt, *each.path[:-1]])
        arrays[f"states{number}"] = each.states
        arrays[f"logits{number}"] = oracle_logits(checkpoint, each)
    np.savez(path, **arrays)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.whisper_gpu", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=sorted(CONFIGS), default=list(MODELS), metavar="MODEL",
        help=f"of {', '.join(sorted(CONFIGS))} (default: {', '.join(MODELS)})")  # fmt: skip
    add("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
        help=f"of {', '.join(SECTIONS)} (default: all)")  # fmt: skip
    add("--baseline-python", metavar="PATH",
        help="with torch, transformers and ctranslate2, for baselines")  # fmt: skip
    add("--bandwidth-tbs", type=float, default=4.8, metavar="TB/S",
        help="of the GPU's memory: 4.8 H200 (default), 3.35 H100")  # fmt: skip
    add_run_options(parser)
    return parser.parse_args(argv)


def main(
    argv: Sequence[str] | None = None,
    open_: Callable[..., Any] = open_device,
    sizes: MeasureSizes | None = None,
) -> int:
    """See the top of this file. Tests bring another device, and sizes."""
    options = parse(argv)
    sizes = sizes or MeasureSizes(bandwidth_bytes_per_s=options.bandwidth_tbs * 1e12)
    progress = Progress(BUDGET_S)
    try:
        device, gemms = open_(options.tactics, tune=options.tune)
    except (ServiceError, ModuleNotFoundError) as error:
        warn(str(error))
        return 2
    told = {"commit": options.commit} if options.commit else {}
    config = {"models": options.models, "sections": options.only, "tune": options.tune}
    gpu = describe(device, gemms)
    kept: dict[str, Any] = {}

    def keep(results: dict[str, Any]) -> None:
        kept.update(results)
        if options.out:
            line = {"bench": "whisper_gpu", "config": config, **told, "gpu": gpu, **kept}
            Path(options.out).write_text(json.dumps(line, indent=1) + "\n")

    is_well = Run(device, gemms, options, sizes, progress).measure(keep)
    if options.tune and options.tactics:
        options.tactics.write_text(json.dumps(gemms.tactics.to_json()))
    finish("whisper_gpu", config, {**told, "gpu": gpu, **kept}, options.out)
    if options.plot:  # behind the numbers: it may fail, and they must not be lost
        from .whisper_plot import plot_whisper

        plot_whisper({name: kept[name] for name in options.models if name in kept}, options.plot)
    return 0 if is_well else 1


if __name__ == "__main__":
    raise SystemExit(main())
