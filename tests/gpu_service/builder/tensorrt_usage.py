"""Which names of TensorRT the product uses, with a given version of it.

`trt.Something` is read from the sources; what is asked of TensorRT's objects is noted while a plan
is built and run with fakes. Names in WeakDialect count for 8.6 only, those in StrongDialect for
later ones only.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gpu_service
from gpu_service.builder.network_weights import network_weights
from gpu_service.builder.tensorrt_plan import build_network_plan, build_plan
from gpu_service.builder.whisper_network import WhisperNetwork, whisper_network_weights
from gpu_service.gpu.encoder import Utterance
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.trt import TensorRtEncoder
from gpu_service.gpu.trt_window import window_shapes
from gpu_service.weights.parakeet_weights import prepare
from gpu_service.weights.whisper_checkpoint import load_whisper
from tests.fixtures.whisper.random_checkpoint import write_folder
from tests.gpu_service.cpu.parakeet_random import SMALL, random_checkpoint, random_features
from tests.gpu_service.gpu.emulator import EmulatedDevice

from .fake_engine import FakeTensorRtRuntime

ROOT = Path(gpu_service.__file__).parent
WHISPER_POSITIONS = 4
ROOTS = ("trt", "self.trt", "self._trt")
CLASS_OF_GENERATION = {"WeakDialect": True, "StrongDialect": False}  # is it TensorRT 8?
# What TensorRT calls on objects of ours.
CALLED_BACK = {"ILogger.log"}
CALLED_BACK_10 = {
    "IProgressMonitor.phase_start",
    "IProgressMonitor.step_complete",
    "IProgressMonitor.phase_finish",
}


@cache
def used_names(version: str) -> frozenset[str]:
    """Dotted names below the module: "BuilderFlag.TF32", "INetworkDefinition.add_cast"."""
    is_weak = version.startswith("8.")
    names = {name for path in _sources() for name in _names_in(path, is_weak)}
    names |= CALLED_BACK if is_weak else CALLED_BACK | CALLED_BACK_10
    return frozenset(names | _recorded(version))


def _sources() -> list[Path]:
    return [*(ROOT / "gpu").glob("trt*.py"), *(ROOT / "builder").glob("*.py")]


def _names_in(path: Path, is_weak: bool) -> Iterator[str]:
    module = ast.parse(path.read_text())
    for top in module.body:
        generation = CLASS_OF_GENERATION.get(getattr(top, "name", ""), is_weak)
        if generation is not is_weak:
            continue
        for node in ast.walk(top):
            if isinstance(node, ast.Attribute):
                yield from _below_module(ast.unparse(node))


def _below_module(text: str) -> Iterator[str]:
    for root in ROOTS:
        name = text.removeprefix(f"{root}.")
        if name != text and name.replace(".", "").isidentifier() and "__" not in name:
            yield name


def _recorded(version: str) -> set[str]:
    """A plan in half precision, built and run."""
    device = EmulatedDevice()
    trt = FakeTensorRtRuntime(version, device)
    weights = prepare(random_checkpoint(SMALL), 8)
    arrays = network_weights(weights, "fp16")
    buckets = (Bucket(1, 2), Bucket(1, 3))
    built = build_plan(trt, SMALL, arrays, buckets, "fp16", report=lambda *_: None)
    encoder = TensorRtEncoder(
        trt, device, built.data, buckets, _Store(device), max_frames=8,
        output_width=SMALL.decoder_width,
    )  # fmt: skip
    encoder.encode(buckets[0], [Utterance(0, 16)])
    _build_whisper(trt)
    return {name.removeprefix("Builder.") if name == "Builder." else name for name in trt.used}


def _build_whisper(trt: FakeTensorRtRuntime) -> None:
    """A plan of Whisper's encoder, in half precision."""
    with tempfile.TemporaryDirectory() as folder:
        model = load_whisper(str(write_folder(Path(folder))))
        weights = whisper_network_weights(model, "fp16", WHISPER_POSITIONS)

        def put(dialect: Any, network: Any) -> object:
            encoder = WhisperNetwork(trt, dialect, network, model.config, weights, "fp16")
            encoder.build(WHISPER_POSITIONS)
            return encoder

        shapes = window_shapes(1, WHISPER_POSITIONS, model.config.num_mels)
        build_network_plan(trt, put, [shapes], "fp16")


class _Store:
    def __init__(self, device: EmulatedDevice) -> None:
        self.mel = device.upload(random_features(16)[None])
        self.mean = device.zeros((1, 128), "float32")
        self.scale = device.upload(random_features(1) * 0 + 1)
