"""What Parakeet costs on this CPU, and what its two kinds of drafts are worth.

    python -m bench.parakeet MODEL FILE [--seconds S] [--hop-ms MS ...] [--guard-ms MS ...]

Feeds the file to the recognizer as one utterance, hop by hop, once for each kind of draft and hop,
and takes the offline final in the same run. For each: time of a draft, share of real time, bytes a
session holds, how often text shown as stable is not in the final, how far stable text lags
behind the audio, and how much of each draft agrees with the final. A table, then one JSON line.

With random weights costs are true and agreement says how the policies differ, not how a
trained model's drafts read.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from gpu_service.cpu.parakeet import NO_SAMPLES, ParakeetRecognizer, ParakeetSettings
from gpu_service.cpu.parakeet_drafts import IncrementalDraft
from gpu_service.decoding.tokens import FRAME_SAMPLES
from gpu_service.recognizer import SAMPLE_RATE_HZ, Hypothesis, SessionOptions, StepInput, Want
from gpu_service.transcript import Transcript

from .audio_source import read_16k
from .percentiles import Summary, summarize
from .process_cost import read_memory
from .report import finish, table

Samples = NDArray[np.int16]
SAMPLES_PER_MS = SAMPLE_RATE_HZ // 1000


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to make drafts."""

    draft: str
    hop_ms: int
    guard_ms: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one policy cost, and what it showed."""

    policy: Policy
    draft_ms: Summary
    last_quarter_p50_ms: float  # of the drafts near the end: does the cost grow?
    share_of_real_time: float
    session_bytes: int
    agreement: float  # share of all drafts' tokens that the final has at the same frame
    stable_lag_ms: Summary | None  # end of the audio less the end of the last stable word
    revised: bool  # text shown as stable was taken back

    def row(self) -> list[object]:
        """For the table."""
        policy, lag = self.policy, self.stable_lag_ms
        return [
            f"{policy.draft} {policy.hop_ms} ms, guard {policy.guard_ms}",
            self.draft_ms.p50, self.draft_ms.p95, self.last_quarter_p50_ms,
            self.share_of_real_time, round(self.session_bytes / 1e6, 3), self.agreement,
            None if lag is None else lag.p50, self.revised,
        ]  # fmt: skip

    def fields(self) -> dict[str, object]:
        """For the JSON line."""
        return {
            "draft": self.policy.draft,
            "hop_ms": self.policy.hop_ms,
            "guard_ms": self.policy.guard_ms,
            "draft_ms": self.draft_ms.as_fields(),
            "last_quarter_p50_ms": round(self.last_quarter_p50_ms, 3),
            "share_of_real_time": round(self.share_of_real_time, 4),
            "session_bytes": self.session_bytes,
            "agreement": round(self.agreement, 4),
            "stable_lag_ms": None if self.stable_lag_ms is None else self.stable_lag_ms.as_fields(),
            "revised": self.revised,
        }


COLUMNS = (
    "drafts", "draft p50 ms", "p95", "late p50", "of real time", "session MB", "agreement",
    "stable lag p50 ms", "revised",
)  # fmt: skip


def offline(recognizer: ParakeetRecognizer, samples: Samples) -> tuple[Hypothesis, float]:
    """The final of all of it, and the seconds that it took."""
    handle = recognizer.open(SessionOptions())
    begin_s = time.perf_counter()
    (final,) = recognizer.step([StepInput(handle, samples, Want.FINAL)])
    took_s = time.perf_counter() - begin_s
    recognizer.close(handle)
    assert final is not None
    return final, took_s


def session_bytes(recognizer: ParakeetRecognizer, handle: int) -> int:
    """What one session holds: features, and the encoder's caches where it has some."""
    session = recognizer._sessions[handle]  # measured from inside, on purpose
    cache = session.draft.cache.num_bytes if isinstance(session.draft, IncrementalDraft) else 0
    return session.mel.num_bytes + cache


