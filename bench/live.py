"""`python -m bench.live FILE...`: latency of N concurrent real-time streams against any server.

Measures what live_metrics.py defines, on audio sent at real time in small chunks, counted from the
scheduled send time of each sample. Without --url it starts a private server, whose processes' CPU
time and memory are then part of the result. One asyncio process sends and receives, or several; if
they were late (lag over 5 ms at p99) the run is void, is said to be, and the exit status is 3. On a
machine as small as the server needs, the generator takes a share of it: see `generator_cpu_s`.

Emission needs to know when each word ended. Native finals tell. Other dialects do not: --word-times
has the same audio heard by the native protocol first (live_reference.py) and takes the times from
there; `words_without_times` says how many of `final_words` have none, and so no emission.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from clients.errors import ClientError
from clients.server_process import ServerProcess

from . import report
from .audio_source import Recording, distinct, load, with_utterances
from .live_fleet import run_fleet
from .live_log import StreamLog
from .live_metrics import Measures, dropped_samples
from .live_reference import native_hello, native_url, with_words
from .live_run import OPENAI, TOGETHER, LivePlan, run_fast
from .pacing import EXIT_VOID, MAX_LAG_P99_MS, RING_RATE_HZ, is_void, lag_summary
from .percentiles import Summary, fields, summarize
from .process_cost import TreeMeter
from .word_errors import word_error_rate

LONGEST_SAMPLES = 30 * RING_RATE_HZ  # of an utterance that the server does not cut by default
MAX_TEXTS_TOLD = 8
MAX_EDGES_TOLD = 32  # recordings whose speech the JSON line lists
EXIT_WRONG = 1  # streams failed, audio was dropped, or words differ from the fast run's


@dataclass(slots=True)
class Costs:
    """Of the server's processes over the live part."""

    cpu_s: dict[str, float]
    peak_rss_bytes: dict[str, int]
    wall_s: float


@dataclass(slots=True)
class Outcome:
    """Everything a run found out."""

    logs: list[StreamLog]
    measures: Measures  # all streams together
    recordings: tuple[Recording, ...]
    costs: Costs | None
    generator_cpu_s: float
    fast: dict[str, StreamLog]  # by file name
    oracle: dict[str, object] | None = None  # of live_oracle.py

    def lag(self) -> Summary | None:
        """Of all chunks of all streams."""
        return lag_summary(lag for log in self.logs for lag in log.lags_ns)

    def words_equal(self) -> bool | None:
        """True when each live stream's finals are those of the fast run of its file."""
        if not self.fast:
            return None
        pairs = zip(self.logs, self.recordings, strict=True)
        return all(_finals(log) == _finals(self.fast[rec.name]) for log, rec in pairs)


def _finals(log: StreamLog) -> list[str]:
    return [shown.text.strip() for shown in log.finals]


@contextlib.contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[str, int | None]]:
    """(URL, process id of the server's parent) of the given or of a private server."""
    if options.url:
        yield options.url, options.server_pid
        return
    arguments = ["--max-sessions", str(max(32, options.streams + 4)), *options.server_option]
    with ServerProcess(arguments) as server:
        http = f"127.0.0.1:{server.ports.http_port}"
        urls = {
            "native": server.url,
            "ws": f"ws://{http}",
            "together": f"{TOGETHER}{http}",
            "openai": f"{OPENAI}{http}",
        }
        yield urls[options.dialect], server.ports.pid


def _recordings(options: argparse.Namespace) -> tuple[Recording, ...]:
    """One a stream."""
    files = [load(path, options.repeat, options.seconds) for path in options.files]
    if options.utterance_s:
        files = [with_utterances(recording, options.utterance_s) for recording in files]
    if options.distinct:
        return distinct(files, options.streams)
    return tuple(files[i % len(files)] for i in range(options.streams))


def _run(options: argparse.Namespace) -> Outcome:
    recordings = _recordings(options)
    with _server(options) as (url, pid):
        vad = options.vad == "on"
        if options.word_times is not None:
            native = options.word_times or native_url(url)
            recordings = asyncio.run(with_words(native, recordings, native_hello(url, vad=vad)))
        plan = LivePlan(
            url, recordings, options.chunk_ms, vad, options.stagger, options.oracle is not None
        )
        meter = TreeMeter.start(pid) if pid is not None else None
        begin_s = time.monotonic()
        run = run_fleet(plan, options.processes, options.nice)
        wall_s = time.monotonic() - begin_s
        costs = Costs(meter.cpu_s(), meter.peak_rss_bytes(), wall_s) if meter else None
        fast = {}
        if options.offline:
            for recording in {r.name: r for r in recordings}.values():
                fast[recording.name] = asyncio.run(run_fast(url, recording, vad=vad))
    oracle = _oracle(options, run.logs, recordings)
    return Outcome(run.logs, run.measures, recordings, costs, run.cpu_s, fast, oracle)


