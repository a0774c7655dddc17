"""How a command of this package ends: an exit status, and one line of error where there is one.

Knows typer and our errors, no command. models_command.py and builder/__main__.py run through it.
"""

from __future__ import annotations

import typer

from .errors import ModelError


def exit_status(app: typer.Typer, name: str, arguments: list[str] | None) -> int:
    """Run it: 0, 1 when it could not be done, 2 for wrong usage."""
    try:
        app(arguments, prog_name=name)
    except SystemExit as done:
        return int(done.code or 0)
    except (ModelError, OSError) as error:
        typer.echo(f"{name}: {error}", err=True)
        return 1
    raise AssertionError("typer ends in SystemExit")
