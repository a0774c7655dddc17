"""bench/gpu.py on the emulated device: every section runs, and what it counts is right.

The golden checkpoint and as little audio as a section can do with; the numbers mean nothing here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import gpu
from bench.gpu import Sizes
from bench.gpu_audio import Clip, pinned_speech, read_clip, speech, spread_lengths
from bench.gpu_bulk import Batch, BulkSizes, batches_of, padding_share, passes_of, transcribe
from bench.gpu_correct import TINY, CorrectSizes
from bench.gpu_decoder import DecoderSizes
from bench.gpu_latency import LatencySizes
from bench.gpu_profile import ProfileSizes
from bench.gpu_rig import RigSizes, make_rig
from bench.gpu_schedule import SkippingClock
from bench.gpu_streams import MemorySizes, Policy, StreamSizes, until_one_holds
from bench.gpu_talkers import Speaking
from bench.gpu_torch import TorchBaseline
from gpu_service.gpu.device import DeviceError
from gpu_service.gpu.encoder_layers import Bucket
from gpu_service.gpu.parakeet_settings import GpuParakeetSettings
from gpu_service.gpu.tdt_search import GraphMode
from gpu_service.weights.parakeet_checkpoint import load_checkpoint
from gpu_service.weights.parakeet_weights import prepare
from tests.gpu_service.gpu.emulator import EmulatedDevice, EmulatedGemms, why_unavailable

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


def still_clock() -> SkippingClock:
    """Steps take no time: what the emulator needs is nobody's business."""
    return SkippingClock(lambda: 0.0)


SMALL = Sizes(
    rig=RigSizes(max_samples=11_200, max_batch=4, max_rows=24, num_sessions=1),
    correct=CorrectSizes(
        seconds=(0.3, 0.5),
        on_cpu=(0.3,),
        batches=(1, 3),
        shortest_s=0.2,
        longest_s=0.6,
        num_flip_rows=2,
        tiny_seconds=(0.05, 0.5),
    ),
    bulk=BulkSizes(
        batch=2, seconds=0.5, num_batches=2, num_mixed=4, shortest_s=0.2, longest_s=0.7, runs=1
    ),
    profile=ProfileSizes(batch=2, seconds=0.3, passes_before=1, runs=1),
    latency=LatencySizes(
        runs=2, clip_s=0.4, clip_batches=(1, 2), step_s=0.2, history_s=0.3, inputs_s=(0.2, 0.7),
        profile_runs=1,
    ),
    decoder=DecoderSizes(batches=(1, 3), seconds=0.4, encoder_batch=2, runs=1),
    memory=MemorySizes(sessions=6, at_once=3, finals_at_once=2, samples=2_000),
    streams=StreamSizes(
        policies=(Policy("incremental", 320), Policy("window", 320)),
        max_streams=3,
        first={"incremental": 2, "window": 3},
        step=1,
        level_s=0.32,
        paced_s=0.32,
        speaking=Speaking(0.3, 0.7),
        make_clock=still_clock,
        make_wall_clock=still_clock,
        settings=GpuParakeetSettings(
            max_utterance_samples=16_000, max_drafts=2, draft_rows=192, max_finals=2,
            final_batch=1, final_frames=(16, 192),
        ),
    ),
)  # fmt: skip


def emulated(tactics: object, *, tune: bool) -> tuple[Any, Any]:
    """See gpu_engines.open_device."""
    assert (tactics, tune) == (None, False)
    device = EmulatedDevice(deferred=True)
    return device, EmulatedGemms(device)


def measured(tmp_path: Path, *sections: str) -> dict[str, Any]:
    """A run of some sections through main(): its JSON."""
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    options = ["--only", *sections, "--torch-python", "/no/such/python"]
    options += ["--out", str(out), "--plot", str(plot)]
    status = gpu.main([str(TINY), *options], emulated, SMALL)
    results: dict[str, Any] = json.loads(out.read_text())
    assert plot.stat().st_size
    errors = {name: results[name].get("error") for name in sections}
    assert (status, errors) == (0, dict.fromkeys(sections)), errors
    return results