def _oracle(
    options: argparse.Namespace, logs: list[StreamLog], recordings: Sequence[Recording]
) -> dict[str, object] | None:
    if options.oracle is None:
        return None
    from .live_oracle import check_finals

    return check_finals(logs, recordings, options.oracle, options.oracle_share, LONGEST_SAMPLES)


def _latencies(measures: Measures) -> dict[str, Summary | None]:
    return {
        "ttft": summarize(measures.ttft),
        "ttft_utterance": summarize(measures.ttft_utterance),
        "emission": summarize(measures.emission),
        "ttfs": summarize(measures.ttfs),
        "finalize_to_final": summarize(measures.finalize),
    }


def _stages(measures: Measures) -> dict[str, Summary | None]:
    pairs = {"partial": measures.partial_stages, "final": measures.final_stages}
    return {
        f"{kind} {name}": summarize(values)
        for kind, stages in pairs.items()
        for name, values in stages.items()
    }


def _accounting(outcome: Outcome) -> dict[str, object]:
    dropped = [dropped_samples(log) for log in outcome.logs]
    known = [count for count in dropped if count is not None]
    return {
        "streams_with_close_record": len(known),
        "dropped_samples": sum(count for count in known if count > 0) if known else None,
        "streams_with_unequal_counts": sum(count < 0 for count in known) if known else None,
        "errors": [log.error for log in outcome.logs if log.error],
    }


def _words(outcome: Outcome, reference: str | None) -> dict[str, object]:
    rates: list[float] = []
    if reference:
        found = [word_error_rate(reference, log.text) for log in outcome.logs]
        rates = [rate for rate in found if rate is not None]
    return {
        "wer": max(rates) if rates else None,
        "equal_to_fast_run": outcome.words_equal(),
        "texts": sorted({log.text for log in outcome.logs})[:MAX_TEXTS_TOLD],
    }


def _cost_fields(outcome: Outcome) -> dict[str, object] | None:
    costs = outcome.costs
    if costs is None:
        return None
    total_s = sum(costs.cpu_s.values())
    return {
        "cpu_s": {name: round(value, 2) for name, value in costs.cpu_s.items()},
        "wall_s": round(costs.wall_s, 2),
        "cores": round(total_s / costs.wall_s, 3),
        "cores_a_stream": round(total_s / costs.wall_s / len(outcome.logs), 3),
        "peak_rss_mib": {n: round(b / 2**20, 1) for n, b in costs.peak_rss_bytes.items()},
        "generator_cpu_s": round(outcome.generator_cpu_s, 2),
    }


def results_of(outcome: Outcome, reference: str | None) -> dict[str, object]:
    """The JSON line's part of this bench."""
    measures = outcome.measures
    lag = outcome.lag()
    speech = {r.name: [(i.start, i.end) for i in r.speech] for r in outcome.recordings}
    return {
        "void": is_void(lag),
        "generator_lag_ms": lag.as_fields() if lag else None,
        "latency_ms": fields(_latencies(measures), 1),
        "stages_ms": fields(_stages(measures), 2),
        "finals": measures.finals,
        "final_words": measures.final_words,
        "words_without_times": measures.words_without_times,
        "mean_utterance_s": measures.mean_utterance_s,
        "revised_stable_rate": measures.revised_rate,
        "partials_per_utterance": fields({"n": summarize(measures.partials_per_utterance)}, 0)["n"],
        "text_before_speech": measures.early_texts,
        "text_without_speech": measures.silent_finals,
        "cut_utterances": measures.cut_utterances,
        **_accounting(outcome),
        **_words(outcome, reference),
        "oracle": outcome.oracle,
        "server": _cost_fields(outcome),
        "speech_edges_samples": speech if len(speech) <= MAX_EDGES_TOLD else None,
    }


