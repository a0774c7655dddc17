"""The torch baseline of bench/gpu.py as a child process: started early, read when it is needed.

It has a Python of its own where this one has no torch. While it measures, nobody else may use the
device: read it before the first measurement.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 60.0
COMPILE_TIMEOUT_S = 400.0
NEEDED = ("torch", "transformers")
# Of the parent's Python, and wrong for another one.
FOREIGN = ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH")


class TorchBaseline:
    """The child, or why there is none."""

    def __init__(
        self, python: str | None, *, with_compile: bool, arguments: Sequence[str] = ()
    ) -> None:
        self._timeout_s = COMPILE_TIMEOUT_S if with_compile else TIMEOUT_S
        self._child: subprocess.Popen[str] | None = None
        self._missing = ""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - the child's, read in result()
        environment = dict(os.environ)
        if python is None:
            lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
            if lacking:
                self._missing = f"no {' and '.join(lacking)} in this Python: use --torch-python"
                return
        else:
            for name in FOREIGN:
                environment.pop(name, None)
        command = [python or sys.executable, "-m", "bench.torch_encoder", *arguments]
        if with_compile:
            command.append("--compile")
        try:
            self._child = subprocess.Popen(
                command, cwd=ROOT, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=self._errors,
            )  # fmt: skip
        except OSError as error:
            self._missing = str(error)

    def result(self) -> dict[str, Any]:
        """What it printed; or {"missing": why}."""
        if self._child is None:
            return {"missing": self._missing}
        try:
            output, _ = self._child.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            self.stop()
            return {"missing": f"not done after {self._timeout_s:.0f} s"}
        if self._child.returncode:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
            return {"missing": said[-600:] or f"exit {self._child.returncode}"}
        measured: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return measured

    def stop(self) -> None:
        """End the child if it still runs."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.communicate()