def play(
    recognizer: ParakeetRecognizer, samples: Samples, final: Hypothesis, policy: Policy
) -> Outcome:
    """The file hop by hop."""
    handle = recognizer.open(SessionOptions())
    transcript = Transcript(policy.guard_ms * SAMPLES_PER_MS)
    hop = policy.hop_ms * SAMPLES_PER_MS
    took_ms: list[float] = []
    lags_ms: list[float] = []
    agreed = said = 0
    in_final = {(token.id, token.frame) for token in final.tokens}
    for start in range(0, len(samples), hop):
        begin_s = time.perf_counter()
        step = StepInput(handle, samples[start : start + hop], Want.DRAFT)
        (draft,) = recognizer.step([step])
        took_ms.append((time.perf_counter() - begin_s) * 1e3)
        assert draft is not None
        transcript.on_draft(draft)
        agreed += sum((token.id, token.frame) in in_final for token in draft.tokens)
        said += len(draft.tokens)
        if transcript.stable:
            end = transcript.stable[-1].end_sample
            lags_ms.append((draft.num_samples - end) / SAMPLES_PER_MS)
    held = session_bytes(recognizer, handle)
    recognizer.step([StepInput(handle, NO_SAMPLES, Want.FINAL)])
    recognizer.close(handle)
    draft_ms, late = summarize(took_ms), summarize(took_ms[-len(took_ms) // 4 :])
    assert draft_ms is not None
    assert late is not None
    return Outcome(
        policy, draft_ms, late.p50,
        sum(took_ms) / 1e3 / (len(samples) / SAMPLE_RATE_HZ),
        held, agreed / max(1, said), summarize(lags_ms), transcript.on_final(final).revised,
    )  # fmt: skip


def memory_mib(key: str) -> float:
    """VmRSS, now, or VmHWM, at its highest, of this process."""
    return read_memory(os.getpid(), key) / 2**20


def recognizer_for(options: argparse.Namespace, draft: str) -> ParakeetRecognizer:
    """The model with one kind of drafts, warm."""
    recognizer = ParakeetRecognizer(
        options.model,
        ParakeetSettings(
            draft=draft,
            window_frames=int(options.window_s * SAMPLE_RATE_HZ) // FRAME_SAMPLES,
            num_threads=options.threads,
        ),
    )
    recognizer.warm_up()
    return recognizer


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="folder, .nemo file or hub id of a Parakeet-TDT checkpoint")
    parser.add_argument("file", help="audio")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the file (default: 30)")
    parser.add_argument("--hop-ms", type=int, nargs="+", default=[160, 320, 640])
    parser.add_argument("--guard-ms", type=int, nargs="+", default=[300])
    parser.add_argument("--draft", nargs="+", default=["incremental", "window"])
    parser.add_argument("--window-s", type=float, default=15.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", help="keep the JSON line there")
    options = parser.parse_args(argv)
    samples = read_16k(options.file)[: round(options.seconds * SAMPLE_RATE_HZ)]
    seconds = len(samples) / SAMPLE_RATE_HZ
    outcomes: list[Outcome] = []
    passes: list[float] = []
    for draft in options.draft:
        recognizer = recognizer_for(options, draft)
        gc.collect()
        steady_mib = memory_mib("VmRSS")
        final, took_s = offline(recognizer, samples)
        passes.append(took_s)
        for hop_ms, guard_ms in product(options.hop_ms, options.guard_ms):
            outcomes.append(play(recognizer, samples, final, Policy(draft, hop_ms, guard_ms)))
        del recognizer
    table(
        f"{recognizer_name(options.model)}, {seconds:.1f} s", COLUMNS, [o.row() for o in outcomes]
    )
    offline_share = min(passes) / seconds
    print(
        f"offline: {min(passes):.2f} s, {offline_share:.3f} of real time; "
        f"memory after warm-up {steady_mib:.0f} MiB, at its highest {memory_mib('VmHWM'):.0f} MiB"
    )
    finish(
        "parakeet",
        {name: value for name, value in vars(options).items() if name != "out"}
        | {"model": recognizer_name(options.model), "file": options.file.rsplit("/", 1)[-1]},
        {
            "audio_s": round(seconds, 3),
            "offline_s": [round(took_s, 3) for took_s in passes],
            "offline_share_of_real_time": round(offline_share, 4),
            "steady_rss_mib": round(steady_mib, 1),
            "peak_rss_mib": round(memory_mib("VmHWM"), 1),
            "drafts": [outcome.fields() for outcome in outcomes],
        },
        options.out,
    )
    return 0


def recognizer_name(model: str) -> str:
    """Without the folders it lies in."""
    return model.rstrip("/").rsplit("/", 1)[-1]


if __name__ == "__main__":
    raise SystemExit(main())
