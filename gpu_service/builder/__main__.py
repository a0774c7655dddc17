"""`python -m gpu_service.builder`: a model to an engine folder. `earwire build` becomes it.

The terminal's side: options, what is going on (stderr), a table of what was measured (stdout), one
line of error and exit status 1 when nothing was built. What is built is decided in build.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Protocol

import typer

from protocol.audio import MAX_UTTERANCE_MS

try:
    from ..recognizers import is_whisper
    from ..terminal_command import exit_status
    from .build import BuildOptions, Progress, Toolchain, build
    from .gpu_toolchain import GpuToolchain
    from .manifest import EngineManifest
    from .terminal import TerminalProgress, show_manifest
    from .whisper_build import WhisperToolchain, build_whisper
except ModuleNotFoundError as missing:
    sys.exit(
        f"earwire build: the Python package {missing.name} is missing "
        "(pip install 'earwire[gpu,parakeet]')"
    )


class Precision(str, Enum):
    """Of matrices and activations."""

    FP16 = "fp16"
    FP32 = "fp32"
    BF16 = "bf16"


class EncoderChoice(str, Enum):
    """Which encoders are built."""

    AUTO = "auto"
    CUBLAS = "cublas"
    TENSORRT = "tensorrt"


class AnyToolchain(Toolchain, WhisperToolchain, Protocol):
    """Of every family."""


def command(make_toolchain: Callable[[], AnyToolchain]) -> typer.Typer:
    """The command line, for a toolchain."""
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.command()
    def run(
        model: Annotated[
            str,
            typer.Argument(metavar="MODEL", help="A folder, a .nemo file or a hub id."),
        ],
        out: Annotated[Path, typer.Option(metavar="DIR", help="The engine folder to make.")],
        precision: Annotated[
            Precision, typer.Option(help="Of matrices and activations; bf16 with TensorRT only.")
        ] = Precision.FP16,
        encoder: Annotated[
            EncoderChoice, typer.Option(help="auto builds what can be built, and keeps the faster.")
        ] = EncoderChoice.AUTO,
        max_batch: Annotated[
            int, typer.Option(min=1, max=512, help="The most utterances in one run (Whisper: 32).")
        ] = 64,
        max_utterance_ms: Annotated[
            int,
            typer.Option(min=1_000, max=MAX_UTTERANCE_MS, help="Longer speech is cut."),
        ] = 30_000,
        tensorrt_level: Annotated[
            int, typer.Option(min=0, max=5, help="How long TensorRT looks for faster kernels.")
        ] = 3,
        force: Annotated[
            bool, typer.Option("--force", help="Build again, and replace the engine in DIR.")
        ] = False,
    ) -> None:
        """Build an engine for this machine's GPU, and check it against the CPU's answers.

        `earwire serve --model DIR` runs it. It is good for this model of GPU and these libraries;
        on another one it is checked again at start, or has to be built again.
        """
        options = BuildOptions(
            model, out, precision.value, encoder.value, max_batch, max_utterance_ms,
            tensorrt_level, force,
        )  # fmt: skip
        with TerminalProgress() as progress:
            manifest = _build(options, make_toolchain(), progress)
        show_manifest(manifest, out)

    return app


def _build(options: BuildOptions, toolchain: AnyToolchain, progress: Progress) -> EngineManifest:
    if is_whisper(options.model):
        return build_whisper(options, toolchain, progress)
    return build(options, toolchain, progress)


def main(
    arguments: list[str] | None = None,
    make_toolchain: Callable[[], AnyToolchain] = GpuToolchain,
) -> int:
    """Exit status: 0, 1 when it could not be done, 2 for wrong usage."""
    return exit_status(command(make_toolchain), "earwire build", arguments)


if __name__ == "__main__":
    sys.exit(main())
