"""`python -m gpu_service.models_command`: pull, list, inspect, remove. `earwire models` becomes it.

The models on this machine for a person at a terminal: tables on stdout, the library's progress bars
and one line of error on stderr, exit status 1 when it could not be done. What a model is, and where
it lies, is decided in weights/ and cpu/model_files.py; model_report.py words it. Nothing of a model
is computed here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

try:
    from .cpu.model_files import (
        EMBEDDED_DISTRIBUTION,
        EMBEDDED_MODEL_ID,
        find_model,
        is_whisper_model,
    )
    from .errors import ModelError, ModelNotFoundError
    from .model_report import (
        Row,
        describe_parakeet,
        describe_whisper,
        describe_whisper_checkpoint,
        size_text,
    )
    from .recognizers import is_whisper, says_whisper
    from .terminal_command import exit_status
    from .weights import hub
    from .weights.hugging_face_folder import read_config
    from .weights.parakeet_checkpoint import load_checkpoint
    from .weights.whisper_checkpoint import load_whisper
except ModuleNotFoundError as missing:
    sys.exit(
        f"earwire models: the Python package {missing.name} is missing "
        "(pip install 'earwire[parakeet]')"
    )

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The models on this machine: fetch, show and remove them.",
)


@app.command()
def pull(
    hub_id: Annotated[
        str,
        typer.Argument(
            metavar="HUB_ID", help="As in nvidia/parakeet-tdt-0.6b-v3, openai/whisper-large-v3."
        ),
    ],
) -> None:
    """Fetch a model from Hugging Face's hub, and check that it can be used."""
    if not hub.is_hub_id(hub_id):
        raise ModelNotFoundError(
            f"{hub_id!r} is no id of the hub", "ids are OWNER/NAME, as nvidia/parakeet-tdt-0.6b-v3"
        )
    if is_whisper(hub_id):
        source = load_whisper(hub_id).source
    else:
        hub.pull(hub_id, read_config)
        source = load_checkpoint(hub_id, download=False).source
    _say(f"{hub_id} is ready: {size_text(source.num_bytes)} in {source.path}")


@app.command("list")
def list_models() -> None:
    """Show the models that Earwire can run: the embedded one, and those in the hub's cache."""
    cached = hub.cached_models()
    rows = [row for row in (_embedded_row(), *map(_cached_row, cached)) if row is not None]
    if not rows:
        _say(
            "No models here yet. pip install 'earwire[tiny]' brings tiny.en; "
            "earwire models pull nvidia/parakeet-tdt-0.6b-v3 fetches Parakeet, "
            "openai/whisper-large-v3 Whisper."
        )
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("model", "family", "parameters", "size", "from"):
        table.add_column(heading, justify="right" if heading in ("parameters", "size") else "left")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    _print(table)


@app.command()
def inspect(
    model: Annotated[
        str, typer.Argument(metavar="PATH|ID", help="A folder, a .nemo file, a hub id or tiny.en.")
    ],
) -> None:
    """Show what a model is: architecture, sizes, tokenizer. The whole of it is checked."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _described(model):
        table.add_row(name, escape(value))
    _print(table)


@app.command()
def remove(
    model: Annotated[str, typer.Argument(metavar="ID", help="As `earwire models list` shows it.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model from the hub's cache."""
    if model == EMBEDDED_MODEL_ID:
        raise ModelNotFoundError(
            f"{model} belongs to a Python package", f"pip uninstall {EMBEDDED_DISTRIBUTION}"
        )
    size = size_text(hub.cached_bytes(model))
    if not yes and not typer.confirm(f"Delete {model} ({size}) from {hub.cache_folder()}?"):
        raise typer.Exit(1)
    hub.remove(model)
    _say(f"{model} is deleted; {size} are free again.")


def _described(model: str) -> list[tuple[str, str]]:
    if is_whisper_model(model):
        return describe_whisper(find_model(model))
    if _is_whisper_here(model):
        return describe_whisper_checkpoint(load_whisper(model, download=False))
    return describe_parakeet(load_checkpoint(model, download=False))


def _is_whisper_here(model: str) -> bool:
    """Of what is on this machine."""
    path: Path | None = Path(model).expanduser()
    if hub.is_hub_id(model) and not Path(model).exists():
        path = hub.find_in_hub(model)
    return path is not None and path.is_dir() and says_whisper(path)


def _embedded_row() -> Row | None:
    try:
        files = find_model(EMBEDDED_MODEL_ID)
    except ModelNotFoundError:
        return None
    facts = dict(describe_whisper(files))
    return EMBEDDED_MODEL_ID, "Whisper", facts["parameters"], facts["size"], "embedded"


def _cached_row(cached: hub.CachedModel) -> Row | None:
    """None for a model that Earwire can not run; `inspect` says why."""
    try:
        facts = dict(_described(str(cached.path)))
    except ModelError:
        return None
    family = facts["family"].partition(" (")[0]
    return cached.hub_id, family, facts["parameters"], size_text(cached.num_bytes), "hub cache"


def _say(text: str) -> None:
    Console(soft_wrap=True).print(text, markup=False, highlight=False)


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a pipe has no width, and grep wants whole lines
    console.print(table, highlight=False)


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0, 1 when it could not be done, 2 for wrong usage."""
    return exit_status(app, "earwire models", arguments)


if __name__ == "__main__":
    sys.exit(main())
