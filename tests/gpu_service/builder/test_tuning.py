"""Tuning plans what a service will plan: no product of its is left to the library's first guess."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gpu_service.builder.tuning import plan_products
from gpu_service.gpu.gemm import Product
from gpu_service.gpu.parakeet_parts import load_parts, prepare_parts
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import ParakeetWeights, prepare
from tests.gpu_service.gpu.emulator import EmulatedDevice, EmulatedGemms

from .fakes import Told

# Fewer and smaller buckets than by default, for the emulator.
BUILT_FOR = GpuParakeetSettings(
    max_utterance_samples=16_000, max_streams=8, max_drafts=8, draft_rows=64, final_batch=2,
    final_frames=(16, 192),
)  # fmt: skip


@dataclass
class NotedGemms:
    """Gemms that remember what was planned."""

    gemms: EmulatedGemms
    products: set[Product] = field(default_factory=set)

    def plan(self, product: Product) -> Any:
        self.products.add(product)
        return self.gemms.plan(product)


@pytest.fixture(scope="module")
def weights() -> ParakeetWeights:
    return prepare(load_checkpoint("tests/fixtures/parakeet/tiny"), 264)


def test_every_product_of_a_service_is_planned(weights: ParakeetWeights) -> None:
    device = EmulatedDevice()
    tuned, told = NotedGemms(EmulatedGemms(device)), Told()
    plan_products(device, tuned, weights, BUILT_FOR, told)
    num_buckets = len(BUILT_FOR.buckets())
    assert told.steps == [(number, num_buckets) for number in range(num_buckets)]
    for settings in (BUILT_FOR, replace(BUILT_FOR, max_streams=2, max_drafts=2)):
        served = NotedGemms(EmulatedGemms(device))
        prepare_parts(load_parts(device, served, weights, settings), settings)
        assert served.products
        assert served.products <= tuned.products
