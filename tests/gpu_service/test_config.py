"""Config: what the gateway writes is what the service reads, and nothing else."""

from __future__ import annotations

import msgspec
import pytest

from gateway.config import RING_SLACK_SECONDS, ServerConfig, service_json
from gpu_service.config import ServiceConfig, decode_config
from gpu_service.cpu.parakeet import CUT_RULE


def test_the_parents_json_is_understood_in_full() -> None:
    server = ServerConfig(
        model="m", vad=False, hop_ms=500, max_sessions=7, threads=3,
        engine="gpu", precision="fp32", vad_threads=2, log_format="json",
    )  # fmt: skip
    config = decode_config(service_json(server, server.model, index=2, control_fd=9))
    assert config == ServiceConfig(
        index=2, control_fd=9, model="m", vad=False, hop_ms=500, max_streams=7, threads=3,
        engine="gpu", precision="fp32", vad_threads=2, log_format="json",
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ['{"index":0}', '{"index":0,"control_fd":3,"colour":"red"}', '{"index":"0","control_fd":3}'],
)
def test_an_unknown_missing_or_mistyped_field_is_an_error(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_config(text)


def test_the_ring_has_room_for_what_parakeet_hears_around_a_cut() -> None:
    """The gateway knows no model, so the number stands there once more; 5 s are for new audio."""
    around_samples = CUT_RULE.left_samples + CUT_RULE.right_samples
    assert around_samples + 5 * 16_000 <= RING_SLACK_SECONDS * 16_000
