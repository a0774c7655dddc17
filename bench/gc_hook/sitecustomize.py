"""Times every garbage collection of a Python process, without touching its program.

Python imports a module of this name at start when its folder is on PYTHONPATH; bench/gc_pauses.py
puts it there for the server it starts. Each collection becomes a line in
EARWIRE_GC_LOG/<process id>: time of its end, duration (both monotonic ns), generation, collected
objects, forced or not. SIGUSR2 forces a full collection. The write is outside the measured time.
"""

from __future__ import annotations

import gc
import os
import signal
import time


def _install(folder: str) -> None:
    fd = os.open(
        os.path.join(folder, str(os.getpid())),
        os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
    )
    began_ns = 0
    forced = False

    def on_collection(phase: str, info: dict[str, int]) -> None:
        nonlocal began_ns
        now_ns = time.monotonic_ns()
        if phase == "start":
            began_ns = now_ns
            return
        line = (now_ns, now_ns - began_ns, info["generation"], info["collected"], int(forced))
        os.write(fd, (" ".join(map(str, line)) + "\n").encode())

    def on_signal(*_: object) -> None:
        nonlocal forced
        forced = True
        gc.collect()
        forced = False

    gc.callbacks.append(on_collection)
    signal.signal(signal.SIGUSR2, on_signal)


if "EARWIRE_GC_LOG" in os.environ:
    _install(os.environ["EARWIRE_GC_LOG"])
