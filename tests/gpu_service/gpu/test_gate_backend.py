"""What the gate is given: features in slots, frames and times of any encoder."""

from __future__ import annotations

import numpy as np
import pytest

from gpu_service.builder.reference import lengths, make_reference
from gpu_service.cpu.parakeet_encoder import ParakeetEncoder
from gpu_service.gpu.device import Device
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.gate_backend import FeatureWriter, FixedStore, cublas_backend
from gpu_service.gpu.gemm import Gemms
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import prepare


def test_a_store_has_few_slots(device: Device) -> None:
    store = FixedStore(device, 1)
    writer = FeatureWriter(device, store)
    rows = [np.full((4, 128), i, np.float32) for i in range(9)]
    utterances = writer.put([rows[0], rows[1], rows[0]])
    assert [u.slot for u in utterances] == [0, 1, 0]
    assert device.download(store.mel)[1, 3, 5] == 1.0
    assert device.download(store.scale)[1].tolist() == [1.0] * 128
    for too_many in (rows, [np.zeros((9, 128), np.float32)]):
        with pytest.raises(ValueError, match="8 slots of 8 rows are too few"):
            writer.put(too_many)


def test_reference_utterances_fit_and_come_out_as_frames(device: Device, gemms: Gemms) -> None:
    weights = prepare(load_checkpoint("tests/fixtures/parakeet/tiny"), 16)
    buckets = (Bucket(1, 8), Bucket(2, 16))
    reference = make_reference([8, 16], ParakeetEncoder(weights, 1).encode_exact)
    backend = cublas_backend(device, gemms, weights, "fp32", buckets)
    assert (backend.name, backend.buckets) == ("cublas", buckets)
    for bucket in buckets:
        utterances = reference.of(bucket.frames)[: bucket.batch]
        features = [utterance.features for utterance in utterances]
        assert len(features[0]) == lengths(bucket.frames)[0]
        found = backend.encode(bucket, features)
        for row, utterance in enumerate(utterances):
            expected = utterance.projected
            np.testing.assert_allclose(found[row, : len(expected)], expected, atol=1e-3, rtol=1e-3)
        assert backend.is_graph(bucket)
        assert backend.time_ms(bucket, features, 3) >= 0.0
