"""What a person sees of a build: stages with a bar and the time they take, and a table at the end.

On a terminal the stage that runs is a line that moves; what is done stays as a line with its time.
Without one, each stage is one line when it begins. Progress goes to stderr, the table to stdout.
Knows no model; called by __main__.py.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from .build import mean_ms
from .manifest import BucketResult, Candidate, EngineManifest

MAX_NOTE = 60  # characters of what a stage says about its step


class TerminalProgress:
    """See Progress (build.py). A context, so that the moving line goes whatever happens."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/green]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title, self._begun = "", 0.0

    def __enter__(self) -> TerminalProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._end_stage()
        self._progress.stop()

    def stage(self, title: str) -> None:
        """See Progress.stage."""
        self._end_stage()
        self._title, self._begun = title, time.monotonic()
        if self._console.is_terminal:
            self._task = self._progress.add_task(escape(title), total=None, note="")
        else:
            self._print(f"{title} ...")

    def step(self, done: int, total: int, note: str = "") -> None:
        """See Progress.step."""
        if self._task is not None:
            short = escape(note[:MAX_NOTE])
            self._progress.update(self._task, completed=done, total=total, note=short)

    def note(self, text: str) -> None:
        """See Progress.note."""
        self._print(text)

    def _end_stage(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1, total=1, note="")
            self._progress.stop_task(self._task)
            self._task = None
        elif self._title:
            self._print(f"{self._title}: {time.monotonic() - self._begun:.1f} s")
        self._title = ""

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def show_manifest(manifest: EngineManifest, out: Path) -> None:
    """What was measured, and what to do with it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a pipe has no width, and grep wants whole lines
    for candidate in manifest.candidates:
        if candidate.results:
            console.print(_table(candidate), highlight=False)
    lines = [f"{out} is ready: {manifest.model_id}, {manifest.precision}, {manifest.machine.gpu}"]
    if len(manifest.candidates) > 1:
        lines.append("; ".join(map(_summary, manifest.candidates)))
    lines.append(f"run it with: earwire serve --model {out}")
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(candidate: Candidate) -> Table:
    table = Table(
        box=None, pad_edge=False, title=f"{candidate.encoder} encoder", title_justify="left"
    )
    for heading in ("batch", "frames", "ms", "relative error", "cosine", "graph"):
        table.add_column(heading, justify="right")
    for result in candidate.results:
        table.add_row(*_row(result))
    return table


def _row(result: BucketResult) -> tuple[str, ...]:
    return (
        str(result.bucket.batch),
        str(result.bucket.frames),
        f"{result.ms:.3f}",
        f"{result.relative_error:.1e}",
        f"{result.cosine:.6f}",
        "yes" if result.is_graph else "no",
    )


def _summary(candidate: Candidate) -> str:
    if candidate.problem:
        return f"{candidate.encoder} is not used: {candidate.problem}"
    return f"{candidate.encoder}: {mean_ms(candidate):.3f} ms in the mean"
