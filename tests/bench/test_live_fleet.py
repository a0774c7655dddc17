"""Streams over several processes: who gets which, and that their order comes back."""

from __future__ import annotations

from pathlib import Path

from bench.audio_source import Recording
from bench.live_fleet import joined, shares
from bench.live_log import Shown, StreamLog
from bench.live_metrics import Measures
from bench.live_oracle import Comparison, sample_finals, summary
from bench.pacing import Schedule


def test_what_is_shared_out_is_joined_in_its_order() -> None:
    for count in range(12):
        for processes in range(1, 6):
            parts = shares(range(count), processes)
            assert all(parts)
            assert joined(parts) == list(range(count))


def test_measures_of_two_processes_are_those_of_one() -> None:
    one, other = Measures(ttft=[1.0], finals=2), Measures(ttft=[3.0], finals=1)
    one.partial_stages["a"] = [1.0]
    other.partial_stages["a"], other.partial_stages["b"] = [2.0], [5.0]
    one.merge(other)
    assert (one.ttft, one.finals) == ([1.0, 3.0], 3)
    assert one.partial_stages == {"a": [1.0, 2.0], "b": [5.0]}
    assert one.mean_utterance_s is None


def shown(text: str, start: int, end: int) -> Shown:
    return Shown(0, 0, text, True, start, end)


def log_of(*finals: Shown) -> StreamLog:
    return StreamLog(Schedule(0, 320, 32_000), list(finals))


def test_a_sample_of_finals_is_spread_over_streams_and_leaves_cut_ones_out() -> None:
    recording = Recording("r", bytes(2 * 32_000), ())
    logs = [log_of(*(shown(f"{i}", i * 100, i * 100 + 50) for i in range(10))) for _ in range(4)]
    logs[0].shown.append(shown("long", 0, 30_000))
    sampled = sample_finals(logs, [recording] * 4, 0.1, 20_000)
    assert len(sampled) == 4
    assert all(len(one.samples) == 50 for one in sampled)
    assert all(one.final.text != "long" for one in sampled)


def test_one_final_is_sampled_where_the_share_gives_none() -> None:
    recording = Recording("r", bytes(2 * 32_000), ())
    assert len(sample_finals([log_of(shown("a", 0, 9))], [recording], 0.05, 20_000)) == 1


def test_the_summary_tells_rounding_from_faults() -> None:
    told = summary([Comparison(10, 0, None), Comparison(8, 2, 0.01), Comparison(4, 4, 3.0)])
    assert told["finals"] == 3
    assert told["equal"] == 1
    assert told["tokens_differing"] == 6
    assert told["differing_beyond_rounding"] == 1


def test_the_golden_checkpoint_agrees_with_its_own_finals(tmp_path: Path) -> None:
    import numpy as np

    from bench.live_oracle import Oracle, Sampled
    from gpu_service.weights.parakeet_checkpoint import load_checkpoint
    from tests.fixtures.parakeet.signals import golden_signal

    tiny = Path(__file__).parents[1] / "fixtures" / "parakeet" / "tiny"
    oracle = Oracle(load_checkpoint(str(tiny)), 16_000 * 30)
    samples = (golden_signal("signal_3_2s") * 32_767).astype(np.int16)
    nothing = oracle.compare(Sampled(shown("", 0, len(samples)), samples))
    assert nothing.num_differing == nothing.num_tokens > 0
    assert nothing.margin is not None