def test_correct(tmp_path: Path) -> None:
    found = measured(tmp_path, "correct")["correct"]
    for result in found["encoder"]:
        assert result["half_single"]["relative_error"] < 1e-2
    assert found["encoder"][0]["single_cpu"]["relative_error"] < 1e-4
    assert [result["frames"] for result in found["encoder"]] == [4, 7]
    modes = [(result["mode"], result["batch"]) for result in found["decoder"]]
    assert modes == [(mode.value, batch) for mode in GraphMode for batch in (1, 3)]
    assert all(result["tokens"] > 0 for result in found["decoder"])
    assert all(result["tokens_differing"] == 0 for result in found["decoder"])
    assert found["half_against_single"]["decisions"] > 0
    assert found["tiny_end_to_end"]["differing"] == 0
    assert found["tiny_end_to_end"]["tokens"] > 0


def test_bulk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(tmp_path, "bulk")["bulk"]
    assert found["equal"]["audio_s"] == pytest.approx(2.0)
    assert found["equal"]["batches"] == [[2, 8, 2], [2, 8, 2]]
    assert found["mixed"]["batches"] == [[1, 16, 1], [3, 8, 3]]
    for result in (found["equal"], found["mixed"]):
        assert result["tokens_per_s"] > 0
        assert 0 < result["turns_per_frame"] < 11
        assert 0 < result["ratio_to_encoder_alone"] < 1.1
    assert "/no/such/python" in found["torch"]["missing"]
    printed = capsys.readouterr().out
    assert "audio to tokens" in printed
    assert json.loads(printed.splitlines()[-1])["bench"] == "gpu"


def test_batches_that_are_decoded_together_say_what_they_say_alone() -> None:
    device: Any = EmulatedDevice(deferred=True)
    weights = prepare(load_checkpoint(str(TINY)), SMALL.rig.most_positions)
    rig = make_rig(device, EmulatedGemms(device), weights, "fp32", SMALL.rig)
    heard = pinned_speech(device, read_clip(), [8_000, 6_000, 7_000, 5_000])
    batches = [Batch(Bucket(2, 8), heard.clips[:2]), Batch(Bucket(2, 8), heard.clips[2:])]
    alone = [row for batch in batches for row in transcribe(rig, [batch])[0][0].rows]
    (together,), _ = transcribe(rig, batches)
    assert [row.ids.tolist() for row in together.rows] == [row.ids.tolist() for row in alone]
    assert together.num_tokens > 0


def test_neighbours_of_one_full_bucket_go_together() -> None:
    clip = Clip(0, 8_000)
    small, large = Batch(Bucket(2, 8), [clip] * 2), Batch(Bucket(2, 16), [clip] * 2)
    part = Batch(Bucket(2, 8), [clip])
    assert passes_of([small] * 3 + [large], 4) == [[small, small], [small], [large]]
    assert passes_of([part, small, small], 4) == [[part], [small, small]]
    assert passes_of([small, part], 4) == [[small, part]]
    assert passes_of([small, small], 3) == [[small], [small]]


def test_profile(tmp_path: Path) -> None:
    found = measured(tmp_path, "profile")["profile"]
    classes = found["classes"]
    assert {"products", "attention", "norms", "SiLU", "convolution", "subsampling"} == set(classes)
    assert sum(one["share"] for one in classes.values()) == pytest.approx(1.0, abs=1e-4)
    # Of two layers: one before the first, three inside of each, one behind each; see LayerStack.
    assert classes["norms"]["launches"] == 1 + 2 * 3 + 2
    assert classes["convolution"]["launches"] == classes["SiLU"]["launches"] / 2 == 2
    assert found["products_alone_ms"] > 0


def test_clip_and_profiles(tmp_path: Path) -> None:
    results = measured(tmp_path, "clip", "profiles")
    clips = results["clip"]["clips"]
    assert [clip["bucket"] for clip in clips] == [[1, 8], [2, 8]]
    assert clips[0]["tokens"] == clips[1]["tokens"] > 0
    assert all(clip["wall_ms"]["count"] == 2 for clip in clips)
    assert [step["look_ahead_frames"] for step in results["clip"]["steps"]] == [6, 0]
    inputs = results["profiles"]["inputs"]
    buckets = [(each["own"]["bucket"], each["largest"]["bucket"]) for each in inputs]
    assert buckets == [([1, 8], [1, 16]), ([1, 16], [1, 16])]


