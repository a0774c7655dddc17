"""The baseline of bench/gpu.py: transformers' Parakeet encoder in torch, eager and compiled.

    python -m bench.torch_encoder [--batch B ...] [--frames-10ms T] [--compile]

A process of its own under a Python with torch and transformers; prints one JSON line of
milliseconds by variant. Random weights in bfloat16, as torch would run it on this GPU; sizes are
those of Parakeet-TDT 0.6B v3. It shares no code with the product.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from typing import Any

WARM_UP_RUNS = 3
RUNS = 5


def encoder() -> Any:
    """The encoder on the GPU, random weights."""
    import torch
    from transformers import ParakeetEncoderConfig
    from transformers.models.parakeet.modeling_parakeet import ParakeetEncoder

    config = ParakeetEncoderConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=8,
        intermediate_size=4096,
        num_mel_bins=128,
        conv_kernel_size=9,
        subsampling_factor=8,
        subsampling_conv_channels=256,
        attention_bias=False,
        convolution_bias=False,
        scale_input=False,
    )
    torch.manual_seed(0)
    return ParakeetEncoder(config).eval().to(torch.bfloat16).cuda()


def median_ms(run: Callable[[Any], Any], batch: int, num_rows: int) -> float:
    """Of some runs over (batch, num_rows, 128) features."""
    import torch

    features = torch.randn(batch, num_rows, 128, device="cuda", dtype=torch.bfloat16)
    times = []
    with torch.inference_mode():
        for _ in range(WARM_UP_RUNS):
            run(features)
        torch.cuda.synchronize()
        for _ in range(RUNS):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run(features)
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[128, 1])
    parser.add_argument("--frames-10ms", type=int, default=1600)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    import torch

    model = encoder()
    results: dict[str, object] = {"torch": torch.__version__, "rows": options.frames_10ms}
    for batch in options.batch:
        results[f"eager_ms_batch_{batch}"] = median_ms(model, batch, options.frames_10ms)
    if options.compile:
        compiled = torch.compile(model, dynamic=False)
        batch = options.batch[0]
        results[f"compiled_ms_batch_{batch}"] = median_ms(compiled, batch, options.frames_10ms)
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
