"""A progress bar on stderr, when a person looks at it; nothing otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class ProgressBar:
    """What is done of one thing."""

    def __init__(self, progress: Progress, name: str, duration_s: float | None) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=duration_s, speed="")

    def update(self, done_s: float) -> None:
        """So many seconds of audio have been recognised."""
        elapsed_s = self._progress.tasks[0].elapsed or 0.0
        speed = f"{done_s / elapsed_s:.0f}x" if elapsed_s > 0.5 else ""
        self._progress.update(self._task, completed=done_s, speed=speed)


@contextmanager
def progress_bar(name: str, duration_s: float | None = None) -> Iterator[ProgressBar]:
    """A bar that is gone when the context ends, so that results and errors have the terminal."""
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # rich would otherwise carry what is written to stdout over to its own console: stderr.
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with progress:
        yield ProgressBar(progress, name, duration_s)
