"""Live captions: events to what a terminal shows.

`Captions` is pure state: the finals to print for good, and the open utterance with its stable text
normal and its volatile text dim. `CaptionView` puts it on stdout: a live region on a terminal, and
plain lines elsewhere ("~ " before a partial), so that a pipe or a test can read them.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from protocol.client_messages import EndOfTurn, Final, Overflow, Partial, ServerMessage
from protocol.joined_text import gap, joined

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PARTIAL_PREFIX = "~ "


class Captions:
    """The open utterance; `num_partials` counts the different ones shown."""

    def __init__(self) -> None:
        self.stable = ""
        self.volatile = ""
        self.num_partials = 0

    def add(self, event: ServerMessage) -> str | None:
        """Take an event; the line it makes to be printed for good: a final's text, or what is
        worth saying beside it. A turn's end leaves a line free.
        """
        if isinstance(event, Partial):
            changed = (event.stable, event.volatile) != (self.stable, self.volatile)
            self.num_partials += changed and bool(event.stable or event.volatile)
            self.stable, self.volatile = event.stable, event.volatile
        elif isinstance(event, Final):
            self.stable = self.volatile = ""
            return event.text.strip() or None
        elif isinstance(event, EndOfTurn):
            return ""
        elif isinstance(event, Overflow):
            return f"[{event.num_client_samples} samples lost: the server is too slow]"
        return None

    @property
    def open_text(self) -> str:
        """The open utterance without styles."""
        return joined((self.stable, self.volatile)).strip()

    def renderable(self) -> Text:
        """The open utterance for rich."""
        from rich.text import Text

        return Text.assemble(self.stable, gap(self.stable, self.volatile), (self.volatile, "dim"))


class CaptionView:
    """Context manager that shows events as captions on `console`."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self.captions = Captions()
        self._console = console
        self._shown = ""
        self._live = (
            Live(
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=sys.stderr.isatty(),  # else a log file's lines come here
            )
            if console.is_terminal
            else None
        )

    def show(self, event: ServerMessage) -> None:
        """Show what `event` changes."""
        line = self.captions.add(event)
        if line is not None:
            self._print(line)
        if self._live is not None:
            if isinstance(event, Partial | Final):
                self._live.update(self.captions.renderable(), refresh=True)
        elif self.captions.open_text != self._shown:
            self._shown = self.captions.open_text
            if self._shown:
                self._print(PARTIAL_PREFIX + self._shown)

    def _print(self, line: str) -> None:
        # Recognised text is not markup, and a line for a pipe must not be folded.
        self._console.print(
            line, markup=False, highlight=False, soft_wrap=not self._console.is_terminal
        )
        self._console.file.flush()

    def __enter__(self) -> CaptionView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
