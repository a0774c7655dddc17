"""What TensorRT makes of our encoder on this GPU: builds, checks, captures, times. One script.

    PYTHON -m bench.tensorrt_probe [--only tiny,wide,full,bulk] [--budget-s 420] [--out DIR]

PYTHON has TensorRT, cuda-python and numpy (a Python 3.10 with TensorRT 8.6.0 will do); `python3`
has onnx and onnxruntime and computes the reference with the CPU engine. Weights are made once and
mapped by all. Everything is built side by side, a process each, and what is not ready after the
budget is stopped and said to be late. Then one process a model loads the plans, compares what they
answer, and times each bucket alone on the GPU.

`tiny` is the golden checkpoint; `wide` two layers of full width, `full` all 24, with random
weights: two plans of two profiles, which are ready sooner than one of four. `bulk` is the full
model with one profile for many utterances. A plan has a profile for each of its buckets.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .tensorrt_probe_children import (
    TINY,
    Job,
    build,
    jobs,
    reference,
    rows_of,
    run,
    save_weights,
)

RUN_S = 90  # for loading, comparing and timing the plans of one model


def child(
    work: Path, name: str, *arguments: str, python: str = "", command: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """This script again, or another command; what it prints goes into work/NAME.log."""
    environment = dict(os.environ)
    if python:  # another Python, which must not be told where this one's home is
        for variable in ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH"):
            environment.pop(variable, None)
    again = [python or sys.executable, "-m", "bench.tensorrt_probe", "--work", str(work)]
    with (work / f"{name}.log").open("wb") as output:
        return subprocess.Popen(
            command or [*again, *arguments],
            stdout=output, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip


def wait_for(children: dict[str, subprocess.Popen[bytes]], deadline: float, begun: float) -> None:
    """Until all have ended or it is time; says when each ends, and stops the late ones."""
    open_ = dict(children)
    while open_ and time.monotonic() < deadline:
        for name in [name for name, process in open_.items() if process.poll() is not None]:
            print(
                f"{time.monotonic() - begun:6.1f} s  {name} ended with {open_.pop(name).poll()}",
                flush=True,
            )
        time.sleep(0.2)
    for name, process in open_.items():
        print(f"{time.monotonic() - begun:6.1f} s  {name} is late and stopped", flush=True)
        process.kill()
        process.wait()


def start(work: Path, all_jobs: Sequence[Job], begun: float) -> dict[str, subprocess.Popen[bytes]]:
    """The builds of each model as soon as its weights are there, then the reference."""
    children, wanted = {}, {}
    for model in dict.fromkeys(job.model for job in all_jobs):
        save_weights(work, model)
        print(f"{time.monotonic() - begun:6.1f} s  weights of {model} are there", flush=True)
        own = [job for job in all_jobs if job.model == model]
        for job in own:
            children[job.name] = child(work, job.name, "--build", json.dumps(asdict(job)))
        wanted[model] = sorted({rows for job in own for rows in rows_of(job)})
    children["reference"] = child(
        work, "reference", "--reference", json.dumps(wanted), python="python3"
    )
    if importlib.util.find_spec("onnxruntime") is not None:
        children["product"] = child(work, "product", command=product_command(work))
    return children


def measure(work: Path, only: Sequence[str], budget_s: float, level: int) -> dict[str, Any]:
    """Everything, in about the budget and a minute more."""
    begun = time.monotonic()
    all_jobs = jobs(only, level)
    children = start(work, all_jobs, begun)
    wait_for(children, begun + budget_s, begun)
    builds = [
        read_json(work, job.name) or {"name": job.name, "error": "late, or it crashed"}
        for job in all_jobs
    ]
    ready: dict[str, list[str]] = {}
    for job, build_ in zip(all_jobs, builds, strict=True):
        if "plan_mb" in build_:
            ready.setdefault(job.model, []).append(job.name)
    runs = {}
    for model, names in ready.items():
        runner = child(work, f"run-{model}", "--run", json.dumps([model, names]))
        wait_for({f"run-{model}": runner}, time.monotonic() + RUN_S, begun)
        runs[model] = read_json(work, f"run-{model}") or {"error": tail(work, f"run-{model}")}
    for build_ in builds:
        if "error" in build_:
            build_["log"] = tail(work, build_["name"])
    product = tail(work, "product", 4000) if "product" in children else "no onnxruntime here"
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "builds": builds,
        "runs": runs,
        "product": product,
        "reference": tail(work, "reference"),  # empty where all went well
    }


def product_command(work: Path) -> list[str]:
    """`earwire build` of the tiny model: both encoders where this Python has nvmath too."""
    return [
        sys.executable, "-m", "gpu_service.builder", TINY, "--out", str(work / "engine"),
        "--max-batch", "4", "--max-utterance-ms", "1000", "--tensorrt-level", "0",
    ]  # fmt: skip


def read_json(work: Path, name: str) -> dict[str, Any] | None:
    """What a child left."""
    path = work / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def tail(work: Path, name: str, num_characters: int = 600) -> str:
    """The end of what a child printed."""
    return (work / f"{name}.log").read_text(errors="replace")[-num_characters:]


def show(measured: dict[str, Any]) -> None:
    """Tables for a person."""
    print(f"\n{'plan':34} {'build s':>8} {'MB':>8}")
    for build_ in measured["builds"]:
        print(
            f"{build_['name']:34} {build_.get('build_s', '-'):>8} {build_.get('plan_mb', '-'):>8}  "
            f"{build_.get('error', '')[:200]}"
        )
        for note in (*build_.get("notes", ()), *build_.get("log", "").splitlines()[-1:]):
            print(f"    | {note[:150]}")
    print(f"\n{'bucket':46} {'graph':>6} {'ms':>9} {'rel. error':>10} {'cosine':>9}")
    for model, ran in measured["runs"].items():
        for result in ran.get("results", [{"name": model, "error": ran.get("error", "")}]):
            print(run_line(result))
        for note in ran.get("notes", ()):
            print(f"    | {note[:150]}")
    print(measured["reference"])
    print(f"\nearwire build of the tiny model:\n{measured['product']}")
    show_profiles(measured["runs"].get("full", {}).get("results", []))


def run_line(result: dict[str, Any]) -> str:
    """What one bucket did."""
    bucket = "x".join(map(str, result.get("bucket", [])))
    error, cosine = result.get("relative_error", math.nan), result.get("cosine", math.nan)
    return (
        f"{result['name'][-34:] + ' ' + bucket:46} {result.get('captured', '-')!s:>6} "
        f"{result.get('ms', '-'):>9} {error:>10.2e} {cosine:>9.6f}  {result.get('error', '')[:200]}"
    )


def show_profiles(results: Sequence[dict[str, Any]]) -> None:
    """Each input on its own profile, and on the largest one."""
    alone = {r["bucket"][1]: r["ms"] for r in results if r.get("bucket", [0])[0] == 1 and "ms" in r}
    if alone:
        largest = max(alone)
        print(f"\n{'input':>8} {'own ms':>8} {'largest':>8}")
        for frames, ms in sorted(alone.items()):
            print(f"{frames * 0.08:>6.2f} s {ms:>8} {alone[largest]:>8}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when it ran, whatever it found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget-s", type=float, default=420.0, help="for the builds")
    parser.add_argument("--only", default="tiny,wide,full,bulk")
    parser.add_argument("--level", type=int, default=0, help="of the builder, for the full model")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=None, help="a folder for the JSON")
    for inner in ("--build", "--run", "--reference"):
        parser.add_argument(inner, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.build:
        values = json.loads(options.build)
        build(options.work, Job(**{**values, "buckets": tuple(map(tuple, values["buckets"]))}))
    elif options.reference:
        reference(options.work, json.loads(options.reference))
    elif options.run:
        model, names = json.loads(options.run)
        run(options.work, model, [job for job in jobs() if job.name in names])
    else:
        with tempfile.TemporaryDirectory() as work:
            only = options.only.split(",")
            measured = measure(Path(work), only, options.budget_s, options.level)
        show(measured)
        text = json.dumps(measured)
        if options.out is not None:
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "tensorrt_probe.json").write_text(text)
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
