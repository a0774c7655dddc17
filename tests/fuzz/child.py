"""The process that fuzzes one target under atheris: `python -m tests.fuzz.child TARGET ARGS...`.

ARGS are libFuzzer's. Everything below is instrumented when it is imported, so this module imports
nothing of ours at the top. A library costs as much as our code when it is instrumented, so each is
in the one target that is about it. run.py starts this and reads its stderr.
"""

from __future__ import annotations

import gc
import sys

OURS = ["protocol", "gateway", "gpu_service", "clients"]
LIBRARIES = {"http": ["h11"], "websocket": ["websockets"], "multipart": ["python_multipart"]}


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    name = sys.argv[1]
    instrumented = [*OURS, *LIBRARIES.get(name, ())]
    with atheris.instrument_imports(include=instrumented, enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    gc.freeze()  # what was imported stays: no collection has to walk it again
    arguments = [sys.argv[0], f"-max_len={target.max_bytes}", *sys.argv[2:]]
    atheris.Setup(arguments, target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
