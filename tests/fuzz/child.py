"""The process that fuzzes one target under atheris: `python -m tests.fuzz.child TARGET ARGS...`.

ARGS are libFuzzer's. Everything below is instrumented when it is imported, so this module imports
nothing of ours at the top. h11 and websockets are left out: they would cost as much as all of ours.
run.py starts this and reads its stderr.
"""

from __future__ import annotations

import gc
import sys

INSTRUMENTED = ["protocol", "gateway", "gpu_service", "clients", "python_multipart"]


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    from .edges import Edges

    edges = Edges(atheris)
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[sys.argv[1]]
    gc.freeze()  # what was imported stays: no collection has to walk it again
    arguments = [sys.argv[0], f"-max_len={target.max_bytes}", *sys.argv[2:]]
    atheris.Setup(arguments, edges.counted(target.run))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