def _print(outcome: Outcome, results: dict[str, object]) -> None:
    measures = outcome.measures
    rows = [report.summary_row(n, s) for n, s in _latencies(measures).items()]
    rows += [report.summary_row(n, s) for n, s in _stages(measures).items()]
    rows.append(report.summary_row("generator lag", outcome.lag()))
    title = f"{len(outcome.logs)} streams at real time"
    report.table(title, report.SUMMARY_COLUMNS, rows)
    shown = (
        "finals", "final_words", "words_without_times", "mean_utterance_s",
        "revised_stable_rate", "text_before_speech", "dropped_samples",
        "streams_with_unequal_counts", "wer", "equal_to_fast_run",
    )  # fmt: skip
    server, oracle = results["server"], results["oracle"]
    facts = [[name, results[name]] for name in shown]
    if isinstance(oracle, dict):
        facts += [[f"oracle: {name}", value] for name, value in oracle.items()]
    if isinstance(server, dict):
        facts += [[name, server[name]] for name in ("cores_a_stream", "generator_cpu_s")]
    report.table("", ("", "value"), facts)


def _exit_status(outcome: Outcome, results: dict[str, object]) -> int:
    if results["void"]:
        report.warn(
            f"VOID: the generator was late by over {MAX_LAG_P99_MS} ms at p99; these numbers say "
            "more about this machine's load than about the server"
        )
        return EXIT_VOID
    errors = results["errors"]
    if errors:
        report.warn(f"streams failed: {errors}")
    if outcome.words_equal() is False:
        report.warn("the live words differ from those of the fast run of the same file")
    wrong = (
        errors
        or results["dropped_samples"]
        or results["streams_with_unequal_counts"]
        or results["text_before_speech"]
        or outcome.words_equal() is False
    )
    return EXIT_WRONG if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="earwire bench live", description=__doc__)
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="audio; streams take them in turn")
    add("--url", help="earwire://, unix://, ws://HOST:PORT, together+ws://HOST:PORT or "
                      "openai+ws://HOST:PORT; default: a private server")  # fmt: skip
    add("--dialect", choices=("native", "ws", "together", "openai"), default="native",
        help="spoken to the private server")  # fmt: skip
    add("--streams", type=int, default=1)
    add("--repeat", type=int, default=1, help="play each file so often in a row")
    add("--seconds", type=float, help="use only the beginning of each file")
    add("--distinct", action="store_true",
        help="each stream from another place of its file, so that no two are alike")  # fmt: skip
    add("--utterance-s", type=float, metavar="S",
        help="shorten pauses, so that utterances of at least so long come of it")  # fmt: skip
    add("--processes", type=int, default=1, help="generators; one paces some hundred streams")
    add("--oracle", metavar="MODEL",
        help="decode a sample of the finals again by the CPU engine (Parakeet)")  # fmt: skip
    add("--oracle-share", type=float, default=0.05, metavar="SHARE", help="how large a sample")
    add("--stagger", type=int, nargs="?", const=1_000, default=0, metavar="MS",
        help="spread the starts over so much time (1000 without a number)")  # fmt: skip
    add("--word-times", nargs="?", const="", metavar="URL",
        help="for emission in dialects without word times: have each recording heard once before "
             "the run, by the native protocol, at the same server or at URL")  # fmt: skip
    add("--vad", choices=("on", "off"), default="on")
    add("--chunk-ms", type=int, default=20)
    add("--reference", help="the right words, or a file of them")
    add("--offline", action="store_true", help="compare with a fast run of the same files")
    add("--server-pid", type=int, help="parent process of the server at --url, for its costs")
    add("--server-option", action="append", default=[], help="for the private server")
    add("--nice", type=int, default=0, help="priority of the generator; below 0 needs the right")
    add("--out", help="write the JSON there too")
    add("--plot", help="write a picture there")
    return parser


def _reference_text(given: str | None) -> str | None:
    if given and os.path.isfile(given):
        with open(given, encoding="utf-8") as file:
            return file.read()
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """0; 1 when something was lost or differs; 2 for a bad file or server; 3 when void."""
    options = _parser().parse_args(argv)
    try:
        outcome = _run(options)
    except (ClientError, OSError, RuntimeError) as error:
        report.warn(str(error))
        return 2
    results = results_of(outcome, _reference_text(options.reference))
    _print(outcome, results)
    status = _exit_status(outcome, results)
    if options.plot:
        from .plots import plot_live

        plot_live(outcome.measures, results, options.plot)
    skip = ("out", "plot", "reference", "url", "server_pid", "files")
    config = {name: value for name, value in vars(options).items() if name not in skip}
    if options.url:
        config["dialect"] = urlsplit(options.url).scheme
    config["word_times"] = options.word_times is not None
    config["oracle"] = options.oracle and Path(options.oracle).name
    config["files"] = [recording.name for recording in outcome.recordings[: len(options.files)]]
    report.finish("live", config, results, options.out)
    return status


if __name__ == "__main__":
    sys.exit(main())