def test_decoder(tmp_path: Path) -> None:
    found = measured(tmp_path, "decoder")["decoder"]["modes"]
    by_batch = {
        batch: {(r["turns"], r["tokens"]) for r in found if r["batch"] == batch} for batch in (1, 3)
    }
    assert all(len(counts) == 1 for counts in by_batch.values())  # the same in every mode
    assert all(result["us_per_turn"] > 0 for result in found)
    assert found[0]["stepwise_ratio"] > 0


def test_memory_and_streams(tmp_path: Path) -> None:
    results = measured(tmp_path, "memory", "streams")
    assert results["memory"]["sessions"] == 6
    assert results["memory"]["device_grew_bytes"] == 0
    for policy in results["streams"]["policies"]:
        assert policy["streams"] == 3
        assert policy["is_all_there_is_room_for"]
        assert policy["paced"][0]["streams"] == 3
        assert policy["paced"][0]["hops"] >= 3
        assert policy["paced"][-1]["holds"]
        assert all(level["holds"] for level in policy["levels"])
    assert results["streams"]["policies"][0]["paced"][0]["finals"] > 0


def tried(streams: int, step: int, most: int, runs: int = 99) -> list[tuple[int, bool]]:
    """What until_one_holds() measures where `most` hold and there is time for so many runs."""
    levels: list[dict[str, Any]] = []

    def measure(count: int) -> dict[str, Any]:
        levels.append({"streams": count, "holds": count <= most})
        return levels[-1]

    assert until_one_holds(measure, streams, step, lambda: len(levels) >= runs) == levels
    return [(level["streams"], level["holds"]) for level in levels]


def test_fewer_streams_are_tried_until_some_hold() -> None:
    assert tried(1536, 32, 1536) == [(1536, True)]
    assert tried(1536, 32, 1400) == [(1536, False), (1440, False), (1344, True)]
    assert tried(63, 32, 40) == [(63, False), (32, True)]
    assert tried(3, 1, 0) == [(3, False), (2, False), (1, False)]
    assert tried(0, 32, 9) == []


def test_fewer_streams_are_tried_as_long_as_there_is_time_but_some_always() -> None:
    assert tried(1536, 32, 0, runs=2) == [(1536, False), (1440, False)]
    assert tried(1536, 32, 0, runs=0) == [(1536, False)]


def test_a_section_that_fails_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DeviceError("no")

    monkeypatch.setattr(gpu.gpu_bulk, "run", fail)
    out = tmp_path / "out.json"
    options = ["--only", "bulk", "decoder", "--out", str(out), "--torch-python", "/no/such/python"]
    assert gpu.main([str(TINY), *options], emulated, SMALL) == 1
    results = json.loads(out.read_text())
    assert results["bulk"]["error"] == "DeviceError: no"
    assert results["decoder"]["modes"]


def test_a_model_that_is_not_there_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["/no/such/model", "--only", "clip"], emulated, SMALL) == 2
    assert "/no/such/model" in capsys.readouterr().err


# -- what is pure ------------------------------------------------------------------------------


def test_no_two_rows_of_speech_are_equal() -> None:
    base = read_clip()
    rows = [speech(base, row, 32_000).tobytes() for row in range(300)]
    assert len(set(rows)) == len(rows)
    assert len(speech(base, 5, 3 * len(base))) == 3 * len(base)


def test_rows_lie_where_the_device_reads_them() -> None:
    base = read_clip()
    clips = pinned_speech(EmulatedDevice(), base, [100, 50], first=7)
    second = clips.memory.array[100:]
    assert second.tolist() == speech(base, 8, 50).tolist()
    assert clips.clips[1].address == clips.clips[0].address + 200
    assert clips.seconds == pytest.approx(150 / 16_000)


def test_batches_are_full_and_of_like_lengths() -> None:
    sizes = RigSizes(max_samples=480_000, max_batch=16, max_rows=400)
    clips = [Clip(0, length) for length in spread_lengths(100, 1.0, 30.0)]
    batches = batches_of(clips, sizes)
    assert sorted(clip for b in batches for clip in b.clips) == sorted(clips)
    assert all(b.bucket.rows <= 400 and b.bucket.batch <= 16 for b in batches)
    assert all(clip.num_frames <= b.bucket.frames for b in batches for clip in b.clips)
    assert 0 < padding_share(batches) < 0.05


def test_a_baseline_without_torch_says_why() -> None:
    failing = TorchBaseline("/bin/false", with_compile=False)
    assert failing.result() == {"missing": "exit 1"}
