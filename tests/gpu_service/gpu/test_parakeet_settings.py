"""Buckets: what every utterance and every draft is computed in."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu_service.builder.manifest import Machine, Manifest
from gpu_service.errors import ModelError
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings, settings_for
from gpu_service.parakeet_rules import next_piece
from tests.gpu_service.cpu.parakeet_random import SMALL

FOLDER = Path("engine")


@pytest.mark.parametrize("seconds", [2, 8, 30, 60])
def test_every_final_has_a_bucket_by_its_length_alone(seconds: int) -> None:
    settings = GpuParakeetSettings(max_utterance_samples=seconds * 16_000)
    longest = -(-settings.max_samples // 1280)
    buckets = settings.final_buckets()
    for num_frames in range(1, longest + 1):
        bucket = settings.final_bucket(num_frames)
        assert bucket in buckets
        assert bucket.frames >= num_frames
        assert bucket.frames % 8 == 0
        assert bucket.frames < max(num_frames + 16, 1.26 * num_frames)
    assert settings.max_bucket_frames == -(-longest // 8) * 8


@pytest.mark.parametrize("draft", ["incremental", "window"])
@pytest.mark.parametrize("hop_ms", [80, 160, 320, 1_000, 20_000])
@pytest.mark.parametrize(
    ("max_drafts", "draft_rows"),
    [(1, 4096), (3, 4096), (8, 96), (100, 4096), (256, 4096), (300, 10**4), (600, 10**6)],
)
def test_every_batch_of_drafts_has_a_bucket(
    draft: str, hop_ms: int, max_drafts: int, draft_rows: int
) -> None:
    settings = GpuParakeetSettings(
        draft=draft, hop_ms=hop_ms, max_drafts=max_drafts, draft_rows=draft_rows
    )
    buckets = settings.draft_buckets()
    assert len(buckets) == len(set(buckets))
    longest = max(bucket.frames for bucket in buckets)
    for num_frames in range(1, longest + 1):
        frames = settings.draft_frames(num_frames)
        most = settings.most_drafts(frames)
        assert 1 <= most <= max_drafts
        assert most == 1 or most * frames <= draft_rows
        for count in {1, 2, 3, most // 2, most - 1, most} - {0}:
            if count <= most:
                bucket = settings.draft_bucket(num_frames, count)
                assert bucket in buckets
                assert bucket.frames == frames
                assert count <= bucket.batch < 2 * count or bucket.batch == most


def test_drafts_that_are_a_few_more_than_half_do_not_cost_all() -> None:
    settings = GpuParakeetSettings()
    batches = [settings.draft_bucket(10, count).batch for count in (64, 65, 97, 130, 193)]
    assert batches == [64, 96, 128, 192, 256]


def test_a_service_with_a_longer_hop_or_fewer_streams_has_no_other_buckets() -> None:
    """So those of the default settings are all that an engine has to be tuned for."""
    known = set(GpuParakeetSettings().buckets())
    for hop_ms in (80, 160, 320, 500, 1_000):
        for max_drafts in (1, 4, 64, 256):
            settings = GpuParakeetSettings(hop_ms=hop_ms, max_drafts=max_drafts)
            assert set(settings.buckets()) <= known


@pytest.mark.parametrize(("hop_ms", "frames"), [(160, 10), (320, 12)])
def test_the_smallest_bucket_holds_a_draft_that_comes_each_hop(hop_ms: int, frames: int) -> None:
    """In time, or 32 ms late; of 30 s, with the pieces that the recognizer would cut."""
    settings = GpuParakeetSettings(hop_ms=hop_ms)
    for late_samples in (0, 512):
        next_frame = samples = 0
        while samples < 480_000:
            samples += 16 * hop_ms + late_samples
            num_rows, num_certain = samples // 160, max(0, samples - 40) // 160
            piece = next_piece(next_frame, num_rows, num_certain, settings.look_ahead_frames)
            num_frames = -(-num_rows // 8) - next_frame
            assert piece.is_last
            assert settings.draft_frames(num_frames) == frames
            next_frame += piece.num_commit


def test_pieces_fit_the_longest_bucket() -> None:
    settings = GpuParakeetSettings()
    longest = max(bucket.frames for bucket in settings.draft_buckets())
    for num_rows in range(1, 5_000, 7):
        for num_certain in (num_rows, max(0, num_rows - 1)):
            piece = next_piece(3, num_rows + 24, num_certain + 24, settings.look_ahead_frames)
            assert -(-piece.num_rows // 8) <= longest
            assert 8 * piece.num_commit <= piece.num_rows
    assert settings.left_frames + longest <= settings.most_frames


def manifest(**changes: object) -> Manifest:
    machine = Machine(gpu="", compute_capability="9.0", driver="", libraries={})
    fields: dict[str, object] = {
        "earwire": "", "key": "", "model_id": "m", "weights_sha256": "", "config": SMALL,
        "max_frames": 552, "max_batch": 8, "precision": "fp16", "encoder": "cublas",
        "machine": machine, "candidates": (), "files": {},
    }  # fmt: skip
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def test_an_engine_keeps_its_precision() -> None:
    settings = GpuParakeetSettings()
    for precision, ours in (("fp16", "fp16"), ("fp32", "fp32"), ("bf16", "fp16")):
        fitted = settings_for(FOLDER, manifest(precision=precision), settings, None)
        assert fitted.precision == ours
    assert settings_for(FOLDER, manifest(), settings, "fp16") == settings
    with pytest.raises(ModelError, match=r"built in fp16.*--precision fp32"):
        settings_for(FOLDER, manifest(), settings, "fp32")


def test_an_engine_hears_no_longer_than_it_was_built_for() -> None:
    short = manifest(max_frames=304)
    with pytest.raises(ModelError, match=r"of 10320 ms.*--max-utterance-ms 10320"):
        settings_for(FOLDER, short, GpuParakeetSettings(), None)
    settings = GpuParakeetSettings(max_utterance_samples=10_000 * 16)
    assert settings_for(FOLDER, short, settings, None) == settings


def test_tensorrt_has_the_buckets_that_it_was_built_with() -> None:
    built = tuple(Bucket(b, n) for b in (1, 8, 64) for n in (8, 104, 552) if b < 64 or n < 552)

    def fitted(buckets: tuple[Bucket, ...]) -> GpuParakeetSettings:
        made = manifest(encoder="tensorrt", plan_buckets=buckets)
        return settings_for(FOLDER, made, GpuParakeetSettings(), None)

    assert fitted(built).final_buckets() == [Bucket(8, 8), Bucket(8, 104), Bucket(8, 552)]
    assert fitted(built).final_bucket(9) == Bucket(8, 104)
    assert {bucket.batch for bucket in fitted(built[:3]).final_buckets()} == {1}
    with pytest.raises(ModelError, match="no bucket of 552 frames"):
        fitted(built[:2])
