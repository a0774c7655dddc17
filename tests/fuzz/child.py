"""The process that fuzzes one target under atheris: `python -m tests.fuzz.child TARGET ARGS...`.

ARGS are libFuzzer's. Everything below is instrumented when it is imported, so this module imports
nothing of ours at the top. run.py starts it and reads its stderr.
"""

from __future__ import annotations

import sys

INSTRUMENTED = [
    "protocol", "gateway", "gpu_service", "clients", "h11", "websockets", "python_multipart",
]  # fmt: skip


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[sys.argv[1]]
    arguments = [sys.argv[0], f"-max_len={target.max_bytes}", *sys.argv[2:]]
    atheris.Setup(arguments, target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
