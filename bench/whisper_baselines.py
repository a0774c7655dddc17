"""The baselines of bench/whisper_gpu.py: the same weights in transformers and in CTranslate2.

    python -m bench.whisper_baselines FOLDER [--reference FILE.npz] [--batch B] [--tokens N]

A process of its own under a Python with torch and transformers, and ctranslate2 (faster-whisper's
engine) where its CUDA wheel runs; prints one JSON line. FOLDER is a checkpoint in transformers'
form. All say N tokens a window, greedily, in half precision. What can not run says why. It shares
no code with the product.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

WINDOW_S, WINDOW_ROWS = 30.0, 3_000
RUNS = 3


def median_s(run: Callable[[], Any]) -> float:
    """Of some runs, the first not counted; run() returns when its work is done."""
    times = []
    for _ in range(RUNS + 1):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def torch_device() -> str:
    """The GPU, or for a look at whether this runs at all the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def logits_error(folder: str, reference: str) -> dict[str, float]:
    """transformers in float32 against the oracle's logits, along the oracle's paths."""
    import torch
    from transformers import WhisperForConditionalGeneration

    stored = np.load(reference)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    device = torch_device()
    model = model.eval().to(device)
    worst_states = worst_logits = 0.0
    for number in range(int(stored["count"])):
        mel = torch.tensor(stored[f"mel{number}"])[None].to(device)
        fed = torch.tensor(stored[f"fed{number}"].astype(np.int64))[None].to(device)
        with torch.inference_mode():
            answer = model(input_features=mel, decoder_input_ids=fed)
        logits = stored[f"logits{number}"]
        found = answer.logits[0, -len(logits) :].cpu().numpy()
        states = answer.encoder_last_hidden_state[0].cpu().numpy()
        worst_logits = max(worst_logits, _relative(found, logits))
        worst_states = max(worst_states, _relative(states, stored[f"states{number}"]))
    return {"states_relative_error": worst_states, "logits_relative_error": worst_logits}


def _relative(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def transformers_speed(folder: str, batches: Sequence[int], num_tokens: int) -> dict[str, float]:
    """audio-seconds a second of generate(), by batch."""
    import torch
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float16, attn_implementation="sdpa"
    )
    device = torch_device()
    model = model.eval().to(device)
    num_mels = model.config.num_mel_bins
    speeds = {}
    for batch in batches:
        mel = torch.randn(batch, num_mels, WINDOW_ROWS, dtype=torch.float16, device=device)

        def run(mel: Any = mel) -> None:
            with torch.inference_mode():
                model.generate(
                    mel, max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False,
                    num_beams=1, language="en", task="transcribe", return_timestamps=False,
                )  # fmt: skip
            if device == "cuda":
                torch.cuda.synchronize()

        speeds[str(batch)] = batch * WINDOW_S / median_s(run)
    return speeds


def ctranslate2_speed(
    folder: str, batches: Sequence[int], num_tokens: int, start: list[int], end: int
) -> dict[str, float]:
    """audio-seconds a second of CTranslate2, which faster-whisper is built on, by batch."""
    import ctranslate2
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as out:
        TransformersConverter(folder).convert(out, quantization="float16", force=True)
        has_gpu = ctranslate2.get_cuda_device_count() > 0
        device, compute_type = ("cuda", "float16") if has_gpu else ("cpu", "float32")
        model = ctranslate2.models.Whisper(out, device=device, compute_type=compute_type)
        num_mels = model.n_mels
        random = np.random.default_rng(0)
        speeds = {}
        for batch in batches:
            mel = random.standard_normal((batch, num_mels, WINDOW_ROWS), np.float32)

            def run(mel: Any = mel, batch: int = batch) -> None:
                # What it generates is at most half of max_length, and what that leaves the prompt.
                answers = model.generate(
                    ctranslate2.StorageView.from_array(mel), [start] * batch, beam_size=1,
                    max_length=max(2 * num_tokens, len(start) + num_tokens), suppress_tokens=[end],
                )  # fmt: skip
                found = {len(answer.sequences_ids[0]) for answer in answers}
                if found != {num_tokens}:
                    raise ValueError(f"windows of {sorted(found)} tokens, not {num_tokens}")

            speeds[str(batch)] = batch * WINDOW_S / median_s(run)
        return speeds


def attempt(run: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """What it measured, or why it could not."""
    try:
        return dict(run())
    except Exception as error:  # the libraries' own: whatever it is, the others go on
        return {"missing": f"{type(error).__name__}: {error}"[:600]}


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--reference")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--start", type=int, nargs="+", required=True, help="ids of the prompt")
    parser.add_argument("--end", type=int, required=True, help="id of <|endoftext|>")
    options = parser.parse_args()
    batches = sorted({1, options.batch})
    results: dict[str, Any] = {"device": torch_device()}
    if options.reference:
        results["transformers_fp32"] = attempt(
            lambda: logits_error(options.folder, options.reference)
        )
    results["transformers_audio_s_per_s"] = attempt(
        lambda: transformers_speed(options.folder, batches, options.tokens)
    )
    results["ctranslate2_audio_s_per_s"] = attempt(
        lambda: ctranslate2_speed(
            options.folder, batches, options.tokens, options.start, options.end
        )
    )
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
