"""Whisper's TensorRT network, executed in numpy, against the oracle's encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpu_service.builder.whisper_network import WhisperNetwork, whisper_network_weights
from gpu_service.cpu.log_mel import log_mel
from gpu_service.decoding.whisper_oracle import WhisperOracle
from gpu_service.gpu.trt_compat import TrtPrecision, dialect_of
from gpu_service.gpu.trt_window import FEATURES, RESIDUAL
from tests.fixtures.whisper.signals import signal
from tests.gpu_service.gpu.encoder_rig import relative_error
from tests.gpu_service.gpu.test_whisper_encoder import checkpoint

from .fake_tensorrt import FakeTensorRt

POSITIONS = 40
MODEL = checkpoint(multilingual=True)


def built(precision: TrtPrecision = "fp32", version: str = "11.4.0") -> Any:
    trt = FakeTensorRt(version)
    dialect = dialect_of(trt)
    network = dialect.create_network(trt)
    weights = whisper_network_weights(MODEL, precision, POSITIONS)
    WhisperNetwork(trt, dialect, network, MODEL.config, weights, precision).build(POSITIONS)
    return network


def windows() -> NDArray[np.float32]:
    """(2, R, M)."""
    mels = [log_mel(signal(0.7, seed), MODEL.config.num_mels) for seed in (1, 2)]
    return np.stack([mel.padded(2 * POSITIONS).T for mel in mels])


@pytest.mark.parametrize(
    ("precision", "version", "limit"),
    [
        ("fp32", "8.6.0", 1e-5), ("fp32", "11.4.0", 1e-5), ("fp16", "8.6.0", 1e-2),
        ("fp16", "11.4.0", 1e-2), ("bf16", "11.4.0", 6e-2),
    ],
)  # fmt: skip
def test_it_computes_what_the_oracle_does(
    precision: TrtPrecision, version: str, limit: float
) -> None:
    features = windows()
    found = built(precision, version)._run({FEATURES: features})[RESIDUAL]
    oracle = WhisperOracle(MODEL)
    assert found.shape == (2, POSITIONS, MODEL.config.width)
    for rows, residual in zip(features, found, strict=True):
        states = oracle._norm(residual, "encoder.layer_norm")
        assert relative_error(states, oracle.encode(rows.T)) < limit


@pytest.mark.parametrize("version", ["8.6.0", "11.4.0"])
def test_every_layer_has_a_name_of_its_own(version: str) -> None:
    names = [layer._name_now() for layer in built("fp16", version)._layers]
    assert "" not in names
    assert len(set(names)) == len(names)


def test_only_the_batch_is_open() -> None:
    ((tensor, shape),) = built()._inputs.values()
    assert shape == (-1, 2 * POSITIONS, MODEL.config.num_mels)
    assert tensor._dimension_names == {0: "batch"}
