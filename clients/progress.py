"""A progress bar on stderr, when a person looks at it; nothing otherwise."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class FileProgress:
    """Context manager: one bar at a time."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting the server", total=None, speed="")

    def begin(self, name: str, duration_s: float | None) -> None:
        """The next file."""
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=duration_s, speed="")

    def update(self, decoded_s: float) -> None:
        """So many seconds of it have been recognised."""
        elapsed_s = self._progress.tasks[-1].elapsed or 0.0
        speed = f"{decoded_s / elapsed_s:.0f}x" if elapsed_s > 0.5 else ""
        self._progress.update(self._task, completed=decoded_s, speed=speed)

    def end(self) -> None:
        """The file is done."""
        self._progress.update(self._task, visible=False)

    def __enter__(self) -> FileProgress:
        self._progress.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
