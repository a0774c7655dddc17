"""The gate over a backend, and once more on another machine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from gpu_service.builder.accuracy import LIMITS
from gpu_service.builder.build import BuildOptions, build
from gpu_service.builder.gate import Backend, GateError, ensure_checked, examine
from gpu_service.builder.manifest import Bucket, Manifest
from gpu_service.builder.reference import (
    Reference,
    lengths,
    load_reference,
    make_reference,
    save_reference,
    signal,
)
from gpu_service.cpu.parakeet_encoder import ParakeetEncoder
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare

from .fakes import H100, FakeBackend, FakeToolchain, Fault, Told, exact, off_by

TINY = "tests/fixtures/parakeet/tiny"
BUCKETS = (Bucket(1, 8), Bucket(3, 8), Bucket(2, 24))
H200 = msgspec.structs.replace(H100, gpu="NVIDIA H200")


@pytest.fixture(scope="module")
def weights() -> ParakeetWeights:
    return prepare(load_checkpoint(TINY), 200)


@pytest.fixture(scope="module")
def reference(weights: ParakeetWeights) -> Reference:
    return make_reference([8, 24], ParakeetEncoder(weights, 1).encode_exact)


def test_every_bucket_is_compared_and_timed(weights: ParakeetWeights, reference: Reference) -> None:
    steps: list[tuple[int, int]] = []
    backend = FakeBackend("cublas", weights, BUCKETS, off_by(2e-3), ms=0.7)
    candidate = examine(
        backend, reference, weights.decoder, LIMITS["fp16"], lambda *step: steps.append(step)
    )
    assert candidate.problem == ""
    assert [result.bucket for result in candidate.results] == list(BUCKETS)
    assert all(1e-3 < result.relative_error < 3e-3 for result in candidate.results)
    assert {result.ms for result in candidate.results} == {0.7}
    assert candidate.decisions is not None
    assert candidate.decisions.count > 30
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_one_wrong_bucket_is_enough(weights: ParakeetWeights, reference: Reference) -> None:
    class Wrong(FakeBackend):
        def encode(self, bucket, features):  # type: ignore[no-untyped-def]
            answer = super().encode(bucket, features)
            return -answer if bucket == BUCKETS[2] else answer

    candidate = examine(
        Wrong("tensorrt", weights, BUCKETS), reference, weights.decoder, LIMITS["fp16"]
    )
    assert "2 x 24 frames: relative error 2.00e+00" in candidate.problem
    assert "2 x 24 frames: cosine -1.00000" in candidate.problem
    assert "decoder decisions differ" in candidate.problem
    assert "8 frames" not in candidate.problem.replace("x 24", "")


def test_a_reference_is_read_as_it_was_written(reference: Reference, tmp_path: Path) -> None:
    save_reference(tmp_path / "r.safetensors", reference)
    read = load_reference(tmp_path / "r.safetensors")
    assert read.utterances.keys() == reference.utterances.keys() == {40, 61, 120, 189}
    for rows in read.utterances:
        np.testing.assert_array_equal(
            read.utterances[rows].projected, reference.utterances[rows].projected
        )
    assert [u.num_rows for u in read.of(24)] == lengths(24) == [189, 120]


def test_the_signal_is_audio() -> None:
    audio = signal(16_000, seed=3)
    assert audio.dtype == np.int16
    np.testing.assert_array_equal(audio, signal(16_000, seed=3))
    assert 1_000 < np.abs(audio.astype(int)).max() < 32_000


class Machines:
    """An engine folder, and backends that are opened for it."""

    def __init__(self, folder: Path, fault: Fault = exact) -> None:
        self.folder = folder
        self.toolchain = FakeToolchain()
        options = BuildOptions(TINY, folder, max_batch=1, max_utterance_ms=1_000)
        self.manifest: Manifest = build(options, self.toolchain, Told())
        self.fault = fault
        self.num_opened = 0

    def open(self) -> Backend:
        self.num_opened += 1
        job = self.toolchain.jobs[0]
        return FakeBackend("cublas", job.weights, job.buckets, self.fault)

    def check(self, machine=H200) -> bool:  # type: ignore[no-untyped-def]
        decoder = self.toolchain.jobs[0].weights.decoder
        return ensure_checked(self.folder, self.manifest, machine, decoder, self.open)


def test_the_machine_of_the_build_needs_no_second_gate(tmp_path: Path) -> None:
    machines = Machines(tmp_path / "engine")
    assert machines.check(H100) is False
    assert machines.num_opened == 0


def test_another_machine_is_checked_once(tmp_path: Path) -> None:
    machines = Machines(tmp_path / "engine")
    assert machines.check() is True
    assert machines.check() is False
    assert machines.check(msgspec.structs.replace(H200, driver="600")) is True
    assert machines.num_opened == 2


def test_an_engine_that_is_wrong_there_does_not_run(tmp_path: Path) -> None:
    machines = Machines(tmp_path / "engine", off_by(0.5))
    for _ in range(2):
        with pytest.raises(GateError, match=r"does not compute right on NVIDIA H200: .*relative"):
            machines.check()
    assert machines.num_opened == 2
